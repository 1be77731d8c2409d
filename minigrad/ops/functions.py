"""Rounding, logic, trigonometric and hyperbolic functions: elementwise operations beyond the everyday ones.

Names and semantics follow the Python array API standard; `xlogy`, which it lacks, follows SciPy and torch.
"""

from __future__ import annotations

import math
from typing import Any

from minigrad import operation
from minigrad.operation import elementwise, general
from minigrad.ops.elementwise import divide
from minigrad.ops.special import digamma, erfc, erfinv, lgamma, polygamma, sinc
from minigrad.tensor import Tensor

__all__ = [
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "ceil",
    "clip",
    "copysign",
    "cosh",
    "digamma",
    "erfc",
    "erfinv",
    "floor",
    "floor_divide",
    "hypot",
    "isinf",
    "isnan",
    "lgamma",
    "log10",
    "log2",
    "logaddexp",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "nextafter",
    "polygamma",
    "positive",
    "reciprocal",
    "remainder",
    "round",
    "signbit",
    "sinc",
    "sinh",
    "tan",
    "trunc",
    "xlogy",
]

# ----- Arithmetic ---------------------------------------------------------------------------------


def positive(x: Any, /) -> Tensor:
    """+x, which is x itself."""
    return x if isinstance(x, Tensor) else Tensor(x)


def reciprocal(x: Any, /) -> Tensor:
    """1 / x"""
    return divide(1.0, x)


@elementwise(x=lambda xp, v: v, y=lambda xp, v, x, y: -v * xp.floor_divide(x, y))
def remainder(xp: Any, x: Any, y: Any, /) -> Any:
    """x - y ⌊x/y⌋, with the sign of y. At its jumps, where x/y is whole, the derivatives are those of the
    side that it belongs to.
    """
    return xp.remainder(x, y)


@elementwise(
    x=lambda xp, v, x, y: v * xp.sign(x) * xp.copysign(xp.ones_like(y), y),
    y=None,
)
def copysign(xp: Any, x: Any, y: Any, /) -> Any:
    """|x| with the sign of y (a zero has one too). The derivative at x = 0 is 0, and in y it is 0."""
    return xp.copysign(x, y)


@elementwise(
    x=lambda xp, v, x, y: xp.masked(v, x >= y),
    y=lambda xp, v, x, y: xp.masked(v, x < y),
)
def _at_least(xp: Any, x: Any, y: Any, /) -> Any:
    """The larger of x and y, as `maximum`, but at a tie x takes all of the derivative."""
    return xp.maximum(x, y)


@elementwise(
    x=lambda xp, v, x, y: xp.masked(v, x <= y),
    y=lambda xp, v, x, y: xp.masked(v, x > y),
)
def _at_most(xp: Any, x: Any, y: Any, /) -> Any:
    """The smaller of x and y, as `minimum`, but at a tie x takes all of the derivative."""
    return xp.minimum(x, y)


def clip(x: Any, /, min: Any = None, max: Any = None) -> Tensor:
    """x, but at least `min` and at most `max`: numbers or tensors that broadcast, or None for no bound.

    Where x lies on a bound the derivative is x's. Where `min` is above `max` the result is `max`.
    """
    x = x if min is None else _at_least(x, min)
    return positive(x) if max is None else _at_most(x, max)


@elementwise(
    x=lambda xp, v, x, out: v * (x / _nonzero(xp, out)), y=lambda xp, v, y, out: v * (y / _nonzero(xp, out))
)
def hypot(xp: Any, x: Any, y: Any, /) -> Any:
    """√(x² + y²), without overflow on the way. The derivatives at (0, 0) are taken as 0."""
    return xp.hypot(x, y)


def _nonzero(xp: Any, x: Any) -> Any:
    """x, with 1 in place of 0: the denominator of what is to be 0 there."""
    return xp.where(x == 0, xp.ones_like(x), x)


# ----- Exponentials and logarithms ----------------------------------------------------------------


@elementwise(x=lambda xp, v, x: v / (x * math.log(2)))
def log2(xp: Any, x: Any, /) -> Any:
    """The logarithm of x to base 2."""
    return xp.log2(x)


