"""Sequences with few states kept: the least work, the same gradients, the memory that was promised."""

import tracemalloc
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad.checkpoint_schedule import Action, fewest_steps, most_steps, revolve
from minigrad.errors import GraphError, UsageError
from minigrad.nn import functional
from minigrad.testing import check_gradients


@cache
def by_trying(length: int, snapshots: int) -> int:
    """The least work, found by trying every place for the next snapshot."""
    if length == 1:
        return 0
    if snapshots == 1:
        return length * (length - 1) // 2
    return min(m + by_trying(length - m, snapshots - 1) + by_trying(m, snapshots) for m in range(1, length))


# ----- The plan -----------------------------------------------------------------------------------


def test_the_least_work_is_that_of_the_paper() -> None:
    for (length, snapshots), steps in {
        (10, 2): 20,
        (10, 3): 15,
        (20, 4): 39,
        (50, 5): 122,
        (100, 10): 222,
    }.items():
        assert fewest_steps(length, snapshots) == steps
    assert [most_steps(s, r) for s, r in ((2, 3), (3, 3), (2, 10), (3, 10), (5, 5))] == [10, 20, 66, 286, 252]
    for length in range(1, 50):
        for snapshots in range(1, 9):
            assert fewest_steps(length, snapshots) == by_trying(length, snapshots)


def executed(plan: list[Action], length: int, snapshots: int) -> int:
    """Follow a plan, refuse what is not possible, and count the steps advanced."""
    kept: set[int] = set()
    at, steps, reversed_ = 0, 0, length
    for verb, state, to in plan:
        if verb == "keep":
            assert at == state
            kept.add(state)
            assert len(kept) <= snapshots
        elif verb == "drop":
            kept.remove(state)
        elif verb == "advance":
            assert to is not None
            assert state == at or state in kept
            steps, at = steps + to - state, to
        else:
            assert (verb, state) == ("reverse", reversed_ - 1)
            assert state == at or state in kept
            reversed_ = state
    assert reversed_ == 0
    return steps


@given(st.integers(1, 80), st.integers(1, 12))
def test_a_plan_can_be_followed_and_takes_the_least_work(length, snapshots) -> None:
    plan = revolve(length, snapshots)
    assert executed(plan, length, snapshots) == fewest_steps(length, snapshots)


def test_no_plan_without_a_step_or_a_snapshot() -> None:
    for length, snapshots in ((0, 1), (3, 0)):
        with pytest.raises(
            UsageError, match=f"at least one step and one snapshot, got {length} and {snapshots}"
        ):
            revolve(length, snapshots)
        with pytest.raises(UsageError, match="at least one step"):
            fewest_steps(length, snapshots)


POLICIES: list[dict[str, Any]] = [{"policy": "sqrt"}, {"policy": "revolve", "snapshots": 2}]


# ----- What is executed ---------------------------------------------------------------------------


class Layers:
    """Functions that count their calls, each with a weight of its own."""

    def __init__(self, length: int) -> None:
        rng = np.random.default_rng(length)
        self.weights = [mg.tensor(rng.normal(size=(3, 3)), requires_grad=True) for _ in range(length)]
        self.calls = 0
        self.functions = [partial(self.layer, w) for w in self.weights]

    def layer(self, w: mg.Tensor, x: mg.Tensor) -> mg.Tensor:
        self.calls += 1
        return mg.tanh(functional.dropout(x, 0.2) @ w) + x * 0.5

    def run(self, x: mg.Tensor, **policy: Any) -> tuple[int, list[np.ndarray]]:
        """The calls that value and gradient take, and all gradients."""
        mg.random.manual_seed(1)
        self.calls = 0
        if policy:
            y = mg.checkpoint_sequence(self.functions, x, **policy)
        else:
            y = x
            for f in self.functions:
                y = f(y)
        (y * y).sum().backward()
        grads = []
        for leaf in (x, *self.weights):
            if leaf.requires_grad:
                assert leaf.grad is not None
                grads.append(leaf.grad.numpy().copy())
                leaf.zero_grad()
        return self.calls, grads


