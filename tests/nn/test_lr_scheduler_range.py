"""The learning-rate range test: what it finds, and that it leaves no trace."""

import math
import xml.etree.ElementTree as ElementTree
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn
from minigrad.errors import UsageError
from minigrad.nn.lr_scheduler import range_test
from minigrad.nn.optim import SGD, AdamW
from minigrad.tensor import Tensor


def valley(steepness: float) -> tuple[nn.Parameter, SGD]:
    """½·steepness·x²: descent is at the bottom at once with the rate 1 / steepness and leaves it above 2."""
    p = nn.Parameter(np.full(4, 3.0))
    return p, SGD([p], lr=0.123)


@pytest.mark.parametrize("steepness", [0.1, 1.0, 50.0])
@pytest.mark.parametrize("growth", ["exponential", "linear"])
def test_it_shows_where_training_is_possible(steepness, growth):
    p, optimizer = valley(steepness)

    def train_step() -> float:
        optimizer.zero_grad()
        loss = mg.sum(mg.square(p)) * (0.5 * steepness)
        loss.backward()
        optimizer.step()
        return float(loss)

    found = range_test(
        train_step, optimizer, start=1e-3 / steepness, stop=30.0 / steepness, growth=growth, steps=60
    )
    assert found.rates[-1] > 2 / steepness  # it went beyond the last stable rate, and noticed
    assert len(found.rates) < 60
    assert found.steepest < 2 / steepness
    steps = np.diff(found.rates) if growth == "linear" else np.diff(np.log(found.rates))
    np.testing.assert_allclose(steps, steps[0], rtol=1e-9)
    root = ElementTree.fromstring(found.plot("A test"))
    assert root.get("aria-label") == "A test"
    assert sum(element.get("class", "").startswith("line") for element in root.iter()) >= 2


def test_nothing_is_left_behind():
    class Counted(nn.Module):
        def __init__(self) -> None:
            self.layer = nn.Linear(3, 2, dtype="float64")
            self.calls = nn.Buffer(np.zeros(1))

        def forward(self, x: Tensor) -> Tensor:
            self.calls.assign(self.calls.data + 1)
            return self.layer(x)

    model = Counted()
    groups: list[dict[str, Any]] = [{"params": model.layer.weight}, {"params": model.layer.bias, "lr": 0.5}]
    optimizer = AdamW(groups, lr=0.1)
    x = mg.tensor(np.random.default_rng(0).normal(size=(4, 3)))

    def train_step() -> float:
        optimizer.zero_grad()
        loss = mg.mean(mg.square(model(x)))
        loss.backward()
        optimizer.step()
        return float(loss)

    train_step()
    before = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    state = {name: array.copy() for name, array in optimizer.flat_state.items()}
    range_test(train_step, optimizer, steps=10, module=model)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name], err_msg=name)
    for name, array in optimizer.flat_state.items():
        np.testing.assert_array_equal(array, state[name])
    assert optimizer.steps == [1, 1]
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.5]


def test_a_step_that_fails_leaves_nothing_behind_either():
    p, optimizer = valley(1.0)

    def train_step() -> float:
        p.assign(np.zeros(4))
        raise RuntimeError("no data")

    with pytest.raises(RuntimeError, match="no data"):
        range_test(train_step, optimizer)
    assert p.numpy().tolist() == [3.0] * 4
    assert optimizer.param_groups[0]["lr"] == 0.123


def test_what_makes_no_sense_is_refused():
    _, optimizer = valley(1.0)
    for wrong in ({"start": 0.0}, {"start": 2.0}, {"steps": 2}, {"smoothing": 1.0}):
        with pytest.raises(UsageError, match="range test goes from"):
            range_test(lambda: 1.0, optimizer, **wrong)
    with pytest.raises(UsageError, match="after 0 steps; begin below"):
        range_test(lambda: math.nan, optimizer)
