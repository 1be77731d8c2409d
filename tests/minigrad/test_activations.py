"""Activation functions: their definitions, far out, at their kinks, and misused."""

import math
import warnings

import numpy as np
import pytest
import scipy.special

import minigrad as mg
from minigrad.errors import ShapeError, UsageError
from minigrad.testing import check_gradients
from tests.minigrad.strict import registered

expit = scipy.special.expit
ALPHA, SCALE = 1.6732632423543772, 1.0507009873554805


def exponential(x, alpha=1.0, beta=1.0):
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0) / beta))


def hard(x):
    return np.clip(x + 3, 0, 6) / 6


# What each is by definition, with its parameters.
ACTIVATIONS = {
    "leaky_relu": (mg.leaky_relu, lambda x: np.where(x > 0, x, 0.01 * x)),
    "leaky_relu steep": (lambda x: mg.leaky_relu(x, negative_slope=2.0), lambda x: np.where(x > 0, x, 2 * x)),
    "elu": (mg.elu, exponential),
    "elu alpha": (lambda x: mg.elu(x, alpha=0.7), lambda x: exponential(x, 0.7)),
    "selu": (mg.selu, lambda x: SCALE * exponential(x, ALPHA)),
    "celu": (mg.celu, exponential),
    "celu alpha": (lambda x: mg.celu(x, alpha=0.7), lambda x: exponential(x, 0.7, 0.7)),
    "silu": (mg.silu, lambda x: x * expit(x)),
    "mish": (mg.mish, lambda x: x * np.tanh(np.logaddexp(x, 0))),
    "softplus": (mg.softplus, lambda x: np.where(x > 20, x, np.logaddexp(x, 0))),
    "softplus beta": (
        lambda x: mg.softplus(x, beta=2.5, threshold=2.0),
        lambda x: np.where(2.5 * x > 2, x, np.logaddexp(2.5 * x, 0) / 2.5),
    ),
    "softplus exact": (lambda x: mg.softplus(x, threshold=math.inf), lambda x: np.logaddexp(x, 0)),
    "softsign": (mg.softsign, lambda x: x / (1 + np.abs(x))),
    "hardtanh": (mg.hardtanh, lambda x: np.clip(x, -1, 1)),
    "hardtanh bounds": (
        lambda x: mg.hardtanh(x, min_val=-0.5, max_val=1.25),
        lambda x: np.clip(x, -0.5, 1.25),
    ),
    "hardswish": (mg.hardswish, lambda x: x * hard(x)),
    "hardsigmoid": (mg.hardsigmoid, hard),
    "logsigmoid": (mg.logsigmoid, scipy.special.log_expit),
    "prelu": (lambda x: mg.prelu(x, 0.3), lambda x: np.where(x > 0, x, 0.3 * x)),
    "relu": (mg.relu, lambda x: np.maximum(x, 0)),
}
# Away from every kink above.
POINTS = np.array([[-3.7, -2.1, -0.8, -0.3], [0.25, 0.6, 1.6, 3.4]])
FAR = np.array([-1e4, -800.0, -100.0, -30.0, 30.0, 100.0, 800.0, 1e4])

everyone = pytest.mark.parametrize(("f", "expected"), ACTIVATIONS.values(), ids=ACTIVATIONS)


def slope(f, x):
    leaf = mg.tensor(x, requires_grad=True)
    f(leaf).sum().backward()
    assert leaf.grad is not None
    return leaf.grad.numpy()


@everyone
def test_values_are_those_of_the_definition(f, expected):
    for x in (POINTS, POINTS[0, 0], POINTS[:0], POINTS.reshape(2, 2, 2), np.zeros(1)):
        found = f(mg.tensor(x))
        assert (found.shape, found.dtype) == (x.shape, np.float64)
        np.testing.assert_allclose(found.numpy(), expected(x), rtol=1e-13, atol=1e-15)


@everyone
def test_derivatives_by_both_walks_to_second_order(f, expected):
    check_gradients(f, POINTS)
    check_gradients(f, POINTS[1, 2])
    check_gradients(f, POINTS[:0])


@everyone
def test_float32_stays_float32(f, expected):
    leaf = mg.tensor(POINTS, dtype="float32", requires_grad=True)
    out = f(leaf)
    out.sum().backward()
    assert leaf.grad is not None
    assert out.dtype == leaf.grad.dtype == np.float32
    np.testing.assert_allclose(out.numpy(), expected(POINTS), rtol=1e-5)
    np.testing.assert_allclose(leaf.grad.numpy(), slope(f, POINTS), rtol=1e-4)


