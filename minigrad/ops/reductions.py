"""Reductions over axes: sums, means, extremes."""

from __future__ import annotations

import math
from typing import Any

from minigrad import operation
from minigrad.operation import general, linear
from minigrad.ops.elementwise import divide, exp, isfinite, log, where
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
def sum(xp: Any, x: Any, /, *, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Any:
    """Sum over `axis` (all axes if None)."""
    return xp.sum(x, axis=axis, keepdims=keepdims)


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


def softmax(x: Any, /, *, axis: int = -1) -> Tensor:
    """eˣ / Σ eˣ over `axis`."""
    x = x if isinstance(x, Tensor) else Tensor(x)
    shifted = exp(x - max(x, axis=axis, keepdims=True).detach())
    return shifted / sum(shifted, axis=axis, keepdims=True)


def log_softmax(x: Any, /, *, axis: int = -1) -> Tensor:
    """x - ln Σ eˣ over `axis`."""
    x = x if isinstance(x, Tensor) else Tensor(x)
    return x - logsumexp(x, axis=axis, keepdims=True)
