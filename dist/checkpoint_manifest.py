"""The manifest of a checkpoint: which arrays there are, and in which file each piece of them lies.

manifest.json holds

    format    1
    step      the number at the end of the checkpoint's name
    metadata  what the program gave to `save`
    files     {file: {"bytes": …, "sha256": …}}
    arrays    {name: {"dtype": …, "shape": […], "pieces": [{"file", "key", "box", "start", "stop"}, …]}}
    sha256    of all the above, as JSON

A manifest may come from anywhere, so nothing in it is believed: types, sizes and names are checked before any
use, and files are looked for in the checkpoint's own folder only.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

from minigrad.dist.checkpoint_boxes import Box, entries, missing, whole
from minigrad.dist.checkpoint_files import TensorFile, Written, data_type, explained, sha256_of
from minigrad.errors import UsageError

FORMAT = 1
NAME = "manifest.json"
SIZE_LIMIT = 2**30  # bytes of a manifest
FILE_NAME = re.compile(r"[A-Za-z0-9_-]+\.safetensors")
AXES_LIMIT = 32


@dataclass(frozen=True)
class Run:
    """The entries `start` to `stop` of a flattened box, which lie under `key` in a file."""

    file: str
    key: str
    box: Box
    start: int
    stop: int


@dataclass(frozen=True)
class Entry:
    """An array of the checkpoint: its data type's name, its shape, and where its entries are."""

    dtype: str
    shape: tuple[int, ...]
    pieces: tuple[Run, ...]


@dataclass(frozen=True)
class Manifest:
    """All that is known about a checkpoint without reading its arrays."""

    step: int
    metadata: dict[str, Any]
    files: Mapping[str, Written]
    arrays: Mapping[str, Entry]

    def to_json(self) -> bytes:
        """The content of manifest.json. Raises UsageError where the metadata is not JSON."""
        try:
            content = {"format": FORMAT, **asdict(self)}
            return json.dumps({**content, "sha256": _digest(content)}, allow_nan=False).encode()
        except (TypeError, ValueError) as error:
            raise UsageError(f"the metadata of a checkpoint must be JSON, but {error}") from error

    @classmethod
    def read(cls, path: Path, *, step: int | None = None) -> "Manifest":
        """Read and check the manifest of the checkpoint at `path`, whose name else ends in another `step`.

        Raises UsageError for a wrong one.
        """
        file = path / NAME
        try:
            fits = file.stat().st_size <= SIZE_LIMIT
            content = json.loads(file.read_bytes()) if fits else f"more than {SIZE_LIMIT} bytes"
        except OSError as error:
            raise UsageError(
                f"{path} is no finished checkpoint: {NAME} cannot be read ({error.strerror})"
            ) from error
        except (ValueError, RecursionError) as error:
            raise UsageError(f"the checkpoint {path} is damaged: {NAME} is no readable JSON") from error
        try:
            manifest = cls._parsed(content)
        except (KeyError, TypeError, ValueError) as error:
            reason = f"it lacks {error}" if isinstance(error, KeyError) else error
            raise UsageError(f"the checkpoint {path} is damaged: {NAME}: {reason}") from error
        if manifest.step != (step_of(path.name) if step is None else step):
            raise UsageError(f"the checkpoint {path} is damaged: {NAME} says step {manifest.step}")
        return manifest

    @classmethod
    def _parsed(cls, content: Any) -> "Manifest":
        values = _object(content, "the manifest")
        if values["format"] != FORMAT:
            raise ValueError(f"format {values['format']!r:.40}; this version reads {FORMAT}")
        if values.pop("sha256") != _digest(values):
            raise ValueError("it is not what was saved (its hash differs)")
        files = {}
        for name, file in _object(values["files"], "files").items():
            if not FILE_NAME.fullmatch(name):
                raise ValueError(f"{name!r:.80} is no name of a file of this folder")
            files[name] = Written(_number(file["bytes"], "bytes"), _text(file["sha256"], "sha256"))
        arrays = {
            name: _entry(name, _object(array, name), files)
            for name, array in _object(values["arrays"], "arrays").items()
        }
        return cls(_number(values["step"], "step"), _object(values["metadata"], "metadata"), files, arrays)

    def check_complete(self) -> None:
        """Refuse arrays of which a part is nowhere. Raises UsageError that names it."""
        for name, array in self.arrays.items():
            gaps = missing(array.shape, [(run.box, run.start, run.stop) for run in array.pieces])
            if gaps:
                gap = ", ".join(f"{low}:{high}" for low, high in gaps[0])
                raise UsageError(
                    f"array {name} of shape {array.shape} is incomplete: nobody saved its entries [{gap}]"
                    + (" (of the flattened array)" if len(gaps[0]) != len(array.shape) else "")
                )

    def check_sizes(self, path: Path) -> None:
        """Refuse files that are missing, cut, or lead out of the folder. Raises UsageError."""
        for name, written in self.files.items():
            file = path / name
            if file.is_symlink() or not file.is_file():
                raise UsageError(f"the checkpoint {path} is damaged: {name} is missing")
            size = file.stat().st_size
            if size != written.bytes:
                raise UsageError(
                    f"the checkpoint {path} is damaged: {name} has {size} bytes of {written.bytes}"
                )

    def check_whole(self, path: Path, *, first: int = 0, step: int = 1) -> None:
        """Refuse a checkpoint that is not what was saved: look at all there is, and read every `step`-th file
        from the `first` on. Raises UsageError.
        """
        self.check_sizes(path)
        try:
            self.check_complete()
        except UsageError as error:
            raise UsageError(f"the checkpoint {path} is damaged: {error}") from error
        own = list(self.files)[first::step]
        for name in own:
            with explained(f"the checkpoint {path} is damaged: {name} cannot be read", "use another"):
                if sha256_of(path / name) != self.files[name].sha256:
                    raise UsageError(
                        f"the checkpoint {path} is damaged: {name} is not what was saved (its hash differs)"
                    )
        self.check_keys(path, own)

    def check_keys(self, path: Path, files: Iterable[str]) -> None:
        """Refuse `files` that hold other arrays than the manifest says. Raises UsageError."""
        opened = {name: TensorFile(path / name) for name in files}
        for name, array in self.arrays.items():
            for run in array.pieces:
                file = opened.get(run.file)
                if file is None:
                    continue
                expected = (data_type(array.dtype), run.stop - run.start)
                if run.key not in file or file.describe(run.key) != expected:
                    raise UsageError(
                        f"the checkpoint {path} is damaged: {run.file} holds another {name} than {NAME} says"
                    )