@given(st.integers(1, 24), st.integers(1, 6), st.booleans())
def test_as_few_calls_as_proven_and_the_same_bits(length, snapshots, wanted) -> None:
    layers = Layers(length)
    x = mg.tensor(np.random.default_rng(0).normal(size=(2, 3)), requires_grad=wanted)
    calls, plain = layers.run(x)
    assert calls == length
    calls, found = layers.run(x, policy="revolve", snapshots=snapshots)
    assert calls == length + fewest_steps(length, snapshots)
    for a, b in zip(found, plain, strict=True):
        np.testing.assert_array_equal(a, b)
    calls, found = layers.run(x, policy="sqrt")
    assert calls <= 2 * length
    for a, b in zip(found, plain, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("policy", "most"), [({"policy": "sqrt"}, 17), ({"policy": "revolve", "snapshots": 4}, 6)]
)
def test_memory_is_what_was_promised(policy, most) -> None:
    """64 functions, whose states have 256 KiB each and whose graph keeps one state."""
    state = 1 << 18

    def peak(**policy: Any) -> float:
        x = mg.tensor(np.ones(state // 8), requires_grad=True)
        functions = [mg.sin] * 64
        tracemalloc.start()
        try:
            y = mg.checkpoint_sequence(functions, x, **policy) if policy else x
            for f in () if policy else functions:
                y = f(y)
            y.backward(np.ones(x.shape))
            return tracemalloc.get_traced_memory()[1] / state
        finally:
            tracemalloc.stop()

    # beside the states: a result and what it is made of, two cotangents, the gradient, the first cotangent
    assert peak() > 64
    assert peak(**policy) <= most + 5


def test_gradients_are_final_while_the_walk_goes_on() -> None:
    layers = Layers(12)
    order: list[tuple[int, int]] = []

    def note(i: int, _: mg.Tensor) -> None:
        order.append((i, layers.calls))

    for i, w in enumerate(layers.weights):
        w.register_post_accumulate_grad_hook(partial(note, i))
    layers.run(mg.ones((2, 3), dtype="float64"), policy="revolve", snapshots=3)
    assert [i for i, _ in order] == list(range(12))[::-1]
    assert order[0][1] == 12  # the last layer's before anything ran again


def test_walks_that_retain_or_stop_or_go_on() -> None:
    w = mg.tensor(0.7, requires_grad=True)
    x = mg.tensor(1.1, requires_grad=True)
    functions: list[Any] = [lambda x: mg.sin(x * w), mg.tanh, lambda x: x * x + w, mg.exp] * 3

    def run() -> mg.Tensor:
        return mg.checkpoint_sequence(functions, x, policy="revolve", snapshots=2)

    y = x
    for f in functions:
        y = f(y)
    expected = [g.item() for g in mg.gradients(y, [x, w])]
    y = run()
    assert [g.item() for g in mg.gradients(y, [x, w], retain_graph=True)] == expected
    assert mg.gradients(y, [w], retain_graph=True)[0].item() == expected[1]
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad is not None
    assert x.grad.item() == pytest.approx(2 * expected[0])
    with pytest.raises(GraphError, match="released"):
        y.backward()


def test_higher_orders_and_forward_mode() -> None:
    w = mg.tensor(np.array([[0.3, -0.4], [0.5, 0.2]]), requires_grad=True)
    functions: list[Any] = [lambda x: mg.tanh(x @ w), lambda x: x * x + 0.1, mg.sin, lambda x: x @ w]
    for policy in POLICIES:
        check_gradients(
            lambda x, policy=policy: mg.checkpoint_sequence(functions, x, **policy),
            np.array([[0.5, -1.0], [0.2, 0.7]]),
            order=2,
        )


def test_constants_and_functions_that_hand_on() -> None:
    x = mg.tensor(2.0, requires_grad=True)
    w = mg.tensor(3.0, requires_grad=True)
    functions: list[Any] = [lambda x: x, mg.floor, lambda x: x * w, lambda x: x]
    y = mg.checkpoint_sequence(functions, x, policy="revolve", snapshots=1)
    y.backward()
    assert w.grad is not None
    assert w.grad.item() == 2.0
    assert x.grad is None
    with mg.no_grad():
        assert not mg.checkpoint_sequence(functions, x).requires_grad
    assert mg.checkpoint_sequence([mg.exp] * 3, 0.0, policy="revolve", snapshots=1).requires_grad is False


def test_states_overwritten_before_the_walk_are_noticed() -> None:
    for policy in POLICIES:
        for overwrite in ("x", "w"):
            x, w = (mg.tensor(v, requires_grad=True) for v in ([1.0], [2.0]))
            y = mg.checkpoint_sequence([partial(mg.multiply, w), mg.sin] * 5, x, **policy)
            (x if overwrite == "x" else w).assign([5.0])
            with pytest.raises(GraphError, match="changed in place"):
                y.backward()


def test_misuse_is_refused_before_anything_runs() -> None:
    def fail(x: mg.Tensor) -> mg.Tensor:
        raise AssertionError("ran")

    cases: list[tuple[dict[str, Any], str]] = [
        ({"functions": []}, "got no functions"),
        ({"policy": "binomial"}, 'policy is "sqrt" or "revolve", not \'binomial\''),
        ({"policy": "revolve"}, 'policy "revolve" needs snapshots'),
        ({"snapshots": 3}, "got policy='sqrt', snapshots=3"),
        ({"policy": "revolve", "snapshots": 0}, "snapshots=0"),
    ]
    for arguments, message in cases:
        functions: Any = arguments.pop("functions", [fail])
        with pytest.raises(UsageError, match=message):
            mg.checkpoint_sequence(functions, mg.ones(2), **arguments)
    with pytest.raises(UsageError, match="function 1 returned tuple; with policy"):
        mg.checkpoint_sequence(
            [mg.exp, lambda x: (x, x), mg.exp], mg.ones(2).requires_grad_(), policy="revolve", snapshots=1
        )
