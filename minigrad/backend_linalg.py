"""Linear algebra of the array libraries: under one name, with one set of conventions, for each of them.

Everything works on stacks of matrices in the last two axes. Factorisations are reduced. What has no solution
raises MatrixError on the host; on a GPU nothing is looked at, and the result is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy
import scipy.linalg
from scipy.linalg import blas

from minigrad.errors import MatrixError
from minigrad.meter import state

Adding = Callable[[Any, Any, Any], None]


class LinearAlgebra:
    """Functions over the `linalg` module of a library that follows the array API standard, or NumPy."""

    module: Any

    def linalg(self, name: str, *arrays: Any, **keywords: Any) -> Any:
        """Call a function of the library's `linalg`. Raises MatrixError where the values do not allow it."""
        try:
            return getattr(self.module.linalg, name)(*arrays, **keywords)
        except numpy.linalg.LinAlgError as error:
            shapes = " and ".join(str(array.shape) for array in arrays)
            raise MatrixError(f"{name} of shape {shapes}: {error}") from error

    def product(self, dtype: Any) -> Any:
        """`matmul` for arrays of this dtype."""
        xp: Any = self
        return xp.matmul

    def adding(self, dtype: Any, samples: int) -> Adding:
        """What adds v xᵀ to `out` in place, for v (m, samples), x (n, samples) and out (m, n) of a dtype, or
        for x (samples,) and out (m,).
        """
        xp: Any = self

        def add(v: Any, x: Any, out: Any) -> None:
            xp.add_matmul(v, x.T, out)

        return add

    def add_matmul(self, x: Any, y: Any, out: Any) -> None:
        """Add x @ y to `out`, in place."""
        xp: Any = self
        out += xp.matmul(x, y)

    def axpby(self, a: Any, x: Any, b: Any, y: Any, space: Any) -> None:
        """y ← a·x + b·y in place, for x and y of one shape and numbers a and b. `space` is work space like y,
        and may be x.
        """
        xp: Any = self
        if b != 1.0:
            y *= b
        y += xp.multiply(x, a, out=space)

    def inv(self, x: Any) -> Any:
        return self.linalg("inv", x)

    def det(self, x: Any) -> Any:
        return self.linalg("det", x)

    def slogdet(self, x: Any) -> Any:
        return self.linalg("slogdet", x)

    def cholesky(self, x: Any) -> Any:
        return self.linalg("cholesky", x)

    def eigh(self, x: Any) -> Any:
        return self.linalg("eigh", x)

    def qr(self, x: Any) -> Any:
        return self.linalg("qr", x)

    def svd(self, x: Any) -> Any:
        return self.linalg("svd", x, full_matrices=False)

    def complement(self, x: Any) -> Any:
        """Orthonormal columns that complete those of x."""
        return self.linalg("qr", x, mode="complete")[0][..., x.shape[-1] :]

    def solve(self, a: Any, b: Any) -> Any:
        """Solve a x = b for matrices b (never vectors), broadcasting the leading axes."""
        if a.shape[:-2] != b.shape[:-2]:
            lead = numpy.broadcast_shapes(a.shape[:-2], b.shape[:-2])
            xp: Any = self
            a = xp.broadcast_to(a, (*lead, *a.shape[-2:]))
            b = xp.broadcast_to(b, (*lead, *b.shape[-2:]))
        return self.linalg("solve", a, b)

    def solve_triangular(self, a: Any, b: Any, *, upper: bool) -> Any:
        """Solve a x = b with one triangle of a, the other taken as zero."""
        xp: Any = self
        return self.solve(xp.triu(a) if upper else xp.tril(a), b)

    def cofactor(self, x: Any) -> Any:
        """The matrix of cofactors, det(x) x⁻ᵀ where x is invertible, without a division.

        With x = U diag(s) Vᵀ it is det(U) det(V) U diag(∏ of the other s) Vᵀ.
        """
        xp: Any = self
        u, s, vh = self.svd(x)
        lead, n = x.shape[:-2], x.shape[-1]
        rows = xp.broadcast_to(xp.reshape(s, (*lead, 1, n)), (*lead, n, n))
        others = xp.prod(xp.where(xp.eye(n, dtype=x.dtype) == 1, xp.ones_like(rows), rows), axis=-1)
        others = xp.reshape(others, (*lead, 1, n)) * xp.reshape(self.det(u) * self.det(vh), (*lead, 1, 1))
        return xp.matmul(u * others, vh)


FEW = 256
_PRODUCTS = {"f": (blas.sgemm, blas.sgemv), "d": (blas.dgemm, blas.dgemv)}


@cache
def _get_along() -> bool:
    """Whether SciPy's BLAS can be called between NumPy's, as threads were set before the first product: those
    of two libraries that wait for their next one take the cores from each other.
    """
    from threadpoolctl import ThreadpoolController

    pools = ThreadpoolController().select(user_api="blas").lib_controllers
    return len(pools) < 2 or any(pool.num_threads == 1 for pool in pools)


