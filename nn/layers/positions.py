"""Where in a sequence a vector stands: sinusoidal, learned and rotary positions."""

from __future__ import annotations

from typing import Any

import numpy

from minigrad import ops
from minigrad.errors import ShapeError
from minigrad.graph import state
from minigrad.nn import init
from minigrad.nn.functional.arguments import POSITIVE, real, refuse, whole
from minigrad.nn.layers.dropout import Dropout
from minigrad.nn.layers.linear import new_parameter
from minigrad.nn.module import Buffer, Module
from minigrad.tensor import Tensor


def _angles(length: int, width: int, base: float) -> Any:
    """position / base^(2i / width) for each position and each i: (length, width / 2)."""
    return numpy.arange(length)[:, None] / base ** (numpy.arange(0, width, 2) / width)


def _fitting(name: str, x: Tensor, start: int, longest: int, width: int) -> int:
    """The number of positions in x (..., time, width). Raises ShapeError."""
    if x.ndim < 2 or x.shape[-1] != width or start < 0 or start + x.shape[-2] > longest:
        raise ShapeError(
            f"{name}: expected (..., time, {width}) of at most {longest} positions, got {x.shape}"
            + (f" from position {start} on" if start else "")
        )
    return x.shape[-2]


class SinusoidalPositions(Module):
    """x + PE, with PE(p, 2i) = sin(p / 10000^(2i/width)) and PE(p, 2i + 1) the cosine. Nothing is learned.

    Shapes: x (batch, time, width). PE(p + k) is a rotation of PE(p) that depends on k alone. Paper: Vaswani
    et al. 2017, Attention Is All You Need, §3.5.
    """

    def __init__(
        self,
        width: int,
        longest: int = 5000,
        dropout: float = 0.0,
        *,
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        width, longest = whole(self, width=width, longest=longest)
        real(self, 0.0, 1.0, dropout=dropout)
        if width % 2:
            refuse(self, "width", width, "an even one, for sines beside cosines")
        self.width, self.longest = width, longest
        self.dropout = Dropout(dropout)
        angles = _angles(longest, width, 10000.0)
        table = numpy.stack([numpy.sin(angles), numpy.cos(angles)], axis=2).reshape(longest, width)
        self.table = Buffer(table, dtype=dtype or state.default_dtype, device=device, persistent=False)

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        time = _fitting("SinusoidalPositions", x, start, self.longest, self.width)
        out: Tensor = self.dropout(x + self.table[start : start + time])
        return out

    def extra_repr(self) -> str:
        return f"{self.width}, longest={self.longest}"


class LearnedPositions(Module):
    """x + a learned vector for each position. Parameter: weight (longest, width)."""

    def __init__(
        self, width: int, longest: int, std: float = 0.02, *, device: str | None = None, dtype: Any = None
    ) -> None:
        self.width, self.longest = width, longest = whole(self, width=width, longest=longest)
        real(self, 0.0, std=std)
        self.weight = new_parameter((longest, width), dtype=dtype, device=device)
        init.normal_(self.weight, std=std)

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        time = _fitting("LearnedPositions", x, start, self.longest, self.width)
        return x + self.weight[start : start + time]

    def extra_repr(self) -> str:
        return f"{self.width}, longest={self.longest}"


class RotaryPositions(Module):
    """Turn pairs of entries of queries and keys by an angle that grows with the position.

    Entry i and entry i + width/2 are a pair; its angle at position p is p / base^(2i/width). Products of a
    query and a key then depend only on how far apart they are. Shapes: x (..., time, width). Paper: Su et al.
    2021, RoFormer, eq. 15 and 34 (with halves for pairs, as most models have it).
    """

    def __init__(
        self,
        width: int,
        longest: int = 2048,
        base: float = 10000.0,
        *,
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        width, longest = whole(self, width=width, longest=longest)
        real(self, POSITIVE, base=base)
        if width % 2:
            refuse(self, "width", width, "an even one, for entries turn in pairs")
        self.width, self.longest, self.base = width, longest, base
        angles = _angles(longest, width, base)
        wide = dtype or state.default_dtype
        self.cosines, self.sines = (
            Buffer(numpy.tile(values, 2), dtype=wide, device=device, persistent=False)
            for values in (numpy.cos(angles), numpy.sin(angles))
        )

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        time = _fitting("RotaryPositions", x, start, self.longest, self.width)
        first, second = ops.chunk(x, 2, axis=x.ndim - 1)
        turned = ops.concat([-second, first], axis=x.ndim - 1)
        return x * self.cosines[start : start + time] + turned * self.sines[start : start + time]

    def extra_repr(self) -> str:
        return f"{self.width}, longest={self.longest}, base={self.base}"
