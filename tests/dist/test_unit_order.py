"""Stage 3 goes through units in one order on all ranks, also through those that the first pass left out."""

from dataclasses import replace

import numpy as np
import pytest

import minigrad as mg
from minigrad import dist, nn
from minigrad.dist.partition import with_guesses
from minigrad.dist.world import World
from minigrad.dist.zero import ZeRO
from minigrad.errors import MinigradError
from tests.dist.zero_training import Case, Net, Result, close, loss_of, reference, run, shares, state, trained


@pytest.mark.parametrize(
    ("turns", "order"),
    [
        ([0.0, None, 1.0], [0, 1, 2]),
        ([None, 0.0, 1.0], [0, 1, 2]),
        ([0.0, 1.0, None, None], [0, 1, 2, 3]),
        ([None, 1.0, 0.0], [2, 1, 0]),  # the last is used first: so the first, if it is used, will come last
        ([3.0, None, None, 0.0], [3, 2, 1, 0]),
        ([None, 1.0, 0.0, None], [3, 2, 1, 0]),
        ([None, 0.0, None], [0, 1, 2]),
        ([2.0, 0.0, 1.0, None], [1, 2, 3, 0]),
    ],
)
def test_units_that_were_not_used_get_a_place_between_those_that_were(turns, order):
    found = with_guesses(turns)
    assert all(turn is None or turn == guess for turn, guess in zip(turns, found, strict=True))
    assert np.argsort(np.array(found)).tolist() == order
    assert sorted(with_guesses([None, None])) == with_guesses([None, None])


@pytest.mark.parametrize(("samples", "seed"), [(1, 1), (3, 0)])
def test_a_block_that_is_used_last_and_not_by_all(samples, seed):
    """With one sample, rank 1 gathers in the order that rank 0 had found out before it used that block; with
    three, it alone uses that block in its first pass.
    """
    case = Case(samples, steps=5, parts=1, seed=seed, width=1, tied=frozenset(), turned=True, seldom=0)
    for actual in run(replace(case, zero={"stage": 3}), 2):
        close(actual, reference(case))


class Layer(nn.Module):
    def __init__(self, values: np.random.Generator) -> None:
        self.weight = nn.Parameter(values.normal(size=(3, 3)))

    def forward(self, h: mg.Tensor) -> mg.Tensor:
        return mg.tanh(h @ self.weight)


class Path(nn.Module):
    """A parameter of its own, through the first of some layers."""

    def __init__(
        self, layers: nn.Sequential, part: list[nn.Module], x: nn.Parameter, *, checkpointed: bool = False
    ) -> None:
        self.layers, self.x = layers, x
        self.part, self.checkpointed = part, checkpointed

    def forward(self) -> mg.Tensor:
        h = mg.checkpoint(self.through, self.x) if self.checkpointed else self.through(self.x)
        return h * 1.0

    def through(self, h: mg.Tensor) -> mg.Tensor:
        for layer in self.part:
            h = layer(h)
        return h


def after_steps(zero: ZeRO, model: nn.Module, steps: int) -> list[np.ndarray]:
    """The parameters of `model` behind so many steps along the sum of what it gives."""
    for _ in range(steps):
        mg.sum(zero()).backward()
        zero.step()
    with zero.gathered():
        return [parameter.numpy().copy() for parameter in model.parameters()]


@pytest.mark.parametrize("units", [5, 8])
@pytest.mark.parametrize("used", [0, 1, 3])
@pytest.mark.parametrize("leaving", [0, 1])
def test_a_rank_that_leaves_out_the_last_units_keeps_up(units: int, used: int, leaving: int):
    """Its walk passes them before it has any gradient; the other rank waits for these buckets meanwhile."""

    def main(world: World, stage: int) -> list[np.ndarray]:
        model = nn.Sequential(*(Layer(np.random.default_rng(number)) for number in range(units)))
        part = list(model)[: used if world.rank == leaving else units]
        x = nn.Parameter(np.ones((2, 3)))
        zero = ZeRO(Path(model, part, x), nn.optim.SGD([*model.parameters(), x], lr=0.1), world, stage=stage)
        return after_steps(zero, model, 3)

    whole, shared_out = (dist.spawn(main, ranks=2, arguments=(stage,)) for stage in (0, 3))
    np.testing.assert_allclose(shared_out, whole, rtol=1e-10)


def test_passes_that_all_come_before_their_walks():
    """Units move to the places of their order when no graph is left that knows the old ones."""
    case = Case(parts=2, turned=True)

    def main(world: World, stage: int) -> Result:
        model = Net(0, case)
        zero = ZeRO(model, nn.optim.SGD(trained(case, model), lr=0.1), world, stage=stage)
        for step in range(2):
            parts = shares(case, step, world.size)[world.rank]
            early, late = (loss_of(zero, part, case.samples) for part in parts)
            with zero.no_sync():
                early.backward()
            late.backward()
            zero.step()
        with zero.gathered():
            return Result(state(model), [])

    whole, shared_out = (dist.spawn(main, ranks=2, arguments=(stage,)) for stage in (0, 3))
    for actual, expected in zip(shared_out, whole, strict=True):
        close(actual, expected)


def test_a_rank_that_uses_nothing_while_units_have_their_old_places():
    """After a first pass without a walk: neighbours of the order have one place, until there is a step."""

    def main(world: World, stage: int) -> list[np.ndarray]:
        model = nn.Sequential(*(Layer(np.random.default_rng(number)) for number in range(3)))
        order = [] if world.rank else [model[0], model[2], model[1]]
        path = Path(model, order, nn.Parameter(np.ones((2, 3))))
        zero = ZeRO(path, nn.optim.SGD(path.parameters(), lr=0.1), world, stage=stage)
        with mg.no_grad():
            zero()
        return after_steps(zero, model, 2)

    whole, shared_out = (dist.spawn(main, ranks=2, arguments=(stage,)) for stage in (0, 3))
    np.testing.assert_allclose(shared_out, whole, rtol=1e-10)


@pytest.mark.parametrize(
    ("parts", "complaint"),
    [
        (([0, 4], [0, 4]), None),
        (([0, 4], [0, 3]), "rank 0 gathers layers.4 out of order, rank 1 gathers layers.3 out of order"),
        (([0, 3], [1, 4]), "deadlock: no rank can go on"),
    ],
)
def test_units_that_one_checkpoint_uses_out_of_order(
    parts: tuple[list[int], list[int]], complaint: str | None
):
    """All ranks do so alike, or none computes with another's unit."""

    def main(world: World, stage: int) -> list[np.ndarray]:
        model = nn.Sequential(*(Layer(np.random.default_rng(number)) for number in range(5)))
        x = nn.Parameter(np.ones((2, 3)))
        path = Path(model, [model[number] for number in parts[world.rank]], x, checkpointed=True)
        zero = ZeRO(path, nn.optim.SGD([*model.parameters(), x], lr=0.1), world, stage=stage)
        return after_steps(zero, model, 3)

    if complaint:
        with pytest.raises(MinigradError, match=complaint):
            dist.spawn(main, ranks=2, arguments=(3,))
    else:
        whole, shared_out = (dist.spawn(main, ranks=2, arguments=(stage,)) for stage in (0, 3))
        np.testing.assert_allclose(shared_out, whole, rtol=1e-10)
