"""Lending arrays to a communicator: as they are where they live in host memory, staged where they do not.

An array on a device is first made ready (its stream is synchronised: the device may still be writing it),
copied to pinned host memory, communicated from there, and copied back. `import cupy` never happens here: an
array that comes from CuPy has imported it already.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from minigrad.dist.verbs import Array


def half_precision(dtype: np.dtype) -> bool:
    """Whether it is float16 or bfloat16 (which NumPy knows only by its name)."""
    return dtype.itemsize == 2 and (dtype.kind == "f" or dtype.name == "bfloat16")


def nothing() -> None:
    """What there is to give back when the communicator worked on the array itself."""


@dataclass
class Loan:
    """A flat buffer for the communicator; `give_back` brings home what was written there. `apart` says that
    it is memory of its own, not the array's.
    """

    buffer: Array
    give_back: Callable[[], None] = nothing
    apart: bool = False


class Device(Protocol):
    """What staging needs to know about one kind of array that does not live in host memory."""

    def owns(self, array: Array) -> bool:
        """Whether `array` is of this kind."""

    def synchronize(self, array: Array) -> None:
        """Wait until everything queued for `array` is done."""

    def host_buffer(self, array: Array) -> np.ndarray:
        """Uninitialised host memory for `array`: flat, same dtype, pinned where that makes copies faster."""

    def to_host(self, array: Array, buffer: np.ndarray) -> None:
        """Copy `array` into `buffer`, and return when it is there."""

    def to_device(self, buffer: np.ndarray, array: Array) -> None:
        """Copy `buffer` into `array`, and return when `buffer` may be used again."""


class CuPyDevice:
    """CuPy arrays on their current stream."""

    def owns(self, array: Array) -> bool:
        return type(array).__module__.partition(".")[0] == "cupy"

    def synchronize(self, array: Array) -> None:
        cupy = sys.modules["cupy"]
        with array.device:
            cupy.cuda.get_current_stream().synchronize()

    def host_buffer(self, array: Array) -> np.ndarray:
        import cupyx  # type: ignore[import-not-found, import-untyped, unused-ignore]

        buffer: np.ndarray = cupyx.empty_pinned((array.size,), array.dtype)
        return buffer

    def to_host(self, array: Array, buffer: np.ndarray) -> None:
        with array.device:
            array.reshape(-1).get(out=buffer)
        self.synchronize(array)

    def to_device(self, buffer: np.ndarray, array: Array) -> None:
        with array.device:
            array.reshape(-1).set(buffer)
        self.synchronize(array)


DEVICES: list[Device] = [CuPyDevice()]


def lend(array: Array, *, read: bool, write: bool, direct: bool = False) -> Loan:
    """Lend a contiguous array to a communicator that reads it, writes it, or both.

    Host arrays are lent as flat views of themselves. Device arrays are staged, unless `direct` says that the
    communicator takes device memory: then only their stream is synchronised.
    """
    device = None if type(array) is np.ndarray else next((one for one in DEVICES if one.owns(array)), None)
    if device is None:
        return Loan(array.reshape(-1))
    device.synchronize(array)
    if direct:
        return Loan(array.reshape(-1))
    if not array.size:  # of which there is no memory to pin
        return Loan(np.empty(0, array.dtype))
    buffer = device.host_buffer(array)
    if read:
        device.to_host(array, buffer)
    return Loan(buffer, (lambda: device.to_device(buffer, array)) if write else nothing, apart=True)


def settle(buffer: Array) -> None:
    """Wait until the device has written a buffer that goes to the communicator as it is."""
    if type(buffer) is not np.ndarray:
        for device in DEVICES:
            if device.owns(buffer):
                device.synchronize(buffer)


def copied(loan: Loan, dtype: Any, *, write: bool) -> Loan:
    """A copy of a loan, maybe in another dtype: sums of half precision are taken in float32."""
    copy = loan.buffer.astype(dtype)

    def give_back() -> None:
        loan.buffer[...] = copy
        loan.give_back()

    return Loan(copy, give_back if write else nothing, apart=True)


def overlap(one: Array, other: Array) -> bool:
    """Whether two contiguous buffers share memory."""
    first, second = _address(one), _address(other)
    return first == second or (first < second + other.nbytes and second < first + one.nbytes)


def _address(buffer: Array) -> int:
    return int(buffer.ctypes.data if isinstance(buffer, np.ndarray) else buffer.data.ptr)