@elementwise(x=lambda xp, v, x: v / (x * math.log(10)))
def log10(xp: Any, x: Any, /) -> Any:
    """The logarithm of x to base 10."""
    return xp.log10(x)


@elementwise(
    x=lambda xp, v, x, y: v * xp.sigmoid(_difference(xp, x, y, xp.isinf(x))),
    y=lambda xp, v, x, y: v * xp.sigmoid(_difference(xp, y, x, xp.isinf(x))),
)
def logaddexp(xp: Any, x: Any, y: Any, /) -> Any:
    """ln(eˣ + eʸ), shifted by the larger so that nothing overflows. Where both are the same infinity, each
    takes half of the derivative.
    """
    x, y = _as_float(xp, x), _as_float(xp, y)
    large, small = xp.maximum(x, y), xp.minimum(x, y)
    return large + xp.log1p(xp.exp(_difference(xp, small, large, xp.isinf(x))))


def _as_float(xp: Any, x: Any) -> Any:
    """x in the dtype that `exp` gives it: differences of whole numbers could leave their range."""
    return x if x.dtype.kind in "fV" else x.astype(xp.exp(xp.empty(0, dtype=x.dtype)).dtype)


def _difference(xp: Any, x: Any, y: Any, infinite: Any) -> Any:
    """x - y, and 0 where both are the same infinity."""
    same = xp.logical_and(x == y, infinite)
    zero = xp.zeros_like(y)
    return xp.where(same, zero, x) - xp.where(same, zero, y)


@elementwise(
    x=lambda xp, v, x, y: v * xp.log(_unless_both_zero(xp, x, y)),
    y=lambda xp, v, x, y: v * x / _unless_both_zero(xp, x, y),
)
def xlogy(xp: Any, x: Any, y: Any, /) -> Any:
    """x ln y, and 0 where x is 0 (unless y is NaN). Where also y ≤ 0 the derivatives are taken as 0, so that
    entropies stay finite.
    """
    known = xp.logical_and(x == 0, y == y)  # a NaN is not itself
    return x * xp.log(xp.where(known, xp.ones_like(y), y))


def _unless_both_zero(xp: Any, x: Any, y: Any) -> Any:
    return xp.where(xp.logical_and(x == 0, y <= 0), xp.ones_like(y), y)


# ----- Trigonometric and hyperbolic functions -----------------------------------------------------


@elementwise(x=lambda xp, v, out: v + v * (out * out))
def tan(xp: Any, x: Any, /) -> Any:
    """tan x, x in radians."""
    return xp.tan(x)


@elementwise(x=lambda xp, v, x: v / xp.sqrt((1 - x) * (1 + x)))
def asin(xp: Any, x: Any, /) -> Any:
    """The angle in [-π/2, π/2] whose sine is x. The derivative at ±1 is infinite."""
    return xp.asin(x)


@elementwise(x=lambda xp, v, x: -v / xp.sqrt((1 - x) * (1 + x)))
def acos(xp: Any, x: Any, /) -> Any:
    """The angle in [0, π] whose cosine is x. The derivative at ±1 is infinite."""
    return xp.acos(x)


@elementwise(x=lambda xp, v, x: v / (1 + x * x))
def atan(xp: Any, x: Any, /) -> Any:
    """The angle in (-π/2, π/2) whose tangent is x."""
    return xp.atan(x)


def _pull_atan2(xp: Any, v: Any, needs: Any, y: Any, x: Any) -> tuple[Any, Any]:
    length = _nonzero(xp, xp.hypot(y, x))
    v = v / length  # twice, because the square could overflow
    return v * (x / length) if needs[0] else None, -v * (y / length) if needs[1] else None


def _push_atan2(xp: Any, tangents: Any, y: Any, x: Any) -> Any:
    length = _nonzero(xp, xp.hypot(y, x))
    dy, dx = tangents
    turned = xp.zeros_like(length) if dy is None else dy * (x / length)
    return (turned if dx is None else turned - dx * (y / length)) / length


