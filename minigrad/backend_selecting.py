"""Sorting, scattering and cumulative functions of the array libraries, under one name for each of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy
import scipy.sparse

from minigrad.backend_special import BLOCK, horner, is_half, widened
from minigrad.meter import state

Array = Any


class Selecting:
    """What the array API lacks, made of what it has."""

    def masked(self, v: Array, mask: Array) -> Array:
        """v where the mask (of truth values) holds, and 0 elsewhere, whatever v is there; they broadcast.

        A choice and not a product, for 0 · ∞ is NaN: the derivative of √max(x, 0) is ∞ · 0 where x < 0.
        """
        xp: Any = self
        return xp.where(mask, v, xp.zeros((), dtype=v.dtype))

    def mask(self, v: Array, mask: Array) -> Array:
        """The same of an array of the mask's shape that nobody needs any more: perhaps in its memory."""
        return self.masked(v, mask)

    def argpartition(self, x: Array, kth: int, *, axis: int) -> Array:
        """Places that bring the entry of rank `kth` to its place, and smaller ones before it: a sort will
        do.
        """
        xp: Any = self
        return xp.argsort(x, axis=axis)

    def index_set(self, x: Array, index: Any, values: Array) -> Array:
        """A copy of x with `values` at `index`."""
        out = x.copy()
        out[index] = values
        return out

    def scatter_along_axis(self, values: Array, indices: Array, *, axis: int, length: int) -> Array:
        """Add `values` into zeros, `length` long on `axis`, each at its index there; two arrays of one
        shape.
        """
        xp: Any = self
        *lead, count = xp.moveaxis(values, axis, -1).shape
        rows = math.prod(lead)
        places = xp.reshape(xp.moveaxis(indices, axis, -1), (rows, count))
        places = from_the_front(xp, places, length)
        places = places + xp.reshape(xp.arange(rows), (rows, 1)) * length
        flat = xp.reshape(xp.moveaxis(values, axis, -1), (rows * count, 1))
        out = self.add_at(flat, xp.reshape(places, (rows * count,)), rows * length)
        return xp.moveaxis(xp.reshape(out, (*lead, length)), -1, axis)

    def add_at(self, values: Array, places: Array, rows: int) -> Array:
        """Add `values` (n, 1) into zeros (rows, 1) at `places` (n,), none of them negative."""
        xp: Any = self
        return xp.scatter_add(values, places, rows=rows)

    def weighted_rows(self, x: Array, indices: Array, weights: Array) -> Array:
        """Σ_k weights[i, k] · x[indices[i, k]]: x (rows, width), the others (n, k)."""
        xp: Any = self
        parts = [xp.take(x, indices[:, k], axis=0) * weights[:, k : k + 1] for k in range(indices.shape[1])]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    def weighted_rows_back(self, values: Array, indices: Array, weights: Array, *, rows: int) -> Array:
        """The transpose: weights[i, k] · values[i] added into row indices[i, k] of zeros (rows, width)."""
        xp: Any = self
        count, each = indices.shape
        spread = xp.reshape(weights, (count, each, 1)) * xp.reshape(values, (count, 1, values.shape[1]))
        flat = xp.reshape(spread, (count * each, values.shape[1]))
        return xp.scatter_add(flat, xp.reshape(indices, (-1,)), rows=rows)

    def others(self, x: Array) -> Array:
        """For each entry of the last axis the product of all others, without a division."""
        return products_before(self, x) * products_before(self, x[..., ::-1])[..., ::-1]


def from_the_front(xp: Any, indices: Array, length: int) -> Array:
    """Indices counted from the front, as int64: narrower ones could not hold the length of their axis."""
    places = indices.astype("int64")
    return xp.where(places < 0, places + length, places)


def products_before(xp: Any, x: Any) -> Any:
    """For each entry of the last axis the product of those before it."""
    if not x.shape[-1]:
        return x
    return xp.concat([xp.ones_like(x[..., :1]), xp.cumulative_prod(x, axis=-1)[..., :-1]], axis=-1)


