"""Reading by index, and its transpose: adding into zeros.

Indices on the host, whether numbers, lists, NumPy arrays or Tensors, are put where the array is that they
index: they say where to read, and are few beside what is read. The other way round they are refused, for the
host would wait for a device.
"""

from __future__ import annotations

import math
from typing import Any

from minigrad import backend
from minigrad.errors import DTypeError, ShapeError
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
    """x[index], with NumPy's indexing: numbers, slices, None, Ellipsis, integer and boolean arrays.

    Indices on the host are put where x is. Raises DeviceError for those on another kind of device.
    """
    x = x if isinstance(x, Tensor) else Tensor(x)
    return _getitem(x, index=_raw(index, x))


def _raw(index: Any, x: Tensor) -> Any:
    """An index of x without Tensors, where x is."""
    if isinstance(index, tuple):
        return tuple([_raw(part, x) for part in index])
    if isinstance(index, list) and type(x.data) is not backend.host.array_type:
        index = backend.asarray(index)
        index = index if index.size else index.astype("int64")
    return _beside(index, x) if isinstance(index, Tensor) or backend.is_array(index) else index


def _beside(index: Any, x: Tensor) -> backend.Array:
    """The raw array of an index, where x is. Raises DeviceError for one on another kind of device."""
    found = index.data if isinstance(index, Tensor) else index
    if type(found) is type(x.data) or (there := backend.namespace(found)) is backend.namespace(x.data):
        return found
    if there is not backend.host:
        raise backend.mixed(x.data, found)
    return backend.asarray(found, device=x.device)


def index_array(name: str, indices: Any, x: Tensor) -> Tensor:
    """Whole numbers by which the function `name` reads x, as a Tensor where x is. Raises DTypeError for other
    numbers, and DeviceError for those on another kind of device than x.
    """
    array = _beside(indices if isinstance(indices, Tensor) else backend.asarray(indices), x)
    if array.dtype.kind not in "iu":
        if array.size:
            raise DTypeError(f"{name}: indices are integers, got {array.dtype}; use .astype('int64')")
        array = array.astype("int64")  # what an empty list is of
    elif array.dtype == backend.uint64:  # as which libraries do not take indices
        array = array.astype("int64")
    return Tensor.of(array)


def _scatter_rows(xp: Any, v: Any, indices: Any, x_shape: tuple[int, ...], axis: int) -> Any:
    """The transpose of `take`: add slices of v into zeros, each where it was taken."""
    count, others = math.prod(indices.shape), (*x_shape[:axis], *x_shape[axis + 1 :])
    v = xp.reshape(v, (*x_shape[:axis], count, *x_shape[axis + 1 :]))
    if axis:
        v = xp.moveaxis(v, axis, 0)
    rows = xp.reshape(v, (count, math.prod(others)))
    add = add_rows if isinstance(v, Tensor) else xp.scatter_add
    added = add(rows, xp.reshape(indices, (-1,)), rows=x_shape[axis])
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
def _scatter_add(xp: Any, values: Any, indices: Any, /, *, rows: int) -> Any:
    """Rows added into zeros."""
    return xp.scatter_add(values, indices, rows=rows)


def add_rows(values: Any, indices: Any, /, *, rows: int) -> Tensor:
    """Add each row of `values` (n, width) into row `indices[i]` of zeros (rows, width), in order of i."""
    values = values if isinstance(values, Tensor) else Tensor(values)
    return _scatter_add(values, index_array("add_rows", indices, values), rows=rows)


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
    indices = index_array("weighted_rows", indices, x)
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
    """The entries of x at integer `indices` (any shape) along `axis`, as in an embedding lookup.

    Indices on the host are put where x is. Raises DTypeError, and DeviceError for those on another kind of
    device.
    """
    x = x if isinstance(x, Tensor) else Tensor(x)
    return _take_rows(x, index_array("take", indices, x), axis=_place(axis, x.ndim))
