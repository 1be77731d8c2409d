"""Determinants, solutions, factorisations and norms, beyond what the sweep of all operations shows."""

from typing import Any

import numpy as np
import pytest
import scipy.linalg

import minigrad as mg
from minigrad.errors import DTypeError, MatrixError, ShapeError, UsageError
from minigrad.testing import check_gradients
from tests.minigrad.examples import spread
from tests.minigrad.examples_decompositions import matrix, positive, singular


def gradient(f, x):
    return mg.grad(f)(mg.tensor(x)).numpy()


# ----- The Matrix Cookbook, section 2 -------------------------------------------------------------

X, A, B, C = (matrix(5, 5), *(np.random.default_rng(k).normal(size=(5, 5)) for k in range(3)))
a, b = A[0], B[0]
Xi = np.linalg.inv(X)
COOKBOOK = {
    "det X": (mg.det, np.linalg.det(X) * Xi.T),
    "log |det X|": (lambda x: mg.slogdet(x).logabsdet, Xi.T),
    "tr(X⁻¹A)": (lambda x: mg.trace(mg.inv(x) @ A), -(Xi @ A @ Xi).T),
    "aᵀX⁻¹b": (lambda x: mg.vecdot(a, mg.solve(x, b)), -Xi.T @ np.outer(a, b) @ Xi.T),
    "tr(AXB)": (lambda x: mg.trace(A @ x @ B), A.T @ B.T),
    "tr(XᵀAX)": (lambda x: mg.trace(x.mT @ A @ x), (A + A.T) @ X),
    "tr(X³)": (lambda x: mg.trace(mg.matrix_power(x, 3)), 3 * (X @ X).T),
    "‖X‖²": (lambda x: mg.matrix_norm(x) ** 2, 2 * X),
    "tr(AXBXᵀC)": (lambda x: mg.trace(A @ x @ B @ x.mT @ C), A.T @ C.T @ X @ B.T + C @ A @ X @ B),
}


@pytest.mark.parametrize("name", COOKBOOK)
def test_the_matrix_cookbook(name):
    f, expected = COOKBOOK[name]
    np.testing.assert_allclose(gradient(f, X), expected, rtol=1e-10, atol=1e-10 * np.abs(expected).max())
    check_gradients(f, X, tolerance=1e-5)


def test_the_likelihood_of_a_covariance():
    s, r = positive(4, 4), spread(4)

    def f(x):
        return (mg.slogdet(x).logabsdet + mg.vecdot(r, mg.solve(x, r))) / 2

    inverse = np.linalg.inv(s)
    np.testing.assert_allclose(gradient(f, s), (inverse - inverse @ np.outer(r, r) @ inverse) / 2, rtol=1e-10)
    factor = mg.cholesky(s)
    np.testing.assert_allclose(
        2 * mg.einsum("ii->i", factor).numpy().prod() ** 2, 2 * np.linalg.det(s), rtol=1e-12
    )


# ----- Determinants -------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_det_to_third_order_at_any_rank(n):
    for rank in range(n + 1):
        check_gradients(mg.det, singular(rank, n), order=3, tolerance=1e-5)
    for x in (np.eye(n), 2 * np.eye(n)[::-1]):  # every singular value the same
        check_gradients(mg.det, x, order=3, tolerance=1e-5)


def test_det_of_one_rank_less_has_the_adjugate_as_gradient():
    x = singular(3, 4)
    found = gradient(mg.det, x)
    u, s, vh = np.linalg.svd(x)
    expected = np.linalg.det(u) * np.linalg.det(vh) * s[:3].prod() * np.outer(u[:, 3], vh[3])
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
    assert np.abs(found).max() > 0.01
    np.testing.assert_array_equal(gradient(mg.det, np.zeros((3, 3))), np.zeros((3, 3)))