@general(pull=_pull_atan2, push=_push_atan2)
def atan2(xp: Any, y: Any, x: Any, /) -> Any:
    """The angle in [-π, π] from the positive x-axis to the point (x, y). The derivatives at (0, 0) are taken
    as 0.
    """
    return xp.atan2(y, x)


@elementwise(x=lambda xp, v, x: v * xp.cosh(x))
def sinh(xp: Any, x: Any, /) -> Any:
    """(eˣ - e⁻ˣ) / 2"""
    return xp.sinh(x)


@elementwise(x=lambda xp, v, x: v * xp.sinh(x))
def cosh(xp: Any, x: Any, /) -> Any:
    """(eˣ + e⁻ˣ) / 2"""
    return xp.cosh(x)


@elementwise(x=lambda xp, v, x: v / xp.hypot(x, xp.ones_like(x)))
def asinh(xp: Any, x: Any, /) -> Any:
    """The number whose hyperbolic sine is x."""
    return xp.asinh(x)


@elementwise(x=lambda xp, v, x: v / (xp.sqrt(x - 1) * xp.sqrt(x + 1)))
def acosh(xp: Any, x: Any, /) -> Any:
    """The number ≥ 0 whose hyperbolic cosine is x ≥ 1. The derivative at 1 is infinite."""
    return xp.acosh(x)


@elementwise(x=lambda xp, v, x: v / ((1 - x) * (1 + x)))
def atanh(xp: Any, x: Any, /) -> Any:
    """The number whose hyperbolic tangent is x, -1 < x < 1."""
    return xp.atanh(x)


# ----- Without derivative -------------------------------------------------------------------------


@operation.constant
def floor(xp: Any, x: Any, /) -> Any:
    """The largest whole number ≤ x. A constant of the graph, like everything below: its derivative is 0
    wherever it exists.
    """
    return xp.positive(x) if x.dtype.kind in "iu" else xp.floor(x)


@operation.constant
def ceil(xp: Any, x: Any, /) -> Any:
    """The smallest whole number ≥ x."""
    return xp.positive(x) if x.dtype.kind in "iu" else xp.ceil(x)


@operation.constant
def round(xp: Any, x: Any, /) -> Any:
    """The nearest whole number, and of two the even one."""
    return xp.positive(x) if x.dtype.kind in "iu" else xp.round(x)


@operation.constant
def trunc(xp: Any, x: Any, /) -> Any:
    """x without its fraction: rounded towards 0."""
    return xp.positive(x) if x.dtype.kind in "iu" else xp.trunc(x)


@operation.constant
def floor_divide(xp: Any, x: Any, y: Any, /) -> Any:
    """⌊x / y⌋"""
    return xp.floor_divide(x, y)


@operation.constant
def nextafter(xp: Any, x: Any, y: Any, /) -> Any:
    """The next number after x, of those its dtype has, in the direction of y."""
    return xp.nextafter(x, y)


@operation.constant
def isnan(xp: Any, x: Any, /) -> Any:
    """Whether x is NaN."""
    return xp.isnan(x)


@operation.constant
def isinf(xp: Any, x: Any, /) -> Any:
    """Whether x is infinite, with either sign."""
    return xp.isinf(x)


@operation.constant
def signbit(xp: Any, x: Any, /) -> Any:
    """Whether the sign of x is minus (that of -0.0 is)."""
    return xp.signbit(x)


@operation.constant
def logical_and(xp: Any, x: Any, y: Any, /) -> Any:
    """Whether both hold."""
    return xp.logical_and(x, y)


@operation.constant
def logical_or(xp: Any, x: Any, y: Any, /) -> Any:
    """Whether at least one holds."""
    return xp.logical_or(x, y)


@operation.constant
def logical_xor(xp: Any, x: Any, y: Any, /) -> Any:
    """Whether exactly one holds."""
    return xp.logical_xor(x, y)


@operation.constant
def logical_not(xp: Any, x: Any, /) -> Any:
    """Whether x does not hold."""
    return xp.logical_not(x)
