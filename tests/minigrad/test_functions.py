"""Functions entry by entry: where they are hard (far out, near 0, at kinks), and how they refuse."""

import math
import warnings
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import scipy.special

import minigrad as mg
from minigrad.errors import DTypeError, MinigradError, ShapeError, UsageError
from minigrad.testing import check_gradients

DTYPES = ("float32", "float64")


def slope(f, *x):
    """The value of f, and its gradients by both walks, which have to agree."""
    leaves = [mg.tensor(a, requires_grad=True) for a in x]
    out = f(*leaves)
    out.backward(np.ones(out.shape))
    grads = [leaf.grad.numpy() for leaf in leaves if leaf.grad is not None]
    plain = tuple(map(mg.tensor, x))
    moved = mg.jvp(f, plain, tuple(map(mg.ones_like, plain)))[1].numpy()
    np.testing.assert_allclose(sum(grads[1:], grads[0]), moved, rtol=1e-5, atol=1e-30)
    return out.numpy(), *grads


# ----- Far out ------------------------------------------------------------------------------------

FAR = np.array([-1e4, -800.0, -100.0, -30.0, 0.0, 30.0, 100.0, 800.0, 1e4])


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_overflows_far_out(dtype):
    x = FAR.astype(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out, dx, dy = slope(mg.logaddexp, x, x[::-1])
        np.testing.assert_allclose(out, np.logaddexp(x, x[::-1]), rtol=1e-6)
        expected = scipy.special.expit(2 * x)
        np.testing.assert_allclose(dx, expected, rtol=1e-5, atol=1e-37)
        np.testing.assert_allclose(dy, expected[::-1], rtol=1e-5, atol=1e-37)
        out, dx, dy = slope(mg.hypot, x, np.ones_like(x))
        np.testing.assert_allclose(out, np.hypot(x, 1), rtol=1e-6)
        np.testing.assert_allclose(dx, x / np.hypot(x, 1), rtol=1e-6)
        for f in (mg.sigmoid, mg.asinh, mg.atan, mg.erfc, mg.sinc, lambda x: mg.atan2(x, 1.0)):
            assert all(np.isfinite(a).all() for a in slope(f, x))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_sigmoid_is_exact_where_it_is_all_but_0(dtype):
    x = np.array([-80.0, -40.0, -20.0, -9.0, 0.0, 9.0, 40.0], dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out, dx = slope(mg.sigmoid, x)
    exact = scipy.special.expit(x.astype("float64"))
    assert out.dtype == dx.dtype == dtype
    tiny = float(np.finfo(dtype).smallest_subnormal)
    np.testing.assert_allclose(out, exact, rtol=8 * float(np.finfo(dtype).eps), atol=tiny)
    np.testing.assert_allclose(dx, exact * (1 - exact), rtol=1e-2, atol=float(np.finfo(dtype).eps))


def test_hypot_and_atan2_do_not_overflow_on_the_way():
    out, dx, dy = slope(mg.hypot, np.array([3e200, 0.0]), np.array([4e200, 0.0]))
    np.testing.assert_allclose([out, dx, dy], [[5e200, 0], [0.6, 0], [0.8, 0]])
    out, dy, dx = slope(mg.atan2, np.array([3e200, 0.0]), np.array([4e200, 0.0]))
    np.testing.assert_allclose(out, [math.atan2(3, 4), 0])
    np.testing.assert_allclose([dy, dx], [[4 / 25e200, 0], [-3 / 25e200, 0]])


def test_logaddexp_at_infinities():
    x = np.array([-np.inf, np.inf, -np.inf, np.inf, 1.0, np.nan])
    y = np.array([-np.inf, np.inf, 1.0, -np.inf, np.inf, 1.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out, dx, dy = slope(mg.logaddexp, x, y)
    np.testing.assert_array_equal(out, [-np.inf, np.inf, 1, np.inf, np.inf, np.nan])
    np.testing.assert_allclose(dx, [0.5, 0.5, 0, 1, 0, np.nan])
    np.testing.assert_allclose(dy, [0.5, 0.5, 1, 0, 1, np.nan])


# ----- At kinks and poles -------------------------------------------------------------------------


def test_entropy_is_finite_at_certainty():
    p = mg.tensor([0.0, 1.0, 0.5], dtype="float64", requires_grad=True)
    out = mg.xlogy(p, p)
    out.sum().backward()
    np.testing.assert_allclose(out.numpy(), [0, 0, 0.5 * math.log(0.5)])
    assert p.grad is not None
    np.testing.assert_allclose(p.grad.numpy(), [0, 1, math.log(0.5) + 1])


def test_xlogy_is_scipys():
    x, y = (np.array(a) for a in np.meshgrid([0.0, -1.0, 2.0, np.nan], [0.0, 1.0, np.inf, np.nan, -1.0]))
    with np.errstate(all="ignore"):
        expected = scipy.special.xlogy(x, y)
        np.testing.assert_array_equal(mg.xlogy(mg.tensor(x), mg.tensor(y)).numpy(), expected)


def test_clip_gives_the_derivative_on_a_bound_to_x():
    x = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    out, dx, low, high = slope(lambda x, a, b: mg.clip(x, a, b), x, np.full(5, -1.0), np.full(5, 1.0))
    np.testing.assert_array_equal(out, np.clip(x, -1, 1))
    np.testing.assert_array_equal([dx, low, high], [[0, 1, 1, 1, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 1]])


@pytest.mark.parametrize("bounds", [(None, None), (0.5, None), (None, 0.5), (-0.5, 0.5), (1, -1)])
def test_clip_with_bounds_as_numbers(bounds):
    for x in (
        np.linspace(-2, 2, 6),
        np.array(3.0),
        np.zeros((0, 2)),
        np.arange(-3, 4),
        np.array([2, np.nan], "float32"),
    ):
        found = mg.clip(mg.tensor(x), min=bounds[0], max=bounds[1])
        expected = x if bounds == (None, None) else np.clip(x, *bounds)
        np.testing.assert_array_equal(found.numpy(), expected)
        assert found.dtype == expected.dtype


def test_clip_with_bounds_that_broadcast():
    low, high = np.array([-1.0, 0.1]), np.array([[0.5], [1.5], [1.0]])
    x = np.linspace(-2.03, 2, 6).reshape(3, 2)
    np.testing.assert_array_equal(mg.clip(mg.tensor(x), low, high).numpy(), np.clip(x, low, high))
    check_gradients(lambda x, a, b: mg.clip(x, a, b), x, low, high)


def test_copysign_and_signbit_know_negative_zero():
    y = np.array([0.0, -0.0, -3.0])
    out, dx = slope(lambda x: mg.copysign(x, y), np.array([2.0, 2.0, -2.0]))
    np.testing.assert_array_equal(out, [2, -2, -2])
    np.testing.assert_array_equal(dx, [1, -1, 1])
    np.testing.assert_array_equal(slope(lambda x: mg.copysign(x, 1.0), np.zeros(1))[1], [0])
    np.testing.assert_array_equal(mg.signbit(mg.tensor(y)).numpy(), [False, True, True])


def test_remainder_has_the_sign_of_the_divisor():
    x, y = np.array([7.0, -7.0, 7.0, -7.0]), np.array([3.0, 3.0, -3.0, -3.0])
    out, dx, dy = slope(mg.remainder, x, y)
    np.testing.assert_array_equal(out, np.remainder(x, y))
    np.testing.assert_array_equal(dx, np.ones(4))
    np.testing.assert_array_equal(dy, -np.floor(x / y))


def test_domains_end_as_in_numpy():
    x = np.array([-1.0, 1.0, 1.5])
    with np.errstate(all="ignore"):
        for f, expected in ((mg.asin, np.arcsin), (mg.acos, np.arccos), (mg.atanh, np.arctanh)):
            np.testing.assert_array_equal(f(mg.tensor(x)).numpy(), expected(x))
        _, dx = slope(mg.asin, x)
        np.testing.assert_array_equal(dx, [np.inf, np.inf, np.nan])
        np.testing.assert_array_equal(mg.erfinv(mg.tensor(x)).numpy(), [-np.inf, np.inf, np.nan])
        np.testing.assert_array_equal(mg.lgamma(mg.tensor([0.0, -1.0, 1.0])).numpy(), [np.inf, np.inf, 0])


# ----- Special functions --------------------------------------------------------------------------


def test_sinc_has_all_its_derivatives_at_0():
    f, expected = mg.sinc, [1.0, 0.0, -(math.pi**2) / 3, 0.0, math.pi**4 / 5]
    for value in expected:
        np.testing.assert_allclose(f(mg.tensor(0.0, dtype="float64")).item(), value, rtol=1e-14, atol=1e-14)
        f = mg.grad(f)
    np.testing.assert_allclose(mg.hessian(mg.sinc)(mg.tensor(1e-9, dtype="float64")).item(), expected[2])


def test_sinc_near_0_loses_nothing():
    x = np.array([1e-8, -1e-5, 1e-3, 0.1, 0.3, 0.32])
    u = np.pi * x
    exact = np.pi * sum(
        (-1) ** k * 2 * k * u ** (2 * k - 1) / math.factorial(2 * k + 1) for k in range(1, 12)
    )
    np.testing.assert_allclose(slope(mg.sinc, x)[1], exact, rtol=3e-15)


def test_polygamma_is_scipys_on_both_sides_of_0():
    x = np.array([-2.5, -0.3, 0.2, 1.0, 30.0])
    for n in range(5):
        np.testing.assert_allclose(mg.polygamma(n, x).numpy(), scipy.special.polygamma(n, x), rtol=1e-12)
    check_gradients(lambda x: mg.polygamma(0, x), x, order=3)
    assert mg.polygamma(2, np.array([1.0, 2.0], "float32")).dtype == np.float32


def test_lgamma_to_third_order():
    check_gradients(mg.lgamma, np.array([0.4, 1.3, 5.0, -0.6]), order=3)


@pytest.mark.parametrize("n", [-1, 1.0, "1"])
def test_polygamma_refuses_orders_that_are_none(n):
    with pytest.raises(UsageError, match="whole number"):
        mg.polygamma(n, np.ones(2))


HALVES = ["float16", ml_dtypes.bfloat16]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", ["erf", "erfc", "erfinv", "lgamma", "digamma", "sigmoid"])
def test_special_functions_keep_half_precision(name, dtype):
    x = np.array([0.25, 0.5, 0.75])
    half = mg.tensor(x.astype(dtype), requires_grad=True)
    out = getattr(mg, name)(half)
    out.sum().backward()
    assert half.grad is not None
    assert out.dtype == half.grad.dtype == dtype
    exact, dx = slope(getattr(mg, name), x)
    np.testing.assert_allclose(out.numpy().astype("float64"), exact, rtol=1e-2, atol=1e-2)
    np.testing.assert_allclose(half.grad.numpy().astype("float64"), dx, rtol=2e-2)


# ----- Compositions, and operations without derivative --------------------------------------------


def test_positive_and_reciprocal():
    x = mg.tensor([2.0, -4.0])
    assert mg.positive(x) is x
    np.testing.assert_array_equal(mg.positive([1.0]).numpy(), [1])
    np.testing.assert_array_equal(mg.reciprocal(x).numpy(), [0.5, -0.25])
    check_gradients(mg.reciprocal, [2.0, -4.0])
    assert mg.reciprocal(x).dtype == np.float32


def test_rounding_keeps_integers():
    x = mg.tensor([3, -4])
    for f in (mg.floor, mg.ceil, mg.round, mg.trunc):
        assert f(x).dtype == np.int64
        np.testing.assert_array_equal(f(x).numpy(), x.numpy())
    assert mg.floor(2.7).item() == 2.0


def test_functions_of_two_take_numbers_beside_float32():
    x = mg.tensor([0.5, 2.0])
    for f in (
        mg.hypot,
        mg.logaddexp,
        mg.atan2,
        mg.copysign,
        mg.remainder,
        mg.floor_divide,
        mg.nextafter,
        mg.xlogy,
    ):
        assert f(x, 1.5).dtype == f(1.5, x).dtype == np.float32


# ----- Misuse -------------------------------------------------------------------------------------


def test_shapes_that_do_not_fit_are_named():
    for f in (
        mg.hypot,
        mg.logaddexp,
        mg.atan2,
        mg.remainder,
        mg.xlogy,
        mg.logical_or,
        mg.floor_divide,
        mg.clip,
    ):
        with pytest.raises(ShapeError, match=r"\(2,\).*\(3,\)"):
            f(mg.ones(2), mg.ones(3))


def test_complex_numbers_are_refused():
    for f in (mg.sinh, mg.floor, mg.isnan, mg.lgamma, mg.sinc, mg.positive):
        with pytest.raises(DTypeError, match="complex"):
            f(np.array([1j]))


def test_functions_of_one_take_one():
    several: list[Any] = [mg.tan, mg.lgamma, mg.floor]
    for f in several:
        with pytest.raises((TypeError, MinigradError)):
            f(mg.ones(2), mg.ones(2))


# ----- Shape-only arrays --------------------------------------------------------------------------


def test_shape_only_arrays_know_the_constants_too():
    x = mg.ones((2, 3), dtype="float32", device="shapes")
    for name in ("floor", "ceil", "round", "trunc"):
        assert (getattr(mg, name)(x).shape, getattr(mg, name)(x).dtype) == ((2, 3), np.float32)
    for name in ("isnan", "isinf", "signbit"):
        assert (getattr(mg, name)(x).shape, getattr(mg, name)(x).dtype) == ((2, 3), np.bool_)
    for name in ("logical_and", "logical_or", "logical_xor"):
        assert getattr(mg, name)(x > 0, x[0] > 0).shape == (2, 3)
    assert mg.logical_not(x > 0).dtype == np.bool_
    assert mg.floor_divide(x, 2.0).dtype == mg.nextafter(x, x).dtype == np.float32