def test_cofactors_near_a_singular_matrix_keep_their_digits():
    q, _ = np.linalg.qr(matrix(4, 4))
    for small in (1e-3, 1e-9, 1e-15, 0.0):
        s = np.array([3.0, 2.0, 1.0, small])
        others = np.array([2 * small, 3 * small, 6 * small, 6.0])
        np.testing.assert_allclose(mg.cofactor(q * s).numpy(), q * others * np.linalg.det(q), atol=1e-10)


def test_det_and_slogdet_of_nothing_and_of_negative_matrices():
    assert mg.det(np.zeros((0, 0))).item() == 1.0
    sign, log = mg.slogdet(-np.eye(3))
    assert (sign.item(), log.item()) == (-1.0, 0.0)
    x = mg.tensor(np.eye(3), requires_grad=True)
    mg.slogdet(x).sign.backward()
    assert x.grad is None or not x.grad.numpy().any()
    with pytest.raises(MatrixError, match="inv of shape"):
        gradient(lambda x: mg.slogdet(x).logabsdet, singular(1, 2))


# ----- Solutions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3,), (3, 2), (2, 3, 1)])
def test_solve_takes_vectors_matrices_and_stacks(shape):
    for a in (matrix(3, 3), matrix(2, 3, 3)):
        b = spread(*shape)
        expected = np.linalg.solve(a, b) if len(shape) != 1 else np.linalg.solve(a, b[:, None])[..., 0]
        np.testing.assert_allclose(mg.solve(a, b).numpy(), expected, rtol=1e-12)
        check_gradients(mg.solve, a, b)


@pytest.mark.parametrize("upper", [True, False])
@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("unitriangular", [True, False])
def test_solve_triangular_is_scipys(upper, left, unitriangular):
    a, b = matrix(3, 3), spread(3, 2) if left else spread(2, 3)

    def f(a, b):
        return mg.solve_triangular(a, b, upper=upper, left=left, unitriangular=unitriangular)

    def expected(a, b):
        return scipy.linalg.solve_triangular(a, b, lower=not upper, unit_diagonal=unitriangular)

    if left:
        np.testing.assert_allclose(f(a, b).numpy(), expected(a, b), rtol=1e-12)
    else:
        lower = scipy.linalg.solve_triangular(a.T, b.T, lower=upper, unit_diagonal=unitriangular).T
        np.testing.assert_allclose(f(a, b).numpy(), lower, rtol=1e-12)
    check_gradients(f, a, b)
    assert f(a.astype("float32"), b.astype("float32")).dtype == "float32"


def test_solve_triangular_takes_vectors():
    a, b = matrix(3, 3), spread(3)
    found = mg.solve_triangular(a, b, upper=True).numpy()
    np.testing.assert_allclose(found, np.linalg.solve(np.triu(a), b), rtol=1e-12)


@pytest.mark.parametrize("n", [-3, -1, 0, 1, 2, 5, 8])
def test_matrix_power(n):
    x = matrix(2, 3, 3) / 4
    np.testing.assert_allclose(mg.matrix_power(x, n).numpy(), np.linalg.matrix_power(x, n), rtol=1e-10)
    check_gradients(lambda x: mg.matrix_power(x, n), x, tolerance=1e-4)
    assert mg.matrix_power(x.astype("float32"), n).dtype == "float32"
    if n >= 0:
        assert mg.matrix_power(np.array([[1, 1], [0, 1]]), n).numpy()[0, 1] == n


# ----- Factorisations -----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 3), (4, 2), (2, 4), (2, 3, 2)])
def test_factors_multiply_back(shape):
    x = matrix(*shape)
    q, r = mg.qr(x)
    np.testing.assert_allclose((q @ r).numpy(), x, rtol=1e-12, atol=1e-12)
    u, s, vh = mg.svd(x, full_matrices=False)
    np.testing.assert_allclose(mg.einsum("...ik,...k,...kj->...ij", u, s, vh).numpy(), x, atol=1e-12)
    np.testing.assert_allclose(mg.svdvals(x).numpy(), np.linalg.svd(x, compute_uv=False), rtol=1e-12)

    def back(x):
        q, r = mg.qr(x)
        u, s, vh = mg.svd(x, full_matrices=False)
        return q @ r, mg.einsum("...ik,...k,...kj->...ij", u, s, vh)

    check_gradients(back, x, tolerance=1e-5)
    moved = mg.jvp(back, mg.tensor(x), mg.tensor(spread(*shape)))[1]
    for found in moved:
        np.testing.assert_allclose(found.numpy(), spread(*shape), atol=1e-9)


