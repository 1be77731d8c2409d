"""Reading by index, and its transpose: adding into zeros."""

from __future__ import annotations

import math
from typing import Any

from minigrad.errors import ShapeError
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


def _scatter_rows(xp: Any, v: Any, indices: Any, x_shape: tuple[int, ...], axis: int) -> Any:
    """The transpose of `take`: add slices of v into zeros, each where it was taken."""
    count, others = math.prod(indices.shape), (*x_shape[:axis], *x_shape[axis + 1 :])
    v = xp.reshape(v, (*x_shape[:axis], count, *x_shape[axis + 1 :]))
    if axis:
        v = xp.moveaxis(v, axis, 0)
    rows = xp.reshape(v, (count, math.prod(others)))
    added = xp.scatter_add(rows, xp.reshape(indices, (-1,)), rows=x_shape[axis])
    added = xp.reshape(added, (x_shape[axis], *others))
    return xp.moveaxis(added, 0, axis) if axis else added


@linear(x=_scatter_rows)
def _take_rows(xp: Any, x: Any, indices: Any, /, *, axis: int = 0) -> Any:
    """Slices of x along an axis."""
    if not axis:
        return x[indices]
    taken = xp.take(x, xp.reshape(indices, (-1,)), axis=axis)
    return xp.reshape(taken, (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


@linear(values=lambda xp, v, indices: xp.take(v, indices, axis=0))
def scatter_add(xp: Any, values: Any, indices: Any, /, *, rows: int) -> Any:
    """Add each row of `values` (n, width) into row `indices[i]` of zeros (rows, width), in order of i."""
    return xp.scatter_add(values, indices, rows=rows)


@linear(
    x=lambda xp, v, indices, weights, x_shape: xp.weighted_rows_back(v, indices, weights, rows=x_shape[0]),
    weights=lambda xp, v, x, indices: _row_products(xp, v, x, indices),
)
def _weighted_rows(xp: Any, x: Any, indices: Any, weights: Any, /) -> Any:
    """Row i of the result is Σ_k weights[i, k] · x[indices[i, k]]: a sparse matrix times x."""
    return xp.weighted_rows(x, indices, weights)


def _row_products(xp: Any, v: Any, x: Any, indices: Any) -> Any:
    """⟨v[i], x[indices[i, k]]⟩ for all i and k."""
    count = indices.shape[1]
    products = [xp.vecdot(v, xp.take(x, indices[:, k], axis=0)) for k in range(count)]
    return xp.stack(products, axis=-1)


def weighted_rows(x: Any, indices: Any, weights: Any, /) -> Tensor:
    """Σ_k weights[i, k] · x[indices[i, k]] for each i: (rows, width), (n, k), (n, k) → (n, width).

    Raises ShapeError where the shapes do not fit.
    """
    x, weights = (a if isinstance(a, Tensor) else Tensor(a) for a in (x, weights))
    indices = indices if isinstance(indices, Tensor) else Tensor(indices, device=x.device)
    if x.ndim != 2 or indices.ndim != 2 or indices.shape != weights.shape:
        raise ShapeError(
            f"weighted_rows takes x (rows, width), and indices and weights (n, k); got {x.shape}, "
            f"{indices.shape} and {weights.shape}"
        )
    return _weighted_rows(x, indices, weights)


@linear(
    values=lambda xp, v, indices, weights: xp.weighted_rows(v, indices, weights),
    weights=lambda xp, v, values, indices: _row_products(xp, values, v, indices),
)
def weighted_rows_back(xp: Any, values: Any, indices: Any, weights: Any, /, *, rows: int) -> Any:
    """Add weights[i, k] · values[i] into row indices[i, k] of zeros (rows, width): the transpose of
    `weighted_rows`.
    """
    return xp.weighted_rows_back(values, indices, weights, rows=rows)


def take(x: Any, indices: Any, /, *, axis: int = 0) -> Tensor:
    """The entries of x at integer `indices` (any shape) along `axis`, as in an embedding lookup."""
    x = x if isinstance(x, Tensor) else Tensor(x)
    return _take_rows(x, indices, axis=_place(axis, x.ndim))
