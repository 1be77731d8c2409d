"""Convolution over one or two axes, and its transpose.

The composition is: cut out all windows, one matrix product, done. `convolution_blocks` is its fast path.
"""

from __future__ import annotations

import math
from typing import Any

from minigrad.backend_windows import Geometry
from minigrad.errors import ShapeError, UsageError
from minigrad.fused import fused
from minigrad.ops import convolution_blocks
from minigrad.ops.linalg import matmul
from minigrad.ops.shape import matrix_transpose, reshape
from minigrad.ops.windows import Sizes, add_windows, bordered, cut_windows, fitting, image, several
from minigrad.tensor import Tensor

__all__ = ["conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d"]


@fused(forward=convolution_blocks.forward, pull=convolution_blocks.pull)
def _convolution(
    x: Any, weight: Any, bias: Any, /, *, geometry: Geometry, padding: convolution_blocks.Padding, groups: int
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