class HostLinearAlgebra(LinearAlgebra):
    """What is faster where values can be looked at."""

    def product(self, dtype: Any) -> Any:
        """Nothing stands in front of NumPy's own function (or MKL's) where its result has that dtype."""
        if dtype.kind != "f":
            return super().product(dtype)
        return vars(self).get("matmul", numpy.matmul)

    def adding(self, dtype: Any, samples: int) -> Adding:
        """Of few samples, where adding is a large part of the work: by BLAS, which adds as it multiplies.

        NumPy has no name for that, so it takes a product, and a pass over it and `out`.
        """
        if dtype.char not in _PRODUCTS or not 0 < samples <= FEW or not _get_along():
            return super().adding(dtype, samples)
        gemm, gemv = _PRODUCTS[dtype.char]

        def add(v: Any, x: Any, out: Any) -> None:
            if not out.size:
                return
            down = not v.flags.c_contiguous
            if out.ndim == 1:
                turned, sums = out, gemv(1.0, v if down else v.T, x, 1.0, out, 0, 1, 0, 1, not down, 1)
            else:
                across = x.flags.c_contiguous
                turned = out.T  # BLAS wants columns one after the other: of outᵀ += x vᵀ all are such views
                sums = gemm(1.0, x.T if across else x, v if down else v.T, 1.0, turned, across, down, 1)
            if sums is not turned:  # entries of `out` lie apart
                turned[...] = sums

        return add

    def solve_triangular(self, a: Any, b: Any, *, upper: bool) -> Any:
        if a.ndim > 2 or b.ndim > 2 or not b.size:  # stacks, in one call
            return super().solve_triangular(a, b, upper=upper)
        try:
            return scipy.linalg.solve_triangular(a, b, lower=not upper, check_finite=False)
        except numpy.linalg.LinAlgError as error:
            raise MatrixError(f"solve_triangular of shape {a.shape} and {b.shape}: {error}") from error

    def cofactor(self, x: Any) -> Any:
        """By the inverse where that is good to two thirds of all digits, else by singular values."""
        try:
            inverse = numpy.linalg.inv(x)
        except numpy.linalg.LinAlgError:
            return super().cofactor(x)
        sizes = [numpy.abs(a).sum(axis=-1).max(axis=-1, initial=0.0) for a in (x, inverse)]
        if not numpy.all(sizes[0] * sizes[1] < numpy.finfo(x.dtype).eps ** (-1 / 3)):
            return super().cofactor(x)
        return self.det(x)[..., None, None] * inverse.swapaxes(-1, -2)


class ShapeLinearAlgebra:
    """The shapes of the results, and the FLOPs of the usual algorithms (Golub & Van Loan, Matrix
    Computations).
    """

    def _factored(self, name: str, flops: float, inputs: Sequence[Any], *shapes: Sequence[int]) -> Any:
        dtype = numpy.result_type(*(x.dtype for x in inputs))
        results = tuple(type(inputs[0])(shape, dtype) for shape in shapes)
        state.meter.compute(name, round(flops), *inputs, *results)
        return results if len(results) > 1 else results[0]

    def _square(self, name: str, share: float, x: Any, *shapes: Sequence[int]) -> Any:
        return self._factored(name, share * x.size * x.shape[-1], [x], *shapes)

    def inv(self, x: Any) -> Any:
        return self._square("inv", 2, x, x.shape)

    cofactor = inv

    def det(self, x: Any) -> Any:
        return self._square("det", 2 / 3, x, x.shape[:-2])

    def slogdet(self, x: Any) -> Any:
        return self._square("slogdet", 2 / 3, x, x.shape[:-2], x.shape[:-2])

    def cholesky(self, x: Any) -> Any:
        return self._square("cholesky", 1 / 3, x, x.shape)

    def eigh(self, x: Any) -> Any:
        return self._square("eigh", 9, x, x.shape[:-1], x.shape)

    def qr(self, x: Any) -> Any:
        *lead, m, n = x.shape
        k = min(m, n)
        flops = math.prod(lead) * (4 * m * n * k - 4 / 3 * k**3)
        return self._factored("qr", flops, [x], (*lead, m, k), (*lead, k, n))

    def complement(self, x: Any) -> Any:
        *lead, m, k = x.shape
        flops = math.prod(lead) * (4 * m * m * k - 4 * m * k * k + 4 / 3 * k**3)
        return self._factored("complement", flops, [x], (*lead, m, m - k))

    def svd(self, x: Any) -> Any:
        *lead, m, n = x.shape
        k = min(m, n)
        flops = math.prod(lead) * (14 * m * n * k + 8 * k**3)
        return self._factored("svd", flops, [x], (*lead, m, k), (*lead, k), (*lead, k, n))

    def solve(self, a: Any, b: Any) -> Any:
        lead, n = numpy.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-1]
        flops = math.prod(lead) * (2 / 3 * n**3 + 2 * n * n * b.shape[-1])
        return self._factored("solve", flops, [a, b], (*lead, n, b.shape[-1]))

    def solve_triangular(self, a: Any, b: Any, *, upper: bool) -> Any:
        lead, n = numpy.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-1]
        flops = math.prod(lead) * n * n * b.shape[-1]
        return self._factored("solve_triangular", flops, [a, b], (*lead, n, b.shape[-1]))