@pytest.mark.parametrize("shape", [(4, 2), (2, 4), (3, 3), (2, 5, 3), (3, 1)])
def test_full_factors(shape):
    """Shapes and values are NumPy's; derivatives, of what the choice of vectors does not change."""
    x, m, n = matrix(*shape), shape[-2], shape[-1]
    u, s, vh = mg.svd(x)
    expected = np.linalg.svd(x)
    assert [u.shape, s.shape, vh.shape] == [part.shape for part in expected]
    q, r = mg.qr(x, mode="complete")
    np.testing.assert_allclose((q @ r).numpy(), x, atol=1e-12)
    assert (q.shape, r.shape) == tuple(part.shape for part in np.linalg.qr(x, mode="complete"))
    for square in (u, vh, q):
        eye = np.broadcast_to(np.eye(square.shape[-1]), square.shape)
        np.testing.assert_allclose((square @ square.mT).numpy(), eye, atol=1e-12)
    k, weights = min(m, n), spread(max(m, n), max(m, n))

    def spans(x):
        u, _, vh = mg.svd(x)
        q, _ = mg.qr(x, mode="complete")
        sides = (u[..., :, k:], vh[..., k:, :].mT, q[..., :, k:])
        return tuple((side @ side.mT) * weights[: side.shape[-2], : side.shape[-2]] for side in sides)

    def all_of_it(x):
        u, _, vh = mg.svd(x)
        q, _ = mg.qr(x, mode="complete")
        return u @ u.mT, vh.mT @ vh, q @ q.mT

    check_gradients(spans, x, tolerance=1e-5)
    for moved in mg.jvp(all_of_it, mg.tensor(x), mg.tensor(spread(*shape)))[1]:
        np.testing.assert_allclose(moved.numpy(), 0, atol=1e-9)  # it is the identity, always


def test_cholesky_and_eigh_take_the_symmetric_part():
    x = positive(3, 3)
    skewed = x + np.array([[0, 0.1, 0], [-0.1, 0, 0], [0, 0, 0]])
    np.testing.assert_allclose(mg.cholesky(skewed).numpy(), np.linalg.cholesky(x), rtol=1e-12)
    np.testing.assert_allclose(mg.eigvalsh(skewed).numpy(), np.linalg.eigvalsh(x), rtol=1e-12)
    np.testing.assert_allclose(mg.cholesky(x, upper=True).numpy(), np.linalg.cholesky(x).T, rtol=1e-12)
    g = gradient(lambda x: mg.cholesky(x).sum(), x)
    np.testing.assert_allclose(g, g.T, rtol=1e-12)
    check_gradients(mg.eigvalsh, x)


