"""Elementwise operations: one factor per input serves both walks, and broadcasting is the walks' business.

Names and semantics follow the Python array API standard; `erf` and `sigmoid` follow SciPy and torch.
"""

from __future__ import annotations

import math
from typing import Any

from minigrad import operation
from minigrad.operation import elementwise
from minigrad.tensor import Tensor

# ----- Arithmetic ---------------------------------------------------------------------------------


@elementwise(x=lambda xp, v: v, y=lambda xp, v: v)
def add(xp: Any, x: Any, y: Any, /) -> Any:
    """x + y"""
    return xp.add(x, y)


@elementwise(x=lambda xp, v: v, y=lambda xp, v: -v)
def subtract(xp: Any, x: Any, y: Any, /) -> Any:
    """x - y"""
    return xp.subtract(x, y)


@elementwise(x=lambda xp, v, y: v * y, y=lambda xp, v, x: v * x)
def multiply(xp: Any, x: Any, y: Any, /) -> Any:
    """x · y"""
    return xp.multiply(x, y)


@elementwise(x=lambda xp, v, y: v / y, y=lambda xp, v, y, out: -v * out / y)
def divide(xp: Any, x: Any, y: Any, /) -> Any:
    """x / y"""
    return xp.divide(x, y)


@elementwise(x=lambda xp, v: -v)
def negative(xp: Any, x: Any, /) -> Any:
    """-x"""
    return xp.negative(x)


@elementwise(x=lambda xp, v, x: v * xp.sign(x))
def abs(xp: Any, x: Any, /) -> Any:
    """|x|, with derivative 0 at 0."""
    return xp.abs(x)


@elementwise(x=lambda xp, v, x: 2 * v * x)
def square(xp: Any, x: Any, /) -> Any:
    """x²"""
    return xp.square(x)


@elementwise(x=lambda xp, v, out: v / (2 * out))
def sqrt(xp: Any, x: Any, /) -> Any:
    """√x. The derivative at 0 is infinite."""
    return xp.sqrt(x)


@elementwise(
    x=lambda xp, v, x, y: v * y * xp.pow(x, _less_one(xp, x, y)),
    y=lambda xp, v, x, y, out: v * out * xp.log(_base(xp, x, y)),
)
def _power(xp: Any, x: Any, y: Any, /) -> Any:
    """x to the power y. The derivative in y is taken as 0 where x is negative; at 0 it is 0 for y ≥ 0 and -∞
    below.
    """
    return xp.pow(x, y)


def _less_one(xp: Any, x: Any, y: Any) -> Any:
    """y - 1, but 0 where that would make 0 · ∞ or 0 · NaN of y x^(y - 1) for y = 0."""
    still = xp.logical_and(y == 0, xp.logical_not(xp.abs(x) > 0))
    return xp.where(still, xp.zeros_like(y), y - 1)


def _base(xp: Any, x: Any, y: Any) -> Any:
    """x, with 1 in place of bases whose logarithm is to count as 0."""
    return xp.where(xp.logical_or(x > 0, xp.logical_and(x == 0, y < 0)), x, xp.ones_like(x))


@elementwise(x=lambda xp, v, x, out: -2 * v * out / x)
def _inverse_square(xp: Any, x: Any, /) -> Any:
    """1 / x², with derivative ∓∞ at ±0."""
    return xp.ones((), dtype=x.dtype) / xp.square(x)


@elementwise(x=lambda xp, v, x, out: -0.5 * v * out / x)
def _inverse_root(xp: Any, x: Any, /) -> Any:
    """1 / √x, with derivative -∞ at 0."""
    return xp.ones((), dtype=x.dtype) / xp.sqrt(x)


def pow(x: Any, y: Any, /) -> Tensor:
    """x to the power y. Small whole and half exponents given as numbers become products and roots, so that,
    as in torch, half a power of -0.0 has its sign. The derivative in y where x is negative, which has none,
    is taken as 0 (NaN in torch).
    """
    if isinstance(y, (int, float)) and isinstance(x, Tensor) and x.dtype.kind in "fV":
        match y:
            case 0:
                return _power(x, y)
            case 1:
                return +x
            case 2:
                return square(x)
            case 3:
                return multiply(square(x), x)
            case 4:
                return square(square(x))
            case 0.5:
                return sqrt(x)
            case -0.5:
                return _inverse_root(x)
            case -1:
                return divide(1.0, x)
            case -2:
                return _inverse_square(x)
    return _power(x, y)


def _pull_polynomial(xp: Any, v: Any, x: Any, coefficients: tuple[float, ...]) -> Any:
    slopes = tuple([power * c for power, c in enumerate(coefficients)][1:])
    g = xp.polynomial(x, coefficients=slopes)
    g *= v
    return g


@elementwise(x=_pull_polynomial)
def polynomial(xp: Any, x: Any, /, *, coefficients: tuple[float, ...]) -> Any:
    """Σ cᵢ xⁱ, the coefficients from the lowest power up: one operation, whatever the degree."""
    return xp.polynomial(x, coefficients=coefficients)


# ----- Exponentials, trigonometry -----------------------------------------------------------------


@elementwise(x=lambda xp, v, out: v * out)
def exp(xp: Any, x: Any, /) -> Any:
    """eˣ"""
    return xp.exp(x)


