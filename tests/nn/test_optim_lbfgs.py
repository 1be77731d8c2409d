"""L-BFGS against its dense matrices, and its line search against the conditions that it promises."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn
from minigrad.errors import UsageError
from minigrad.nn.optim import LBFGS
from minigrad.nn.optim.line_search import Point, cubic_minimum, strong_wolfe
from minigrad.tensor import Tensor


def bowl(p: Tensor) -> Tensor:
    """Smooth, convex, not quadratic."""
    steep = mg.tensor(np.linspace(1.0, 3.0, p.size))
    return mg.sum(steep * mg.square(p)) + mg.sum(mg.exp(p * 0.5)) + mg.square(mg.sum(p))


def closure_of(optimizer: LBFGS, loss_of: Callable[[Tensor], Tensor]) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(optimizer.parameters[0])
        loss.backward()
        return loss

    return closure


def dense_lbfgs(start: np.ndarray, steps: int, lr: float, history: int) -> np.ndarray:
    """Fixed steps, with the inverse Hessian as a matrix: H ← VᵀHV + ρssᵀ from (sᵀy/yᵀy)·I, for each pair."""
    gradient_of = mg.grad(bowl)

    def gradient(x: np.ndarray) -> np.ndarray:
        return gradient_of(mg.tensor(x)).numpy()

    x = start
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    g = gradient(x)
    for _ in range(steps):
        h, rate = np.eye(x.size), lr
        if pairs:
            s, y = pairs[-1]
            h *= (s @ y) / (y @ y)
        else:
            rate *= min(1.0, 1.0 / np.abs(g).sum())
        for s, y in pairs:
            rho = 1.0 / (y @ s)
            v = np.eye(x.size) - rho * np.outer(y, s)
            h = v.T @ h @ v + rho * np.outer(s, s)
        moved = x - rate * h @ g
        after = gradient(moved)
        pairs = [*pairs, (moved - x, after - g)][-history:]
        x, g = moved, after
    return x


@given(
    size=st.integers(1, 6),
    steps=st.integers(1, 8),
    history=st.integers(1, 5),
    at_once=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_directions_are_those_of_the_dense_matrices(size, steps, history, at_once, seed):
    start = np.random.default_rng(seed).normal(size=size)
    p = nn.Parameter(start)
    how: dict[str, Any] = {"tolerance_change": 0.0, "tolerance_grad": 0.0, "max_eval": 1000}
    optimizer = LBFGS([p], lr=0.3, max_iter=steps if at_once else 1, history_size=history, **how)
    for _ in range(1 if at_once else steps):
        optimizer.step(closure_of(optimizer, bowl))
    np.testing.assert_allclose(p.numpy(), dense_lbfgs(start, steps, 0.3, history), rtol=1e-7, atol=1e-9)


def rosenbrock(p: Tensor) -> Tensor:
    return mg.square(1.0 - p[0]) + 100.0 * mg.square(p[1] - mg.square(p[0]))


def test_a_bent_valley_is_followed_to_its_end():
    p = nn.Parameter(np.array([-1.2, 1.0]))
    optimizer = LBFGS([p], max_iter=100, tolerance_change=1e-15, line_search_fn="strong_wolfe")
    first = optimizer.step(closure_of(optimizer, rosenbrock))
    assert first.item() == pytest.approx(24.2)
    np.testing.assert_allclose(p.numpy(), [1.0, 1.0], rtol=1e-6)
    assert (
        optimizer.state_dict()["state"][0]["func_evals"] <= 60
    )  # descent along the gradient takes thousands


LINES: list[Callable[[float], tuple[float, float]]] = [
    lambda t: ((t - 1) ** 2, 2 * (t - 1)),
    lambda t: ((t - 40) ** 2, 2 * (t - 40)),
    lambda t: (-math.sin(t) - 0.1 * t + 0.01 * t * t, -math.cos(t) - 0.1 + 0.02 * t),
    lambda t: (-t / (t * t + 2), (t * t - 2) / (t * t + 2) ** 2),  # Moré, Thuente 1994, (5.1)
    lambda t: ((t + 0.004) ** 5 - 2 * (t + 0.004) ** 4, 5 * (t + 0.004) ** 4 - 8 * (t + 0.004) ** 3),  # (5.2)
]


@given(line=st.sampled_from(LINES), first=st.floats(1e-3, 1e2))
@settings(max_examples=150, deadline=None)
def test_the_step_found_is_low_and_flat_enough(line, first):
    calls = 0

    def look(t: float) -> Point:
        nonlocal calls
        calls += 1
        loss, slope = line(t)
        return Point(t, loss, np.zeros(1), slope)

    start = look(0.0)
    found, count = strong_wolfe(look, start, first, most=50, length=1.0, tolerance=1e-12)
    assert count == calls - 1 <= 51
    assert found.loss <= start.loss + 1e-4 * found.step * start.slope
    assert abs(found.slope) <= 0.9 * abs(start.slope)


@given(
    ends=st.tuples(st.floats(-3, 3), st.floats(-3, 3)).filter(lambda e: abs(e[0] - e[1]) > 0.1),
    turn=st.tuples(st.floats(-3, 3), st.floats(0.1, 3)),
)
@settings(deadline=None)
def test_the_minimum_of_a_cubic_is_where_it_is(ends, turn):
    """A cubic with slope (t - a)(t - b), a < b, falls until b."""
    a, b = turn[0], turn[0] + turn[1]

    def at(t: float) -> Point:
        return Point(t, t**3 / 3 - (a + b) * t * t / 2 + a * b * t, np.zeros(1), (t - a) * (t - b))

    bounds = (-100.0, 100.0)
    assert cubic_minimum(at(ends[0]), at(ends[1]), bounds) == pytest.approx(b, abs=1e-4)
    assert min(ends) <= cubic_minimum(at(ends[0]), at(ends[1])) <= max(ends)


@pytest.mark.parametrize("stop", [0, 1, 3])
def test_what_is_taken_up_again_is_the_same_to_the_bit(stop):
    def make(start: np.ndarray) -> LBFGS:
        return LBFGS([nn.Parameter(start)], max_iter=3, history_size=4, line_search_fn="strong_wolfe")

    start = np.array([-1.2, 1.0])
    whole, first = make(start), make(start)
    for number in range(6):
        whole.step(closure_of(whole, rosenbrock))
        if number < stop:
            first.step(closure_of(first, rosenbrock))
    second = make(first.parameters[0].numpy().copy())
    second.load_state_dict(first.state_dict())
    for _ in range(stop, 6):
        second.step(closure_of(second, rosenbrock))
    np.testing.assert_array_equal(second.parameters[0].numpy(), whole.parameters[0].numpy())


def test_parameters_of_any_shape_and_without_gradient():
    used, unused = nn.Parameter(np.ones((2, 3))), nn.Parameter(np.ones(2))
    optimizer = LBFGS([used, unused], line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = mg.sum(mg.square(used - 3.0))
        loss.backward()
        return loss

    optimizer.step(closure)
    np.testing.assert_allclose(used.numpy(), np.full((2, 3), 3.0), rtol=1e-7)
    np.testing.assert_array_equal(unused.numpy(), np.ones(2))


def test_evaluations_are_bounded():
    calls = 0
    p = nn.Parameter(np.array([-1.2, 1.0]))
    optimizer = LBFGS([p], max_iter=100, max_eval=7, line_search_fn="strong_wolfe")
    closure = closure_of(optimizer, rosenbrock)

    def counted() -> Tensor:
        nonlocal calls
        calls += 1
        return closure()

    optimizer.step(counted)
    assert calls <= 8


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda o: o.step(), "a function"),
        (lambda o: o.step(lambda: 0.0, skip=np.asarray(True)), "nothing else"),
        (lambda o: o.keep_master(), "no master copy"),
        (lambda o: o.add_param_group({"params": [nn.Parameter(np.ones(1))]}), "one group"),
        (lambda o: LBFGS([{"params": [nn.Parameter(np.ones(1))]} for _ in "ab"]), "one group"),
        (lambda o: LBFGS([nn.Parameter(np.ones(1))], line_search_fn="armijo"), "armijo"),
        (lambda o: LBFGS([nn.Parameter(np.ones(1))], history_size=0), "history_size 0"),
        (
            lambda o: o.load_state_dict({"state": {0: {"d": np.ones(3)}}, "param_groups": [{"params": [0]}]}),
            r"shape \(3,\), expected \(2,\)",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(act, message):
    optimizer = LBFGS([nn.Parameter(np.ones(2))])
    with pytest.raises(UsageError, match=message):
        act(optimizer)