class LibrarySelecting(Selecting):
    """For libraries that have more than the array API, but may be too old for its latest names."""

    module: Any

    def argpartition(self, x: Array, kth: int, *, axis: int) -> Array:
        return self.module.argpartition(x, kth, axis=axis)

    def sum(self, x: Array, *, axis: Any = None, keepdims: bool = False, dtype: Any = None) -> Array:
        """The sum in the dtype that the standard says. Half precision is added up in float32: a sum of its
        own stands still at 2048 ones, bfloat16's at 256.
        """
        if dtype is None and is_half(x.dtype):
            return self.module.sum(x, axis=axis, dtype="float32", keepdims=keepdims).astype(x.dtype)
        return self.module.sum(x, axis=axis, dtype=dtype, keepdims=keepdims)

    def cumulative_sum(self, x: Array, *, axis: int) -> Array:
        return self._cumulative("cumsum", x, axis)

    def cumulative_prod(self, x: Array, *, axis: int) -> Array:
        return self._cumulative("cumprod", x, axis)

    def _cumulative(self, name: str, x: Array, axis: int) -> Array:
        function = getattr(self.module, name)
        if is_half(x.dtype):
            return function(x, axis=axis, dtype="float32").astype(x.dtype)
        return function(x, axis=axis)


_BITS = {size: numpy.dtype(f"int{8 * size}") for size in (2, 4, 8)}


class HostSelecting(LibrarySelecting):
    """What is faster in NumPy, or safer where values can be looked at."""

    def masked(self, v: Array, mask: Array) -> Array:
        """As ever, by the bits of v as whole numbers, times 0 or 1: exact, and as fast as a product of
        floats, where `numpy.where` takes six to fifteen times as long.

        Where they are laid out in memory differently, as the mask is: a copy and a product take half of the
        time of one product across.
        """
        kind = _BITS.get(v.dtype.itemsize)
        if kind is None:  # of long doubles
            return super().masked(v, mask)
        if v.shape != mask.shape:
            return (v.view(kind) * mask.astype(kind)).view(v.dtype)
        out = numpy.empty_like(mask, dtype=v.dtype)
        bits = out.view(kind)
        if v.flags.c_contiguous == mask.flags.c_contiguous:
            bits[...] = mask  # a product with truth values would convert them bit by bit
            bits *= v.view(kind)
        else:
            out[...] = v
            bits *= mask
        return out

    def mask(self, v: Array, mask: Array) -> Array:
        kind = _BITS.get(v.dtype.itemsize)
        if kind is None:
            return super().mask(v, mask)
        bits = v.view(kind)
        numpy.multiply(bits, mask, out=bits)
        return v

    def sum(self, x: Array, *, axis: Any = None, keepdims: Any = False, dtype: Any = None) -> Array:
        if dtype is None and is_half(x.dtype):
            return super().sum(x, axis=axis, keepdims=keepdims)
        if x.size >= _LARGE and dtype is None and axis is not None and x.dtype.kind == "f":
            made = _by_a_product(x, axis if isinstance(axis, tuple) else (axis,), keepdims)
            if made is not None:
                return made
        # `numpy.sum` would take twice as long to come to this; so it is with `max` and `min`.
        return numpy.add.reduce(x, axis=axis, keepdims=keepdims, dtype=dtype)

    def max(self, x: Array, *, axis: Any = None, keepdims: Any = False) -> Array:
        return numpy.maximum.reduce(x, axis=axis, keepdims=keepdims)

    def min(self, x: Array, *, axis: Any = None, keepdims: Any = False) -> Array:
        return numpy.minimum.reduce(x, axis=axis, keepdims=keepdims)

    def polynomial(self, x: Array, *, coefficients: Sequence[float]) -> Array:
        """A block of x after the other: it stays in the cache for all powers."""
        if x.size <= BLOCK or x.dtype not in (numpy.float32, numpy.float64):
            return super().polynomial(x, coefficients=coefficients)  # type: ignore[misc]
        *lower, highest = coefficients or (0.0,)
        flat = x.reshape(-1)
        out = numpy.empty(flat.shape, x.dtype)
        for start in range(0, x.size, BLOCK):
            block = slice(start, start + BLOCK)
            out[block] = highest
            horner(out[block], flat[block], lower)
        return out.reshape(x.shape)

    def argsort(self, x: Array, *, axis: int) -> Array:
        return numpy.argsort(x, axis=axis, kind="stable")

    def scatter_add(self, values: numpy.ndarray, indices: numpy.ndarray, rows: int) -> numpy.ndarray:
        """Add each row of `values` (n, width) into row `indices[i]` of a new (rows, width) array, in order of
        i.

        A sparse 0/1 matrix times `values`: the fastest scatter-add NumPy's world has (`numpy.add.at` is 25
        times slower).
        """
        count = indices.size
        _check_range(indices, rows)
        indices = from_the_front(numpy, indices, rows)
        wide = widened(values)  # SciPy knows no half precision
        pick = scipy.sparse.csr_array(
            (numpy.ones(count, wide.dtype), indices, numpy.arange(count + 1)), shape=(count, rows)
        )
        return numpy.asarray(pick.T @ wide).astype(values.dtype, copy=False)

    def scatter_along_axis(self, values: Array, indices: Array, *, axis: int, length: int) -> Array:
        _check_range(indices, length)
        return super().scatter_along_axis(values, indices, axis=axis, length=length)

    def add_at(self, values: Array, places: Array, rows: int) -> Array:
        wide = widened(values)
        out = numpy.zeros(rows, wide.dtype)
        numpy.add.at(out, places, wide[:, 0])  # fast since NumPy 1.25 where everything has one axis
        return out[:, None].astype(values.dtype, copy=False)

    def weighted_rows(self, x: Array, indices: Array, weights: Array) -> Array:
        return _weighted(_weighting(indices, weights, len(x)), x, weights)

    def weighted_rows_back(self, values: Array, indices: Array, weights: Array, *, rows: int) -> Array:
        return _weighted(_weighting(indices, weights, rows).T, values, weights)

    def others(self, x: Array) -> Array:
        """By division, where all products are far from 0 and from overflow."""
        whole = numpy.prod(x, axis=-1, keepdims=True)
        limits = numpy.finfo(x.dtype)
        size = numpy.abs(whole)
        if numpy.all((size > limits.tiny / limits.eps) & (size < limits.max * limits.eps)):
            return whole / x
        return super().others(x)

    def unindex(self, values: Array, *, index: Any, shape: tuple[int, ...]) -> Array:
        """As ever; by sparse matrices or one line of places, where the index allows it."""
        parts = index if isinstance(index, tuple) else (index,)
        parts = tuple(numpy.asarray(part) if isinstance(part, list) else part for part in parts)
        arrays = [part for part in parts if isinstance(part, numpy.ndarray)]
        if len(arrays) == 1 and arrays[0].dtype == bool:  # no place twice
            out = numpy.zeros(shape, values.dtype)
            out[index] = values
            return out
        leading = 0 < len(arrays) == len(parts) and all(part.dtype.kind in "iu" for part in arrays)
        if not leading:
            return super().unindex(values, index=index, shape=shape)  # type: ignore[misc]
        together = numpy.broadcast_arrays(*arrays)
        lengths, rest = shape[: len(arrays)], shape[len(arrays) :]
        places = [from_the_front(numpy, a, n) for a, n in zip(together, lengths, strict=True)]
        flat = numpy.ravel_multi_index(places, lengths).reshape(-1)
        rows = values.reshape(flat.size, math.prod(rest))
        add = self.add_at if rows.shape[1] == 1 else self.scatter_add
        return add(rows, flat, math.prod(lengths)).reshape(shape)


