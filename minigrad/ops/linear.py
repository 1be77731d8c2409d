"""The affine map y = x Wᵀ + b, fused: one large matrix product, the bias added in place."""

from __future__ import annotations

import math
from typing import Any

from minigrad.backend import host
from minigrad.errors import ShapeError
from minigrad.fused import fused
from minigrad.ops.linalg import matmul
from minigrad.ops.shape import matrix_transpose
from minigrad.tensor import Tensor

KEPT_ONES = 4096
_kept: dict[Any, Any] = {}


def _forward(xp: Any, x: Any, weight: Any, bias: Any) -> tuple[Any, None]:
    shape, taken = x.shape, weight.shape
    if shape[-1:] != taken[1:] or (bias is not None and bias.shape != taken[:1]):
        raise misfit(x, weight, bias)
    if len(shape) != 2:
        x = x.reshape(math.prod(shape[:-1]), shape[-1])
    out = xp.matmul(x, weight.T)
    if bias is not None:
        xp.add(out, bias, out=out)
    return out if len(shape) == 2 else out.reshape(*shape[:-1], taken[0]), None


def _pull(xp: Any, v: Any, needs: Any, arrays: Any, kept: None, into: Any) -> list[Any]:
    x, weight, _ = arrays
    dx = None
    if len(x.shape) == 2:
        dx = xp.matmul(v, weight) if needs[0] else None
    else:
        count = math.prod(x.shape[:-1])
        v = v.reshape(count, weight.shape[0])
        if needs[0]:
            dx = xp.empty(x.shape, dtype=x.dtype)
            xp.matmul(v, weight, out=dx.reshape(count, x.shape[-1]))
        x = x.reshape(count, x.shape[-1])
    dw = xp.matmul(v.T, x, out=into[1]) if needs[1] else None
    return [dx, dw, column_sums(xp, v, into[2]) if needs[2] else None]


def misfit(x: Any, weight: Any, bias: Any) -> ShapeError:
    """The error for what does not fit."""
    if not x.shape:
        return ShapeError(f"linear: expected (..., {weight.shape[-1]}), got a number, of shape ()")
    if len(weight.shape) == 2 and x.shape[-1:] != weight.shape[1:]:
        return ShapeError(
            f"linear: x has shape {x.shape}, and the weight takes {weight.shape[1]} features; "
            "is the layer before it of another width?"
        )
    return ShapeError(
        f"linear: expected a weight (out, in) and a bias (out,), got {weight.shape} and "
        f"{None if bias is None else bias.shape}"
    )


def column_sums(xp: Any, v: Any, out: Any = None) -> Any:
    """Sums over the rows of a matrix, into `out` if given: a product with ones is several times as fast as a
    sum over the first axis.
    """
    ones = row_of_ones(xp, v.shape[0], v.dtype)
    if out is None:
        return xp.matmul(ones, v)[0]
    xp.matmul(ones, v, out=out.reshape(1, v.shape[1]))
    return out


def row_of_ones(xp: Any, count: int, dtype: Any) -> Any:
    """Ones (1, count). Short ones on the host are kept: making them takes as long as a small layer's sums."""
    if xp is not host or count > KEPT_ONES:
        return xp.ones((1, count), dtype=dtype)
    kept = _kept.get(dtype)
    if kept is None:
        kept = _kept[dtype] = xp.ones((1, KEPT_ONES), dtype=dtype)
        kept.flags.writeable = False
    return kept[:, :count]


@fused(forward=_forward, pull=_pull)
def _linear(x: Any, weight: Any, bias: Any, /) -> Tensor:
    if x.shape[-1:] != weight.shape[1:] or (bias is not None and bias.shape != weight.shape[:1]):
        raise misfit(x, weight, bias)
    out = matmul(x, matrix_transpose(weight))
    return out if bias is None else out + bias


def linear(x: Any, weight: Any, bias: Any = None, /) -> Tensor:
    """y = x Wᵀ + b over the last axis.

    Shapes: x (..., in), weight (out, in), bias (out,) or None → (..., out). Raises ShapeError where they do
    not fit.
    """
    return _linear(x, weight, bias)
