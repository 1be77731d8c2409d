"""Masks choose, they do not multiply: where a branch is not taken, 0 · ∞ must not become NaN.

Figures that are said to be torch's are those of torch 2.13.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import backend
from tests.gpu import stand_in
from tests.minigrad.strict import registered

INF, NAN = np.inf, np.nan


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Infinite derivatives are what all of this is about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


# ----- The choice itself --------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_masked_is_a_choice(data: st.DataObject) -> None:
    """For any values, dtypes, layouts and shapes: the bits of v where the mask holds, and 0 elsewhere."""
    pytest.importorskip("ml_dtypes")
    dtype = data.draw(st.sampled_from(["float16", "float32", "float64", "bfloat16", "longdouble"]))
    lengths = data.draw(st.lists(st.integers(0, 4), max_size=3))
    shapes = [[data.draw(st.sampled_from([n, 1])) for n in lengths] for _ in range(2)]
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    v = rng.choice([INF, -INF, NAN, 0.0, -0.0, 1.5, -2.25, 1e-5], size=shapes[0])
    v = v.astype(backend.real_dtype(dtype))
    mask = rng.random(size=shapes[1]) < 0.5
    layouts: list[Callable[[Any], Any]] = [
        np.asarray,
        np.asfortranarray,
        lambda a: a[..., ::-1] if a.ndim else a,
        lambda a: np.broadcast_to(a, (2, *a.shape)),
    ]
    v, mask = data.draw(st.sampled_from(layouts))(v), data.draw(st.sampled_from(layouts))(mask)
    before = v.copy()
    found = backend.host.masked(v, mask)
    expected = np.where(mask, v, np.zeros((), v.dtype))
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_array_equal(found.astype("float64"), expected.astype("float64"))
    signs = [np.signbit(a.astype("float64")) for a in (found, expected)]
    np.testing.assert_array_equal(*signs)
    np.testing.assert_array_equal(v.astype("float64"), before.astype("float64"))


# ----- Functions of what a mask made --------------------------------------------------------------


def first(x: Any) -> Any:
    return mg.max(x, axis=-1)


ONE = (1.0 / 2, 1.0 / 4, 1.0 / 6)
CASES: dict[str, tuple[Callable[[Any], Any], list[float], list[float]]] = {
    "√relu": (lambda x: mg.sqrt(mg.relu(x)), [-1, 4], [0, 0.25]),
    "log relu": (lambda x: mg.log(mg.relu(x)), [-1, 0, 4], [0, 0, 0.25]),
    "√clip": (lambda x: mg.sqrt(mg.clip(x, 0.0, 9.0)), [-1, 4, 16], [0, 0.25, 0]),
    "log clip": (lambda x: mg.log(mg.clip(x, min=0.0)), [-1, 4], [0, 0.25]),
    "√-clip": (lambda x: mg.sqrt(-mg.clip(x, max=0.0)), [1, -4], [0, -0.25]),
    "√maximum": (lambda x: mg.sqrt(mg.maximum(x, 0.0)), [-1, 4], [0, 0.25]),
    "√-minimum": (lambda x: mg.sqrt(-mg.minimum(x, 0.0)), [1, -4], [0, -0.25]),
    "√hardtanh": (lambda x: mg.sqrt(mg.hardtanh(x, min_val=0, max_val=2)), [-1, 1, 4], [0, 0.5, 0]),
    "√hardsigmoid": (lambda x: mg.sqrt(mg.hardsigmoid(x)), [-4, 9, 0], [0, 0, 0.5**0.5 / 6]),
    "√hardswish": (lambda x: mg.sqrt(mg.hardswish(x)), [-4, 9], [0, ONE[2]]),
    "√max": (lambda x: mg.sqrt(mg.max(x, axis=0)), [-1, 0], [0, INF]),
    "√min": (lambda x: mg.sqrt(mg.min(x)), [1, 0], [0, INF]),
    "√max_pool": (
        lambda x: mg.sqrt(mg.max_pool1d(mg.reshape(x, (1, 1, 4)), 2)),
        [0, -1, 4, 1],
        [INF, 0, 0.25, 0],
    ),
    "√adaptive_max_pool": (
        lambda x: mg.sqrt(mg.adaptive_max_pool2d(mg.reshape(x, (1, 1, 1, 3)), (1, 2))),
        [-1, 0, -2],
        [0, INF, 0],
    ),
    "√prelu": (lambda x: mg.sqrt(mg.prelu(x, mg.tensor(0.25, dtype=x.dtype, device=x.device))), [4], [0.25]),
    "√where": (lambda x: mg.sqrt(mg.where(x > 0, x, 0.0)), [-1, 4], [0, 0.25]),
}
"""A function, where, and its gradient: torch's, but for equal entries of a maximum, and bounds, where torch's
differ and ours are documented.
"""

NOT_STRICT = ("√max_pool", "√adaptive_max_pool")
"""Written in place, or by more axes than the strict arrays take."""


def gradient(f: Callable[[Any], Any], x: Any, **keywords: Any) -> Any:
    leaf = x.detach().requires_grad_()
    y = f(leaf)
    y.backward(mg.ones_like(y), **keywords)
    return leaf.grad


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("place", ["cpu", "gpu", "strict"])
def test_the_branch_not_taken_has_no_derivative(name: str, place: str) -> None:
    f, at, expected = CASES[name]
    if place == "strict" and name in NOT_STRICT:
        pytest.skip("the standard has no writing by slices of several axes")
    with stand_in.installed(), registered():
        x = mg.tensor(np.array(at, "float64"), device=place)
        np.testing.assert_allclose(gradient(f, x).numpy(), expected)
        np.testing.assert_allclose(gradient(f, x, create_graph=True).numpy(), expected)


FORWARDS: dict[str, Callable[[Any], Any]] = {
    "relu": lambda x: mg.relu(x - 1.0),
    "clip": lambda x: mg.clip(x, 1.0, 9.0),
    "maximum": lambda x: mg.maximum(x, 1.0),
    "minimum": lambda x: mg.minimum(x, -1.0),
    "hardtanh": lambda x: mg.hardtanh(x, min_val=1.0, max_val=9.0),
    "hardsigmoid": lambda x: mg.hardsigmoid(x - 4.0),
    "hardswish": lambda x: mg.hardswish(x - 4.0),
    "max": lambda x: mg.max(mg.stack([x, mg.ones_like(x)]), axis=0),
    "min": lambda x: mg.min(mg.stack([x, -mg.ones_like(x)]), axis=0),
}


@pytest.mark.parametrize("name", FORWARDS)
@pytest.mark.parametrize("place", ["cpu", "gpu", "strict"])
def test_an_infinite_tangent_does_not_pass_a_mask(name: str, place: str) -> None:
    """√x moves infinitely fast at 0; what is chosen there does not move."""
    with stand_in.installed(), registered():
        x = mg.tensor(np.zeros(3), device=place)
        moved = mg.jvp(lambda x: FORWARDS[name](mg.sqrt(x)), x, mg.ones_like(x))[1]
        np.testing.assert_array_equal(moved.numpy(), np.zeros(3))


@pytest.mark.parametrize("dtype", ["float16", "float32", "bfloat16"])
def test_in_every_precision(dtype: str) -> None:
    pytest.importorskip("ml_dtypes")
    x = mg.tensor([-1.0, 4.0], dtype=dtype)
    assert gradient(lambda x: mg.sqrt(mg.relu(x)), x).tolist() == [0.0, 0.25]


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_ignored_targets_have_no_derivative(reduction: str) -> None:
    def f(x: Any) -> Any:
        return mg.sqrt(mg.cross_entropy(x, [0, -100], reduction=reduction))

    x = mg.tensor(np.zeros((2, 3)))
    right = 1 / (2 * np.log(3) ** 0.5) * np.array([1 / 3 - 1, 1 / 3, 1 / 3])
    np.testing.assert_allclose(gradient(f, x).numpy(), [right, np.zeros(3)])


# ----- Kinks, beside torch ------------------------------------------------------------------------


def slopes(f: Callable[..., Any], *points: list[float]) -> list[list[float]]:
    leaves = [mg.tensor(np.array(p, "float64"), requires_grad=True) for p in points]
    mg.sum(f(*leaves)).backward()
    return [leaf.grad.tolist() for leaf in leaves if leaf.grad is not None]


def test_powers_beside_torch() -> None:
    assert_same = np.testing.assert_array_equal
    assert_same(slopes(lambda x: x**-2, [0.0, -0.0, INF, 2.0]), [[-INF, INF, -0.0, -0.25]])
    assert_same(slopes(lambda x: x**0, [0.0, INF, NAN, 2.0]), [[0.0] * 4])
    assert_same(slopes(lambda x: x**-1, [0.0, INF]), [[-INF, -0.0]])
    assert_same(slopes(lambda x: x**-0.5, [0.0, -0.0, INF]), [[-INF, -INF, -0.0]])
    found = slopes(mg.pow, [0.0, 0.0, 0.0, 2.0, INF], [-1.0, 0.0, 2.0, 0.0, 0.0])
    assert_same(found, [[-INF, 0.0, 0.0, 0.0, 0.0], [-INF, 0.0, 0.0, np.log(2.0), INF]])
    assert (mg.tensor(-0.0) ** -0.5).item() == -INF
    assert slopes(lambda y: mg.pow(-2.0, y), [2.0]) == [[0.0]]  # documented; NaN in torch


def test_the_mixed_derivative_of_a_power_at_exponent_0() -> None:
    """∂/∂y of y x^(y-1) is x^(y-1) (1 + y ln x): 1/x at y = 0."""

    def of_y(y: Any) -> Any:
        return mg.grad(lambda x: mg.sum(mg.pow(x, y)))(mg.tensor(np.array([2.0, 0.5])))

    np.testing.assert_allclose(np.diag(mg.jacobian(of_y)(mg.tensor(np.zeros(2))).numpy()), [0.5, 2.0])


def test_the_inverse_square_to_second_order() -> None:
    mg.testing.check_gradients(lambda x: x**-2, np.array([0.5, -1.5, 2.0]))


@pytest.mark.parametrize("f", [mg.maximum, mg.minimum])
def test_extremes_beside_a_nan_beside_torch(f: Callable[..., Any]) -> None:
    assert slopes(f, [NAN, 1.0, 2.0, NAN], [1.0, NAN, 2.0, NAN]) == [[1.0, 1.0, 0.5, 1.0]] * 2


def test_extremes_of_a_line_with_a_nan_share() -> None:
    """The result is NaN, and it depends on every entry."""
    assert slopes(lambda x: mg.max(x), [1.0, NAN]) == [[0.5, 0.5]]
    assert slopes(lambda x: mg.max_pool1d(mg.reshape(x, (1, 1, 4)), 2), [1.0, NAN, 1.0, 2.0]) == [
        [0.5, 0.5, 0, 1]
    ]


def test_hardswish_beside_torch() -> None:
    assert slopes(mg.hardswish, [-4.0, -3.0, 0.0, 3.0, 4.0]) == [[0.0, 0.0, 0.5, 1.0, 1.0]]
    assert np.isnan(slopes(mg.hardswish, [NAN])[0][0])


# ----- Nothing to choose from ---------------------------------------------------------------------


def test_softmax_of_a_number_and_of_nothing_beside_torch() -> None:
    three = mg.tensor(3.0, requires_grad=True)
    for f, value in ((mg.softmax, 1.0), (mg.log_softmax, 0.0)):
        for axis in (-1, 0):
            out = f(three, axis=axis)
            assert (out.shape, out.item()) == ((), value)
            assert mg.gradients(out, [three])[0].item() == 0.0
        for shape in ((2, 0), (0, 3), (0,)):
            x = mg.zeros(shape).requires_grad_()
            assert f(x).shape == shape
            mg.sum(f(x)).backward()
            assert x.grad is not None
            assert x.grad.shape == shape
        for x in (three, mg.zeros((2, 0))):
            with pytest.raises(mg.errors.ShapeError, match="there is no axis 5"):
                f(x, axis=5)
    assert mg.logsumexp(mg.zeros((2, 0)), axis=1).tolist() == [-INF, -INF]
    assert mg.logsumexp(mg.zeros((2, 0)), axis=1, keepdims=True).shape == (2, 1)
    assert mg.logsumexp(mg.zeros((2, 0)), axis=0).shape == (0,)
    assert mg.logsumexp(mg.zeros((2, 0))).item() == -INF
