"""Walks for gradients of inputs, beside those that train: the same at every stage, or refused by name."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import dist, nn
from minigrad.dist import World
from minigrad.dist.zero import ZeRO
from minigrad.errors import UsageError


class Chain(nn.Module):
    """Matrices between two more; if `seldom`, the last is left out where the first input is negative."""

    def __init__(self, units: int, *, seldom: bool = False) -> None:
        values = np.random.default_rng(units)
        self.enter = nn.Parameter(values.normal(size=(3, 4)))
        self.units = nn.ModuleList(nn.Linear(4, 4, dtype="float64") for _ in range(units))
        for parameter in self.units.parameters():
            parameter.assign(values.normal(size=parameter.shape) / 2)
        self.leave = nn.Parameter(values.normal(size=(4, 2)))
        self.seldom, self.twice = seldom, False

    def forward(self, x: mg.Tensor) -> mg.Tensor:
        h = mg.tanh(x @ self.enter)
        left_out = self.seldom and float(x.numpy()[0, 0]) < 0
        for unit in [*self.units][: -1 if left_out else None] * (1 + self.twice):
            h = mg.tanh(unit(h))
        return h @ self.leave


def loss_of(model: Any, x: mg.Tensor) -> mg.Tensor:
    return mg.sum(mg.square(model(x)))


Inputs = list[tuple[np.ndarray, ...]]


def watched(zero: ZeRO, x: mg.Tensor, found: Inputs) -> None:
    """Gradients of inputs by a transform: a walk that leaves parameters alone."""
    value, gradient = mg.value_and_grad(lambda x: loss_of(zero, x))(x)
    found.append((value.numpy(), gradient.numpy()))


def trained(zero: ZeRO, x: mg.Tensor, found: Inputs) -> None:
    loss_of(zero, x).backward()


def both(zero: ZeRO, x: mg.Tensor, found: Inputs) -> None:
    x = mg.tensor(x.numpy(), requires_grad=True)
    loss_of(zero, x).backward()
    assert x.grad is not None
    found.append((x.grad.numpy(),))


def penalized(zero: ZeRO, x: mg.Tensor, found: Inputs) -> None:
    x = mg.tensor(x.numpy(), requires_grad=True)
    gradient = mg.grad(lambda x: loss_of(zero, x))(x)
    mg.sum(mg.square(gradient)).backward()


def penalized_beside(zero: ZeRO, x: mg.Tensor, found: Inputs) -> None:
    """As a critic is trained: other passes come between a derivative and the walk through it."""
    gradient = mg.grad(lambda x: loss_of(zero, x))(x)
    (mg.sum(mg.square(gradient)) + loss_of(zero, x * 0.5)).backward()


ROUNDS: list[tuple[Callable[..., None], ...]] = [
    (watched, trained),
    (trained, watched),
    (watched, watched, trained),
    (watched, both),
    (watched,),
]


def run(world: World, rounds: list[tuple[Callable[..., None], ...]], model: Chain, stage: int) -> Any:
    zero = ZeRO(
        model,
        nn.optim.SGD(model.parameters(), lr=0.05),
        world,
        stage=stage,
        bucket_bytes=1,
        algorithm="ordered",
    )
    found: Inputs = []
    for step, walks in enumerate(rounds):
        for number, walk in enumerate(walks):
            x = np.random.default_rng((world.rank, step, number)).normal(size=(2, 3))
            walk(zero, mg.tensor(x), found)
        zero.step()
    with zero.gathered():
        return [p.numpy().copy() for p in model.parameters()], found


def compare(rounds: list[tuple[Callable[..., None], ...]], ranks: int, units: int, **options: Any) -> None:
    def main(world: World, stage: int) -> Any:
        return run(world, rounds, Chain(units, **options), stage)

    expected = dist.spawn(main, ranks=ranks, arguments=(0,))
    for stage in (1, 2, 3):
        for (values, found), (others, inputs) in zip(
            dist.spawn(main, ranks=ranks, arguments=(stage,)), expected, strict=True
        ):
            assert all(np.array_equal(a, b) for a, b in zip(values, others, strict=True))
            for here, there in zip(found, inputs, strict=True):
                assert all(np.array_equal(a, b) for a, b in zip(here, there, strict=True))


@given(
    st.lists(st.sampled_from(ROUNDS), min_size=1, max_size=4),
    st.integers(1, 4),
    st.integers(1, 5),
    st.booleans(),
)
@settings(max_examples=15, deadline=None)
def test_gradients_of_inputs(
    rounds: list[tuple[Callable[..., None], ...]], ranks: int, units: int, seldom: bool
) -> None:
    compare(rounds, ranks, units, seldom=seldom)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_behind_gradients_that_were_forgotten(stage: int) -> None:
    def main(world: World) -> None:
        model = Chain(3, seldom=True)
        found: Inputs = []
        zero = ZeRO(model, nn.optim.SGD(model.parameters(), lr=0.05), world, stage=stage)
        x = mg.tensor(np.ones((2, 3)))
        trained(zero, x, found)
        zero.step()
        model.twice = True  # and the last unit not at all: nothing is sent within the walk
        trained(zero, mg.negative(x), found)
        zero.zero_grad()
        model.twice = False
        watched(zero, x, found)
        trained(zero, x, found)
        zero.step()

    dist.spawn(main, ranks=2)


@pytest.mark.parametrize("units", [1, 2])
@pytest.mark.parametrize("walk", [penalized, penalized_beside])
def test_walks_through_derivatives(units: int, walk: Callable[..., None]) -> None:
    compare([(walk,), (trained,), (watched, walk)] if walk is penalized else [(walk,)] * 2, 2, units)


@pytest.mark.parametrize("units", [3, 4])
@pytest.mark.parametrize("walk", [penalized, penalized_beside])
@pytest.mark.parametrize("ranks", [1, 2])
def test_walks_through_derivatives_whose_weights_are_gone(
    units: int, walk: Callable[..., None], ranks: int
) -> None:
    def main(world: World, stage: int) -> None:
        run(world, [(walk,)], Chain(units), stage)

    dist.spawn(main, ranks=ranks, arguments=(2,))
    with pytest.raises(UsageError, match=rf"rank \d of {ranks}: .*gradient penalty.*use stage 0, 1 or 2"):
        dist.spawn(main, ranks=ranks, arguments=(3,))
