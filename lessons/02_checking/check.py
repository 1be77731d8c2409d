"""What the answers of lesson 2 must do."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

import minigrad as mg
from minigrad.lessons.checking import exercise, numbers, require, require_close, vectors

POLYNOMIALS = st.lists(st.integers(-3, 3), min_size=1, max_size=4)


def inside(x):
    """A smooth function of an array, and its gradient."""
    flat = np.asarray(x).reshape(-1)
    weights = np.arange(1, flat.size + 1)
    return float(np.sum(weights * flat**2) + np.sum(np.sin(flat)))


def slope_of_inside(x):
    """The gradient of `inside`."""
    flat = x.reshape(-1)
    return (2 * np.arange(1, flat.size + 1) * flat + np.cos(flat)).reshape(x.shape)


@exercise(
    "2.1",
    "central differences and the best step",
    points=2,
    rebuilds=["minigrad.derivatives.grad", "minigrad.derivatives.jacobian"],
)
@given(x=arrays(np.float64, array_shapes(min_dims=0, max_dims=3, min_side=1, max_side=3), elements=numbers()))
def check_central_difference(answer, x):
    before = x.copy()
    found = answer.central_difference(inside, x, 1e-5)
    require(
        (x == before).all(), f"your function changed x from {before.tolist()} to {x.tolist()}; work on a copy"
    )
    require_close(found, slope_of_inside(before), f"the gradient at {before.tolist()}", tolerance=1e-7)


@exercise("2.1", "central differences and the best step", points=0)
@given(x=numbers(), h=st.sampled_from([0.5, 0.25, 0.125]))
def check_that_the_difference_is_central(answer, x, h):
    # The central difference of a cubic is wrong by exactly h squared.
    found = answer.central_difference(lambda z: float(np.sum(z**3)), np.array([x]), h)
    what = f"the central difference of z**3 at {x} with h = {h}, which is 3 x**2 + h**2"
    require_close(found, np.array([3 * x**2 + h**2]), what)


@exercise("2.1", "central differences and the best step", points=1)
@given(power=st.integers(3, 18), order=st.integers(1, 6))
def check_best_step(answer, power, order):
    epsilon = 10.0**-power
    h = answer.best_step(epsilon, order)
    require(
        isinstance(h, float) and h > 0, f"best_step must return a positive float, and yours returns {h!r}"
    )
    found, expected = math.log10(h), -power / (order + 1)
    require(
        abs(found - expected) < 1e-6,
        f"epsilon 1e-{power}, order {order}: "
        f"h**{order} is {h**order:.3g} and epsilon / h is {epsilon / h:.3g}; they must be equal",
    )


@exercise("2.2", "the complex step", points=2)
@given(coefficients=POLYNOMIALS, x=numbers())
def check_complex_step(answer, coefficients, x):
    def f(z):
        return sum(c * z**k for k, c in enumerate(coefficients)) + np.exp(z)

    expected = sum(k * c * x ** (k - 1) for k, c in enumerate(coefficients) if k) + math.exp(x)
    terms = " + ".join(f"{c} z^{k}" for k, c in enumerate(coefficients))
    found = answer.complex_step(f, x)
    require_close(found, expected, f"the derivative of {terms} + exp(z) at {x}", tolerance=1e-14)


@exercise("2.3", "the inner-product test", points=3)
@given(
    seed=st.integers(0, 99),
    rows=st.integers(1, 4),
    columns=st.integers(1, 4),
    scale=st.sampled_from([1.0, 1e6, 1e-6]),
)
def check_inner_product_gap(answer, seed, rows, columns, scale):
    random = np.random.default_rng(seed)
    sizes = ((rows, columns), columns, rows)
    matrix, t, v = (random.integers(1, 9, size) * random.choice([-0.5, 0.5], size) for size in sizes)
    t = t * scale
    gap = answer.inner_product_gap(lambda t: matrix @ t, lambda v: v @ matrix, t, v)
    require(isinstance(gap, float), f"the gap must be a float, and yours is {gap!r}")
    require(gap >= 0, f"a gap is a distance, never less than 0; yours is {gap:.3g}")
    require(gap < 1e-12, f"a matrix and its own transpose must have no gap; yours is {gap:.3g}")
    wrong = matrix.copy()
    wrong[0, 0] += 1.0
    products = abs(v) @ abs(matrix) @ abs(t), abs(v) @ abs(wrong) @ abs(t)
    pushed, pulled = abs(v * (matrix @ t)).sum(), abs((v @ wrong) * t).sum()
    expected = abs(v[0] * t[0]) / max(pushed, pulled)
    gap = answer.inner_product_gap(lambda t: matrix @ t, lambda v: v @ wrong, t, v)
    assert max(products) > 0
    what = (
        f"v = {v.tolist()}, t = {t.tolist()}, J = {matrix.tolist()}, and pull uses {wrong.tolist()}: the gap"
    )
    require_close(gap, expected, what, tolerance=1e-6)


@exercise("2.3", "the inner-product test", points=0)
def check_no_gap_at_zero(answer):
    zero = np.zeros(2)
    gap = answer.inner_product_gap(lambda t: 0 * t, lambda v: 0 * v, zero, zero)
    require(gap == 0.0, f"where everything is zero the gap must be 0, and yours is {gap!r}")


def valley(x):
    """A smooth function of a vector with a full Hessian."""
    return mg.sum(mg.exp(0.5 * x)) + 0.25 * mg.sum(x) ** 2 + mg.sum(x**4) / 12


def hessian_of_valley(x):
    """The Hessian of `valley`."""
    return np.diag(0.25 * np.exp(0.5 * x) + x**2) + 0.5


@exercise(
    "2.4",
    "Hessian-vector products and Newton's method",
    points=2,
    rebuilds=["minigrad.derivatives.hvp", "minigrad.derivatives.hessian", "minigrad.derivatives.jacobian"],
)
@given(x=vectors(st.integers(1, 4)), seed=st.integers(0, 9))
def check_hessian_vector_product(answer, x, seed):
    v = np.random.default_rng(seed).integers(-3, 4, size=x.shape).astype(float)
    found = answer.hessian_vector_product(valley, mg.tensor(x), mg.tensor(v))
    what = f"H v at x = {x.tolist()} for v = {v.tolist()}"
    require_close(found, hessian_of_valley(x) @ v, what, tolerance=1e-13)  # no difference comes so near


@exercise("2.4", "Hessian-vector products and Newton's method", points=0)
def check_that_no_hessian_is_made(answer):
    n = 3000
    point, along = (mg.ones((n,), device="shapes") for _ in range(2))
    cost = mg.cost(lambda x, v: answer.hessian_vector_product(valley, x, v), point, along)
    most = 100 * n * 4
    require(
        cost.peak_bytes < most,
        f"with {n} inputs your product holds {cost.peak_bytes:,} bytes at a time; a few vectors are {most:,}",
    )


@exercise(
    "2.4",
    "Hessian-vector products and Newton's method",
    points=2,
    rebuilds=["minigrad.derivatives.hvp", "minigrad.derivatives.hessian", "minigrad.derivatives.jacobian"],
)
@given(x=vectors(st.integers(1, 3)))
def check_newton(answer, x):
    def quadratic(z):
        scale = mg.tensor(np.arange(1.0, x.size + 1))
        return mg.sum(scale * (z - 2.0) ** 2) + mg.sum(z - 2.0) ** 2

    once = answer.newton(quadratic, mg.tensor(x), 1)
    require_close(
        once,
        np.full(x.shape, 2.0),
        f"one Newton step from {x.tolist()} on a quadratic must end at its lowest point",
    )
    stays = answer.newton(valley, mg.tensor(x), 0)
    require_close(stays, x, "no steps leave x where it was")
    moved = answer.newton(valley, mg.tensor(x), 1)
    gradient = 0.5 * np.exp(0.5 * x) + 0.5 * x.sum() + x**3 / 3
    require_close(
        moved, x - np.linalg.solve(hessian_of_valley(x), gradient), f"one Newton step from {x.tolist()}"
    )
