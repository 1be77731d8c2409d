"""Products, variances and medians, and cumulative reductions."""

from __future__ import annotations

import math
from typing import Any

from minigrad import backend, operation
from minigrad.backend_selecting import products_before
from minigrad.errors import ShapeError
from minigrad.operation import general, linear
from minigrad.ops.elementwise import divide, sqrt, square, where
from minigrad.ops.rearranging import _places, _tensor, moveaxis
from minigrad.ops.reductions import in_float32, kept_shape, mean, sum
from minigrad.ops.shape import _place, astype, concat, reshape
from minigrad.tensor import Tensor

Axes = int | tuple[int, ...]


def _lined_up(x: Tensor, axis: Axes | None) -> Tensor:
    """x with the axes to reduce in one line, the last axis."""
    if axis is None:
        return reshape(x, (x.size,))
    places = _places(axis, x.ndim)
    if len(places) == 1:
        return moveaxis(x, places[0], -1)
    lead = tuple(n for k, n in enumerate(x.shape) if k not in places)
    moved = moveaxis(x, tuple(sorted(places)), tuple(range(x.ndim - len(places), x.ndim)))
    return reshape(moved, (*lead, math.prod(moved.shape[len(lead) :])))


def _kept(out: Tensor, x: Tensor, axis: Axes | None, keepdims: bool) -> Tensor:
    return reshape(out, kept_shape(x.shape, axis)) if keepdims else out


# ----- Products -----------------------------------------------------------------------------------
#
# Nothing is divided by an entry that could be 0: all derivatives are right with zeros, any number of them.


def _others(xp: Any, x: Any) -> Any:
    """For each entry of the last axis the product of all others."""
    if not isinstance(x, Tensor):
        return xp.others(x)
    return products_before(xp, x) * products_before(xp, x[..., ::-1])[..., ::-1]


def _pull_prod(xp: Any, v: Any, needs: Any, x: Any) -> Any:
    return (xp.reshape(v, (*v.shape, 1)) * _others(xp, x),)


def _push_prod(xp: Any, tangents: Any, x: Any) -> Any:
    return xp.sum(tangents[0] * _others(xp, x), axis=-1)


@general(pull=_pull_prod, push=_push_prod)
def _prod(xp: Any, x: Any, /) -> Any:
    """Product over the last axis."""
    return xp.prod(x, axis=-1)


@in_float32
def prod(x: Any, /, *, axis: Axes | None = None, dtype: Any = None, keepdims: bool = False) -> Tensor:
    """Product over `axis` (all axes if None), in `dtype` if one is given. Its derivatives are right with
    zeros, any number of them.
    """
    x = _tensor(x) if dtype is None else astype(x, dtype, copy=False)
    return _kept(_prod(_lined_up(x, axis)), x, axis, keepdims)


def _recurrence(xp: Any, a: Any, b: Any) -> Any:
    """s[i] = a[i] s[i - 1] + b[i] along the last axis, from s[0] = b[0], in log(n) steps and 5n FLOPs.

    Two steps are one of a recurrence half as long, which gives every second s; the others follow from them.
    """
    *lead, n = b.shape
    if n < 2:
        return b
    half = n // 2
    a_even, a_odd, b_even, b_odd = (c[..., k : 2 * half : 2] for c in (a, b) for k in (0, 1))
    odd = _recurrence(xp, a_odd * a_even, a_odd * b_even + b_odd)
    even = a[..., 2::2] * odd[..., : n - half - 1] + b[..., 2::2]
    even = xp.concat([b[..., :1], even], axis=-1)
    if n % 2:
        odd = xp.concat([odd, even[..., :1]], axis=-1)  # to fill up
    pairs = [xp.reshape(s, (*s.shape, 1)) for s in (even, odd)]
    return xp.reshape(xp.concat(pairs, axis=-1), (*lead, n + n % 2))[..., :n]


def _pull_cumulative_prod(xp: Any, v: Any, needs: Any, x: Any) -> Any:
    backwards = x[..., ::-1]
    if x.shape[-1]:  # one place on; the first factor is not used
        backwards = xp.concat([backwards[..., :1], backwards[..., :-1]], axis=-1)
    return (_recurrence(xp, backwards, v[..., ::-1])[..., ::-1] * products_before(xp, x),)


def _push_cumulative_prod(xp: Any, tangents: Any, x: Any) -> Any:
    return _recurrence(xp, x, tangents[0] * products_before(xp, x))


@general(pull=_pull_cumulative_prod, push=_push_cumulative_prod)
def _cumulative_prod(xp: Any, x: Any, /) -> Any:
    """Products up to each entry of the last axis."""
    return xp.cumulative_prod(x, axis=-1)


