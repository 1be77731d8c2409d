"""Convolution over one or two axes, and its transpose.

The composition is: cut out all windows, one matrix product, done. The fast path goes through the batch a few
samples at a time, so that their windows stay in the processor's cache, and lays memory out with the channels
last: a window is then made of long runs, and one large matrix product serves all places at once. Its results
are views, (N, C, H, W) by shape and (N, H, W, C) in memory, and elementwise operations keep them so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from minigrad.backend_windows import Geometry, window_counts, window_slices
from minigrad.errors import ShapeError, UsageError
from minigrad.fused import fused
from minigrad.ops import depthwise
from minigrad.ops.linalg import matmul
from minigrad.ops.linear import column_sums
from minigrad.ops.shape import matrix_transpose, reshape
from minigrad.ops.windows import Sizes, add_windows, bordered, cut_windows, fitting, image, several
from minigrad.tensor import Tensor

__all__ = ["conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d"]

BLOCK = 1 << 18  # entries of windows at a time, forwards and backwards: 1 MiB of float32

Padding = tuple[tuple[int, int], ...]


class _Plan:
    """The sizes of one convolution, and the layout of memory on its fast path.

    With few channels (`first`) the axes of windows are (channels, kernel, batch, places), otherwise (batch,
    places, kernel, channels); the long runs are last in both. All sizes are those of one group.
    """

    def __init__(self, x: Any, weight: Any, geometry: Geometry, padding: Padding, groups: int) -> None:
        self.geometry, self.groups = geometry, groups
        self.kernel = kernel = geometry[0]
        self.axes = axes = len(kernel)
        self.batch, self.inner, self.outer = x.shape[0], x.shape[1] // groups, weight.shape[0] // groups
        self.own = x.shape[2:]
        self.sizes = tuple(n + a + b for n, (a, b) in zip(self.own, padding, strict=True))
        self.inside = tuple(slice(a, a + n) for n, (a, _) in zip(self.own, padding, strict=True))
        self.counts = window_counts(self.sizes, geometry)
        self.places = math.prod(self.counts)
        self.depth = self.inner * math.prod(kernel)
        self.first = self.inner * kernel[-1] < self.counts[-1]
        spatial = tuple(range(2, 2 + axes))
        if self.first:  # from (N, C, sizes), and from (N, C, kernel, counts)
            self.image_axes: tuple[int, ...] = (1, 0, *spatial)
            self.window_axes: tuple[int, ...] = (1, *spatial, 0, *(a + axes for a in spatial))
            self.weight_axes: tuple[int, ...] = (0, 1, *spatial)
        else:
            self.image_axes = (0, *spatial, 1)
            self.window_axes = (0, *(a + axes for a in spatial), *spatial, 1)
            self.weight_axes = (0, *spatial, 1)
        self.back = inverse(self.image_axes)
        self.each = self.inner == self.outer == 1 < groups  # channels that do not mix
        self.plain = math.prod(kernel) == 1 == max(geometry[1])  # each place is its own window

    def blocks(self, xp: Any) -> Iterator[slice]:
        """Slices of the batch whose windows together have about BLOCK entries, where blocking pays."""
        step = max(1, BLOCK // max(self.places * self.depth, 1)) if xp.blocked else max(self.batch, 1)
        return (slice(start, min(start + step, self.batch)) for start in range(0, self.batch, step))

    def shaped(self, batch: int, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of an image (batch, channels, sizes) in this layout."""
        whole = (batch, self.inner, *sizes)
        return tuple(whole[a] for a in self.image_axes)

    def matrix(self, xp: Any, weight: Any) -> Any:
        """The weight of one group as (outer, depth)."""
        return xp.permute_dims(weight, self.weight_axes).reshape(self.outer, self.depth)