def test_where_eigenvalues_or_singular_values_are_equal_only_their_vectors_have_no_derivative():
    q, _ = np.linalg.qr(matrix(4, 4))
    x = q @ np.diag([1.0, 2.0, 2.0, 2.0]) @ q.T
    for f in (mg.eigvalsh, mg.svdvals):
        np.testing.assert_allclose(gradient(lambda x, f=f: (f(x) ** 2).sum(), x), 2 * x, atol=1e-9)
    eye: Any = np.eye(3)
    np.testing.assert_allclose(gradient(lambda x: mg.eigvalsh(x).sum(), eye), eye, atol=1e-12)
    check_gradients(lambda x: mg.matrix_norm(x, ord="nuc"), eye, order=1, tolerance=1e-5)  # smooth there
    vectors: tuple[Any, ...] = (lambda x: mg.eigh(x).eigenvectors, lambda x: mg.svd(x).U)
    for at in (eye, x):  # equal, and equal but for rounding
        for of in vectors:
            assert np.isnan(gradient(lambda x, of=of: of(x).sum(), at)).all()
            tangent = mg.jvp(of, (mg.tensor(at),), (mg.ones(at.shape, dtype="float64"),))[1]
            assert np.isnan(tangent.numpy()).any()
        tangent = mg.jvp(mg.svdvals, (mg.tensor(at),), (mg.ones(at.shape, dtype="float64"),))[1]
        assert np.isfinite(tangent.numpy()).all()
    # A spectral function, and the projector on the vectors of one value, do not depend on the turn of others.
    largest = np.linalg.eigh(x)[1][:, :1]
    apart = x + 3.0 * largest @ largest.T  # one single value above two equal ones
    check_gradients(lambda x: mg.abs(mg.eigh(x).eigenvectors[:, -1]), apart, order=1, tolerance=1e-5)


def test_spectral_functions_at_nearly_equal_eigenvalues():
    q, _ = np.linalg.qr(matrix(3, 3))
    x, w = q @ np.diag([1.0, 1.0 + 1e-4, 2.0]) @ q.T, matrix(3, 3, 1)

    def exponential(x: Any) -> Any:
        values, vectors = mg.eigh(x)
        return mg.sum((vectors * mg.exp(values)) @ mg.matrix_transpose(vectors) * w)

    check_gradients(exponential, x, order=1, tolerance=1e-5)


@pytest.mark.parametrize("shape", [(3, 3), (4, 2), (2, 4)])
def test_pinv_of_lower_rank(shape):
    m, n = shape
    left, right = np.random.default_rng(0).normal(size=(m, 1)), np.random.default_rng(1).normal(size=(1, n))
    expected: Any = np.linalg.pinv(left @ right)
    np.testing.assert_allclose(mg.pinv(left @ right).numpy(), expected, rtol=1e-10)
    check_gradients(lambda u, v: mg.pinv(u @ v), left, right, tolerance=1e-4)  # the rank stays
    check_gradients(mg.pinv, np.eye(2))
    np.testing.assert_array_equal(mg.pinv(np.zeros(shape)).numpy(), np.zeros((n, m)))
    assert mg.pinv(np.diag([1.0, 1e-3]), rtol=0.01).numpy()[1, 1] == 0


# ----- Norms --------------------------------------------------------------------------------------

INF = float("inf")


@pytest.mark.parametrize("ord", [1, 2, 3, 1.5, INF, -INF, -1, 0])
@pytest.mark.parametrize("axis", [None, 0, -1])
def test_vector_norms(ord, axis):
    x = spread(3, 4)
    expected = np.linalg.norm(x.reshape(-1) if axis is None else x, ord=ord, axis=axis)
    found = mg.vector_norm(x, axis=axis, ord=ord)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
    assert mg.vector_norm(x, axis=axis, ord=ord, keepdims=True).ndim == 2
    assert mg.vector_norm(x.astype("float32"), axis=axis, ord=ord).dtype == "float32"
    if ord:
        check_gradients(lambda x: mg.vector_norm(x, axis=axis, ord=ord), x, tolerance=1e-5)


@pytest.mark.parametrize("ord", ["fro", "nuc", 1, -1, 2, -2, INF, -INF])
def test_matrix_norms(ord):
    for x in (matrix(3, 3), matrix(2, 2, 3)):
        expected = np.linalg.norm(x, ord=ord, axis=(-2, -1))
        np.testing.assert_allclose(mg.matrix_norm(x, ord=ord).numpy(), expected, rtol=1e-12)
        kept = mg.matrix_norm(x, ord=ord, keepdims=True)
        assert kept.shape == (*x.shape[:-2], 1, 1)
        check_gradients(lambda x: mg.matrix_norm(x, ord=ord), x, tolerance=1e-5)
        assert mg.matrix_norm(x.astype("float32"), ord=ord).dtype == "float32"


