"""Reductions over axes: sums, means, extremes."""

from __future__ import annotations

import math
from typing import Any

from minigrad import operation
from minigrad.graph import state
from minigrad.operation import general, linear
from minigrad.ops.elementwise import divide, exp, isfinite, log, where
from minigrad.ops.shape import astype
from minigrad.tensor import Tensor


def kept_shape(shape: tuple[int, ...], axis: int | tuple[int, ...] | None) -> tuple[int, ...]:
    """The shape after a reduction with keepdims=True."""
    if axis is None:
        return (1,) * len(shape)
    axes = {a % len(shape) for a in (axis if isinstance(axis, tuple) else (axis,))} if shape else set()
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


def _spread(xp: Any, v: Any, shape: tuple[int, ...], axis: Any) -> Any:
    """Give a reduced array its axes back, by repetition: the transpose of a sum."""
    return xp.broadcast_to(xp.reshape(v, kept_shape(shape, axis)), shape)


@linear(x=lambda xp, v, x_shape, axis: _spread(xp, v, x_shape, axis))
def _sum(xp: Any, x: Any, /, *, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Any:
    """Sum over axes."""
    return xp.sum(x, axis=axis, keepdims=keepdims)


def sum(
    x: Any, /, *, axis: int | tuple[int, ...] | None = None, dtype: Any = None, keepdims: bool = False
) -> Tensor:
    """Sum over `axis` (all axes if None), in `dtype` if one is given."""
    return _sum(x if dtype is None else astype(x, dtype, copy=False), axis=axis, keepdims=keepdims)


def mean(x: Any, /, *, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Tensor:
    """Arithmetic mean over `axis` (all axes if None)."""
    x = x if isinstance(x, Tensor) else Tensor(x)
    kept = kept_shape(x.shape, axis)
    count = math.prod(n for n, k in zip(x.shape, kept, strict=True) if k != n)
    return divide(sum(x, axis=axis, keepdims=keepdims), float(count))


def _ties(xp: Any, x: Any, out: Any, axis: Any) -> Any:
    """The share of each entry in the extreme: 1/k for each of k entries that equal it."""
    hits = (x == xp.reshape(out, kept_shape(x.shape, axis))).astype(out.dtype)
    return hits / xp.sum(hits, axis=axis, keepdims=True)


def _pull_extreme(xp: Any, v: Any, needs: Any, x: Any, out: Any, axis: Any) -> tuple[Any]:
    return (xp.reshape(v, kept_shape(x.shape, axis)) * _ties(xp, x, out, axis),)


def _push_extreme(xp: Any, tangents: Any, x: Any, out: Any, axis: Any, keepdims: bool) -> Any:
    return xp.sum(tangents[0] * _ties(xp, x, out, axis), axis=axis, keepdims=keepdims)


@general(pull=_pull_extreme, push=_push_extreme)
def max(xp: Any, x: Any, /, *, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Any:
    """Largest entry over `axis`. Entries that tie share the derivative equally."""
    return xp.max(x, axis=axis, keepdims=keepdims)


@general(pull=_pull_extreme, push=_push_extreme)
def min(xp: Any, x: Any, /, *, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Any:
    """Smallest entry over `axis`. Entries that tie share the derivative equally."""
    return xp.min(x, axis=axis, keepdims=keepdims)


@operation.constant
def argmax(xp: Any, x: Any, /, *, axis: int | None = None, keepdims: bool = False) -> Any:
    """Index of the largest entry (the first, at ties)."""
    return xp.argmax(x, axis=axis, keepdims=keepdims)


def logsumexp(x: Any, /, *, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Tensor:
    """ln Σ eˣ over `axis`, shifted by the largest entry so that nothing overflows."""
    x = x if isinstance(x, Tensor) else Tensor(x)
    top = max(x, axis=axis, keepdims=True).detach()
    top = where(isfinite(top), top, 0)  # ∞ - ∞ would make a NaN of a row that is all -∞
    total = log(sum(exp(x - top), axis=axis, keepdims=True)) + top
    return total if keepdims else sum(total, axis=axis)


def _pull_softmax(xp: Any, v: Any, needs: Any, out: Any, axis: int) -> tuple[Any]:
    last = axis in (-1, out.ndim - 1)
    along = xp.vecdot(v, out)[..., None] if last else xp.sum(v * out, axis=axis, keepdims=True)
    return (out * (v - along),)


def _push_softmax(xp: Any, tangents: Any, out: Any, axis: int) -> Any:
    return _pull_softmax(xp, tangents[0], None, out, axis)[0]  # the Jacobian is symmetric


@general(pull=_pull_softmax, push=_push_softmax)
def _softmax(xp: Any, x: Any, /, *, axis: int) -> Any:
    """eˣ / Σ eˣ. Its own rule saves the result only: half the time and memory of its composition."""
    shifted = x - xp.max(x, axis=axis, keepdims=True)
    out = xp.exp(shifted, out=shifted) if xp.in_place else xp.exp(shifted)
    out /= xp.sum(out, axis=axis, keepdims=True)
    return out


def softmax(x: Any, /, *, axis: int = -1) -> Tensor:
    """eˣ / Σ eˣ over `axis`, shifted by the largest entry so that nothing overflows."""
    return _softmax(floating("softmax", x), axis=axis)


def _pull_log_softmax(xp: Any, v: Any, needs: Any, out: Any, axis: int) -> tuple[Any]:
    return (v - xp.exp(out) * xp.sum(v, axis=axis, keepdims=True),)


def _push_log_softmax(xp: Any, tangents: Any, out: Any, axis: int) -> Any:
    moved = tangents[0]
    return moved - xp.sum(xp.exp(out) * moved, axis=axis, keepdims=True)


@general(pull=_pull_log_softmax, push=_push_log_softmax)
def _log_softmax(xp: Any, x: Any, /, *, axis: int) -> Any:
    """x - ln Σ eˣ. Its own rule saves the result only."""
    out = x - xp.max(x, axis=axis, keepdims=True)
    out -= xp.log(xp.sum(xp.exp(out), axis=axis, keepdims=True))
    return out


def log_softmax(x: Any, /, *, axis: int = -1) -> Tensor:
    """x - ln Σ eˣ over `axis`."""
    return _log_softmax(floating("log_softmax", x), axis=axis)


def floating(name: str, x: Any) -> Tensor:
    """x as a Tensor of floats; integers and truth values become the default dtype."""
    x = x if isinstance(x, Tensor) else Tensor(x)
    return x if x.dtype.kind in "fV" else astype(x, state.default_dtype)
