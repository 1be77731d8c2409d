"""Sliding windows as an operation, its transpose, and what convolution, pooling and resampling share."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

from minigrad.backend_windows import Cells, Geometry, window_counts
from minigrad.errors import DTypeError, ShapeError, UsageError
from minigrad.operation import linear
from minigrad.ops.creation import full
from minigrad.ops.indexing import unindex
from minigrad.ops.shape import concat
from minigrad.tensor import Tensor

__all__ = ["add_windows", "cut_windows", "spread_cells", "sum_cells"]

Sizes = int | Sequence[int]


@linear(x=lambda xp, v, x_shape, geometry: xp.add_windows(v, geometry, x_shape[-len(geometry[0]) :]))
def _cut_windows(xp: Any, x: Any, /, *, geometry: Geometry) -> Any:
    """All windows over the last axes: (..., sizes) → (..., kernel, counts)."""
    return xp.cut_windows(x, geometry)


@linear(v=lambda xp, v, geometry: xp.cut_windows(v, geometry))
def _add_windows(xp: Any, v: Any, /, *, geometry: Geometry, sizes: tuple[int, ...]) -> Any:
    """Windows (..., kernel, counts) added to zeros (..., sizes)."""
    return xp.add_windows(v, geometry, sizes)


def cut_windows(x: Any, geometry: Geometry, /) -> Tensor:
    """All windows over the last axes: (..., sizes) → (..., kernel, counts); `geometry` is (kernel, stride,
    dilation), with a number for each of these axes. A view where the array library has views.
    """
    x = x if isinstance(x, Tensor) else Tensor(x)
    axes = len(geometry[0])
    if x.ndim < axes or min(window_counts(x.shape[x.ndim - axes :], geometry)) < 1:
        raise ShapeError(f"cut_windows: no window of {geometry} (kernel, stride, dilation) in {x.shape}")
    return _cut_windows(x, geometry=geometry)


def add_windows(v: Any, geometry: Geometry, sizes: Sequence[int], /) -> Tensor:
    """Add windows (..., kernel, counts) to zeros (..., sizes), each where `cut_windows` cuts it out."""
    v = v if isinstance(v, Tensor) else Tensor(v)
    axes = len(geometry[0])
    expected = (*geometry[0], *window_counts(sizes, geometry))
    if v.shape[v.ndim - 2 * axes :] != expected:
        raise ShapeError(f"add_windows: {tuple(sizes)} has windows {expected}, and v has shape {v.shape}")
    return _add_windows(v, geometry=geometry, sizes=tuple(sizes))


@linear(x=lambda xp, v, x_shape, axis, cells: xp.spread_cells(v, axis, cells, x_shape[axis]))
def _sum_cells(xp: Any, x: Any, /, *, axis: int, cells: Cells) -> Any:
    """Sums over pieces of an axis."""
    return xp.sum_cells(x, axis, cells)


@linear(v=lambda xp, v, axis, cells: xp.sum_cells(v, axis, cells))
def _spread_cells(xp: Any, v: Any, /, *, axis: int, cells: Cells, length: int) -> Any:
    """Each entry of an axis added to every place of its piece."""
    return xp.spread_cells(v, axis, cells, length)


def sum_cells(x: Any, axis: int, cells: Cells, /) -> Tensor:
    """Sums over pieces (start, stop) of an axis, which may overlap: one entry for each piece."""
    return _sum_cells(x, axis=axis, cells=cells)


def spread_cells(v: Any, axis: int, cells: Cells, length: int, /) -> Tensor:
    """Add entry i of an axis to every place of piece (start, stop) i of one that is `length` long."""
    return _spread_cells(v, axis=axis, cells=cells, length=length)


# ----- Arguments ----------------------------------------------------------------------------------


def several(name: str, what: str, value: Sizes, axes: int, *, least: int = 1) -> tuple[int, ...]:
    """One number for each of `axes` axes from a number or a sequence. Raises UsageError for anything else."""
    values: tuple[Any, ...] = tuple(value) if isinstance(value, Sequence) else (value,) * axes
    if len(values) != axes or any(
        type(n) is bool or not isinstance(n, Integral) or int(n) < least for n in values
    ):
        raise UsageError(
            f"{name}: {what} is {value!r}; expected a whole number from {least} up, or {axes} of them"
        )
    return tuple(map(int, values))


def image(name: str, x: Any, axes: int, *, batched: bool = True) -> Tensor:
    """x as a Tensor of floats with `axes` spatial axes. Raises DTypeError and ShapeError."""
    x = x if isinstance(x, Tensor) else Tensor(x)
    if x.dtype.kind not in "fV":
        raise DTypeError(f"{name}: expected floating-point numbers, got {x.dtype}; use x.astype(...) first")
    if x.ndim != axes + 2 and (batched or x.ndim != axes + 1):
        expected = "(N, C, L)" if axes == 1 else "(N, C, H, W)"
        raise ShapeError(f"{name}: expected x of shape {expected}, got {x.shape}")
    return x


def fitting(name: str, sizes: Sequence[int], geometry: Geometry) -> tuple[int, ...]:
    """How many windows lie on each axis of padded `sizes`. Raises ShapeError where there is none."""
    counts = window_counts(sizes, geometry)
    if min(counts) < 1:
        kernel, _, dilation = geometry
        raise ShapeError(
            f"{name}: kernel {kernel} with dilation {dilation} is larger than the padded input "
            f"{tuple(sizes)}; add padding or choose a smaller kernel"
        )
    return counts


def bordered(x: Tensor, padding: Sequence[tuple[int, int]], value: float = 0.0) -> Tensor:
    """x with (before, after) more entries of `value` along each of its last axes."""
    if not any(before or after for before, after in padding):
        return x
    first = x.ndim - len(padding)
    if value == 0.0:
        both = list(zip(x.shape[first:], padding, strict=True))
        inner = tuple(slice(before, before + n) for n, (before, _) in both)
        outer = (*x.shape[:first], *(n + before + after for n, (before, after) in both))
        return unindex(x, index=(..., *inner), shape=outer)
    for axis, (before, after) in enumerate(padding, first):
        sides = [
            full((*x.shape[:axis], n, *x.shape[axis + 1 :]), value, dtype=x.dtype, device=x.device)
            for n in (before, after)
        ]
        x = concat([sides[0], x, sides[1]], axis=axis)
    return x