def step_of(name: str) -> int:
    """The number at the end of a checkpoint's name. Raises UsageError where there is none."""
    found = re.search(r"([0-9]{1,18})$", name)
    if found is None:
        raise UsageError(f"a checkpoint's name ends in its step, like step_000100; {name!r} does not")
    return int(found[1])


def saved(folder: Path) -> list[Path]:
    """The checkpoints of a folder that bear their final names, oldest first."""
    if not folder.is_dir():
        return []
    found = (path for path in folder.iterdir() if path.is_dir() and path.name[-1:] in "0123456789")
    return sorted(found, key=lambda path: (step_of(path.name), path.name))


def _entry(name: str, values: Mapping[str, Any], files: Mapping[str, Written]) -> Entry:
    """One array of the manifest. Raises ValueError, KeyError or TypeError."""
    shape = tuple(_number(length, f"{name}: a length") for length in _list(values["shape"], name))
    dtype = data_type(_text(values["dtype"], f"{name}: dtype"))
    if len(shape) > AXES_LIMIT or prod(shape) * dtype.itemsize >= 2**63:
        raise ValueError(f"{name}: nobody has an array of shape {shape!r:.200}")
    runs = []
    for piece in _list(values["pieces"], name):
        pairs = [_list(pair, name) for pair in _list(piece["box"], name)]
        box = tuple((_number(low, name), _number(length, name)) for low, length in pairs)
        run = Run(
            _text(piece["file"], name),
            _text(piece["key"], name),
            box,
            _number(piece["start"], name),
            _number(piece["stop"], name),
        )
        check_run(name, shape, run.box, run.start, run.stop)
        if run.file not in files:
            raise ValueError(f"{name} lies in {run.file!r:.80}, which is none of the files")
        runs.append(run)
    return Entry(dtype.name, shape, tuple(runs))


def check_run(name: str, shape: tuple[int, ...], box: Box, start: int, stop: int) -> None:
    """Refuse a box that is not in the array, or entries that are not in the box. Raises UsageError."""
    outside = len(box) != len(shape) or any(
        low < 0 or length < 0 or low + length > size for (low, length), size in zip(box, shape, strict=False)
    )
    if outside:
        raise UsageError(f"{name} has shape {shape}, and the box {box} is no part of it")
    if not 0 <= start <= stop <= entries(box):
        where = f"{name}" if box == whole(shape) else f"the box {box} of {name}"
        raise UsageError(f"{where} has {entries(box)} entries, and not those from {start} to {stop}")


def _digest(content: Mapping[str, Any]) -> str:
    """The hash of a manifest's content, however it is laid out in the file."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _object(value: Any, what: str) -> dict[str, Any]:
    if type(value) is not dict:
        raise ValueError(f"{what:.80} is {value!r:.40}, no object")
    return value


def _list(value: Any, what: str) -> list[Any]:
    if type(value) is not list:
        raise ValueError(f"{what:.80} holds {value!r:.40} for a list")
    return value


def _text(value: Any, what: str) -> str:
    if type(value) is not str:
        raise ValueError(f"{what:.80} is {value!r:.40}, no text")
    return value


def _number(value: Any, what: str) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"{what:.80} is {value!r:.40}, no size")
    return value