_LARGE = 1 << 12  # entries, beyond which it pays to ask how the axes lie
_ONES = 1 << 12  # the longest line added up without NumPy's sum by halves, which errs less


def _by_a_product(x: numpy.ndarray, axes: tuple[int, ...], keepdims: bool) -> numpy.ndarray | None:
    """The sum over the first axes or the last ones as a matrix times ones, in half of NumPy's time. None
    where it would take longer, or be less exact, and for axes that are not there, or there twice.
    """
    summed = sorted(axis % x.ndim for axis in axes if type(axis) is int and -x.ndim <= axis < x.ndim)
    count = len(axes)
    first, last = summed == list(range(count)), summed == list(range(x.ndim - count, x.ndim))
    if first is last or not x.flags.c_contiguous:  # or of all axes
        return None
    cut = count if first else x.ndim - count
    rows, columns = math.prod(x.shape[:cut]), math.prod(x.shape[cut:])
    length = rows if first else columns
    if not 1 < length <= _ONES:
        return None
    ones, matrix = numpy.ones(length, x.dtype), x.reshape(rows, columns)
    shape = tuple(1 if i in summed else n for i, n in enumerate(x.shape) if keepdims or i not in summed)
    return (ones @ matrix if first else matrix @ ones).reshape(shape)


def _weighting(indices: numpy.ndarray, weights: numpy.ndarray, rows: int) -> Any:
    """The sparse matrix with weights[i, k] in row i and column indices[i, k]."""
    count, each = indices.shape
    _check_range(indices, rows)
    columns = from_the_front(numpy, indices, rows).reshape(-1)
    starts = numpy.arange(0, count * each + 1, each)
    return scipy.sparse.csr_array((widened(weights).reshape(-1), columns, starts), shape=(count, rows))


