"""Reading by index, and its transpose: adding into zeros."""

from __future__ import annotations

import math
from typing import Any

from minigrad.operation import linear
from minigrad.ops.shape import _place
from minigrad.tensor import Tensor


@linear(x=lambda xp, v, x_shape, index: xp.unindex(v, index=index, shape=x_shape))
def _getitem(xp: Any, x: Any, /, *, index: Any) -> Any:
    return x[index]


@linear(v=lambda xp, v, index: v[index])
def _unindex(xp: Any, v: Any, /, *, index: Any, shape: tuple[int, ...]) -> Any:
    return xp.unindex(v, index=index, shape=shape)


# The rule of the transpose calls its incoming derivative `v` as well, so the input keeps that name above.
unindex = _unindex


def getitem(x: Any, index: Any, /) -> Tensor:
    """x[index], with NumPy's indexing: numbers, slices, None, Ellipsis, integer and boolean arrays."""
    return _getitem(x, index=_raw(index))


def _raw(index: Any) -> Any:
    if isinstance(index, tuple):
        return tuple(_raw(part) for part in index)
    return index.data if isinstance(index, Tensor) else index


def _scatter_rows(xp: Any, v: Any, indices: Any, x_shape: tuple[int, ...]) -> Any:
    width = math.prod(x_shape[1:])
    rows = xp.reshape(v, (math.prod(indices.shape), width))
    return xp.reshape(xp.scatter_add(rows, xp.reshape(indices, (-1,)), rows=x_shape[0]), x_shape)


@linear(x=_scatter_rows)
def _take_rows(xp: Any, x: Any, indices: Any, /) -> Any:
    return x[indices]


@linear(values=lambda xp, v, indices: xp.take(v, indices, axis=0))
def scatter_add(xp: Any, values: Any, indices: Any, /, *, rows: int) -> Any:
    """Add each row of `values` (n, width) into row `indices[i]` of zeros (rows, width), in order of i."""
    return xp.scatter_add(values, indices, rows=rows)


def take(x: Any, indices: Any, /, *, axis: int = 0) -> Tensor:
    """The entries of x at integer `indices` (any shape) along `axis`, as in an embedding lookup."""
    indices = indices.data if isinstance(indices, Tensor) else indices
    place = _place(axis, x.ndim)
    return getitem(x, (slice(None),) * place + (indices,)) if place else _take_rows(x, indices)
