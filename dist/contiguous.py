"""Memory that is allocated once and used again and again, so that a long run does not fragment it.

Rajbhandari et al. 2020, ZeRO: Memory Optimizations Toward Training Trillion Parameter Models, §6.2 (buffers
of constant size) and §6.3 (contiguous memory).
"""

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from minigrad import backend
from minigrad.dist.verbs import Array
from minigrad.errors import UsageError

ALIGNMENT = 64  # bytes; what processors load at once


def aligned(count: int) -> int:
    """A number of bytes, up to the next multiple of the alignment."""
    return -(-count // ALIGNMENT) * ALIGNMENT


class Pool:
    """Flat buffers of one size that go round: made by `make(size, dtype)` when needed first, never freed.

    taken   how many are in use now
    """

    def __init__(self, make: Callable[[int, Any], Array], size: int, dtype: Any) -> None:
        self._make, self.size, self.dtype = make, size, dtype
        self._free: list[Array] = []
        self.taken = 0

    def take(self) -> Array:
        """A buffer of `size` entries, whatever they are."""
        self.taken += 1
        return self._free.pop() if self._free else self._make(self.size, self.dtype)

    def give_back(self, buffer: Array) -> None:
        """Let the next one use it."""
        self.taken -= 1
        self._free.append(buffer)


class ContiguousMemory:
    """One piece of memory for arrays that come one after the other, and all go before the next round.

    What lives long (the checkpoints of a forward pass) and what lives short (everything else) then never lie
    in between each other. `take` hands out the next place; when the last array in it is freed, places are
    handed out from the beginning again.

    capacity, used  bytes in all, and in use or lost behind something in use

    >>> memory = ContiguousMemory(1024)
    >>> piece = memory.take(10, "float64")
    >>> memory.used
    128
    >>> del piece
    >>> memory.used
    0
    """

    def __init__(self, capacity: int, *, device: str = "cpu", track: Any = None) -> None:
        xp = backend.of_device(device)
        with xp.on(device):
            self._memory = xp.empty(aligned(capacity), dtype="uint8")
        if track is not None:
            track("activations", self._memory)
        self.capacity, self.used, self._alive = aligned(capacity), 0, 0

    def take(self, size: int, dtype: Any) -> Array:
        """A flat array of `size` entries, whatever they are. Raises UsageError where there is no place."""
        dtype = np.dtype(dtype)
        start, count = self.used, size * dtype.itemsize
        if start + count > self.capacity:
            raise UsageError(
                f"{count} bytes do not fit a contiguous memory of {self.capacity}, of which {start} are in "
                "use; make it larger"
            )
        self.used, self._alive = start + aligned(count), self._alive + 1
        array = self._memory[start : start + count].view(dtype)
        weakref.finalize(array, self._freed)
        return array

    def _freed(self) -> None:
        self._alive -= 1
        if not self._alive:
            self.used = 0
