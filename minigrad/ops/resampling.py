"""Images at other places: interpolation to another size, and sampling along a grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from minigrad import backend
from minigrad.errors import ShapeError, UsageError
from minigrad.ops.creation import arange
from minigrad.ops.elementwise import equal, maximum, minimum, where
from minigrad.ops.indexing import take, weighted_rows
from minigrad.ops.linalg import matmul
from minigrad.ops.shape import broadcast_to, expand_dims, permute_dims, reshape, stack
from minigrad.ops.windows import image, several
from minigrad.tensor import Tensor

__all__ = ["affine_grid", "grid_sample", "interpolate"]


# ----- Interpolation ------------------------------------------------------------------------------


def interpolate(
    x: Any,
    /,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    *,
    mode: str = "nearest",
    align_corners: bool = False,
) -> Tensor:
    """x (N, C, L) or (N, C, H, W) at another `size`, or at ⌊size · scale_factor⌋, as in torch.

    `mode` is "nearest", or "linear" for one axis and "bilinear" for two. Entry i of o lies at (i + ½) n/o - ½
    of n entries (1/scale_factor in place of n/o, where given); with `align_corners` at i (n - 1)/(o - 1), so
    that first and last entries stay. Raises ShapeError, DTypeError and UsageError.
    """
    axes = getattr(x, "ndim", 0) - 2
    axes = axes if axes in (1, 2) else 2
    x = image("interpolate", x, axes)
    smooth = {1: "linear", 2: "bilinear"}[axes]
    if mode not in ("nearest", smooth):
        raise UsageError(
            f'interpolate: mode is "nearest" or "{smooth}" for {axes + 2} dimensions, not {mode!r}'
        )
    if mode == "nearest" and align_corners:
        raise UsageError(f'interpolate: align_corners is for mode="{smooth}", not for "nearest"')
    sizes, ratios = _target(x.shape[2:], size, scale_factor)
    if 0 in x.shape[2:]:
        raise ShapeError(f"interpolate: x has shape {x.shape}; an axis without entries has none between them")
    for axis, (o, ratio) in enumerate(zip(sizes, ratios, strict=True), 2):
        n = x.shape[axis]
        if mode == "nearest":
            x = _nearest(x, axis, [i * n // o if ratio is None else int(i * ratio) for i in range(o)])
        elif o != n or (ratio is not None and ratio != 1):
            x = _linear(x, axis, _places(n, o, ratio, align_corners))
    return x


def _target(lengths: Sequence[int], size: Any, factor: Any) -> tuple[tuple[int, ...], list[float | None]]:
    """The sizes asked for, and the step between their entries where a factor says it."""
    axes = len(lengths)
    if (size is None) == (factor is None):
        raise UsageError(f"interpolate: give size or scale_factor, one of them; got {size!r} and {factor!r}")
    if factor is None:
        return several("interpolate", "size", size, axes), [None] * axes
    factors = tuple(factor) if isinstance(factor, Sequence) else (factor,) * axes
    if len(factors) != axes or any(n * f < 1 for n, f in zip(lengths, factors, strict=False)):
        raise UsageError(
            f"interpolate: scale_factor {factor!r} for an image {tuple(lengths)}; "
            f"expected a number or {axes} of them that leave at least one entry"
        )
    return tuple(math.floor(n * f) for n, f in zip(lengths, factors, strict=True)), [1 / f for f in factors]


def _places(n: int, o: int, ratio: float | None, align: bool) -> list[float]:
    if align:
        return [i * (n - 1) / (o - 1) if o > 1 else 0.0 for i in range(o)]
    step = n / o if ratio is None else ratio
    return [min(max((i + 0.5) * step - 0.5, 0.0), float(n - 1)) for i in range(o)]


def _nearest(x: Tensor, axis: int, indices: list[int]) -> Tensor:
    n, o = x.shape[axis], len(indices)
    if o % n == 0 and indices == [i * n // o for i in range(o)]:  # each entry o / n times
        before, after = x.shape[:axis], x.shape[axis + 1 :]
        return reshape(
            broadcast_to(expand_dims(x, axis=axis + 1), (*before, n, o // n, *after)), (*before, o, *after)
        )
    return _take(x, axis, [min(i, n - 1) for i in indices])


def _linear(x: Tensor, axis: int, places: list[float]) -> Tensor:
    low = [math.floor(p) for p in places]
    high = [min(i + 1, x.shape[axis] - 1) for i in low]
    weights = [p - i for p, i in zip(places, low, strict=True)]
    share = Tensor.of(backend.asarray(weights, dtype=x.dtype, device=x.device))
    share = reshape(share, (len(places), *(1,) * (x.ndim - axis - 1)))
    first = _take(x, axis, low)
    return first + share * (_take(x, axis, high) - first)


def _take(x: Tensor, axis: int, indices: list[int]) -> Tensor:
    """The entries at `indices` along `axis`, taken as rows: the fast way back adds rows."""
    order = (axis, *(a for a in range(x.ndim) if a != axis))
    where_to = tuple(order.index(a) for a in range(x.ndim))
    rows = take(permute_dims(x, order), backend.asarray(indices, dtype="int64", device=x.device))
    return permute_dims(rows, where_to)


# ----- Grids --------------------------------------------------------------------------------------


def affine_grid(theta: Any, /, size: Sequence[int], *, align_corners: bool = False) -> Tensor:
    """Where an affine map takes the places of an image: theta (N, 2, 3) and size (N, C, H, W) → (N, H, W, 2).

    Places are (x, y) between -1 and 1; these are the centres of the outermost entries with `align_corners`,
    their outer edges without. Raises ShapeError and UsageError.
    """
    theta = theta if isinstance(theta, Tensor) else Tensor(theta)
    batch, _, height, width = several("affine_grid", "size", size, 4, least=0)
    if theta.shape != (batch, 2, 3):
        raise ShapeError(f"affine_grid: size {tuple(size)} needs theta {(batch, 2, 3)}, got {theta.shape}")
    xs, ys = (_line(n, align_corners, theta) for n in (width, height))
    columns = [
        broadcast_to(expand_dims(xs, axis=0), (height, width)),
        broadcast_to(expand_dims(ys, axis=1), (height, width)),
    ]
    ones = columns[0] * 0.0 + 1.0
    places = reshape(stack([*columns, ones], axis=-1), (height * width, 3))
    return reshape(matmul(places, theta.mT), (batch, height, width, 2))


def _line(n: int, align: bool, like: Tensor) -> Tensor:
    """n places from -1 to 1, on them or half a step inside."""
    if align:
        values = [2 * i / (n - 1) - 1 if n > 1 else 0.0 for i in range(n)]
    else:
        values = [(2 * i + 1) / n - 1 for i in range(n)]
    return Tensor.of(backend.asarray(values, dtype=like.dtype, device=like.device))


def grid_sample(
    x: Any,
    grid: Any,
    /,
    *,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
) -> Tensor:
    """x (N, C, H, W) at the places of `grid` (N, H', W', 2) → (N, C, H', W'), as in torch.

    Places are (x, y) as in `affine_grid`. `mode` is "bilinear" or "nearest" (halves to the even side, and no
    derivative in the grid); outside, x is 0 ("zeros") or continues its edge ("border"). Kinks: at the centres
    of entries, where the derivative in the grid is the one to the right; NaN lies outside. Raises ShapeError,
    DTypeError and UsageError.
    """
    x, grid = image("grid_sample", x, 2), grid if isinstance(grid, Tensor) else Tensor(grid)
    if grid.ndim != 4 or grid.shape[0] != x.shape[0] or grid.shape[3] != 2:
        raise ShapeError(f"grid_sample: x {x.shape} needs a grid ({x.shape[0]}, H, W, 2), got {grid.shape}")
    if mode not in ("bilinear", "nearest"):
        raise UsageError(f'grid_sample: mode is "bilinear" or "nearest", not {mode!r}')
    if padding_mode not in ("zeros", "border"):
        raise UsageError(f'grid_sample: padding_mode is "zeros" or "border", not {padding_mode!r}')
    batch, channels, height, width = x.shape
    if not height or not width:
        raise ShapeError(f"grid_sample: x has shape {x.shape}; an image without entries has none to sample")
    rows = reshape(permute_dims(x, (0, 2, 3, 1)), (batch * height * width, channels))
    zeros = padding_mode == "zeros"
    across, down = (
        _corners(grid[..., k], n, mode, zeros, align_corners) for k, n in enumerate((width, height))
    )
    starts = reshape(arange(batch, device=x.device), (batch, 1, 1)).data * height
    pairs = [
        (Tensor.of((starts + row) * width + column), row_share * column_share)
        for row, row_share in down
        for column, column_share in across
    ]
    places, shares = (reshape(stack(parts, axis=-1), (-1, len(pairs))) for parts in zip(*pairs, strict=True))
    total = reshape(weighted_rows(rows, places, shares), (*grid.shape[:3], channels))
    return permute_dims(total, (0, 3, 1, 2))


def _corners(place: Tensor, n: int, mode: str, zeros: bool, align: bool) -> list[tuple[Any, Tensor]]:
    """The neighbours of each place on an axis of n entries: their indices, and their shares of the result."""
    place = (place + 1.0) * ((n - 1) / 2) if align else ((place + 1.0) * float(n) - 1.0) * 0.5
    place = where(equal(place, place), place, -1.0)
    place = minimum(maximum(place, -1.0), float(n)) if zeros else minimum(maximum(place, 0.0), float(n - 1))
    fixed = place.detach()
    xp = backend.namespace(fixed.data)
    low = Tensor.of((xp.floor if mode == "bilinear" else xp.round)(fixed.data))
    if mode == "nearest":
        pairs = [(low, low * 0.0 + 1.0)]
    else:
        share = place - low
        pairs = [(low, 1.0 - share), (low + 1.0, share)]
    corners = []
    for index, part in pairs:
        inside = minimum(maximum(index, 0.0), float(n - 1))
        if zeros:
            part = part * equal(index, inside).astype(part.dtype)
        corners.append((inside.data.astype("int64"), part))
    return corners
