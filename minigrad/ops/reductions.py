"""Reductions over axes: sums, means, extremes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, ParamSpec, cast

from minigrad import backend, operation
from minigrad.backend_special import is_half, widened
from minigrad.graph import state
from minigrad.operation import general, linear
from minigrad.ops.blocks import blocks
from minigrad.ops.elementwise import divide, exp, isfinite, log, where
from minigrad.ops.shape import _place as place
from minigrad.ops.shape import astype, reshape
from minigrad.tensor import Tensor

Axes = int | tuple[int, ...] | None
P = ParamSpec("P")


def kept_shape(shape: tuple[int, ...], axis: Axes) -> tuple[int, ...]:
    """The shape after a reduction with keepdims=True."""
    if axis is None:
        return (1,) * len(shape)
    axes = {place(a, len(shape)) for a in (axis if isinstance(axis, tuple) else (axis,))} if shape else set()
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


def _spread(xp: Any, v: Any, shape: tuple[int, ...], axis: Any) -> Any:
    """Give a reduced array its axes back, by repetition: the transpose of a sum."""
    return xp.broadcast_to(xp.reshape(v, kept_shape(shape, axis)), shape)


@linear(x=lambda xp, v, x_shape, axis: _spread(xp, v, x_shape, axis))
def _sum(xp: Any, x: Any, /, *, axis: Axes = None, keepdims: bool = False, dtype: Any = None) -> Any:
    """Sum over axes, in `dtype` if one is given."""
    return xp.sum(x, axis=axis, keepdims=keepdims, dtype=dtype)


def sum(x: Any, /, *, axis: Axes = None, dtype: Any = None, keepdims: bool = False) -> Tensor:
    """Sum over `axis` (all axes if None), in `dtype` if one is given. Half precision is added up in
    float32.
    """
    return _sum(x if dtype is None else astype(x, dtype, copy=False), axis=axis, keepdims=keepdims)


def mean(x: Any, /, *, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """Arithmetic mean over `axis` (all axes if None). That of half precision is right even where the sum
    overflows.
    """
    x = x if isinstance(x, Tensor) else Tensor(x)
    kept = kept_shape(x.shape, axis)
    count = math.prod(n for n, k in zip(x.shape, kept, strict=True) if k != n)
    if is_half(x.dtype):
        total = _sum(x, axis=axis, keepdims=keepdims, dtype=backend.float32)
        return astype(divide(total, float(count)), x.dtype)
    return divide(sum(x, axis=axis, keepdims=keepdims), float(count))


def in_float32(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """The function of one tensor, computed in float32 for half precision, which its result has again (or the
    `dtype` asked for): for what is composed of sums that do not fit into 16 bits.
    """

    @wraps(function)
    def computed(*arguments: P.args, **keywords: P.kwargs) -> Tensor:
        x, wide = arguments[0], cast(Any, function)
        dtype = getattr(x, "dtype", None)
        if dtype is None or not is_half(dtype) or keywords.get("dtype") is not None:
            return function(*arguments, **keywords)
        return astype(wide(astype(x, backend.float32), *arguments[1:], **keywords), dtype)

    return computed


def _hits(xp: Any, x: Any, out: Any, axis: Any) -> tuple[Any, Any]:
    """Which entries are the extreme, and how many along each line; beside a NaN, all of them."""
    found = xp.reshape(out, kept_shape(x.shape, axis))
    hits = xp.logical_or(x == found, found != found)
    kind = backend.float32 if is_half(out.dtype) else out.dtype
    return hits, xp.sum(hits.astype(kind), axis=axis, keepdims=True)


def _pull_extreme(xp: Any, v: Any, needs: Any, x: Any, out: Any, axis: Any) -> tuple[Any]:
    hits, count = _hits(xp, x, out, axis)
    return (xp.masked(xp.reshape(v, count.shape) / count, hits),)


def _push_extreme(xp: Any, tangents: Any, x: Any, out: Any, axis: Any, keepdims: bool) -> Any:
    hits, count = _hits(xp, x, out, axis)
    return xp.sum(xp.masked(tangents[0], hits) / count, axis=axis, keepdims=keepdims)


@general(pull=_pull_extreme, push=_push_extreme)
def max(xp: Any, x: Any, /, *, axis: Axes = None, keepdims: bool = False) -> Any:
    """Largest entry over `axis`. Entries that tie share the derivative equally."""
    return xp.max(x, axis=axis, keepdims=keepdims)


@general(pull=_pull_extreme, push=_push_extreme)
def min(xp: Any, x: Any, /, *, axis: Axes = None, keepdims: bool = False) -> Any:
    """Smallest entry over `axis`. Entries that tie share the derivative equally."""
    return xp.min(x, axis=axis, keepdims=keepdims)


@operation.constant
def argmax(xp: Any, x: Any, /, *, axis: int | None = None, keepdims: bool = False) -> Any:
    """Index of the largest entry (the first, at ties)."""
    return xp.argmax(x, axis=axis, keepdims=keepdims)


@in_float32
def logsumexp(x: Any, /, *, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """ln Σ eˣ over `axis`, shifted by the largest entry so that nothing overflows; -∞ of no entries."""
    x = floating("logsumexp", x)
    if not x.size:
        return sum(x, axis=axis, keepdims=keepdims) - math.inf
    top = max(x, axis=axis, keepdims=True).detach()
    top = where(isfinite(top), top, 0)  # ∞ - ∞ would make a NaN of a row that is all -∞
    total = log(sum(exp(x - top), axis=axis, keepdims=True)) + top
    return total if keepdims else sum(total, axis=axis)


def _pull_softmax(xp: Any, v: Any, needs: Any, out: Any, axis: int) -> tuple[Any]:
    v, out = widened(v), widened(out)
    if axis not in (-1, out.ndim - 1):
        return (out * (v - xp.sum(v * out, axis=axis, keepdims=True)),)
    if isinstance(v, Tensor) or not xp.in_place:
        return (out * (v - xp.vecdot(v, out)[..., None]),)
    made = xp.empty(out.shape, dtype=out.dtype)
    for g, p, d in _lines_in_blocks(xp, v, out, made):
        xp.subtract(g, xp.vecdot(g, p)[:, None], out=d)
        d *= p
    return (made,)


def _push_softmax(xp: Any, tangents: Any, out: Any, axis: int) -> Any:
    return _pull_softmax(xp, tangents[0], None, out, axis)[0]  # the Jacobian is symmetric


@general(pull=_pull_softmax, push=_push_softmax)
def _softmax(xp: Any, x: Any, /, *, axis: int) -> Any:
    """eˣ / Σ eˣ. Its own rule saves the result only: half the time and memory of its composition."""
    if is_half(x.dtype):
        return _softmax.operation.forward(xp, widened(x), axis=axis).astype(x.dtype)  # type: ignore[attr-defined]
    if axis in (-1, x.ndim - 1) and xp.in_place:
        out = xp.empty(x.shape, dtype=x.dtype)
        for r, y in _lines_in_blocks(xp, x, out):
            xp.subtract(r, xp.max(r, axis=-1, keepdims=True), out=y)
            xp.exp(y, out=y)
            y /= xp.sum(y, axis=-1, keepdims=True)
        return out
    shifted = x - xp.max(x, axis=axis, keepdims=True)
    out = xp.exp(shifted, out=shifted) if xp.in_place else xp.exp(shifted)
    out /= xp.sum(out, axis=axis, keepdims=True)
    return out


def _lines_in_blocks(xp: Any, *arrays: Any) -> Iterator[tuple[Any, ...]]:
    """The same rows of arrays of one shape, as matrices, a block after the other."""
    width = arrays[0].shape[-1]
    rows = [xp.reshape(array, (math.prod(array.shape[:-1]), width)) for array in arrays]
    return (tuple([array[block] for array in rows]) for block in blocks(xp, rows[0].shape[0], width))


def softmax(x: Any, /, *, axis: int = -1) -> Tensor:
    """eˣ / Σ eˣ over `axis`, shifted by the largest entry so that nothing overflows. Of a number it is 1."""
    return _lines(_softmax, floating("softmax", x), axis)


def _lines(operation: Callable[..., Tensor], x: Tensor, axis: int) -> Tensor:
    """The operation along lines, where there are any: a number counts as a line of one."""
    axis = place(axis, x.ndim or 1)
    if x.ndim and x.size:
        return operation(x, axis=axis)
    return x * 1.0 if x.ndim else reshape(operation(reshape(x, (1,)), axis=0), ())


def _pull_log_softmax(xp: Any, v: Any, needs: Any, out: Any, axis: int) -> tuple[Any]:
    v = widened(v)
    return (v - xp.exp(widened(out)) * xp.sum(v, axis=axis, keepdims=True),)


def _push_log_softmax(xp: Any, tangents: Any, out: Any, axis: int) -> Any:
    moved = widened(tangents[0])
    return moved - xp.sum(xp.exp(widened(out)) * moved, axis=axis, keepdims=True)


@general(pull=_pull_log_softmax, push=_push_log_softmax)
def _log_softmax(xp: Any, x: Any, /, *, axis: int) -> Any:
    """x - ln Σ eˣ. Its own rule saves the result only."""
    if is_half(x.dtype):
        return _log_softmax.operation.forward(xp, widened(x), axis=axis).astype(x.dtype)  # type: ignore[attr-defined]
    out = x - xp.max(x, axis=axis, keepdims=True)
    out -= xp.log(xp.sum(xp.exp(out), axis=axis, keepdims=True))
    return out


def log_softmax(x: Any, /, *, axis: int = -1) -> Tensor:
    """x - ln Σ eˣ over `axis`. Of a number it is 0."""
    return _lines(_log_softmax, floating("log_softmax", x), axis)


def floating(name: str, x: Any) -> Tensor:
    """x as a Tensor of floats; integers and truth values become the default dtype."""
    x = x if isinstance(x, Tensor) else Tensor(x)
    return x if x.dtype.kind in "fV" else astype(x, state.default_dtype)
