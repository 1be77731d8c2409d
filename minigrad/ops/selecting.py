"""Gathering, scattering and functional updates; sorting; products, variances and cumulative reductions.

Names and semantics follow the Python array API standard; `gather`, `scatter`, `scatter_add`, `index_add`,
`masked_fill`, `topk` and `median` follow torch, and `x.at[index].set(values)` follows JAX.
"""

from __future__ import annotations

import math
from typing import Any

from minigrad import backend, operation
from minigrad.errors import DTypeError, ShapeError, UsageError
from minigrad.operation import general, linear
from minigrad.ops.cumulative import cumulative_prod, cumulative_sum, median, prod, std, var
from minigrad.ops.elementwise import where
from minigrad.ops.indexing import _beside, _raw, add_rows, getitem, index_array, take, unindex
from minigrad.ops.rearranging import _tensor, flip, moveaxis, unstack
from minigrad.ops.shape import _place, astype, broadcast_to, reshape
from minigrad.ops.types import broadcast_shapes
from minigrad.tensor import Tensor

__all__ = [
    "all",
    "any",
    "argmin",
    "argsort",
    "count_nonzero",
    "cumulative_prod",
    "cumulative_sum",
    "gather",
    "index_add",
    "index_set",
    "masked_fill",
    "median",
    "nonzero",
    "prod",
    "scatter",
    "scatter_add",
    "scatter_along_axis",
    "searchsorted",
    "sort",
    "std",
    "take_along_axis",
    "topk",
    "var",
]

Axes = int | tuple[int, ...]

# ----- Functional updates -------------------------------------------------------------------------


def _pull_index_set(xp: Any, v: Any, needs: Any, values_shape: tuple[int, ...], index: Any) -> Any:
    inside = _at(v, index)
    outside = xp.index_set(v, index, xp.zeros_like(inside)) if needs[0] else None
    if not needs[1]:
        return outside, None
    if _may_repeat(index):
        inside = xp.where(_stayed(v, index), inside, xp.zeros_like(inside))
    extra = len(values_shape) - len(inside.shape)
    return outside, inside if extra <= 0 else xp.reshape(inside, (1,) * extra + tuple(inside.shape))


def _push_index_set(xp: Any, tangents: Any, x_shape: Any, index: Any) -> Any:
    moved, written = tangents
    if moved is None:
        moved = xp.broadcast_to(xp.sum(xp.reshape(written, (-1,))[:0]), x_shape)
    return xp.index_set(moved, index, xp.zeros_like(_at(moved, index)) if written is None else written)


def _at(x: Any, index: Any) -> Any:
    """x[index], as an array even where it is one number."""
    parts = index if isinstance(index, tuple) else (index,)
    return x[index] if [part for part in parts if part is Ellipsis] else x[(*parts, ...)]


def _may_repeat(index: Any) -> bool:
    """Whether an index can name a place twice: whether there are integer arrays in it."""
    for part in index if isinstance(index, tuple) else (index,):
        if isinstance(part, list) or (getattr(part, "shape", None) and part.dtype.kind != "b"):
            return True
    return False


def _stayed(v: Any, index: Any) -> Any:
    """Which of the values written at `index` into an array like v stayed there: not those written over."""
    raw = v.data if isinstance(v, Tensor) else v
    xp = backend.namespace(raw)
    shape = _at(raw, index).shape
    numbers = xp.reshape(xp.arange(math.prod(shape)), shape)
    stayed = xp.index_set(xp.zeros(raw.shape, dtype=numbers.dtype), index, numbers)
    stayed = _at(stayed, index) == numbers
    return Tensor.of(stayed) if isinstance(v, Tensor) else stayed


@general(pull=_pull_index_set, push=_push_index_set)
def _index_set(xp: Any, x: Any, values: Any, /, *, index: Any) -> Any:
    """x with other values at an index."""
    return xp.index_set(x, index, values)


def index_set(x: Any, index: Any, values: Any, /) -> Tensor:
    """x with `values` (broadcast) at `index`, any of NumPy's; also written `x.at[index].set(values)`.

    If a place comes twice in the index, one of its values stays (on the host the last), and only that one
    has a derivative. The result has x's dtype.
    """
    x = _tensor(x)
    values = values if isinstance(values, Tensor) else Tensor(values, dtype=x.dtype, device=x.device)
    if values.dtype != x.dtype:
        values = values.astype(x.dtype)
    return _index_set(x, values, index=_raw(index, x))