class _Windows:
    """The windows of one block after the other, as a matrix (batch · places, depth) in memory used again."""

    def __init__(self, xp: Any, plan: _Plan, dtype: Any) -> None:
        self.xp, self.plan, self.dtype = xp, plan, dtype
        self.made: dict[int, tuple[Any, Any]] = {}

    def __call__(self, x: Any) -> Any:
        xp, plan = self.xp, self.plan
        batch = x.shape[0]
        x = xp.permute_dims(x, plan.image_axes)
        if batch not in self.made:
            cut = (batch, plan.inner, *plan.kernel, *plan.counts)
            columns = None if plan.plain else xp.empty([cut[a] for a in plan.window_axes], dtype=self.dtype)
            padded = None
            if plan.sizes != plan.own or not x.flags.c_contiguous:
                padded = xp.zeros(plan.shaped(batch, plan.sizes), dtype=self.dtype)
            self.made[batch] = padded, columns
        padded, columns = self.made[batch]
        if padded is not None:
            padded[(..., *plan.inside) if plan.first else (..., *plan.inside, slice(None))] = x
            x = padded
        if columns is None:
            columns = x
        else:
            cut = xp.cut_windows(xp.permute_dims(x, plan.back), plan.geometry)
            columns[...] = xp.permute_dims(cut, plan.window_axes)
        rows = batch * plan.places
        return columns.reshape(plan.depth, rows).T if plan.first else columns.reshape(rows, plan.depth)


def inverse(axes: Sequence[int]) -> tuple[int, ...]:
    return tuple(sorted(range(len(axes)), key=axes.__getitem__))


def _forward(
    xp: Any, x: Any, weight: Any, bias: Any, *, geometry: Geometry, padding: Padding, groups: int
) -> tuple[Any, None]:
    plan = _Plan(x, weight, geometry, padding, groups)
    out = xp.empty((plan.batch * plan.places, weight.shape[0]), dtype=x.dtype)
    if plan.each:
        out = depthwise.forward(xp, plan, x, weight, bias)
    for group in range(0 if plan.each else groups):
        own, inputs = _group(group, plan.outer), _group(group, plan.inner)
        matrix, windows = plan.matrix(xp, weight[own]).T, _Windows(xp, plan, x.dtype)
        for block in plan.blocks(xp):
            part = out[block.start * plan.places : block.stop * plan.places, own]
            xp.matmul(windows(x[block, inputs]), matrix, out=part)
            if bias is not None:
                part += bias[own]
    out = out.reshape(plan.batch, *plan.counts, weight.shape[0])
    return xp.permute_dims(out, (0, plan.axes + 1, *range(1, plan.axes + 1))), None


def _group(number: int, size: int) -> slice:
    return slice(number * size, (number + 1) * size)


def _pull(
    xp: Any,
    v: Any,
    needs: Any,
    arrays: Any,
    kept: None,
    into: Any,
    *,
    geometry: Geometry,
    padding: Padding,
    groups: int,
) -> list[Any]:
    x, weight, _ = arrays
    plan = _Plan(x, weight, geometry, padding, groups)
    v = xp.permute_dims(v, (0, *range(2, 2 + plan.axes), 1))
    v = v.reshape(plan.batch * plan.places, weight.shape[0])
    dx = dw = None
    if needs[0]:
        shape = (*x.shape[:2], *plan.own) if plan.first else (plan.batch, *plan.own, x.shape[1])
        dx = xp.empty(shape, dtype=x.dtype)
        dx = dx if plan.first else xp.permute_dims(dx, (0, plan.axes + 1, *range(1, plan.axes + 1)))
    if needs[1]:
        dw = xp.empty(weight.shape, dtype=weight.dtype) if into[1] is None else into[1]
    if plan.each:
        depthwise.pull(xp, plan, v.reshape(plan.batch, *plan.counts, len(weight)), x, weight, dx, dw)
    for group in range(0 if plan.each else groups):
        own, inputs = _group(group, plan.outer), _group(group, plan.inner)
        matrix, windows = plan.matrix(xp, weight[own]), _Windows(xp, plan, x.dtype)
        total = xp.zeros(matrix.shape, dtype=weight.dtype) if dw is not None else None
        for block in plan.blocks(xp):
            part = v[block.start * plan.places : block.stop * plan.places, own]
            if total is not None:
                total += xp.matmul(part.T, windows(x[block, inputs]))
            if dx is not None:
                _pull_image(xp, plan, part, matrix, dx[block, inputs])
        if dw is not None and total is not None:
            total = total.reshape([weight[own].shape[a] for a in plan.weight_axes])
            dw[own] = xp.permute_dims(total, inverse(plan.weight_axes))
    return [dx, dw, column_sums(xp, v, into[2]) if needs[2] else None]


