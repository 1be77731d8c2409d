"""The linear algebra of the array API standard under its name there: `mg.linalg.inv(x)` is `mg.inv(x)`.

Complex results (`eig`) are left out.
"""

from __future__ import annotations

import builtins
from typing import Any

from minigrad import backend
from minigrad.ops import (
    astype,
    cholesky,
    cross,
    det,
    diagonal,
    eigh,
    eigvalsh,
    inv,
    matmul,
    matrix_norm,
    matrix_power,
    matrix_transpose,
    max,
    outer,
    pinv,
    qr,
    slogdet,
    solve,
    sum,
    svd,
    svdvals,
    tensordot,
    trace,
    vecdot,
    vector_norm,
)
from minigrad.tensor import Tensor

__all__ = [
    "cholesky",
    "cross",
    "det",
    "diagonal",
    "eigh",
    "eigvalsh",
    "inv",
    "matmul",
    "matrix_norm",
    "matrix_power",
    "matrix_rank",
    "matrix_transpose",
    "outer",
    "pinv",
    "qr",
    "slogdet",
    "solve",
    "svd",
    "svdvals",
    "tensordot",
    "trace",
    "vecdot",
    "vector_norm",
]


def matrix_rank(x: Any, /, *, rtol: float | None = None) -> Tensor:
    """How many singular values are larger than `rtol` times the largest: (..., m, n) → (...), a constant.

    `rtol` is max(m, n) times the smallest relative step of the dtype unless given.
    """
    values = svdvals(x).detach()
    if not values.shape[-1]:
        return sum(astype(values, "int64"), axis=-1)
    shape = Tensor(x).shape
    step = backend.numpy.finfo(values.dtype).eps
    share = float(step) * builtins.max(shape[-2:]) if rtol is None else rtol
    return sum(astype(values > share * max(values, axis=-1, keepdims=True), "int64"), axis=-1)