class At:
    """Functional updates of a tensor: `x.at[index].set(values)`, `x.at[index].add(values)`; x stays as it
    is.
    """

    def __init__(self, x: Tensor) -> None:
        self._x = x

    def __getitem__(self, index: Any) -> Place:
        return Place(self._x, index)


class Place:
    """Some entries of a tensor, to be updated."""

    def __init__(self, x: Tensor, index: Any) -> None:
        self._x, self._index = x, index

    def set(self, values: Any) -> Tensor:
        """The tensor with `values` (broadcast) at this place; see `index_set`."""
        return index_set(self._x, self._index, values)

    def add(self, values: Any) -> Tensor:
        """The tensor with `values` (broadcast) added at this place: several times where it repeats."""
        x, index = self._x, _raw(self._index, self._x)
        values = values if isinstance(values, Tensor) else Tensor(values, dtype=x.dtype, device=x.device)
        return x + unindex(broadcast_to(values, getitem(x.detach(), index).shape), index=index, shape=x.shape)


# ----- Along an axis ------------------------------------------------------------------------------


@linear(
    x=lambda xp, v, indices, x_shape, axis: xp.scatter_along_axis(v, indices, axis=axis, length=x_shape[axis])
)
def _take_along_axis(xp: Any, x: Any, indices: Any, /, *, axis: int) -> Any:
    """For each line of x its own entries; no broadcasting."""
    return xp.take_along_axis(x, indices, axis=axis)


@linear(values=lambda xp, v, indices, axis: xp.take_along_axis(v, indices, axis=axis))
def _scatter_along_axis(xp: Any, values: Any, indices: Any, /, *, axis: int, length: int) -> Any:
    """Add the entries of each line into zeros, at places of their own."""
    return xp.scatter_along_axis(values, indices, axis=axis, length=length)


def _integers(name: str, x: Tensor, indices: Any, axis: int) -> tuple[Tensor, int]:
    """Indices as a Tensor where x is, and the axis from the front. Raises DTypeError, DeviceError and
    ShapeError.
    """
    indices = index_array(name, indices, x)
    if indices.ndim != x.ndim:
        raise ShapeError(f"{name}: shapes {x.shape} and {indices.shape} differ in their number of axes")
    return indices, _place(axis, x.ndim)


def take_along_axis(x: Any, indices: Any, /, *, axis: int = -1) -> Tensor:
    """For each line of x along `axis` the entries at its own `indices`; other axes broadcast."""
    x = _tensor(x)
    indices, place = _integers("take_along_axis", x, indices, axis)

    def lengths(a: Tensor, n: int) -> tuple[int, ...]:
        return (*a.shape[:place], n, *a.shape[place + 1 :])

    others = broadcast_shapes(lengths(x, 1), lengths(indices, 1))
    shapes = [(*others[:place], a.shape[place], *others[place + 1 :]) for a in (x, indices)]
    x, indices = (
        a if a.shape == s else broadcast_to(a, s) for a, s in zip((x, indices), shapes, strict=True)
    )
    return _take_along_axis(x, indices, axis=place)


def scatter_along_axis(values: Any, indices: Any, /, *, axis: int, length: int) -> Tensor:
    """Add `values` into zeros that are `length` long on `axis`, each at its index there: the transpose of
    `take_along_axis`.
    """
    values = _tensor(values)
    indices, place = _integers("scatter_along_axis", values, indices, axis)
    if indices.shape != values.shape:
        raise ShapeError(f"scatter_along_axis: values {values.shape} and indices {indices.shape} differ")
    return _scatter_along_axis(values, indices, axis=place, length=length)


def _cropped(name: str, x: Tensor, shape: tuple[int, ...], axis: int | None) -> Tensor:
    """The corner of x that has `shape`, but for `axis`."""
    limits = [n if k == axis else m for k, (n, m) in enumerate(zip(x.shape, shape, strict=True))]
    if min((n - m for n, m in zip(x.shape, limits, strict=True)), default=0) < 0:
        raise ShapeError(f"{name}: indices {shape} are more than shape {x.shape} has lines for")
    return x if tuple(limits) == x.shape else getitem(x, tuple(slice(m) for m in limits))


def gather(x: Any, indices: Any, /, *, axis: int) -> Tensor:
    """out[i, j, k] = x[i, indices[i, j, k], k] for axis 1, in the shape of `indices`, which on the other axes
    may be smaller than x and is not broadcast (torch; see `take_along_axis`).
    """
    x = _tensor(x)
    indices, place = _integers("gather", x, indices, axis)
    return _take_along_axis(_cropped("gather", x, indices.shape, place), indices, axis=place)