@elementwise(x=lambda xp, v, out: v * (out + 1))
def expm1(xp: Any, x: Any, /) -> Any:
    """eˣ - 1, exact near 0."""
    return xp.expm1(x)


@elementwise(x=lambda xp, v, x: v / x)
def log(xp: Any, x: Any, /) -> Any:
    """ln x"""
    return xp.log(x)


@elementwise(x=lambda xp, v, x: v / (x + 1))
def log1p(xp: Any, x: Any, /) -> Any:
    """ln(1 + x), exact near 0."""
    return xp.log1p(x)


@elementwise(x=lambda xp, v, x: v * xp.cos(x))
def sin(xp: Any, x: Any, /) -> Any:
    """sin x, x in radians."""
    return xp.sin(x)


@elementwise(x=lambda xp, v, x: -v * xp.sin(x))
def cos(xp: Any, x: Any, /) -> Any:
    """cos x, x in radians."""
    return xp.cos(x)


@elementwise(x=lambda xp, v, out: v - v * (out * out))
def tanh(xp: Any, x: Any, /) -> Any:
    """tanh x"""
    return xp.tanh(x)


def _pull_sigmoid(xp: Any, v: Any, out: Any) -> Any:
    g = 1 - out
    g *= out
    g *= v
    return g


@elementwise(x=_pull_sigmoid)
def sigmoid(xp: Any, x: Any, /) -> Any:
    """1 / (1 + e⁻ˣ), which never overflows and is exact to the last digits where it is all but 0."""
    return xp.sigmoid(x)


@elementwise(x=lambda xp, v, x: v * (2 / math.sqrt(math.pi)) * xp.exp(-(x * x)))
def erf(xp: Any, x: Any, /) -> Any:
    """The error function, 2/√π ∫₀ˣ e^(-t²) dt."""
    return xp.erf(x)


# ----- Choices ------------------------------------------------------------------------------------


@elementwise(
    x=lambda xp, v, x, y: _share(xp, v, x < y, x == y),
    y=lambda xp, v, x, y: _share(xp, v, y < x, x == y),
)
def maximum(xp: Any, x: Any, y: Any, /) -> Any:
    """The larger of x and y. At a tie each takes half of the derivative; beside a NaN, as in torch, both all
    of it.
    """
    return xp.maximum(x, y)


@elementwise(
    x=lambda xp, v, x, y: _share(xp, v, x > y, x == y),
    y=lambda xp, v, x, y: _share(xp, v, y > x, x == y),
)
def minimum(xp: Any, x: Any, y: Any, /) -> Any:
    """The smaller of x and y. At a tie and beside a NaN as `maximum`."""
    return xp.minimum(x, y)


def _share(xp: Any, v: Any, lost: Any, tied: Any) -> Any:
    """0 where lost, v/2 at a tie, v elsewhere."""
    return xp.masked(v, xp.logical_not(lost)) / (1 + tied.astype(v.dtype))


def masked(v: Tensor, mask: Tensor) -> Tensor:
    """v where the mask holds, and 0 elsewhere, whatever v is there."""
    return where(mask, v, 0.0)


@elementwise(x=lambda xp, v, out: xp.masked(v, out > 0))
def relu(xp: Any, x: Any, /) -> Any:
    """max(x, 0), with derivative 0 at 0."""
    return xp.maximum(x, xp.zeros((), dtype=x.dtype))


@elementwise(
    condition=None,
    x=lambda xp, v, condition: xp.where(condition, v, xp.zeros_like(v)),
    y=lambda xp, v, condition: xp.where(condition, xp.zeros_like(v), v),
)
def where(xp: Any, condition: Any, x: Any, y: Any, /) -> Any:
    """x where the condition holds, y elsewhere.

    The branch not taken gets derivative 0, but a NaN or infinity inside it still spoils 0 · ∞: make both
    branches finite.
    """
    return xp.where(condition, x, y)


# ----- Without derivative -------------------------------------------------------------------------


@operation.constant
def sign(xp: Any, x: Any, /) -> Any:
    """-1, 0 or 1. A constant of the graph: its derivative is 0 wherever it exists."""
    return xp.sign(x)


@operation.constant
def less(xp: Any, x: Any, y: Any, /) -> Any:
    """x < y"""
    return xp.less(x, y)


@operation.constant
def less_equal(xp: Any, x: Any, y: Any, /) -> Any:
    """x ≤ y"""
    return xp.less_equal(x, y)


@operation.constant
def greater(xp: Any, x: Any, y: Any, /) -> Any:
    """x > y"""
    return xp.greater(x, y)


@operation.constant
def greater_equal(xp: Any, x: Any, y: Any, /) -> Any:
    """x ≥ y"""
    return xp.greater_equal(x, y)


@operation.constant
def equal(xp: Any, x: Any, y: Any, /) -> Any:
    """x = y"""
    return xp.equal(x, y)


@operation.constant
def not_equal(xp: Any, x: Any, y: Any, /) -> Any:
    """x ≠ y"""
    return xp.not_equal(x, y)


@operation.constant
def isfinite(xp: Any, x: Any, /) -> Any:
    """Whether x is neither infinite nor NaN."""
    return xp.isfinite(x)
