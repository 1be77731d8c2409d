"""Special functions, under torch's names: error functions, the logarithm of Γ and its derivatives, sinc."""

from __future__ import annotations

import math
from typing import Any

from minigrad.backend_special import cast
from minigrad.errors import UsageError
from minigrad.operation import elementwise
from minigrad.tensor import Tensor

__all__ = ["digamma", "erfc", "erfinv", "lgamma", "polygamma", "sinc"]


def sinc(x: Any, /) -> Tensor:
    """sin(πx) / (πx), and 1 at 0, as in NumPy. Its derivatives of every order are right near 0 too."""
    return _sinc(x, order=0)


@elementwise(x=lambda xp, v, x, order: v * _sinc_of_order(xp, x, order + 1))
def _sinc(xp: Any, x: Any, /, *, order: int) -> Any:
    """The derivative of that order of sin(u) / u, u = πx, with respect to x.

    Up to |u| = order by its power series: dⁿ/duⁿ (sin u / u) = Σ (-1)ᵏ u²ᵏ⁻ⁿ / ((2k-n)! (2k+1)) over 2k ≥ n.
    Beyond, where that would cancel, by differentiating u f = sin u: f⁽ⁿ⁾ = (sin(u + nπ/2) - n f⁽ⁿ⁻¹⁾) / u.
    """
    u = x * math.pi
    near = xp.abs(u) <= order
    far = xp.where(near, xp.ones_like(u), u)
    turned = [xp.sin(far)]  # by n quarters
    out = turned[0] / far
    for n in range(1, order + 1):
        turned.append(xp.cos(far) if n == 1 else -turned[n - 2])
        out = (turned[n] - n * out) / far
    out = xp.where(near, _sinc_series(xp, xp.where(near, u, xp.zeros_like(u)), order), out) * math.pi**order
    return cast(out, x.dtype)


def _sinc_series(xp: Any, u: Any, order: int) -> Any:
    """The power series for |u| ≤ order, by Horner's rule, with as many terms as float64 can tell from 0."""
    first = (order + 1) // 2
    terms = [(-1.0) ** first / (2 * first + 1)]
    k = first
    while order and order ** (2 * (k - first)) / math.factorial(2 * k - order) > 1e-18:
        k += 1
        terms.append((-1.0) ** k / math.factorial(2 * k - order) / (2 * k + 1))
    squares, total = u * u, xp.ones_like(u) * terms[-1]
    for term in terms[-2::-1]:
        total = total * squares + term
    return total * u if order % 2 else total


def _sinc_of_order(xp: Any, x: Any, order: int) -> Any:
    lifted = isinstance(x, Tensor)
    return _sinc(x, order=order) if lifted else _sinc.operation.forward(xp, x, order=order)  # type: ignore[attr-defined]


@elementwise(x=lambda xp, v, x: v * (-2 / math.sqrt(math.pi)) * xp.exp(-(x * x)))
def erfc(xp: Any, x: Any, /) -> Any:
    """1 - erf(x), exact where erf(x) is all but 1."""
    return xp.erfc(x)


@elementwise(x=lambda xp, v, out: v * (math.sqrt(math.pi) / 2) * xp.exp(out * out))
def erfinv(xp: Any, x: Any, /) -> Any:
    """The number whose error function is x, -1 < x < 1."""
    return xp.erfinv(x)


@elementwise(x=lambda xp, v, x: v * xp.digamma(x))
def lgamma(xp: Any, x: Any, /) -> Any:
    """ln |Γ(x)|. It has poles at 0, -1, -2, ..."""
    return xp.lgamma(x)


@elementwise(x=lambda xp, v, x: v * xp.polygamma(1, x))
def digamma(xp: Any, x: Any, /) -> Any:
    """The derivative of ln Γ(x), with poles at 0, -1, -2, ..."""
    return xp.digamma(x)


@elementwise(x=lambda xp, v, x, n: v * xp.polygamma(n + 1, x))
def _polygamma(xp: Any, x: Any, /, *, n: int) -> Any:
    """The derivative of order n ≥ 1 of digamma."""
    return xp.polygamma(n, x)


def polygamma(n: int, x: Any, /) -> Tensor:
    """The derivative of order n of digamma at x: (-1)ⁿ⁺¹ n! ζ(n + 1, x) for n ≥ 1.

    Raises UsageError unless n is a whole number, 0 or more.
    """
    if not isinstance(n, int) or n < 0:
        raise UsageError(f"polygamma: the order is a whole number, 0 or more; got {n!r}")
    return _polygamma(x, n=n) if n else digamma(x)