def scatter(x: Any, indices: Any, source: Any, /, *, axis: int) -> Tensor:
    """x with out[i, indices[i, j, k], k] = source[i, j, k] for axis 1 (torch). `source` is an array as large
    as `indices` or larger, or a number; for places that come twice see `index_set`.
    """
    x = _tensor(x)
    indices, place = _integers("scatter", x, indices, axis)
    _cropped("scatter", x, indices.shape, place)
    source = source if isinstance(source, Tensor) else Tensor(source, dtype=x.dtype, device=x.device)
    if source.ndim:
        if source.ndim != x.ndim:
            raise ShapeError(f"scatter: source {source.shape} and x {x.shape} differ in their number of axes")
        source = _cropped("scatter", source, indices.shape, None)
    xp = backend.namespace(indices.data)
    grid = [
        indices.data
        if k == place
        else xp.reshape(xp.arange(n), tuple(n if i == k else 1 for i in range(x.ndim)))
        for k, n in enumerate(indices.shape)
    ]
    return index_set(x, tuple(grid), source)


def scatter_add(x: Any, indices: Any, source: Any, /, *, axis: int) -> Tensor:
    """x with source[i, j, k] added at [i, indices[i, j, k], k] for axis 1 (torch). `source` is as large as
    `indices` or larger, and `indices` on the other axes as x or smaller.
    """
    x = _tensor(x)
    indices, place = _integers("scatter_add", x, indices, axis)
    _cropped("scatter_add", x, indices.shape, place)
    source = source if isinstance(source, Tensor) else Tensor(source, dtype=x.dtype, device=x.device)
    if source.ndim != x.ndim:
        raise ShapeError(f"scatter_add: source {source.shape} and x {x.shape} differ in their number of axes")
    source = _cropped("scatter_add", source, indices.shape, None)
    added = scatter_along_axis(source, indices, axis=place, length=x.shape[place])
    corner = tuple(slice(n) for n in added.shape)
    return x + (added if added.shape == x.shape else unindex(added, index=corner, shape=x.shape))


def index_add(x: Any, indices: Any, source: Any, /, *, axis: int = 0, alpha: float = 1) -> Tensor:
    """x with `alpha` times slice i of `source` added to slice `indices[i]`, along `axis` (torch)."""
    x = _tensor(x)
    source = source if isinstance(source, Tensor) else Tensor(source, device=x.device)
    place, indices = _place(axis, x.ndim), index_array("index_add", indices, x)
    count, length = indices.size, x.shape[place]
    if indices.ndim != 1 or source.shape != (*x.shape[:place], count, *x.shape[place + 1 :]):
        raise ShapeError(
            f"index_add: source {source.shape} is not x {x.shape} with {indices.shape} slices on axis {place}"
        )
    moved = moveaxis(source, place, 0)
    rows = reshape(moved, (count, math.prod(moved.shape[1:])))
    added = reshape(add_rows(rows, indices.astype("int64"), rows=length), (length, *moved.shape[1:]))
    return x + moveaxis(added if alpha == 1 else added * alpha, 0, place)


def masked_fill(x: Any, mask: Any, value: Any, /) -> Tensor:
    """x with `value` where the mask (of booleans, broadcast) holds. A tensor as value takes x's dtype."""
    x = _tensor(x)
    mask = Tensor.of(_beside(mask if isinstance(mask, Tensor) else backend.asarray(mask), x))
    if mask.dtype != backend.boolean:
        raise DTypeError(f"masked_fill: the mask is {mask.dtype}; expected booleans, as in x > 0")
    if hasattr(value, "dtype"):
        value = astype(value, x.dtype, copy=False)
    return where(mask, value, x)


# ----- Order --------------------------------------------------------------------------------------


