"""How a step reads its pieces: in blocks that stay in cache, scaled, in the dtype that it computes in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from minigrad.backend import Array
from minigrad.nn.optim.piece import Piece

if TYPE_CHECKING:
    from minigrad.nn.optim.optimizer import Optimizer

BLOCK = 1 << 16
"""Entries that a step works through at a time on a processor: five arrays of them stay in its cache."""


class Reading:
    """One step's way to read pieces."""

    def __init__(self, optimizer: Optimizer, scale: Array | float | None, skip: Array | None) -> None:
        self.optimizer, self.skip = optimizer, skip
        self.xp = optimizer.namespace
        self.settings = [dict(group) for group in optimizer.param_groups]  # schedules write into those
        self.state = optimizer.flat_state
        self.dtype = optimizer.state_dtype
        if isinstance(scale, (int, float)):
            self.scale: Any = float(scale)  # one of NumPy's kind would widen what it multiplies
        else:
            self.scale = None if scale is None else self.xp.asarray(scale, dtype=self.dtype)

    def parts(self, piece: Piece) -> Iterator[Part]:
        """The blocks of a piece, one after the other."""
        count = piece.stop - piece.start
        length = BLOCK if self.xp.blocked else max(count, 1)
        scale = self.scale
        if self.settings[piece.group].get("maximize"):
            scale = -1.0 if scale is None else -scale
        for start in range(0, count, length):
            inside = slice(start, min(start + length, count))
            yield Part(self, piece, inside, scale)


class Part:
    """One block of a piece."""

    __slots__ = ("_before", "_own", "_reading", "gradient", "state", "values")

    def __init__(self, reading: Reading, piece: Piece, inside: slice, scale: Any) -> None:
        place = slice(piece.start + inside.start, piece.start + inside.stop)
        self._reading = reading
        self._own = self.values = piece.values[inside]
        self.state = {name: array[place] for name, array in reading.state.items()}
        gradient = piece.gradient[inside]
        if gradient.dtype != reading.dtype:
            gradient = gradient.astype(reading.dtype)
        self.gradient = gradient if scale is None else gradient * scale
        if reading.optimizer.has_master:
            self.values = self.state.pop("master")
        self._before: list[tuple[Array, Array]] = []
        if reading.skip is not None:
            self._before = [(a, a.copy()) for a in (self.values, *self.state.values())]

    def write_back(self) -> None:
        """Undo the change where the step is skipped, and round a master copy into the parameter."""
        for array, before in self._before:
            array[...] = self._reading.xp.where(self._reading.skip, before, array)
        if self._own is not self.values:
            self._own[...] = self.values
