"""Real text to train on, as bytes: a corpus, its batches, and the baselines that give a loss its meaning.

A token is a byte, so the vocabulary has 256 words, every file can be read, and a loss in nats per token is a
loss in nats per byte. The default corpus is the source text of the Python standard library of the interpreter
that runs: several megabytes of real text that every machine already has.
"""

import hashlib
import math
import os
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from minigrad.errors import UsageError

VOCABULARY = 256
VALIDATION_SHARE = 0.1
LEAST_VALIDATION_SHARE = 0.05  # fewer bytes of whole files are no fair sample: cut the text instead

_SKIPPED_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}

Bytes = NDArray[np.uint8]
Tokens = NDArray[np.int64]


@dataclass(frozen=True)
class Text:
    """A corpus in two parts that never overlap: one to train on, one to validate on.

    `sha256` identifies the bytes *and* the split; a run records it, and refuses to go on with any other text.
    """

    train: Bytes  # (bytes,)
    validation: Bytes  # (bytes,)
    name: str
    files: int
    sha256: str

    def check_context(self, context: int) -> None:
        """Refuse a text that is too short to cut one sequence of `context` bytes from either part.

        Raises UsageError.
        """
        shortest = min(len(self.train), len(self.validation))
        if shortest > context:
            return
        size = len(self.train) + len(self.validation)
        remedy = f"or a context of at most {shortest - 1}" if shortest > 1 else "since this one is tiny"
        raise UsageError(
            f"{self.name} is too short: of its {size} bytes {len(self.train)} are for training and "
            f"{len(self.validation)} for validation, and a sequence of context {context} takes {context + 1} "
            f"bytes of either; give more text, {remedy}"
        )

    def batch(
        self, *, seed: int, step: int, sequences: int, context: int, part: slice = slice(None)
    ) -> tuple[Tokens, Tokens]:
        """The batch of one step: inputs and targets (the bytes that follow), each (sequences, context).

        Where the sequences start is a function of (seed, step) alone, by the counter-based generator Philox
        (Salmon et al. 2011), so that any number of ranks, each taking its `part` of the sequences, trains on
        the same batch.
        """
        generator = np.random.Philox(key=np.array([seed, step], dtype=np.uint64))
        # Raw words, not Generator.integers: that stream may change between NumPy versions, this one may not.
        starts = generator.random_raw(sequences) % np.uint64(len(self.train) - context)
        return _windows(self.train, starts.astype(np.int64)[part], context)

    def validation_batch(
        self, *, sequences: int, context: int, part: slice = slice(None)
    ) -> tuple[Tokens, Tokens]:
        """The same evenly spaced sequences of the validation part at every call, in the form of `batch`."""
        starts = np.linspace(0, len(self.validation) - context - 1, sequences).astype(np.int64)
        return _windows(self.validation, starts[part], context)

    def baselines(self) -> dict[str, float]:
        """What a guess costs, in nats per byte, that knows nothing, how frequent bytes are, or pairs are.

        All are measured on the validation part itself: no table of single bytes, however well fitted, can
        beat H(byte) there, and no table of pairs H(next byte | previous byte). A model below the last has
        learnt more than which byte tends to follow which.
        """
        return {
            "uniform": math.log(VOCABULARY),
            "H(byte)": entropy_of_byte(self.validation),
            "H(next byte | previous byte)": entropy_of_next_byte(self.validation),
        }


def standard_library_text() -> Text:
    """The source text of the running interpreter's standard library, without its tests.

    Raises UsageError where the interpreter comes without it (frozen or zipped).
    """
    root = Path(sysconfig.get_path("stdlib"))
    paths = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in _SKIPPED_FOLDERS]
        paths += [Path(folder, name) for name in names if name.endswith(".py")]
    paths.sort(key=lambda path: path.relative_to(root).as_posix())
    contents = [content for content in map(_read, paths) if content]
    if not contents:
        raise UsageError(
            f"this Python keeps no source text of its standard library in {root}, so there is no default "
            "corpus; name text files of your own with --text"
        )
    version = ".".join(map(str, sys.version_info[:3]))
    return _split(contents, name=f"the Python {version} standard library")