def _weighted(weighting: Any, x: numpy.ndarray, weights: numpy.ndarray) -> numpy.ndarray:
    """The product, in the dtype of its factors: SciPy knows no half precision."""
    return (weighting @ widened(x)).astype(numpy.result_type(x.dtype, weights.dtype), copy=False)


def _check_range(indices: numpy.ndarray, length: int) -> None:
    if indices.size and not -length <= indices.min() <= indices.max() < length:
        raise IndexError(f"indices from {indices.min()} to {indices.max()} on an axis of length {length}")


class ShapeSelecting(Selecting):
    """The shapes of the results, with one FLOP for each comparison, addition or multiplication."""

    def _selected(self, name: str, like: Any, shape: Any, flops: int, *inputs: Any, dtype: Any = None) -> Any:
        result = type(like)(shape, dtype or like.dtype)
        state.meter.compute(name, flops, result, like, *inputs)
        return result

    def moveaxis(self, x: Any, source: int, destination: int) -> Any:
        axes = [axis for axis in range(x.ndim) if axis != source % x.ndim]
        axes.insert(destination % x.ndim, source % x.ndim)
        xp: Any = self
        return xp.permute_dims(x, axes)

    def roll(self, x: Any, shift: Any, *, axis: Any = None) -> Any:
        return self._selected("roll", x, x.shape, 0)

    def tril(self, x: Any, *, k: int = 0) -> Any:
        return self._selected("tril", x, x.shape, 0)

    triu = tril

    def cumulative_sum(self, x: Any, *, axis: int) -> Any:
        dtype = numpy.cumsum(numpy.ones(1, x.dtype)).dtype
        return self._selected("cumulative_sum", x, x.shape, x.size, dtype=dtype)

    def cumulative_prod(self, x: Any, *, axis: int) -> Any:
        dtype = numpy.cumprod(numpy.ones(1, x.dtype)).dtype
        return self._selected("cumulative_prod", x, x.shape, x.size, dtype=dtype)

    def take_along_axis(self, x: Any, indices: Any, *, axis: int) -> Any:
        return self._selected("take_along_axis", x, indices.shape, 0)

    def scatter_along_axis(self, values: Any, indices: Any, *, axis: int, length: int) -> Any:
        shape = tuple(length if i == axis else n for i, n in enumerate(values.shape))
        return self._selected("scatter_along_axis", values, shape, values.size)

    def scatter_add(self, values: Any, indices: Any, rows: int) -> Any:
        return self._selected("scatter_add", values, (rows, values.shape[1]), values.size)

    def argsort(self, x: Any, *, axis: int) -> Any:
        steps = math.ceil(math.log2(max(x.shape[axis], 2)))
        return self._selected("argsort", x, x.shape, x.size * steps, dtype="int64")

    def sort(self, x: Any, *, axis: int) -> Any:
        steps = math.ceil(math.log2(max(x.shape[axis], 2)))
        return self._selected("sort", x, x.shape, x.size * steps)

    def argpartition(self, x: Any, kth: int, *, axis: int) -> Any:
        return self._selected("argpartition", x, x.shape, x.size, dtype="int64")

    def weighted_rows(self, x: Any, indices: Any, weights: Any) -> Any:
        shape, flops = (indices.shape[0], x.shape[1]), 2 * indices.size * x.shape[1]
        return self._selected("weighted_rows", x, shape, flops, indices, weights)

    def weighted_rows_back(self, values: Any, indices: Any, weights: Any, *, rows: int) -> Any:
        shape, flops = (rows, values.shape[1]), 2 * indices.size * values.shape[1]
        return self._selected("weighted_rows_back", values, shape, flops, indices, weights)

    def searchsorted(self, x1: Any, x2: Any, *, side: str = "left") -> Any:
        steps = math.ceil(math.log2(max(x1.size, 2)))
        return self._selected("searchsorted", x1, x2.shape, x2.size * steps, x2, dtype="int64")