def test_norms_at_zero_have_derivative_zero():
    zero = np.zeros((2, 3))
    for ord in (1, 2, 3):
        np.testing.assert_array_equal(gradient(lambda x, p=ord: mg.vector_norm(x, ord=p), zero), zero)
    np.testing.assert_array_equal(gradient(mg.matrix_norm, zero), zero)
    for kind in ("nuc", 1, 2, INF):
        assert np.isfinite(gradient(lambda x, p=kind: mg.matrix_norm(x, ord=p), zero)).all()
    assert mg.vector_norm(np.array(-3.0)).item() == 3.0
    assert mg.vector_norm(np.zeros(0)).item() == 0.0
    second = mg.hessian(mg.vector_norm)(mg.tensor(zero))
    assert np.isfinite(second.numpy()).all()


# ----- What is wrong, and what it costs -----------------------------------------------------------

TALL = np.ones((3, 2))


@pytest.mark.parametrize("name", ["det", "slogdet", "inv", "cholesky", "eigh", "cofactor"])
def test_square_matrices_are_asked_for_by_name(name):
    with pytest.raises(
        ShapeError, match=rf"{name[:4]}.* square matrices in the last two axes, got.*\(3, 2\)"
    ):
        getattr(mg, name)(TALL)
    with pytest.raises(DTypeError, match=r"float32 or float64, got int64; convert"):
        getattr(mg, name)(np.eye(2, dtype="int64"))


def test_misuse_is_named():
    raw: Any = {"mode": "raw"}
    unknown: Any = {"ord": "no"}
    for call, kind, message in (
        (lambda: mg.solve(TALL, TALL), ShapeError, "solve needs square"),
        (lambda: mg.solve(np.eye(3), np.ones(2)), ShapeError, r"b \(2,\); expected b of shape \(3,\)"),
        (
            lambda: mg.solve_triangular(np.eye(3), np.ones((2, 3)), upper=True),
            ShapeError,
            r"a has shape \(3, 3\)",
        ),
        (
            lambda: mg.solve(np.zeros((2, 2)), np.ones(2)),
            MatrixError,
            r"solve of shape \(2, 2\).*[Ss]ingular",
        ),
        (lambda: mg.inv(np.zeros((2, 2))), MatrixError, r"inv of shape \(2, 2\): Singular"),
        (lambda: mg.cholesky(-np.eye(2)), MatrixError, r"cholesky of shape \(2, 2\).*positive definite"),
        (lambda: mg.solve_triangular(np.zeros((2, 2)), np.ones(2), upper=True), MatrixError, "singular"),
        (lambda: mg.matrix_power(TALL, 2), ShapeError, "matrix_power needs square"),
        (lambda: mg.svd(np.ones(3)), ShapeError, r"svd needs matrices.*\(3,\)"),
        (lambda: mg.qr(TALL, **raw), UsageError, "mode is 'reduced' or 'complete', got 'raw'"),
        (lambda: mg.matrix_norm(TALL, **unknown), UsageError, "'no'"),
        (lambda: mg.matrix_norm(TALL, ord=3), UsageError, "got 3"),
    ):
        with pytest.raises(kind, match=message):
            call()


def test_shapes_and_flops_without_values():
    x, b = mg.ones((2, 6, 6), device="shapes"), mg.ones((6, 3), device="shapes")
    assert mg.cost(lambda: mg.inv(x)).flops == 2 * 2 * 6**3
    assert mg.cost(lambda: mg.det(x)).flops == 2 * 2 / 3 * 6**3
    assert mg.solve(x, b).shape == (2, 6, 3)
    assert [y.shape for y in mg.svd(b)] == [(6, 6), (3,), (3, 3)]
    assert [y.shape for y in mg.svd(b, full_matrices=False)] == [(6, 3), (3,), (3, 3)]
    assert [y.shape for y in mg.qr(b.mT)] == [(3, 3), (3, 6)]