def text_from_files(paths: Iterable[str | os.PathLike[str]]) -> Text:
    """A corpus of the user's own files. Raises UsageError for files that are missing, unreadable or empty."""
    contents = []
    for path in map(Path, paths):
        if path.is_dir():
            raise UsageError(f"{path} is a folder; name the text files themselves, for example {path}/*.txt")
        if not path.exists():
            raise UsageError(f"there is no file {path}; check the name given as text")
        content = _read(path)
        if not content:
            raise UsageError(f"{path} is empty; name files that hold text")
        contents.append(content)
    if not contents:
        raise UsageError(
            "no text files were named; name at least one, or leave the text out for the default corpus"
        )
    name = path.name if len(contents) == 1 else f"{len(contents)} files"
    return _split(contents, name=name)


def encode(text: str) -> Tokens:
    """The UTF-8 bytes of a text as tokens."""
    return np.frombuffer(text.encode("utf-8", errors="surrogateescape"), dtype=np.uint8).astype(np.int64)


def balanced_slice(count: int, parts: int, index: int) -> slice:
    """Part `index` of `count` things dealt in order to `parts` that differ by at most one.

    >>> [len(range(16)[balanced_slice(16, 3, rank)]) for rank in range(3)]
    [6, 5, 5]
    """
    share, extra = divmod(count, parts)
    start = index * share + min(index, extra)
    return slice(start, start + share + (index < extra))


def entropy_of_byte(text: Bytes) -> float:
    """H(byte) in nats: the least average cost of coding `text` by one fixed table of bytes (Shannon 1948)."""
    return _entropy(np.bincount(text, minlength=VOCABULARY))


def entropy_of_next_byte(text: Bytes) -> float:
    """H(next byte | previous byte) in nats, over the pairs of `text`: H(pair) - H(first of the pair)."""
    first, second = text[:-1].astype(np.int64), text[1:]
    pairs = np.bincount(first * VOCABULARY + second, minlength=VOCABULARY**2)
    return _entropy(pairs) - _entropy(np.bincount(first, minlength=VOCABULARY))


def _entropy(counts: NDArray[np.int64]) -> float:
    shares = counts[counts > 0] / max(int(counts.sum()), 1)
    return float(-(shares * np.log(shares)).sum()) + 0.0  # + 0.0 turns the -0.0 of a sure thing into 0.0


def _windows(text: Bytes, starts: Tokens, context: int) -> tuple[Tokens, Tokens]:
    windows = text[starts[:, None] + np.arange(context + 1)].astype(np.int64)  # (sequences, context + 1)
    return np.ascontiguousarray(windows[:, :-1]), np.ascontiguousarray(windows[:, 1:])


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path} ({error.strerror}); check its permissions") from error


def _split(contents: Sequence[bytes], *, name: str) -> Text:
    """Deal whole files to the two parts; where none make a fair tenth, cut the joined text at nine tenths."""
    size = sum(map(len, contents))
    chosen = _validation_files(contents, limit=size * VALIDATION_SHARE)
    if sum(len(contents[index]) for index in chosen) >= size * LEAST_VALIDATION_SHARE:
        train = b"".join(content for index, content in enumerate(contents) if index not in chosen)
        validation = b"".join(contents[index] for index in sorted(chosen))
    else:
        joined = b"".join(contents)
        cut = size - int(size * VALIDATION_SHARE)
        train, validation = joined[:cut], joined[cut:]
    digest = hashlib.sha256(len(train).to_bytes(8, "little") + train + validation).hexdigest()
    return Text(
        train=np.frombuffer(train, dtype=np.uint8),
        validation=np.frombuffer(validation, dtype=np.uint8),
        name=name,
        files=len(contents),
        sha256=digest,
    )


def _validation_files(contents: Sequence[bytes], *, limit: float) -> set[int]:
    """Which files to validate on: those that still fit below `limit` bytes, in the order of their hashes.

    A hash of the content is as good as a draw at random, and needs no seed nor cares where the files lie.
    """
    if len(contents) == 1:
        return set()
    chosen: set[int] = set()
    taken = 0
    for index in sorted(range(len(contents)), key=lambda index: hashlib.sha256(contents[index]).digest()):
        if taken + len(contents[index]) <= limit:
            chosen.add(index)
            taken += len(contents[index])
    return chosen
