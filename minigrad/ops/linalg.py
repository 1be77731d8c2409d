"""Matrix products."""

from __future__ import annotations

import math
from typing import Any

from minigrad.errors import ShapeError
from minigrad.operation import linear
from minigrad.ops.shape import expand_dims, reshape, squeeze
from minigrad.tensor import Tensor


@linear(
    x=lambda xp, v, y: xp.matmul(v, xp.matrix_transpose(y)),
    # y is most often a transpose (of a weight, of keys): what undoes that finds the entries in order.
    y=lambda xp, v, x: xp.matrix_transpose(xp.matmul(xp.matrix_transpose(v), x)),
)
def _matmul(xp: Any, x: Any, y: Any, /) -> Any:
    return xp.matmul(x, y)


def matmul(x: Any, y: Any, /) -> Tensor:
    """Matrix product over the last two axes, with broadcasting of the others; one-dimensional operands are
    vectors.

    Shapes: (..., n, k) @ (..., k, m) → (..., n, m).
    """
    x, y = (a if isinstance(a, Tensor) else Tensor(a) for a in (x, y))
    if not x.ndim or not y.ndim:
        raise ShapeError(f"matmul needs at least one axis on both sides, got shapes {x.shape} and {y.shape}")
    inner = y.shape[-2 if y.ndim > 1 else 0]
    if x.shape[-1] != inner:
        raise ShapeError(
            f"matmul: inner sizes differ: {x.shape} @ {y.shape}, {x.shape[-1]} ≠ {inner}; "
            "did you mean to transpose one of them (.mT)?"
        )
    if x.ndim == 1:
        return squeeze(matmul(expand_dims(x, axis=0), y), axis=-2 if y.ndim > 1 else -1)
    if y.ndim == 1:
        return squeeze(matmul(x, expand_dims(y, axis=1)), axis=-1)
    if (
        x.ndim > 2 and y.ndim == 2
    ):  # one large product instead of a stack of small ones, forwards and backwards
        return reshape(
            _matmul(reshape(x, (math.prod(x.shape[:-1]), x.shape[-1])), y), (*x.shape[:-1], y.shape[1])
        )
    return _matmul(x, y)