@operation.constant
def argsort(xp: Any, x: Any, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Any:
    """Indices that sort x along `axis`. Always stable; NaN counts as the largest."""
    place = _place(axis, len(x.shape))
    if not descending:
        return xp.argsort(x, axis=place)
    backwards = (*(slice(None),) * place, slice(None, None, -1), ...)
    return (x.shape[place] - 1) - xp.argsort(x[backwards], axis=place)[backwards]


@operation.constant
def _sorted(xp: Any, x: Any, /, *, axis: int) -> Any:
    """x in order, where no derivative is wanted."""
    return xp.sort(x, axis=axis)


def sort(x: Any, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Tensor:
    """x sorted along `axis`. The derivative of an entry goes where the entry goes, at ties in their order."""
    x = _tensor(x)
    if x.node is None:  # no derivative is wanted: several times as fast
        ascending = _sorted(x, axis=_place(axis, x.ndim))
        return flip(ascending, axis=axis) if descending else ascending
    return take_along_axis(x, argsort(x, axis=axis, descending=descending), axis=axis)


@operation.constant
def _top(xp: Any, x: Any, /, *, k: int, largest: bool) -> Any:
    """Indices of the k largest or smallest entries of the last axis, the most extreme first."""
    length = x.shape[-1]
    rest = length - k if largest else k  # how many entries are smaller than those wanted, or not
    wanted = slice(rest, None) if largest else slice(rest)
    if not 0 < k < length:
        chosen = xp.argsort(x, axis=-1)[..., wanted]
    else:
        chosen = xp.argpartition(x, rest if largest else rest - 1, axis=-1)[..., wanted]
        within = xp.argsort(xp.take_along_axis(x, chosen, axis=-1), axis=-1)
        chosen = xp.take_along_axis(chosen, within, axis=-1)
    return chosen[..., ::-1] if largest else chosen


def topk(x: Any, k: int, /, *, axis: int = -1, largest: bool = True) -> tuple[Tensor, Tensor]:
    """The k largest (or smallest) entries along `axis`, sorted from the first, and their indices.

    NaN counts as the largest. Which of tied entries are taken is not said.
    """
    x = _tensor(x)
    place = _place(axis, x.ndim)
    if not 0 <= k <= x.shape[place]:
        raise ShapeError(f"topk: an axis of length {x.shape[place]} has no {k} entries")
    indices = moveaxis(_top(moveaxis(x, place, -1), k=k, largest=largest), -1, place)
    return take_along_axis(x, indices, axis=place), indices


@operation.constant
def _searchsorted(xp: Any, x1: Any, x2: Any, /, *, side: str) -> Any:
    """Where the entries of x2 go in the sorted vector x1."""
    return xp.searchsorted(x1, x2, side=side)


def searchsorted(x1: Any, x2: Any, /, *, side: str = "left", sorter: Any = None) -> Tensor:
    """Where the entries of x2 go in the sorted vector x1: before ("left") or behind ("right") equal ones.

    `sorter`: indices that sort x1, if it is not sorted itself.
    """
    x1 = _tensor(x1)
    if x1.ndim != 1:
        raise ShapeError(f"searchsorted: x1 is one line of sorted numbers, and got shape {x1.shape}")
    if side not in ("left", "right"):
        raise UsageError(f'searchsorted: side is "left" or "right", got {side!r}')
    return _searchsorted(x1 if sorter is None else take(x1, sorter), x2, side=side)


# ----- Questions ----------------------------------------------------------------------------------


@operation.constant
def _nonzero(xp: Any, x: Any, /) -> Any:
    """The indices of entries that are not 0: a line for each axis."""
    places = xp.nonzero(x)
    return xp.stack(places)


def nonzero(x: Any, /) -> tuple[Tensor, ...]:
    """The indices of entries that are not 0, an array for each axis. Refused by shape-only arrays: how many
    there are depends on values.
    """
    x = _tensor(x)
    if not x.ndim:
        raise ShapeError("nonzero: a 0-d tensor has no axis to index; use reshape(x, (1,))")
    return unstack(_nonzero(x))


@operation.constant
def argmin(xp: Any, x: Any, /, *, axis: int | None = None, keepdims: bool = False) -> Any:
    """Index of the smallest entry (the first, at ties)."""
    return xp.argmin(x, axis=axis, keepdims=keepdims)


@operation.constant
def any(xp: Any, x: Any, /, *, axis: Axes | None = None, keepdims: bool = False) -> Any:
    """Whether any entry along `axis` (all axes if None) is not 0."""
    return xp.any(x, axis=axis, keepdims=keepdims)


@operation.constant
def all(xp: Any, x: Any, /, *, axis: Axes | None = None, keepdims: bool = False) -> Any:
    """Whether every entry along `axis` (all axes if None) is not 0."""
    return xp.all(x, axis=axis, keepdims=keepdims)


@operation.constant
def count_nonzero(xp: Any, x: Any, /, *, axis: Axes | None = None, keepdims: bool = False) -> Any:
    """How many entries along `axis` (all axes if None) are not 0."""
    return xp.sum((x != 0).astype("int64"), axis=axis, keepdims=keepdims)
