"""Activation functions under torch's names: compositions, a line or three each, but for one logarithm.

What has two pieces is written as max(x, 0) plus a function of min(x, 0): nothing is computed on the wrong
side, so nothing overflows there, and no choice is made entry by entry, which on a processor costs more than
the arithmetic. At 0, where they meet, min(x, 0) takes the derivative (`clip`) and max(x, 0) none (`relu`).
"""

from __future__ import annotations

from typing import Any

from minigrad.backend_special import cast
from minigrad.errors import ShapeError, UsageError
from minigrad.operation import elementwise
from minigrad.ops.elementwise import abs, expm1, multiply, negative, relu, sigmoid, tanh, where
from minigrad.ops.functions import clip
from minigrad.ops.shape import _place, reshape, split
from minigrad.tensor import Tensor

__all__ = [
    "celu",
    "elu",
    "glu",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "leaky_relu",
    "logsigmoid",
    "mish",
    "prelu",
    "selu",
    "silu",
    "softplus",
    "softsign",
]


def _tensor(x: Any) -> Tensor:
    return x if isinstance(x, Tensor) else Tensor(x)


# ----- In two pieces ------------------------------------------------------------------------------


@elementwise(x=lambda xp, v, x, slope: v * _slopes(xp, x, slope).astype(v.dtype))
def _leaky_relu(xp: Any, x: Any, /, *, slope: float) -> Any:
    """The larger of x and slope · x, 0 < slope ≤ 1: a third of the passes of the two pieces."""
    return cast(xp.maximum(x, x * slope), x.dtype)


def _slopes(xp: Any, x: Any, slope: float) -> Any:
    """1 where x is positive, `slope` elsewhere."""
    positive = (x > 0).astype(x.dtype)
    return xp.maximum(positive, xp.ones_like(x[..., :1]) * slope if x.shape else xp.ones_like(x) * slope)


def leaky_relu(x: Any, /, *, negative_slope: float = 0.01) -> Tensor:
    """x where it is positive, `negative_slope` · x elsewhere, with derivative `negative_slope` at 0."""
    if 0 < negative_slope <= 1:
        return _leaky_relu(x, slope=negative_slope)
    return relu(x) + negative_slope * clip(x, max=0.0)


def prelu(x: Any, weight: Any, /) -> Tensor:
    """x where it is positive, weight · x elsewhere, with derivative `weight` at 0.

    `weight` is one number, or one for each channel: shape (channels,) for x of shape (batch, channels, ...).
    Raises ShapeError for any other shape. Paper: He et al. 2015, Delving Deep into Rectifiers, eq. 1.
    """
    if isinstance(weight, (int, float)):
        return leaky_relu(x, negative_slope=weight)
    x, weight = _tensor(x), _tensor(weight)
    channels = x.shape[1] if x.ndim > 1 else 1
    if weight.shape not in ((), (1,), (channels,)):
        raise ShapeError(f"prelu: x {x.shape} needs weight () or {(channels,)}, got {weight.shape}")
    along = (weight.size,) + (1,) * (x.ndim - 2) if x.ndim > 1 else ()
    return relu(x) + reshape(weight, along) * clip(x, max=0.0)


def elu(x: Any, /, *, alpha: float = 1.0) -> Tensor:
    """x where it is positive, alpha · (eˣ - 1) elsewhere, with derivative alpha at 0.

    Paper: Clevert, Unterthiner, Hochreiter 2016, Exponential Linear Units, eq. 1.
    """
    return relu(x) + alpha * expm1(clip(x, max=0.0))


def celu(x: Any, /, *, alpha: float = 1.0) -> Tensor:
    """x where it is positive, alpha · (e^(x/alpha) - 1) elsewhere: smooth at 0 for every alpha.

    Raises UsageError unless alpha is positive. Paper: Barron 2017, Continuously Differentiable Exponential
    Linear Units, eq. 2.
    """
    if not alpha > 0:
        raise UsageError(f"celu: alpha is a positive number, not {alpha!r}")
    return relu(x) + alpha * expm1(clip(x, max=0.0) / alpha)


_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772848, 1.0507009873554804934


def selu(x: Any, /) -> Tensor:
    """scale · elu(x, alpha), with the two numbers that keep mean 0 and variance 1 from layer to layer.

    Paper: Klambauer et al. 2017, Self-Normalizing Neural Networks, eq. 2 and 14.
    """
    return _SELU_SCALE * elu(x, alpha=_SELU_ALPHA)


