"""The files of a checkpoint: safetensors, written as a stream and read through memory maps.

The safetensors library wants all arrays of a file in memory at once, and copies them. Here one array after
the other is written, hashed on its way, and only those pages are read that somebody asks for. The format: 8
bytes that give the header's length, a header in JSON that says where each array begins and ends, then the
arrays, little-endian, one after the other (the safetensors specification, "Format").
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedWriter
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minigrad.errors import UsageError

PARTIAL = ".partial"
CHUNK_BYTES = 2**20  # hashed while it is still in the cache
HEADER_LIMIT = 100 * 2**20  # what the safetensors library reads at most
CODES = {
    "bool": "BOOL",
    **{f"{kind}{bits}": f"{kind[0].upper()}{bits}" for kind in ("uint", "int") for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"F{bits}" for bits in (16, 32, 64)},
    "bfloat16": "BF16",
    "complex64": "C64",
}
"""What safetensors calls each data type."""


@dataclass(frozen=True)
class Planned:
    """An array of a file that is about to be written; `chunks` makes its bytes when their turn comes."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    chunks: Callable[[], Iterable[NDArray[Any]]]

    @property
    def bytes(self) -> int:
        """How many bytes it takes."""
        return prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Written:
    """What was written: the size and hash that the file must have for ever after."""

    bytes: int
    sha256: str


def data_type(name: str) -> np.dtype:
    """The data type called `name`. Raises UsageError for one that cannot be saved, or is not installed."""
    if name not in CODES:
        raise UsageError(f"arrays of {name} cannot be saved; there are {', '.join(CODES)}")
    if name == "bfloat16":
        try:
            import ml_dtypes
        except ImportError as error:
            raise UsageError("bfloat16 arrays need the package ml_dtypes; install it") from error
        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name).newbyteorder("<")


def write_tensors(path: Path, arrays: Sequence[Planned], *, metadata: Mapping[str, str]) -> Written:
    """Write a safetensors file, flushed to the disk. Raises OSError where the disk is full or fails."""
    # Widest first, as the library orders them: then every array begins at a multiple of its item size.
    arrays = sorted(arrays, key=lambda array: (-array.dtype.itemsize, array.name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    place = 0
    for array in arrays:
        code, ends = CODES[array.dtype.name], place + array.bytes
        header[array.name] = {"dtype": code, "shape": array.shape, "data_offsets": [place, ends]}
        place = ends
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    digest, written = hashlib.sha256(), 0
    with path.open("wb") as file:
        for content in _contents(text, arrays):
            for start in range(0, content.size, CHUNK_BYTES):
                chunk = content[start : start + CHUNK_BYTES].data
                digest.update(chunk)
                written += file.write(chunk)
        _flush(file)
    return Written(written, digest.hexdigest())


def _contents(header: bytes, arrays: Iterable[Planned]) -> Iterator[NDArray[np.uint8]]:
    """All bytes of a file, in turn."""
    yield np.frombuffer(len(header).to_bytes(8, "little") + header, dtype=np.uint8)
    for array in arrays:
        for part in array.chunks():
            yield np.ascontiguousarray(part).reshape(-1).view(np.uint8)


class TensorFile:
    """A safetensors file, mapped into memory: `file[name]` is a flat view of that array, read when used.

    Raises UsageError for a file that is not what the format allows; nothing outside the file is ever read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            content = np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))
        except (OSError, ValueError) as error:  # ValueError: nothing in it
            raise UsageError(
                f"{path} cannot be read ({getattr(error, 'strerror', None) or error})"
            ) from error
        length = int.from_bytes(content[:8].tobytes(), "little")
        if content.size < 8 or length > min(HEADER_LIMIT, content.size - 8):
            raise self._damaged("its header does not fit into it")
        self._data = content[8 + length :]
        try:
            header = json.loads(content[8 : 8 + length].tobytes())
            header.pop("__metadata__", None)
            self._entries = {name: self._checked(entry) for name, entry in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise self._damaged(f"its header is not that of a safetensors file: {error!r:.200}") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __getitem__(self, name: str) -> NDArray[Any]:
        dtype, start, stop = self._entries[name]
        return self._data[start:stop].view(dtype)

    def describe(self, name: str) -> tuple[np.dtype, int]:
        """The data type of an array and the number of its entries."""
        dtype, start, stop = self._entries[name]
        return dtype, (stop - start) // dtype.itemsize

    def _checked(self, entry: Mapping[str, Any]) -> tuple[np.dtype, int, int]:
        dtype = data_type(_NAMES[entry["dtype"]])
        start, stop = entry["data_offsets"]
        if not all(type(number) is int and number >= 0 for number in (start, stop, *entry["shape"])):
            raise ValueError("sizes that are no whole numbers")
        if stop > self._data.size or stop - start != prod(entry["shape"]) * dtype.itemsize:
            raise ValueError("an array that does not fit into its place")
        return dtype, start, stop

    def _damaged(self, why: str) -> UsageError:
        return UsageError(f"{self.path} is damaged: {why}")


class Files(dict[str, TensorFile]):
    """The files of a folder, by name, each opened when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __missing__(self, name: str) -> TensorFile:
        self[name] = TensorFile(self.folder / name)
        return self[name]


_NAMES = {code: name for name, code in CODES.items()}


def sha256_of(path: Path) -> str:
    """The hash of a file, in hexadecimal. Raises OSError where it cannot be read."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(CHUNK_BYTES))
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(buffer):
            digest.update(buffer[:size])
    return digest.hexdigest()


def write_file(path: Path, content: bytes) -> None:
    """Write a small file and flush it to the disk."""
    with path.open("wb") as file:
        file.write(content)
        _flush(file)


def _flush(file: BufferedWriter) -> None:
    """Wait until the disk has what was written."""
    file.flush()
    os.fsync(file.fileno())


def flush_folder(path: Path) -> None:
    """Make a rename last through a crash of the machine (POSIX; elsewhere there is nothing to do)."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def check_room(path: Path, needed: int, remedy: str) -> None:
    """Refuse a disk that visibly lacks `needed` bytes for what goes to `path`. Raises UsageError."""
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UsageError(
            f"{path} takes {needed / 1e6:.1f} MB, and the disk of {folder} has {free / 1e6:.1f} MB free; "
            f"{remedy}"
        )


@contextmanager
def explained(what: str, remedy: str) -> Iterator[None]:
    """Make an OSError of the block one line: what failed, why, what to do. Raises UsageError."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"{what}: {error.strerror or error}; {remedy}") from error


def remove_folder(path: Path) -> None:
    """Remove a folder and all in it, if it is there; what cannot be removed is left."""
    shutil.rmtree(path, ignore_errors=True)
