"""Pooling: the mean or the largest entry of every window."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from minigrad import backend
from minigrad.backend_special import is_half, widened
from minigrad.backend_windows import Cells, Geometry, window_counts, window_slices
from minigrad.errors import UsageError
from minigrad.fused import fused
from minigrad.ops.reductions import max, sum
from minigrad.ops.shape import astype, reshape, stack
from minigrad.ops.windows import Sizes, bordered, cut_windows, fitting, image, several, sum_cells
from minigrad.tensor import Tensor

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_max_pool2d",
    "avg_pool1d",
    "avg_pool2d",
    "max_pool1d",
    "max_pool2d",
]


# ----- The largest entry --------------------------------------------------------------------------


def _forward(xp: Any, x: Any, *, geometry: Geometry) -> tuple[Any, Any]:
    counts = window_counts(x.shape[2:], geometry)
    parts = [x[(..., *index)] for _, index in window_slices(counts, geometry)]
    out = xp.maximum(parts[0], parts[-1])
    for part in parts[1:-1]:
        xp.maximum(out, part, out=out)
    return out, out


def _pull(xp: Any, v: Any, needs: Any, arrays: Any, kept: Any, into: Any, *, geometry: Geometry) -> list[Any]:
    """Every entry that equals the largest of its window gets an equal share of the cotangent."""
    (x,) = arrays
    slices = [index for _, index in window_slices(kept.shape[2:], geometry)]
    unknown = kept != kept  # in a window with a NaN, all entries share
    hits = [xp.logical_or(x[(..., *index)] == kept, unknown) for index in slices]
    ties = xp.add(hits[0], xp.zeros_like(kept))
    for hit in hits[1:]:
        ties += hit
    xp.divide(v, ties, out=ties)
    dx = xp.zeros_like(x)
    for index, hit in zip(slices, hits, strict=True):
        dx[(..., *index)] += xp.masked(ties, hit)
    return [dx]


@fused(forward=_forward, pull=_pull)
def _max_pool(x: Any, /, *, geometry: Geometry) -> Tensor:
    """The largest entry of every window: (N, C, sizes) → (N, C, counts)."""
    axes = len(geometry[0])
    return max(cut_windows(x, geometry), axis=tuple(range(2, 2 + axes)))


def _pool_arguments(
    name: str,
    axes: int,
    x: Any,
    kernel: Sizes,
    stride: Sizes | None,
    padding: Sizes,
    dilation: Sizes,
    ceil: bool,
) -> tuple[Tensor, Geometry, tuple[int, ...], tuple[tuple[int, int], ...]]:
    """x, the geometry, how many windows, and the border: with `ceil`, wide enough for the last window."""
    x = image(name, x, axes)
    sizes = several(name, "kernel_size", kernel, axes)
    steps = sizes if stride is None else several(name, "stride", stride, axes)
    sides = several(name, "padding", padding, axes, least=0)
    geometry = (sizes, steps, several(name, "dilation", dilation, axes))
    if any(2 * p > k for p, k in zip(sides, sizes, strict=True)):
        raise UsageError(f"{name}: padding {sides} is more than half of kernel_size {sizes}")
    border = []
    for n, p, k, s, d in zip(x.shape[2:], sides, *geometry, strict=True):
        rest = (n + 2 * p - d * (k - 1) - 1) % s
        more = s - rest if ceil and rest and n + 2 * p - rest + s - d * (k - 1) - 1 < n + p else 0
        border.append((p, p + more))
    padded = [n + a + b for n, (a, b) in zip(x.shape[2:], border, strict=True)]
    return x, geometry, fitting(name, padded, geometry), tuple(border)


def _max(name: str, axes: int, x: Any, *arguments: Any) -> Tensor:
    x, geometry, _, border = _pool_arguments(name, axes, x, *arguments)
    return _max_pool(bordered(x, border, float("-inf")), geometry=geometry)


def max_pool1d(
    x: Any,
    /,
    kernel_size: Sizes,
    *,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """The largest entry of every window, (N, C, L) → (N, C, L'). The stride is the kernel's unless given.

    Padding counts as -∞. Entries that tie in a window share the derivative equally. Raises ShapeError,
    DTypeError and UsageError.
    """
    return _max("max_pool1d", 1, x, kernel_size, stride, padding, dilation, ceil_mode)


def max_pool2d(
    x: Any,
    /,
    kernel_size: Sizes,
    *,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """The largest entry of every window, (N, C, H, W) → (N, C, H', W'); otherwise as `max_pool1d`."""
    return _max("max_pool2d", 2, x, kernel_size, stride, padding, dilation, ceil_mode)


# ----- The mean -----------------------------------------------------------------------------------


def _mean(
    name: str,
    axes: int,
    x: Any,
    kernel: Sizes,
    stride: Sizes | None,
    padding: Sizes,
    ceil: bool,
    include: bool,
    divisor: int | None,
) -> Tensor:
    if divisor is not None and (type(divisor) is not int or not divisor):
        raise UsageError(f"{name}: divisor_override is {divisor!r}; expected a whole number, not 0")
    x, geometry, counts, border = _pool_arguments(name, axes, x, kernel, stride, padding, 1, ceil)
    if is_half(x.dtype):  # the sums do not fit
        options = (kernel, stride, padding, ceil, include, divisor)
        return astype(_mean(name, axes, astype(x, "float32"), *options), x.dtype)
    total = sum(cut_windows(bordered(x, border), geometry), axis=tuple(range(2, 2 + axes)))
    if divisor is not None:
        return total / float(divisor)
    sides = [p for p, _ in border]
    for axis, (n, p, o, k, s) in enumerate(zip(x.shape[2:], sides, counts, *geometry[:2], strict=True)):
        # Of one window after the other, the entries that count: what ceil_mode adds never does.
        low, high = (-p, n + p) if include else (0, n)
        entries = [float(min(i * s - p + k, high) - _larger(i * s - p, low)) for i in range(o)]
        if len(set(entries)) == 1:
            total = total / entries[0]
        else:
            share = Tensor.of(backend.asarray(entries, dtype=x.dtype, device=x.device))
            total = total / reshape(share, (o, *(1,) * (axes - axis - 1)))
    return total


def _larger(a: int, b: int) -> int:
    return a if a > b else b


def avg_pool1d(
    x: Any,
    /,
    kernel_size: Sizes,
    *,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """The mean of every window, (N, C, L) → (N, C, L'). The stride is the kernel's size unless given.

    Zeros of the padding count as entries unless `count_include_pad` is False. Raises ShapeError, DTypeError
    and UsageError.
    """
    return _mean("avg_pool1d", 1, x, kernel_size, stride, padding, ceil_mode, count_include_pad, None)


def avg_pool2d(
    x: Any,
    /,
    kernel_size: Sizes,
    *,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """The mean of every window, (N, C, H, W) → (N, C, H', W'); otherwise as `avg_pool1d`.

    With `divisor_override`, the sum divided by that number.
    """
    return _mean(
        "avg_pool2d", 2, x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
    )


# ----- A result of given size ---------------------------------------------------------------------


def _cells(length: int, count: int) -> Cells:
    """The `count` pieces that together cover an axis, as torch cuts them; neighbours may overlap by one."""
    return tuple((i * length // count, -(-(i + 1) * length // count)) for i in range(count))


def _cell_indices(cells: tuple[Cells, ...]) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
    """For every cell of an image: its place in the result, and the slices of its entries."""
    for place in itertools.product(*(range(len(pieces)) for pieces in cells)):
        yield place, tuple(slice(*pieces[i]) for i, pieces in zip(place, cells, strict=True))


def _max_forward(xp: Any, x: Any, *, cells: tuple[Cells, ...]) -> tuple[Any, Any]:
    out = xp.empty((*x.shape[:2], *map(len, cells)), dtype=x.dtype)
    for place, index in _cell_indices(cells):
        out[(..., *place)] = xp.max(x[(..., *index)], axis=tuple(range(2, x.ndim)))
    return out, out


def _max_pull(
    xp: Any, v: Any, needs: Any, arrays: Any, kept: Any, into: Any, *, cells: tuple[Cells, ...]
) -> list[Any]:
    (x,) = arrays
    dx, ones, wide = xp.zeros_like(x), (None,) * len(cells), widened(v)
    for place, index in _cell_indices(cells):
        largest = kept[(..., *place, *ones)]
        hits = xp.logical_or(x[(..., *index)] == largest, largest != largest)
        ties = xp.sum(hits.astype(wide.dtype), axis=tuple(range(2, x.ndim)))
        share = (wide[(..., *place)] / ties).astype(x.dtype)
        dx[(..., *index)] += xp.masked(share[(..., *ones)], hits)
    return [dx]


@fused(forward=_max_forward, pull=_max_pull)
def _max_cells(x: Any, /, *, cells: tuple[Cells, ...]) -> Tensor:
    """The largest entries of all cells of an image."""
    axes = tuple(range(2, 2 + len(cells)))
    largest = [max(x[(..., *index)], axis=axes) for _, index in _cell_indices(cells)]
    return reshape(stack(largest, axis=2), (*x.shape[:2], *map(len, cells)))


def _sizes(name: str, axes: int, x: Any, output_size: Any) -> tuple[Tensor, tuple[int, ...]]:
    """x and the size asked for; None keeps an axis. Raises UsageError and ShapeError."""
    x = image(name, x, axes)
    asked = output_size if isinstance(output_size, Sequence) else (output_size,) * axes
    if len(asked) == axes:
        asked = tuple(n if a is None else a for a, n in zip(asked, x.shape[2:], strict=True))
    fitting(name, x.shape[2:], ((1,) * axes,) * 3)
    return x, several(name, "output_size", asked, axes)


def _adaptive(name: str, axes: int, x: Any, output_size: Any, pool: Callable[..., Tensor]) -> Tensor:
    x, sizes = _sizes(name, axes, x, output_size)
    if all(n % o == 0 for n, o in zip(x.shape[2:], sizes, strict=True)):
        return pool(x, tuple(n // o for n, o in zip(x.shape[2:], sizes, strict=True)))
    cells = tuple(map(_cells, x.shape[2:], sizes))
    if pool is max_pool2d:
        return _max_cells(x, cells=cells)
    dtype = x.dtype
    x = astype(x, "float32") if is_half(dtype) else x
    for axis, pieces in enumerate(cells, 2):  # along one axis after the other
        counts = [float(stop - start) for start, stop in pieces]
        share = Tensor.of(backend.asarray(counts, dtype=x.dtype, device=x.device))
        x = sum_cells(x, axis, pieces) / reshape(share, (-1, *(1,) * (x.ndim - 1 - axis)))
    return astype(x, dtype, copy=False)


def adaptive_avg_pool1d(x: Any, /, output_size: Sizes) -> Tensor:
    """Means of `output_size` cells that cover the axis, (N, C, L) → (N, C, output_size).

    Cell i of o covers the entries from ⌊i L / o⌋ up to ⌈(i + 1) L / o⌉. Raises ShapeError, DTypeError and
    UsageError.
    """
    return _adaptive("adaptive_avg_pool1d", 1, x, output_size, avg_pool1d)


def adaptive_avg_pool2d(x: Any, /, output_size: int | Sequence[int | None] | None) -> Tensor:
    """Means of cells that cover the image, (N, C, H, W) → (N, C, *output_size), as `adaptive_avg_pool1d`.

    None in `output_size` keeps an axis as it is.
    """
    return _adaptive("adaptive_avg_pool2d", 2, x, output_size, avg_pool2d)


def adaptive_max_pool2d(x: Any, /, output_size: int | Sequence[int | None] | None) -> Tensor:
    """The largest entries of cells that cover the image, (N, C, H, W) → (N, C, *output_size).

    Cells are those of `adaptive_avg_pool2d`; entries that tie in a cell share the derivative equally.
    """
    return _adaptive("adaptive_max_pool2d", 2, x, output_size, max_pool2d)