@in_float32
def cumulative_prod(
    x: Any, /, *, axis: int | None = None, dtype: Any = None, include_initial: bool = False
) -> Tensor:
    """Products of all entries up to each one along `axis` (which may be left out for vectors).

    `include_initial` puts the empty product, 1, in front. Derivatives are right with zeros.
    """
    x, place = _vector(x, axis, dtype)
    out = moveaxis(_cumulative_prod(moveaxis(x, place, -1)), -1, place)
    return _from_initial(out, place, 1.0) if include_initial else out


@linear(x=lambda xp, v, axis: _sums_from_the_end(xp, v, axis))
def _cumulative_sum(xp: Any, x: Any, /, *, axis: int) -> Any:
    """Sums up to each entry of an axis."""
    return xp.cumulative_sum(x, axis=axis)


def _sums_from_the_end(xp: Any, v: Any, axis: int) -> Any:
    backwards = (*(slice(None),) * axis, slice(None, None, -1), ...)
    return xp.cumulative_sum(v[backwards], axis=axis)[backwards]


def cumulative_sum(
    x: Any, /, *, axis: int | None = None, dtype: Any = None, include_initial: bool = False
) -> Tensor:
    """Sums of all entries up to each one along `axis` (which may be left out for vectors).

    `include_initial` puts the empty sum, 0, in front.
    """
    x, place = _vector(x, axis, dtype)
    out = _cumulative_sum(x, axis=place)
    return _from_initial(out, place, 0.0) if include_initial else out


def _vector(x: Any, axis: int | None, dtype: Any) -> tuple[Tensor, int]:
    x = _tensor(x) if dtype is None else astype(x, dtype, copy=False)
    if axis is None and x.ndim != 1:
        raise ShapeError(f"a cumulative reduction of shape {x.shape} needs an axis; only vectors do without")
    return x, _place(0 if axis is None else axis, x.ndim)


def _from_initial(out: Tensor, place: int, value: float) -> Tensor:
    shape = (*out.shape[:place], 1, *out.shape[place + 1 :])
    xp = backend.namespace(out.data)
    return concat([Tensor.of(xp.full(shape, value, dtype=out.dtype)), out], axis=place)


# ----- Statistics ---------------------------------------------------------------------------------


@in_float32
def var(x: Any, /, *, axis: Axes | None = None, correction: float = 0.0, keepdims: bool = False) -> Tensor:
    """Variance over `axis` (all axes if None): the sum of squared distances from the mean, divided by their
    number less `correction` (1 for the unbiased estimate from a sample).
    """
    x = _tensor(x)
    centred = x - mean(x, axis=axis, keepdims=True)
    count = math.prod(n for n, k in zip(x.shape, kept_shape(x.shape, axis), strict=True) if k != n)
    total = sum(square(centred), axis=axis, keepdims=keepdims)
    return divide(total, max(0.0, float(count) - correction))


@in_float32
def std(x: Any, /, *, axis: Axes | None = None, correction: float = 0.0, keepdims: bool = False) -> Tensor:
    """Standard deviation over `axis`: the root of `var`. Where it is 0, its derivative is taken as 0."""
    variance = var(x, axis=axis, correction=correction, keepdims=keepdims)
    flat = variance.detach() == 0
    return where(flat, 0.0, sqrt(where(flat, 1.0, variance)))


@operation.constant
def _middle(xp: Any, x: Any, /) -> Any:
    """Index of the median on the last axis, kept as an axis of length 1; of a NaN where there is one."""
    rank = (x.shape[-1] - 1) // 2
    place = xp.argpartition(x, rank, axis=-1)[..., rank : rank + 1]
    unknown = x != x
    first = xp.argmax(unknown.astype("int8"), axis=-1, keepdims=True)
    return xp.where(xp.any(unknown, axis=-1, keepdims=True), first, place)


def median(x: Any, /, *, axis: Axes | None = None, keepdims: bool = False) -> Tensor:
    """The entry in the middle over `axis` (all axes if None); of two, the lower one, as in torch.

    The derivative belongs to that entry alone. NaN where there is one. Raises ShapeError over no entries.
    """
    from minigrad.ops.selecting import take_along_axis

    x = _tensor(x)
    line = _lined_up(x, axis)
    if not line.shape[-1]:
        raise ShapeError(f"median: there is no entry in the middle of none (shape {x.shape}, axis {axis})")
    out = reshape(take_along_axis(line, _middle(line), axis=-1), line.shape[:-1])
    return _kept(out, x, axis, keepdims)