# ----- Smooth -------------------------------------------------------------------------------------


def silu(x: Any, /) -> Tensor:
    """x · sigmoid(x), also called swish. Paper: Elfwing, Uchibe, Doya 2018, Sigmoid-Weighted Linear Units."""
    x = _tensor(x)
    return multiply(x, sigmoid(x))


def softplus(x: Any, /, *, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """ln(1 + e^(beta·x)) / beta, and x itself where beta · x > `threshold` (give infinity for never).

    Raises UsageError unless beta is positive.
    """
    if not beta > 0:
        raise UsageError(f"softplus: beta is a positive number, not {beta!r}")
    x = _tensor(x)
    if beta == 1.0:
        return where(x > threshold, x, _softplus(x))
    scaled = beta * x
    return where(scaled > threshold, x, _softplus(scaled) / beta)


@elementwise(x=lambda xp, v, x: v * xp.sigmoid(x))
def _softplus(xp: Any, x: Any, /) -> Any:
    """ln(1 + eˣ): `logaddexp` beside 0, at a third of its cost, since one infinity needs no care."""
    return xp.maximum(x, xp.zeros(x.shape[-1:], dtype=x.dtype)) + xp.log1p(xp.exp(-xp.abs(x)))


def logsigmoid(x: Any, /) -> Tensor:
    """ln(sigmoid(x)) = -ln(1 + e⁻ˣ), exact where sigmoid(x) is all but 0 or 1."""
    return negative(_softplus(negative(x)))


def mish(x: Any, /) -> Tensor:
    """x · tanh(ln(1 + eˣ)). Paper: Misra 2019, Mish, eq. 1."""
    x = _tensor(x)
    return multiply(x, tanh(_softplus(x)))


def softsign(x: Any, /) -> Tensor:
    """x / (1 + |x|)"""
    x = _tensor(x)
    return x / (1.0 + abs(x))


def glu(x: Any, /, *, axis: int = -1) -> Tensor:
    """Cut x in half along `axis`: the first half, times the sigmoid of the second.

    Raises ShapeError where the axis has an odd length. Paper: Dauphin et al. 2017, Language Modeling with
    Gated Convolutional Networks, §2.
    """
    x = _tensor(x)
    length = x.shape[_place(axis, x.ndim)]
    if length % 2:
        raise ShapeError(f"glu: axis {axis} of shape {x.shape} has odd length {length}, and is cut in half")
    first, second = split(x, (length // 2,) * 2, axis=axis)
    return multiply(first, sigmoid(second))


# ----- In straight pieces -------------------------------------------------------------------------


def hardtanh(x: Any, /, *, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """x, but at least `min_val` and at most `max_val`. On a bound the derivative is 1 (0 in torch).

    Raises UsageError where `min_val` is above `max_val`.
    """
    if min_val > max_val:
        raise UsageError(f"hardtanh: min_val is at most max_val; got {min_val} and {max_val}")
    return clip(x, min=min_val, max=max_val)


@elementwise(x=lambda xp, v, x: xp.masked(v * (1 / 6), xp.abs(x) <= 3))
def hardsigmoid(xp: Any, x: Any, /) -> Any:
    """x / 6 + ½, between 0 (from x = -3 down) and 1 (from x = 3 up). The derivative at ±3 is 1/6 (0 in
    torch).

    Its own rule, like that of `hardswish`: the composition of clips takes twice as long.
    """
    return cast(xp.clip(x * (1 / 6) + 0.5, 0.0, 1.0), x.dtype)


def _slope(xp: Any, x: Any) -> Any:
    """The derivative of `hardswish` where x > -3: x / 3 + ½, and 1 from 3 up."""
    near = xp.clip(x, -3.0, 3.0)
    return (near * (near < 3).astype(x.dtype) + (near + 3.0)) * (1 / 6)


@elementwise(x=lambda xp, v, x: xp.masked(v, x > -3) * _slope(xp, x))
def hardswish(xp: Any, x: Any, /) -> Any:
    """x · hardsigmoid(x). The derivative at -3 is 0, and at 3 it is 1. Paper: Howard et al. 2019, Searching
    for MobileNetV3, §5.2.
    """
    return cast(x * xp.clip(x * (1 / 6) + 0.5, 0.0, 1.0), x.dtype)