def _pull_image(xp: Any, plan: _Plan, v: Any, matrix: Any, dx: Any) -> None:
    """Write into `dx`, a block, what its windows' cotangents v · matrix add up to."""
    batch = dx.shape[0]
    columns = xp.matmul(matrix.T, v.T) if plan.first else xp.matmul(v, matrix)
    if plan.plain:
        image = columns.reshape(plan.shaped(batch, plan.sizes))
    else:
        image = xp.zeros(plan.shaped(batch, plan.sizes), dtype=dx.dtype)
        places = (slice(None),) * (plan.axes + 1)
        if plan.first:
            columns = columns.reshape(plan.inner, *plan.kernel, batch, *plan.counts)
        else:
            columns = columns.reshape(batch, *plan.counts, *plan.kernel, plan.inner)
        for place, index in window_slices(plan.counts, plan.geometry):
            if plan.first:
                image[(..., *index)] += columns[(slice(None), *place)]
            else:
                image[(slice(None), *index)] += columns[(*places, *place)]
    inside = image[(..., *plan.inside) if plan.first else (..., *plan.inside, slice(None))]
    dx[...] = xp.permute_dims(inside, plan.back)


@fused(forward=_forward, pull=_pull)
def _convolution(
    x: Any, weight: Any, bias: Any, /, *, geometry: Geometry, padding: Padding, groups: int
) -> Tensor:
    """x (N, in, sizes) with weight (out, in / groups, kernel) and bias (out,) → (N, out, counts)."""
    cut = cut_windows(bordered(x, padding), geometry)  # (N, in, kernel, counts)
    axes, outer = len(padding), weight.shape[0]
    counts = cut.shape[2 + axes :]
    depth = math.prod(weight.shape[1:])
    columns = reshape(cut, (x.shape[0], groups, depth, math.prod(counts)))
    matrix = reshape(weight, (groups, outer // groups, depth))
    out = reshape(matmul(matrix, columns), (x.shape[0], outer, *counts))
    return out if bias is None else out + reshape(bias, (outer, *(1,) * axes))


def _convolve(
    name: str,
    axes: int,
    x: Any,
    weight: Any,
    bias: Any,
    stride: Sizes,
    padding: Sizes | str,
    dilation: Sizes,
    groups: int,
) -> Tensor:
    x = image(name, x, axes)
    weight = weight if isinstance(weight, Tensor) else Tensor(weight)
    _check(name, axes, x, weight, bias, groups, transposed=False)
    kernel = weight.shape[2:]
    stride, dilation = several(name, "stride", stride, axes), several(name, "dilation", dilation, axes)
    spans = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    if padding == "same":
        if max(stride) > 1:
            raise UsageError(f'{name}: padding="same" needs stride 1, got {stride}; give padding as numbers')
        sides = tuple((n // 2, n - n // 2) for n in spans)
    elif padding == "valid":
        sides = ((0, 0),) * axes
    elif isinstance(padding, str):
        raise UsageError(f'{name}: padding is "same", "valid" or numbers, not {padding!r}')
    else:
        sides = tuple((n, n) for n in several(name, "padding", padding, axes, least=0))
    geometry = (kernel, stride, dilation)
    fitting(name, [n + a + b for n, (a, b) in zip(x.shape[2:], sides, strict=True)], geometry)
    return _convolution(x, weight, bias, geometry=geometry, padding=sides, groups=groups)


def _check(name: str, axes: int, x: Any, weight: Any, bias: Any, groups: int, transposed: bool) -> None:
    """Raise ShapeError or UsageError where x, weight, bias and groups do not fit each other."""
    if type(groups) is not int or groups < 1:
        raise UsageError(f"{name}: groups is {groups!r}; expected a whole number from 1 up")
    spatial = "k" if axes == 1 else "kh, kw"
    layout = f"(in, out / groups, {spatial})" if transposed else f"(out, in / groups, {spatial})"
    if len(weight.shape) != axes + 2 or 0 in weight.shape:
        raise ShapeError(f"{name}: expected a weight {layout}, not empty; got {weight.shape}")
    first, second = weight.shape[0], weight.shape[1] * groups
    inner, outer = (first, second) if transposed else (second, first)
    if x.shape[1] != inner or first % groups:
        raise ShapeError(
            f"{name}: x has shape {x.shape}, and the weight {layout} {weight.shape} with groups={groups} "
            f"takes {inner} channels" + (f"; groups must divide {first}" if first % groups else "")
        )
    if bias is not None and tuple(bias.shape) != (outer,):
        raise ShapeError(f"{name}: expected a bias of shape {(outer,)}, got {tuple(bias.shape)}")


def conv1d(
    x: Any,
    weight: Any,
    bias: Any = None,
    /,
    *,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Tensor:
    """Convolution (without flipping the kernel, as in torch) along one axis.

    Shapes: x (N, in, L), weight (out, in / groups, k), bias (out,) or None → (N, out, (L + 2 padding -
    dilation (k - 1) - 1) // stride + 1). `padding` of zeros may be "same" (as many places as entries) or
    "valid" (none). Raises ShapeError and UsageError.
    """
    return _convolve("conv1d", 1, x, weight, bias, stride, padding, dilation, groups)


def conv2d(
    x: Any,
    weight: Any,
    bias: Any = None,
    /,
    *,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Tensor:
    """Convolution (without flipping the kernel, as in torch) over two axes.

    Shapes: x (N, in, H, W), weight (out, in / groups, kh, kw), bias (out,) or None → (N, out, H', W') with
    H' = (H + 2 padding - dilation (kh - 1) - 1) // stride + 1. Arguments are numbers or pairs; `padding` of
    zeros may be "same" or "valid". Raises ShapeError and UsageError.
    """
    return _convolve("conv2d", 2, x, weight, bias, stride, padding, dilation, groups)


def _convolve_transposed(
    name: str,
    axes: int,
    x: Any,
    weight: Any,
    bias: Any,
    stride: Sizes,
    padding: Sizes,
    output_padding: Sizes,
    dilation: Sizes,
    groups: int,
) -> Tensor:
    x = image(name, x, axes)
    weight = weight if isinstance(weight, Tensor) else Tensor(weight)
    _check(name, axes, x, weight, bias, groups, transposed=True)
    stride, dilation = several(name, "stride", stride, axes), several(name, "dilation", dilation, axes)
    sides = several(name, "padding", padding, axes, least=0)
    more = several(name, "output_padding", output_padding, axes, least=0)
    if any(n >= max(s, d) for n, s, d in zip(more, stride, dilation, strict=True)):
        raise UsageError(
            f"{name}: output_padding {more} must be smaller than the stride {stride} or dilation {dilation}"
        )
    kernel, counts = weight.shape[2:], x.shape[2:]
    sizes = [
        (n - 1) * s + d * (k - 1) + 1 + m
        for n, s, d, k, m in zip(counts, stride, dilation, kernel, more, strict=True)
    ]
    if 0 in counts or any(n <= 2 * p for n, p in zip(sizes, sides, strict=True)):
        raise ShapeError(f"{name}: x {x.shape} with padding {sides} leaves nothing of {tuple(sizes)}")
    inner, outer = weight.shape[0], weight.shape[1] * groups
    matrix = reshape(weight, (groups, inner // groups, math.prod(weight.shape[1:])))
    columns = reshape(x, (x.shape[0], groups, inner // groups, math.prod(counts)))
    cut = reshape(matmul(matrix_transpose(matrix), columns), (x.shape[0], outer, *kernel, *counts))
    # Entries that output_padding adds behind the last window may be many enough for one more: cut them apart.
    reached = [n - m for n, m in zip(sizes, more, strict=True)]
    whole = bordered(add_windows(cut, (kernel, stride, dilation), reached), [(0, m) for m in more])
    out = whole[(..., *(slice(p, n - p) for n, p in zip(sizes, sides, strict=True)))]
    return out if bias is None else out + reshape(bias, (outer, *(1,) * axes))


def conv_transpose1d(
    x: Any,
    weight: Any,
    bias: Any = None,
    /,
    *,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Tensor:
    """The transpose of `conv1d` as a linear map, and a bias: each entry of x adds its multiple of a kernel.

    Shapes: x (N, in, L), weight (in, out / groups, k), bias (out,) or None → (N, out, (L - 1) stride - 2
    padding + dilation (k - 1) + output_padding + 1). Raises ShapeError and UsageError.
    """
    return _convolve_transposed(
        "conv_transpose1d", 1, x, weight, bias, stride, padding, output_padding, dilation, groups
    )


def conv_transpose2d(
    x: Any,
    weight: Any,
    bias: Any = None,
    /,
    *,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Tensor:
    """The transpose of `conv2d` as a linear map, and a bias: each entry of x adds its multiple of a kernel.

    Shapes: x (N, in, H, W), weight (in, out / groups, kh, kw), bias (out,) or None → (N, out, H', W') with
    H' = (H - 1) stride - 2 padding + dilation (kh - 1) + output_padding + 1. Raises ShapeError and
    UsageError.
    """
    return _convolve_transposed(
        "conv_transpose2d", 2, x, weight, bias, stride, padding, output_padding, dilation, groups
    )
