"""What shape-only arrays write down while they compute nothing: FLOPs, bytes moved, bytes alive."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Meter:
    """FLOPs, bytes moved, and bytes of shape-only arrays alive."""

    def __init__(self) -> None:
        self.flops = 0
        self.bytes_moved = 0
        self.bytes_alive = 0
        self.peak_bytes = 0
        self.by_function: dict[str, int] = {}

    def compute(self, name: str, flops: int, *arrays: Any) -> None:
        """Book one function: its FLOPs, and every array it reads or writes as moved once."""
        self.flops += flops
        self.by_function[name] = self.by_function.get(name, 0) + flops
        self.bytes_moved += sum(array.nbytes for array in arrays if array is not None)

    def hold(self, count: int) -> None:
        """Book bytes that came alive (or, negative, died)."""
        self.bytes_alive += count
        self.peak_bytes = max(self.peak_bytes, self.bytes_alive)


class State(threading.local):
    """The meter of this thread."""

    def __init__(self) -> None:
        self.meter = Meter()


state = State()


@contextmanager
def metered() -> Iterator[Meter]:
    """Count what this thread computes with shape-only arrays inside the block, starting from nothing."""
    before, state.meter = state.meter, Meter()
    try:
        yield state.meter
    finally:
        state.meter = before
