"""Linear algebra with matrices as a whole: determinants, inverses, powers, systems of equations.

Everything works on stacks of matrices in the last two axes, in float32 or float64. Derivatives: Giles,
Collected matrix derivative results for forward and reverse mode (2008); of cofactors as derived below. Raises
ShapeError where the matrices are not square, MatrixError where their values allow no result.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from minigrad import backend
from minigrad.errors import DTypeError, ShapeError
from minigrad.operation import general
from minigrad.ops.elementwise import where
from minigrad.ops.linalg import matmul
from minigrad.ops.reductions import sum
from minigrad.ops.shape import broadcast_to, concat, expand_dims, matrix_transpose, reshape, squeeze, stack
from minigrad.tensor import Tensor

__all__ = ["cofactor", "det", "slogdet", "inv", "solve", "solve_triangular", "matrix_power"]


def matrices(name: str, x: Any, *, square: bool = False) -> Tensor:
    """x as a Tensor, if it holds (square) matrices of floating-point numbers."""
    x = x if isinstance(x, Tensor) else Tensor(x)
    if x.ndim < 2 or (square and x.shape[-1] != x.shape[-2]):
        kind = "square matrices" if square else "matrices"
        raise ShapeError(f"{name} needs {kind} in the last two axes, got shape {x.shape}")
    if x.dtype.name not in ("float32", "float64"):
        raise DTypeError(
            f"{name} computes in float32 or float64, got {x.dtype}; convert with mg.astype(x, 'float32')"
        )
    return x


def along(xp: Any, s: Any, *, rows: bool = False) -> Any:
    """A vector for each matrix, to be multiplied into its columns (or rows): diag(s) without a matrix."""
    return xp.reshape(s, (*s.shape, 1) if rows else (*s.shape[:-1], 1, s.shape[-1]))


# ----- Determinants -------------------------------------------------------------------------------


def eye(x: Any) -> Any:
    """The identity of the size of x, of the same kind."""
    array = x.data if isinstance(x, Tensor) else x
    made = backend.namespace(array).eye(x.shape[-1], dtype=x.dtype)
    return Tensor.of(made) if isinstance(x, Tensor) else made


def _turn_cofactor(xp: Any, v: Any, x: Any) -> Any:
    """The second derivative of det along v: symmetric, so that one rule serves both walks.

    With x = U diag(s) Vᵀ and e = Uᵀ v V it is ± U (diag(P diag(e)) - P∘eᵀ) Vᵀ, where P_ij is the product of
    all s but s_i and s_j, and P_ii = 0: no division, so it holds at singular matrices of any rank. To be
    differentiated again (the third derivative of det), it is written with minors, at the price of n² smaller
    cofactors.
    """
    if isinstance(x, Tensor):
        return _turn_by_minors(v, x)
    u, s, vh = xp.svd(x)
    right = xp.matmul(v, xp.matrix_transpose(vh))
    one = eye(x)
    others = xp.zeros_like(x) + (1 - one)
    for k in range(x.shape[-1]):
        row = one[k : k + 1, :]
        spared = row + xp.matrix_transpose(row) - row * xp.matrix_transpose(row)
        factor = along(xp, s[..., k : k + 1])
        others = others * (spared + (1 - spared) * factor)
    diagonal = xp.matmul(others, along(xp, xp.sum(u * right, axis=-2), rows=True))
    turned = u * xp.matrix_transpose(diagonal) - xp.matmul(
        u, others * xp.matmul(xp.matrix_transpose(right), u)
    )
    sign = xp.sign(xp.det(u) * xp.det(vh))
    return xp.matmul(turned * xp.reshape(sign, (*sign.shape, 1, 1)), vh)


def _turn_by_minors(v: Tensor, x: Tensor) -> Tensor:
    """The same: each cofactor is a determinant, whose derivative is the cofactors of its own matrix."""
    n = x.shape[-1]
    if not n:
        return x * v
    places = [(i, j) for i in range(n) for j in range(n)]

    def minors(z: Tensor) -> Tensor:  # cyclic: from the row and the column after the one left out
        z = concat([z, z], axis=-1)
        z = concat([z, z], axis=-2)
        return stack([z[..., i + 1 : i + n, j + 1 : j + n] for i, j in places], axis=-3)

    signs = Tensor([(-1.0) ** ((n - 1) * (i + j)) for i, j in places], dtype=x.dtype, device=x.device)
    turned = sum(cofactor(minors(x)) * minors(v), axis=(-2, -1)) * signs
    return reshape(turned, x.shape)


@general(
    pull=lambda xp, v, needs, x: (_turn_cofactor(xp, v, x),),
    push=lambda xp, tangents, x: _turn_cofactor(xp, tangents[0], x),
)
def _cofactor(xp: Any, x: Any, /) -> Any:
    """Cofactors of square matrices, without checks."""
    return xp.cofactor(x)


def cofactor(x: Any, /) -> Tensor:
    """The matrix of cofactors: det(x) x⁻ᵀ, and finite at singular matrices too. It is the gradient of det."""
    return _cofactor(matrices("cofactor", x, square=True))


def _scaled(xp: Any, v: Any, x: Any) -> Any:
    return xp.reshape(v, (*v.shape, 1, 1)) * x


@general(
    pull=lambda xp, v, needs, x: (_scaled(xp, v, xp.cofactor(x)),),
    push=lambda xp, tangents, x: xp.sum(tangents[0] * xp.cofactor(x), axis=(-2, -1)),
)
def _det(xp: Any, x: Any, /) -> Any:
    """Determinants of square matrices, without checks."""
    return xp.det(x)


def det(x: Any, /) -> Tensor:
    """The determinant: (..., n, n) → (...). All derivatives hold at singular matrices too."""
    return _det(matrices("det", x, square=True))


def _pull_slogdet(xp: Any, v: Any, needs: Any, x: Any) -> tuple[Any]:
    return (None if v[1] is None else _scaled(xp, v[1], xp.matrix_transpose(xp.inv(x))),)


def _push_slogdet(xp: Any, tangents: Any, x: Any) -> Any:
    return None, xp.sum(xp.matrix_transpose(xp.inv(x)) * tangents[0], axis=(-2, -1))


@general(pull=_pull_slogdet, push=_push_slogdet, several_outputs=True)
def _slogdet(xp: Any, x: Any, /) -> Any:
    """Signs and logarithms of determinants, without checks."""
    return xp.slogdet(x)


class SlogdetResult(NamedTuple):
    """What `slogdet` returns."""

    sign: Tensor
    logabsdet: Tensor


def slogdet(x: Any, /) -> SlogdetResult:
    """The sign of the determinant and ln |det x|: (..., n, n) → (...) each. Nothing overflows.

    Of a singular matrix they are 0 and -∞, and there is no derivative (MatrixError). That of the sign is 0.
    """
    return SlogdetResult(*_slogdet(matrices("slogdet", x, square=True)))


# ----- Solutions ----------------------------------------------------------------------------------


def congruent(xp: Any, a: Any, v: Any) -> Any:
    return -xp.matmul(a, xp.matmul(v, a))


@general(
    pull=lambda xp, v, needs, out: (congruent(xp, xp.matrix_transpose(out), v),),
    push=lambda xp, tangents, out: congruent(xp, out, tangents[0]),
)
def _inv(xp: Any, x: Any, /) -> Any:
    """Inverses of square matrices, without checks."""
    return xp.inv(x)


def inv(x: Any, /) -> Tensor:
    """The inverse of square matrices. To solve equations, `solve` is faster and more accurate."""
    return _inv(matrices("inv", x, square=True))


def _pull_solve(xp: Any, v: Any, needs: Any, a: Any, out: Any) -> tuple[Any, Any]:
    b = xp.solve(xp.matrix_transpose(a), v)
    return (-xp.matmul(b, xp.matrix_transpose(out)) if needs[0] else None), b


def _right_side(xp: Any, tangents: Any, a: Any, out: Any) -> Any:
    """What stands on the right when a x = b is differentiated: ḃ - ȧ x."""
    turned, moved = tangents
    if turned is None:
        return moved
    product = xp.matmul(turned, out)
    return -product if moved is None else moved - product


@general(
    pull=_pull_solve,
    push=lambda xp, tangents, a, out: xp.solve(a, _right_side(xp, tangents, a, out)),
)
def _solve(xp: Any, a: Any, b: Any, /) -> Any:
    """Solutions for matrices on the right, without checks."""
    return xp.solve(a, b)


def _equations(name: str, a: Any, b: Any) -> tuple[Tensor, Tensor]:
    a, b = matrices(name, a, square=True), b if isinstance(b, Tensor) else Tensor(b)
    if not b.ndim or b.shape[-2 if b.ndim > 1 else 0] != a.shape[-1]:
        raise ShapeError(
            f"{name}: a has shape {a.shape} and b {b.shape}; expected b of shape ({a.shape[-1]},) or "
            f"(..., {a.shape[-1]}, columns)"
        )
    return a, matrices(name, b if b.ndim > 1 else expand_dims(b, axis=1))


def solve(a: Any, b: Any, /) -> Tensor:
    """The x with a x = b. Shapes: a (..., n, n), b (..., n, k) or one vector (n,) → as b, broadcast.

    Raises MatrixError where a is singular.
    """
    a, columns = _equations("solve", a, b)
    out = _solve(a, columns)
    return out if len(b.shape) > 1 else squeeze(out, axis=-1)


def triangle(xp: Any, x: Any, upper: bool, k: int = 0) -> Any:
    """The entries on and above (or below) diagonal k; the others zero."""
    return xp.triu(x, k=k) if upper else xp.tril(x, k=k)


def _pull_triangular(xp: Any, v: Any, needs: Any, a: Any, out: Any, upper: bool) -> tuple[Any, Any]:
    b = xp.solve_triangular(xp.matrix_transpose(a), v, upper=not upper)
    full = xp.matmul(b, xp.matrix_transpose(out)) if needs[0] else None
    return (None if full is None else -triangle(xp, full, upper)), b


def _push_triangular(xp: Any, tangents: Any, a: Any, out: Any, upper: bool) -> Any:
    turned = None if tangents[0] is None else triangle(xp, tangents[0], upper)
    return xp.solve_triangular(a, _right_side(xp, (turned, tangents[1]), a, out), upper=upper)


@general(pull=_pull_triangular, push=_push_triangular)
def _solve_triangular(xp: Any, a: Any, b: Any, /, *, upper: bool) -> Any:
    """Solutions of triangular systems, without checks."""
    return xp.solve_triangular(a, b, upper=upper)


def solve_triangular(
    a: Any, b: Any, /, *, upper: bool, left: bool = True, unitriangular: bool = False
) -> Tensor:
    """The x with a x = b (x a = b if not `left`), of a only one triangle being read.

    With `unitriangular` the diagonal is taken as ones. Shapes as in `solve`. Raises MatrixError for a zero on
    the diagonal.
    """
    if not left:
        a, b = matrices("solve_triangular", a), matrices("solve_triangular", b)
        a, b = matrix_transpose(a), matrix_transpose(b)
        return matrix_transpose(solve_triangular(a, b, upper=not upper, unitriangular=unitriangular))
    a, columns = _equations("solve_triangular", a, b)
    if unitriangular:
        one = eye(a)
        a = where(one == 1, one, a)
    out = _solve_triangular(a, columns, upper=upper)
    return out if len(b.shape) > 1 else squeeze(out, axis=-1)


def matrix_power(x: Any, n: int, /) -> Tensor:
    """x to a whole power, by repeated squaring; negative powers are powers of the inverse."""
    x = x if isinstance(x, Tensor) else Tensor(x)
    if x.ndim < 2 or x.shape[-1] != x.shape[-2]:
        raise ShapeError(f"matrix_power needs square matrices in the last two axes, got shape {x.shape}")
    if not isinstance(n, int):
        raise DTypeError(f"matrix_power takes whole powers, got {n!r}; for others see eigh")
    if n < 0:
        return matrix_power(inv(x), -n)
    result = None if n else broadcast_to(eye(x), x.shape)
    while n:
        if n & 1:
            result = x if result is None else matmul(result, x)
        n >>= 1
        x = matmul(x, x) if n else x
    assert result is not None
    return result
