"""Sorting, scattering and cumulative functions of the array libraries, under one name for each of them."""

from __future__ import annotations

import math
from typing import Any

import numpy
import scipy.sparse

from minigrad.meter import state

Array = Any


class Selecting:
    """What the array API lacks, made of what it has."""

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
        places = xp.where(places < 0, places + length, places)
        places = places + xp.reshape(xp.arange(rows), (rows, 1)) * length
        flat = xp.reshape(xp.moveaxis(values, axis, -1), (rows * count, 1))
        out = self.add_at(flat, xp.reshape(places, (rows * count,)), rows * length)
        return xp.moveaxis(xp.reshape(out, (*lead, length)), -1, axis)

    def add_at(self, values: Array, places: Array, rows: int) -> Array:
        """Add `values` (n, 1) into zeros (rows, 1) at `places` (n,), none of them negative."""
        xp: Any = self
        return xp.scatter_add(values, places, rows=rows)


class LibrarySelecting(Selecting):
    """For libraries that have more than the array API, but may be too old for its latest names."""

    module: Any

    def argpartition(self, x: Array, kth: int, *, axis: int) -> Array:
        return self.module.argpartition(x, kth, axis=axis)

    def cumulative_sum(self, x: Array, *, axis: int) -> Array:
        return self.module.cumsum(x, axis=axis)

    def cumulative_prod(self, x: Array, *, axis: int) -> Array:
        return self.module.cumprod(x, axis=axis)


class HostSelecting(LibrarySelecting):
    """What is faster in NumPy, or safer where values can be looked at."""

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
        indices = numpy.where(indices < 0, indices + rows, indices)
        pick = scipy.sparse.csr_array(
            (numpy.ones(count, values.dtype), indices, numpy.arange(count + 1)), shape=(count, rows)
        )
        return numpy.asarray(pick.T @ values)

    def scatter_along_axis(self, values: Array, indices: Array, *, axis: int, length: int) -> Array:
        _check_range(indices, length)
        return super().scatter_along_axis(values, indices, axis=axis, length=length)

    def add_at(self, values: Array, places: Array, rows: int) -> Array:
        sums = numpy.bincount(places, values[:, 0].astype("float64", copy=False), minlength=rows)
        return sums.astype(values.dtype, copy=False)


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

    def searchsorted(self, x1: Any, x2: Any, *, side: str = "left") -> Any:
        steps = math.ceil(math.log2(max(x1.size, 2)))
        return self._selected("searchsorted", x1, x2.shape, x2.size * steps, x2, dtype="int64")