@everyone
def test_lists_are_taken(f, expected):
    np.testing.assert_allclose(f(POINTS.tolist()).numpy(), expected(POINTS), rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@everyone
def test_nothing_overflows_far_out(f, expected, dtype):
    x = FAR.astype(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, first = f(mg.tensor(x)).numpy(), slope(f, x)
        second = mg.hvp(lambda x: f(x).sum(), mg.tensor(x), mg.tensor(np.ones_like(x))).numpy()
    np.testing.assert_allclose(found, expected(FAR), rtol=1e-6, atol=1e-37)
    step = 1e-3
    differences = (expected(FAR + step) - expected(FAR - step)) / (2 * step)
    np.testing.assert_allclose(first, differences, rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(second, 0, atol=1e-4)  # softsign falls off slowly


@everyone
def test_a_foreign_library_computes_the_same(f, expected):
    with registered() as strict:
        x = mg.tensor(strict.from_host(POINTS), requires_grad=True)
        out = f(x)
        out.sum().backward()
        assert out.device == "strict"
        assert x.grad is not None
        np.testing.assert_allclose(out.numpy(), expected(POINTS), rtol=1e-13)
        np.testing.assert_allclose(x.grad.numpy(), slope(f, POINTS), rtol=1e-12)


@everyone
def test_shape_only_arrays_know_the_shape(f, expected):
    x = mg.zeros((2, 3), dtype="float32", device="shapes").requires_grad_()
    out = f(x)
    out.sum().backward()
    assert x.grad is not None
    assert (out.shape, out.dtype) == (x.grad.shape, x.grad.dtype) == ((2, 3), np.float32)


@pytest.mark.parametrize(
    ("name", "at", "expected"),
    [
        ("relu", 0, 0),
        ("leaky_relu", 0, 0.01),
        ("prelu", 0, 0.3),
        ("elu", 0, 1),
        ("elu alpha", 0, 0.7),
        ("celu alpha", 0, 1),
        ("selu", 0, SCALE * ALPHA),
        ("softsign", 0, 1),
        ("hardtanh", 1, 1),
        ("hardsigmoid", -3, 1 / 6),
        ("hardswish", 3, 1),
        ("hardswish", -3, 0),
    ],
)
def test_derivatives_at_kinks_are_the_documented_ones(name, at, expected):
    np.testing.assert_allclose(slope(ACTIVATIONS[name][0], np.float64(at)), expected)


def test_smooth_ones_have_their_second_derivative_at_0():
    for f, expected in ((mg.softplus, 0.25), (mg.silu, 0.5), (mg.logsigmoid, -0.25)):
        np.testing.assert_allclose(mg.hessian(f)(mg.tensor(0.0, dtype="float64")).item(), expected)


def test_infinities_and_nan():
    x = np.array([-np.inf, np.inf, np.nan])
    for f, expected in (
        (mg.leaky_relu, x),
        (mg.elu, [-1, np.inf, np.nan]),
        (mg.softplus, [0, np.inf, np.nan]),
        (mg.logsigmoid, [-np.inf, 0, np.nan]),
        (mg.hardtanh, [-1, 1, np.nan]),
    ):
        np.testing.assert_array_equal(f(mg.tensor(x)).numpy(), expected)
    for f in (mg.leaky_relu, mg.elu, mg.softplus):
        with np.errstate(invalid="ignore"):  # the sum of both infinities
            assert np.isfinite(slope(f, x[:2])).all()


# ----- With more than one input -------------------------------------------------------------------


def test_glu_gates_the_first_half_with_the_second():
    x = np.linspace(-2, 2, 24).reshape(2, 4, 3)
    np.testing.assert_allclose(mg.glu(x, axis=1).numpy(), x[:, :2] * expit(x[:, 2:]))
    np.testing.assert_allclose(mg.glu(x[:, 0, :2]).numpy(), x[:, 0, :1] * expit(x[:, 0, 1:2]))
    assert mg.glu(np.zeros((0, 4))).shape == (0, 2)
    check_gradients(lambda x: mg.glu(x, axis=1), x)
    with pytest.raises(ShapeError, match="odd length 3"):
        mg.glu(x)
    with pytest.raises(ShapeError, match="no axis 3"):
        mg.glu(x, axis=3)


@pytest.mark.parametrize(
    ("shape", "weights"),
    [((2, 3, 2), (3,)), ((2, 3), (3,)), ((2, 3), (1,)), ((3,), (1,)), ((2, 2), ()), ((), ())],
)
def test_prelu_has_a_weight_for_each_channel(shape, weights):
    count = math.prod(shape)
    x = np.resize([0.7, -0.4, -1.3, 2.0, -0.2], count).reshape(shape)
    weight = np.linspace(0.1, 0.5, math.prod(weights)).reshape(weights)
    along = weight.reshape(-1, *[1] * (len(shape) - 2)) if len(shape) > 1 else weight.reshape(())
    np.testing.assert_allclose(mg.prelu(x, weight).numpy(), np.where(x > 0, x, along * x))
    check_gradients(mg.prelu, x, weight)


def test_misuse_is_refused():
    with pytest.raises(ShapeError, match=r"x \(2, 3\) needs weight \(\) or \(3,\), got \(2,\)"):
        mg.prelu(mg.ones((2, 3)), mg.ones(2))
    with pytest.raises(UsageError, match="celu: alpha is a positive number, not 0"):
        mg.celu(mg.ones(2), alpha=0.0)
    with pytest.raises(UsageError, match="softplus: beta is a positive number, not -1"):
        mg.softplus(mg.ones(2), beta=-1.0)
    with pytest.raises(UsageError, match="min_val is at most max_val; got 2"):
        mg.hardtanh(mg.ones(2), min_val=2.0)
