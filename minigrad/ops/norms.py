"""Norms of vectors and of matrices."""

from __future__ import annotations

import math
from typing import Any, Literal

from minigrad.errors import UsageError
from minigrad.ops.decompositions import svdvals
from minigrad.ops.elementwise import abs, divide, exp, log, not_equal, sqrt, square, where
from minigrad.ops.matrices import matrices
from minigrad.ops.reductions import floating, in_float32, max, min, sum
from minigrad.ops.shape import astype, expand_dims
from minigrad.tensor import Tensor

__all__ = ["vector_norm", "matrix_norm"]

_INFINITY = float("inf")


def _root(total: Tensor, power: float) -> Tensor:
    """total^(1/power), with derivative 0 at 0, where it is 0 (or, with a negative power, ∞)."""
    zero = total == 0
    safe = where(zero, 1, total)
    there = total * 0 if power > 0 else total * 0 + _INFINITY
    return where(zero, there, sqrt(safe) if power == 2 else exp(divide(log(safe), float(power))))


@in_float32
def vector_norm(
    x: Any, /, *, axis: int | tuple[int, ...] | None = None, keepdims: bool = False, ord: float = 2
) -> Tensor:
    """(Σ |x|^ord)^(1/ord) over `axis` (all axes if None); the largest (smallest) |x| for ord = ±∞; for 0, how
    many are not zero.

    At x = 0 the derivative is taken as 0; entries that tie for the largest share it; |x| has derivative 0 at
    0, for every ord. Half precision is computed in float32, so that squares do not overflow. Raises
    UsageError for an ord that is no number.
    """
    if not hasattr(ord, "__float__") or math.isnan(ord):
        raise UsageError(f"vector_norm: ord is a number, or ±inf; got {ord!r}")
    x = floating("vector_norm", x)
    if ord == 2:
        return _root(sum(square(x), axis=axis, keepdims=keepdims), 2)
    if ord == 0:
        return sum(astype(not_equal(x, 0), x.dtype), axis=axis, keepdims=keepdims)
    size = abs(x)
    if ord == 1:
        return sum(size, axis=axis, keepdims=keepdims)
    if ord in (_INFINITY, -_INFINITY):
        return (max if ord > 0 else min)(size, axis=axis, keepdims=keepdims)
    if ord < 1:  # the power of 0 has an infinite slope, which an entry that is 0 does not pass on
        zero = size.detach() == 0
        terms = where(zero, 0.0 if ord > 0 else _INFINITY, where(zero, 1.0, size) ** ord)
    else:
        terms = size**ord
    return _root(sum(terms, axis=axis, keepdims=keepdims), ord)


def matrix_norm(x: Any, /, *, keepdims: bool = False, ord: float | Literal["fro", "nuc"] = "fro") -> Tensor:
    """The norm of matrices: (..., m, n) → (...), or (..., 1, 1) with `keepdims`.

    "fro": root of the sum of squares; "nuc": sum of the singular values; ±2: largest or smallest singular
    value; ±1: largest or smallest sum of |x| over a column; ±∞: over a row. At x = 0 the Frobenius norm has
    derivative 0; where two candidates tie for the largest they share the derivative.
    """
    x = matrices("matrix_norm", x)
    if ord == "fro":
        return vector_norm(x, axis=(-2, -1), keepdims=keepdims)
    if ord == "nuc" or ord in (2, -2):
        s = expand_dims(svdvals(x), axis=-2)
        kept = sum(s, axis=-1, keepdims=True) if ord == "nuc" else _extreme(ord, s, -1)
    elif ord in (1, -1):
        kept = _extreme(ord, sum(abs(x), axis=-2, keepdims=True), -1)
    elif ord in (_INFINITY, -_INFINITY):
        kept = _extreme(ord, sum(abs(x), axis=-1, keepdims=True), -2)
    else:
        raise UsageError(f"matrix_norm: ord is 'fro', 'nuc', ±1, ±2 or ±inf; got {ord!r}")
    return kept if keepdims else kept.reshape(*x.shape[:-2])


def _extreme(ord: Any, x: Tensor, axis: int) -> Tensor:
    return (max if ord > 0 else min)(x, axis=axis, keepdims=True)
