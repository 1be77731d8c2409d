"""Weights that somebody else saved: safetensors files, checked before anything of them is in memory.

The format's own library maps the file, and holds its header to it: sizes, offsets, overlaps, gaps. What it
leaves open is closed here: what a header may cost, before it sees the file; names that come twice, and empty
arrays with axes that nothing can count.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from minigrad.errors import DTypeError, UsageError

HEADER_BYTES = 16 * 2**20
"""The longest header that is read: a hundred times that of the largest models."""

JSON_BYTES = 2**24
"""The longest JSON file that is read."""

DTYPES = ("F64", "F32", "F16", "BF16")
"""What arrays may be made of, in the format's words."""

_FILE_NAME = re.compile(r"[\w-][\w.-]*\.safetensors")


class WeightFiles:
    """The arrays of a safetensors file, or of a folder with model.safetensors or the parts of one, by name.

    Names, shapes and types are known at once; `weights[name]` reads an array, bfloat16 widened to float32,
    which holds all of it. Raises UsageError for a file that is not there, is damaged or is something else.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._files: dict[str, Any] = {}
        self._paths: dict[str, Path] = {}
        self._starts: dict[str, int] = {}
        for file in _files(self.path):
            opened = _opened(file)
            starts = _starts(file)
            for name in opened.keys():  # noqa: SIM118 (a file of safetensors is no mapping)
                if name in self._files:
                    raise UsageError(f"{self.path} holds {name} twice; expected each array in one file")
                self._files[name], self._paths[name], self._starts[name] = opened, file, starts[name]
                self.shapes[name] = _countable(file, name, opened.get_slice(name).get_shape())

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def check_dtype(self, name: str) -> None:
        """Raise DTypeError unless this array is one of `DTYPES`."""
        found = self._dtype(name)
        if found not in DTYPES:
            raise DTypeError(
                f"{self.path}: {name} is {found}, expected one of {', '.join(DTYPES)}; save it as float32"
            )

    def _dtype(self, name: str) -> str:
        return str(self._files[name].get_slice(name).get_dtype())

    def __getitem__(self, name: str) -> NDArray[Any]:
        self.check_dtype(name)
        if self._dtype(name) == "BF16":
            return self._widened(name)
        array: NDArray[Any] = self._files[name].get_tensor(name)
        return array

    def _widened(self, name: str) -> NDArray[Any]:
        """A bfloat16 array in float32, of which its 16 bits are the upper half: NumPy has no such type."""
        count = math.prod(self.shapes[name])
        halves = numpy.fromfile(self._paths[name], "<u2", count, offset=self._starts[name])
        return (halves.astype("<u4") << 16).view("<f4").reshape(self.shapes[name])


def _files(path: Path) -> list[Path]:
    """The files that `path` stands for."""
    if not path.is_dir():
        return [path]
    whole, index = path / "model.safetensors", path / "model.safetensors.index.json"
    if whole.exists() or not index.exists():
        return [whole]
    table = read_json(index).get("weight_map")
    given: list[Any] = list(table.values()) if isinstance(table, dict) else [None]
    names = [name for name in given if isinstance(name, str) and _FILE_NAME.fullmatch(name)]
    if not given or len(names) < len(given):
        raise UsageError(f"{index} names no files of its folder; expected names that end in .safetensors")
    return [path / name for name in sorted(set(names))]


def _opened(path: Path) -> Any:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror})") from error
    if size < 8 or length > min(size - 8, HEADER_BYTES):
        raise UsageError(
            f"{path} is no safetensors file, or not all of one: its {size:,} bytes begin with a header of "
            f"{length:,}, expected at most {max(0, min(size - 8, HEADER_BYTES)):,}"
        )
    try:
        return safe_open(path, "numpy")
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"{path} is no whole safetensors file ({reason}); copy or save it again") from error


def _starts(path: Path) -> dict[str, int]:
    """Where in the file each array begins, from a header that is known to fit it. Refuses a name twice."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length), object_pairs_hook=lambda pairs: _once(path, pairs))
    entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
    return {name: 8 + length + entry["data_offsets"][0] for name, entry in entries.items()}


def _once(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise UsageError(f"the header of {path} holds {twice[:80]!r} twice; expected each name once")
    return found


def _countable(path: Path, name: str, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape, unless its axes, those of length 0 aside, make more bytes than an array can have."""
    if math.prod(max(n, 1) for n in shape) >= 2**59:
        raise UsageError(f"{path}: {name[:80]} is {tuple(shape)}, and no array has axes that long")
    return tuple(shape)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a small JSON file. Raises UsageError for a file that is missing, large or another."""
    try:
        if path.stat().st_size > JSON_BYTES:
            raise UsageError(f"{path} has {path.stat().st_size:,} bytes, expected at most {JSON_BYTES:,}")
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{path} is not JSON ({str(error)[:200]}); save it again") from error
    if not isinstance(found, dict):
        raise UsageError(f"{path} holds a JSON {type(found).__name__}, expected an object")
    return found


def packed(array: Any, *, transposed: bool = False) -> NDArray[Any]:
    """A host array in one piece, as safetensors writes them."""
    return numpy.ascontiguousarray(array.T if transposed else array)
