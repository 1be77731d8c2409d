"""Factorisations of matrices, and what is made of them: Cholesky, QR, singular values, eigenvalues.

Everything works on stacks of matrices in the last two axes, in float32 or float64. Derivatives: Murray,
Differentiation of the Cholesky decomposition (2016); Townsend, Differentiating the singular value
decomposition (2016); Giles, Collected matrix derivative results (2008).

Where two eigenvalues or singular values are equal, the vectors that belong to them are not functions of the
matrix: they may turn into each other at will. What depends on those vectors has derivative NaN there, even
where it does not depend on the turn: the rules cannot see that. Derivatives of the values, and of vectors of
other values, are right. Where two values nearly meet, derivatives of single vectors grow like 1 over the gap.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, cast

from minigrad.errors import UsageError
from minigrad.operation import general
from minigrad.ops.creation import zeros
from minigrad.ops.linalg import matmul
from minigrad.ops.matrices import along, eye, matrices, triangle
from minigrad.ops.shape import concat, matrix_transpose
from minigrad.tensor import Tensor

__all__ = ["cholesky", "qr", "svd", "svdvals", "pinv", "eigh", "eigvalsh"]


def _precision(x: Any) -> float:
    return 2.0**-52 if x.dtype == "float64" else 2.0**-23


def _over_gaps(xp: Any, x: Any, s: Any, sign: int = -1) -> Any:
    """x_ij / (s_j ± s_i) off the diagonal, and 0 on it. Where that divides by what is 0 but for rounding: NaN
    unless x_ij is 0.
    """
    if not s.shape[-1]:
        return x
    x = x * (1 - eye(x))
    d = along(xp, s) + sign * along(xp, s, rows=True)
    largest = along(xp, xp.max(xp.abs(s), axis=-1, keepdims=True))
    met = xp.abs(d) <= largest * (s.shape[-1] * _precision(s))
    unknown = xp.where(x == 0, xp.zeros_like(x), xp.zeros_like(x) + math.nan)
    return xp.where(met, unknown, x / xp.where(met, xp.ones_like(d), d))


def _symmetric(xp: Any, x: Any) -> Any:
    return (x + xp.matrix_transpose(x)) * 0.5


# ----- Cholesky and QR ----------------------------------------------------------------------------


def _half(xp: Any, x: Any) -> Any:
    """The lower triangle, with half of the diagonal."""
    return (triangle(xp, x, False) + triangle(xp, x, False, -1)) * 0.5


def _divided(xp: Any, x: Any, a: Any) -> Any:
    """x a⁻¹ for upper triangular a."""
    t = xp.matrix_transpose
    return t(xp.solve_triangular(t(a), t(x), upper=False))


def _pull_cholesky(xp: Any, v: Any, needs: Any, out: Any) -> tuple[Any]:
    t = xp.matrix_transpose
    inner = _half(xp, xp.matmul(t(out), v))
    left = xp.solve_triangular(t(out), inner, upper=True)
    return (_symmetric(xp, t(xp.solve_triangular(t(out), t(left), upper=True))),)


def _push_cholesky(xp: Any, tangents: Any, out: Any) -> Any:
    left = xp.solve_triangular(out, _symmetric(xp, tangents[0]), upper=False)
    return xp.matmul(out, _half(xp, _divided(xp, left, xp.matrix_transpose(out))))


@general(pull=_pull_cholesky, push=_push_cholesky)
def _cholesky(xp: Any, x: Any, /) -> Any:
    """Cholesky factors of symmetric parts, without checks."""
    return xp.cholesky(_symmetric(xp, x))


def cholesky(x: Any, /, *, upper: bool = False) -> Tensor:
    """The lower triangular L with L Lᵀ = x, for symmetric positive definite x (Lᵀ if `upper`).

    Of any x the symmetric part (x + xᵀ)/2 is taken, so gradients are symmetric. Raises MatrixError where it
    is not positive definite.
    """
    out = _cholesky(matrices("cholesky", x, square=True))
    return matrix_transpose(out) if upper else out


def _pull_qr(xp: Any, v: Any, needs: Any, out: Any) -> tuple[Any]:
    t, (q, r) = xp.matrix_transpose, out
    inner = xp.zeros_like(r)
    if v[1] is not None:
        inner = inner + xp.matmul(r, t(v[1]))
    if v[0] is not None:
        inner = inner - xp.matmul(t(v[0]), q)
    total = xp.matmul(q, triangle(xp, inner, False) + t(triangle(xp, inner, False, -1)))
    total = total if v[0] is None else total + v[0]
    return (t(xp.solve_triangular(r, t(total), upper=True)),)


def _push_qr(xp: Any, tangents: Any, out: Any) -> Any:
    t, (q, r) = xp.matrix_transpose, out
    moved = _divided(xp, tangents[0], r)
    inner = xp.matmul(t(q), moved)
    below = triangle(xp, inner, False, -1)
    upward = inner - below + t(below)
    return moved - xp.matmul(q, upward), xp.matmul(upward, r)


@general(pull=_pull_qr, push=_push_qr, several_outputs=True)
def _qr(xp: Any, x: Any, /) -> Any:
    """The reduced QR of matrices with no more columns than rows."""
    return xp.qr(x)


class QRResult(NamedTuple):
    """What `qr` returns."""

    Q: Tensor
    R: Tensor


def qr(x: Any, /, *, mode: Literal["reduced", "complete"] = "reduced") -> QRResult:
    """x = Q R, Q with orthonormal columns and R upper triangular (its signs are LAPACK's).

    Shapes: (..., m, n) → (..., m, k), (..., k, n) with k = min(m, n), or m where `mode` is "complete". The
    derivative needs the first min(m, n) columns to be independent: MatrixError where R has a 0 on its
    diagonal, and numbers without meaning where only rounding keeps it from that. Of the columns that complete
    Q, derivatives hold for what does not change when others are taken that complete it as well.
    """
    x = matrices("qr", x)
    if mode not in ("reduced", "complete"):
        raise UsageError(f"qr: mode is 'reduced' or 'complete', got {mode!r}")
    rows, columns = x.shape[-2:]
    if columns > rows:
        q, r = _qr(x[..., :rows])  # the other columns have no say in Q
        return QRResult(q, concat([r, matmul(matrix_transpose(q), x[..., rows:])], axis=-1))
    q, r = _qr(x)
    if mode == "reduced" or columns == rows:
        return QRResult(q, r)
    below = zeros((*x.shape[:-2], rows - columns, columns), dtype=r.dtype, device=r.device)
    return QRResult(_completed(q), concat([r, below], axis=-2))


def _pull_complement(xp: Any, v: Any, needs: Any, x: Any, out: Any) -> tuple[Any]:
    return (-xp.matmul(out, xp.matmul(xp.matrix_transpose(v), x)),)


def _push_complement(xp: Any, tangents: Any, x: Any, out: Any) -> Any:
    return -xp.matmul(x, xp.matmul(xp.matrix_transpose(tangents[0]), out))


@general(pull=_pull_complement, push=_push_complement)
def _complement(xp: Any, x: Any, /) -> Any:
    """Orthonormal columns (..., m, m - k) that complete those of x (..., m, k).

    With Q = [x, out], Qᵀ dQ is skew-symmetric, and so xᵀ d(out) = -(outᵀ dx)ᵀ; outᵀ d(out), the turn among
    the new columns themselves, is any, and none is taken.
    """
    return xp.complement(x)


def _completed(x: Tensor) -> Tensor:
    """Orthonormal columns, all of a square matrix."""
    return concat([x, _complement(x)], axis=-1)


# ----- Singular values ----------------------------------------------------------------------------


def _skew(xp: Any, x: Any) -> Any:
    return (x - xp.matrix_transpose(x)) * 0.5


def _pull_svd(xp: Any, v: Any, needs: Any, out: Any) -> tuple[Any]:
    t, (u, s, vh) = xp.matrix_transpose, out
    v_u, v_s, v_vh = v
    core = None
    if v_u is not None or v_vh is not None:
        a = xp.zeros_like(xp.matmul(vh, t(vh))) if v_u is None else xp.matmul(t(u), v_u)
        b = xp.zeros_like(a) if v_vh is None else xp.matmul(vh, t(v_vh))
        even, odd = _symmetric(xp, _over_gaps(xp, a + b, s)), _skew(xp, _over_gaps(xp, a - b, s, 1))
        core = xp.matmul(even + odd, vh)
    if v_s is not None:
        straight = along(xp, v_s, rows=True) * vh
        core = straight if core is None else core + straight
    total = xp.matmul(u, core)
    if v_u is not None and u.shape[-2] > u.shape[-1]:
        total = total + xp.matmul((v_u - xp.matmul(u, xp.matmul(t(u), v_u))) / along(xp, s), vh)
    if v_vh is not None and vh.shape[-1] > vh.shape[-2]:
        rest = v_vh - xp.matmul(xp.matmul(v_vh, t(vh)), vh)
        total = total + xp.matmul(u, rest / along(xp, s, rows=True))
    return (total,)


def _push_svd(xp: Any, tangents: Any, out: Any) -> Any:
    t, (u, s, vh) = xp.matrix_transpose, out
    moved = tangents[0]
    right, left = xp.matmul(moved, t(vh)), xp.matmul(t(u), moved)
    inner = xp.matmul(t(u), right)
    even, odd = _over_gaps(xp, _symmetric(xp, inner), s), _over_gaps(xp, _skew(xp, inner), s, 1)
    d_u, d_vh = xp.matmul(u, even + odd), xp.matmul(odd - even, vh)
    if u.shape[-2] > u.shape[-1]:
        d_u = d_u + (right - xp.matmul(u, inner)) / along(xp, s)
    if vh.shape[-1] > vh.shape[-2]:
        d_vh = d_vh + (left - xp.matmul(inner, vh)) / along(xp, s, rows=True)
    return d_u, xp.sum(u * right, axis=-2), d_vh


@general(pull=_pull_svd, push=_push_svd, several_outputs=True)
def _svd(xp: Any, x: Any, /) -> Any:
    """The reduced singular value decomposition, without checks."""
    return xp.svd(x)


class SVDResult(NamedTuple):
    """What `svd` returns."""

    U: Tensor
    S: Tensor
    Vh: Tensor


def svd(x: Any, /, *, full_matrices: bool = True) -> SVDResult:
    """x = U diag(S) Vh, the singular values S in descending order, with as many vectors as there are.

    Shapes: (..., m, n) → (..., m, m), (..., k), (..., n, n) with k = min(m, n), or, without `full_matrices`,
    the k vectors that belong to values: (..., m, k), (..., k), (..., k, n). The signs of the vectors are
    LAPACK's. Derivatives of vectors of a matrix that is not square need S > 0; of the vectors beyond the k-th
    they hold for what does not change when others are taken that complete these as well.
    """
    u, s, vh = _svd(matrices("svd", x))
    if full_matrices and u.shape[-2] > u.shape[-1]:
        u = _completed(u)
    if full_matrices and vh.shape[-1] > vh.shape[-2]:
        vh = matrix_transpose(_completed(matrix_transpose(vh)))
    return SVDResult(u, s, vh)


def svdvals(x: Any, /) -> Tensor:
    """The singular values, in descending order: (..., m, n) → (..., min(m, n))."""
    return cast("Tensor", _svd(matrices("svdvals", x))[1])


def _chain(xp: Any, a: Any, b: Any, c: Any) -> Any:
    """a b c, multiplied in the cheaper order."""
    (rows, left), (right, columns) = a.shape[-2:], c.shape[-2:]
    if rows * right * (left + columns) <= left * columns * (right + rows):
        return xp.matmul(xp.matmul(a, b), c)
    return xp.matmul(a, xp.matmul(b, c))


def _turn_pinv(xp: Any, v: Any, x: Any, out: Any) -> Any:
    """What both rules have in common: v, of the shape of x, carried to the shape of `out`."""
    t = xp.matrix_transpose
    outward = t(v) - _chain(xp, t(v), x, out)
    inward = t(v) - _chain(xp, out, x, t(v))
    bent = _chain(xp, out, t(out), outward) + _chain(xp, inward, t(out), out)
    return bent - _chain(xp, out, v, out)


def _pull_pinv(xp: Any, v: Any, needs: Any, x: Any, out: Any) -> tuple[Any]:
    t = xp.matrix_transpose
    return (_turn_pinv(xp, v, t(x), t(out)),)


def _push_pinv(xp: Any, tangents: Any, x: Any, out: Any) -> Any:
    return _turn_pinv(xp, tangents[0], x, out)


@general(pull=_pull_pinv, push=_push_pinv)
def _pinv(xp: Any, x: Any, /, *, tolerance: float) -> Any:
    """Pseudo-inverses, with singular values up to `tolerance` of the largest taken as zero."""
    u, s, vh = xp.svd(x)
    kept = s > tolerance * s[..., :1]
    inverse = xp.where(kept, 1 / xp.where(kept, s, xp.ones_like(s)), xp.zeros_like(s))
    return xp.matmul(xp.matrix_transpose(vh) * along(xp, inverse), xp.matrix_transpose(u))


def pinv(x: Any, /, *, rtol: float | None = None) -> Tensor:
    """The Moore-Penrose inverse: (..., m, n) → (..., n, m).

    Singular values up to `rtol` times the largest count as zero (by default max(m, n) times the precision of
    the dtype). The derivative is that at constant rank, of Golub & Pereyra (1973).
    """
    x = matrices("pinv", x)
    longest = x.shape[-1] if x.shape[-1] > x.shape[-2] else x.shape[-2]
    return _pinv(x, tolerance=longest * _precision(x) if rtol is None else rtol)


# ----- Eigenvalues --------------------------------------------------------------------------------


def _pull_eigh(xp: Any, v: Any, needs: Any, out: Any) -> tuple[Any]:
    t, (values, q) = xp.matrix_transpose, out
    core = None
    if v[1] is not None:
        core = xp.matmul(q, _over_gaps(xp, xp.matmul(t(q), v[1]), values))
    if v[0] is not None:
        straight = q * along(xp, v[0])
        core = straight if core is None else core + straight
    return (_symmetric(xp, xp.matmul(core, t(q))),)


def _push_eigh(xp: Any, tangents: Any, out: Any) -> Any:
    values, q = out
    moved = xp.matmul(_symmetric(xp, tangents[0]), q)
    turn = _over_gaps(xp, xp.matmul(xp.matrix_transpose(q), moved), values)
    return xp.sum(q * moved, axis=-2), xp.matmul(q, turn)


@general(pull=_pull_eigh, push=_push_eigh, several_outputs=True)
def _eigh(xp: Any, x: Any, /) -> Any:
    """Eigenvalues and eigenvectors of symmetric parts, without checks."""
    return xp.eigh(_symmetric(xp, x))


class EighResult(NamedTuple):
    """What `eigh` returns."""

    eigenvalues: Tensor
    eigenvectors: Tensor


def eigh(x: Any, /) -> EighResult:
    """Eigenvalues (ascending) and orthonormal eigenvectors (columns) of symmetric matrices.

    Shapes: (..., n, n) → (..., n), (..., n, n). Of any x the symmetric part (x + xᵀ)/2 is taken, so gradients
    are symmetric. The signs of the vectors are LAPACK's.
    """
    return EighResult(*_eigh(matrices("eigh", x, square=True)))


def eigvalsh(x: Any, /) -> Tensor:
    """The eigenvalues of symmetric matrices, ascending: (..., n, n) → (..., n)."""
    return eigh(x).eigenvalues
