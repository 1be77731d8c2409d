"""Weights that somebody else saved: safetensors files, checked before anything of them is in memory.

The format's own library maps the file, and holds its header to it: sizes, offsets, overlaps, gaps. What it
cannot know is what a header may cost: that is bounded here, before it sees the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
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

DTYPES = ("F64", "F32", "F16")
"""What arrays may be made of, in the format's words."""

_FILE_NAME = re.compile(r"[\w-][\w.-]*\.safetensors")


class WeightFiles:
    """The arrays of a safetensors file, or of a folder with model.safetensors or the parts of one, by name.

    Names, shapes and types are known at once; `weights[name]` reads an array. Raises UsageError for a file
    that is not there, is damaged or is something else.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._files: dict[str, Any] = {}
        for file in _files(self.path):
            opened = _opened(file)
            for name in opened.keys():  # noqa: SIM118 (a file of safetensors is no mapping)
                if name in self._files:
                    raise UsageError(f"{self.path} holds {name} twice; expected each array in one file")
                self._files[name] = opened
                self.shapes[name] = tuple(opened.get_slice(name).get_shape())

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def check_dtype(self, name: str) -> None:
        """Raise DTypeError unless this array is one of `DTYPES`."""
        found = str(self._files[name].get_slice(name).get_dtype())
        if found not in DTYPES:
            raise DTypeError(
                f"{self.path}: {name} is {found}, expected one of {', '.join(DTYPES)}; save it as float32"
            )

    def __getitem__(self, name: str) -> NDArray[Any]:
        array: NDArray[Any] = self._files[name].get_tensor(name)
        return array


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
