"""Parameters that layers share are one, in one stage or in several: the one-rank run with one parameter."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import dist, nn
from minigrad.dist.pipeline import Pipeline
from minigrad.dist.pipeline_gpt import gpt_layers
from minigrad.dist.single import SingleWorld
from minigrad.dist.world import World
from minigrad.errors import CommunicationError, UsageError
from minigrad.nn.gpt import GPT, GPTConfig
from tests.dist.pipelines import WIDTH, Dense, mean_square, optimizer

Arrays = dict[str, np.ndarray]
SAMPLES, STEPS = 7, 3


@dataclass(frozen=True)
class Ties:
    """Which layers' weights are one (a number for each layer), and how that is said."""

    owners: tuple[int, ...]
    shared: tuple[tuple[str, ...], ...]
    balance: tuple[int, ...]
    ranks: int
    schedule: str
    recompute: bool
    modules: bool  # whether layers come as Modules, and not as functions


@st.composite
def ties(draw: st.DrawFn) -> Ties:
    ranks, virtual = draw(st.integers(1, 4)), draw(st.integers(1, 2))
    balance = draw(st.lists(st.integers(1, 3), min_size=ranks * virtual, max_size=ranks * virtual))
    owners = draw(st.lists(st.integers(0, 2), min_size=sum(balance), max_size=sum(balance)))
    shared = []
    for owner in set(owners):
        names = [f"{place}.weight" for place, other in enumerate(owners) if other == owner]
        names = draw(st.permutations(names))
        if draw(st.booleans()):
            shared.append(tuple(names))
        else:  # two at a time, which chain
            shared += [tuple(names[place : place + 2]) for place in range(len(names) - 1)]
    return Ties(
        tuple(owners),
        tuple(draw(st.permutations(shared))),
        tuple(balance),
        ranks,
        draw(st.sampled_from(["1f1b", "zb-h1", "gpipe", "interleaved"])),
        draw(st.booleans()),
        draw(st.booleans()),
    )


def layer(place: int) -> Dense:
    return Dense(np.random.default_rng(place))


def batch(step: int) -> tuple[np.ndarray, np.ndarray]:
    values = np.random.default_rng((9, step))
    return values.normal(size=(SAMPLES, WIDTH)), values.normal(size=(SAMPLES, WIDTH))


def alone(case: Ties) -> tuple[Arrays, list[float]]:
    """Without a pipeline: layers that are given the first one's Parameter."""
    layers = [layer(place) for place in range(len(case.owners))]
    for place, owner in enumerate(case.owners):
        layers[place].weight = layers[case.owners.index(owner)].weight
    model = nn.ModuleList(layers)
    learner = optimizer(model.parameters())
    norms = []
    for step in range(STEPS):
        x, y = (mg.tensor(array, dtype="float64") for array in batch(step))
        for one in layers:
            (x,) = one(x)
        mean_square(x, y).backward()
        norms.append(float(nn.utils.clip_grad_norm_(model.parameters(), 0.5)))
        learner.step()
        learner.zero_grad()
    return {name: x.data.copy() for name, x in model.state_dict().items()}, norms


def in_stages(world: World, case: Ties) -> tuple[Arrays, list[float], int]:
    makers = [partial(layer, place) for place in range(len(case.owners))]
    pipeline = Pipeline(
        [make() for make in makers] if case.modules else makers,
        balance=case.balance,
        chunks=world.size * 2 if case.schedule == "interleaved" else 3,
        schedule=case.schedule,
        loss=mean_square,
        recompute=case.recompute,
        shared=case.shared,
        world=world,
    )
    learner = optimizer(pipeline.parameters())
    norms = []
    for step in range(STEPS):
        pipeline.step(*batch(step))
        norms.append(float(pipeline.clip_grad_norm_(0.5)))
        learner.step()
        learner.zero_grad()
    state = {name: x.data.copy() for name, x in pipeline.state_dict().items()}
    return state, norms, sum(1 for _ in pipeline.parameters())


@settings(max_examples=60)
@given(ties())
def test_equal_to_one_parameter_on_one_rank_for_every_balance(case: Ties) -> None:
    expected, norms = alone(case)
    found = dist.spawn(in_stages, ranks=case.ranks, arguments=(case,))
    for state, own, _ in found:
        np.testing.assert_allclose(own, norms, rtol=1e-10)
        for name, value in state.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-10, atol=1e-12, err_msg=name)
    if case.ranks == 1:
        assert found[0][2] == len(case.owners) + len(set(case.owners))  # biases, and weights that differ


class Two(nn.Module):
    """Two matrices, of two dtypes."""

    def __init__(self, narrow: nn.Parameter, wide: nn.Parameter) -> None:
        self.narrow, self.wide = narrow, wide

    def forward(self, x: mg.Tensor) -> mg.Tensor:
        return mg.tanh((x @ self.narrow.astype("float64")) @ self.wide)


def test_shared_parameters_of_two_dtypes_get_gradients_of_their_own() -> None:
    def main(world: World, balance: list[int]) -> dict[str, np.ndarray]:
        values = np.random.default_rng(1)
        narrow = nn.Parameter(values.normal(size=(WIDTH, WIDTH)).astype("float32"))
        wide = nn.Parameter(values.normal(size=(WIDTH, WIDTH)))
        layers = [Two(narrow, wide), nn.Tanh(), Two(narrow, wide)]
        pipeline = Pipeline(layers, balance=balance, chunks=2, loss=mean_square, world=world)
        pipeline.step(*batch(0))
        return {
            name.partition(".")[2]: p.grad.data.copy()
            for name, p in pipeline.named_parameters()
            if p.grad is not None
        }

    [whole] = dist.spawn(main, ranks=1, arguments=([3],))
    for part in dist.spawn(main, ranks=2, arguments=([2, 1],)):
        for name, dtype, tolerance in (("narrow", "float32", 1e-6), ("wide", "float64", 1e-12)):
            assert part[name].dtype == dtype
            np.testing.assert_allclose(part[name], whole[name], rtol=tolerance)


@pytest.mark.parametrize("ranks", [1, 2])
def test_copies_that_differ_are_refused_on_all_ranks(ranks: int) -> None:
    def main(world: World, other: Callable[[], nn.Module]) -> None:
        layers = [lambda: nn.Linear(3, 3, bias=False), nn.Tanh(), other]
        balance = [3] if world.size == 1 else [2, 1]
        with pytest.raises(UsageError, match=r"0.weight \(.*learned\) and 2.weight \(.*cannot be one param"):
            Pipeline(layers, balance=balance, shared=[["0.weight", "2.weight"]], world=world)

    for other in (
        lambda: nn.Linear(3, 4, bias=False),
        lambda: nn.Linear(3, 3, bias=False, dtype="float64"),
        lambda: nn.Linear(3, 3, bias=False).requires_grad_(False),
    ):
        dist.spawn(main, ranks=ranks, arguments=(other,))


def test_a_group_that_is_named_and_found_counts_once() -> None:
    """Modules that share a weight, of which `shared` says so, too."""

    def main(world: World, shared: list[list[str]]) -> np.ndarray:
        first, last = (Dense(np.random.default_rng(place)) for place in range(2))
        last.weight = first.weight
        pipeline = Pipeline([first, last], shared=shared, loss=mean_square, world=world)
        pipeline.step(*batch(0))
        return next(p.grad.data.copy() for p in pipeline.parameters() if p.grad is not None and p.ndim == 2)

    found, said = (
        dist.spawn(main, ranks=2, arguments=(shared,)) for shared in ([], [["1.weight", "0.weight"]])
    )
    for one, other in zip(found, said, strict=True):
        np.testing.assert_array_equal(one, other)


def test_ranks_that_were_told_of_other_groups() -> None:
    def main(world: World) -> None:
        makers = [lambda: nn.Linear(3, 3) for _ in range(3)]
        Pipeline(makers, balance=[2, 1], world=world, shared=[["0.weight", "2.weight"]][: world.rank])

    with pytest.raises(CommunicationError, match="shared parameters"):
        dist.spawn(main, ranks=2)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_the_state_of_a_gpt_loads_though_its_chain_has_a_name_more(ranks: int) -> None:
    config = GPTConfig(vocabulary=5, context=4, layers=2, heads=1, width=4)
    state = GPT(config, seed=1).state_dict()
    other = {**state, "lm_head.weight": state["wte.weight"] + 1.0}

    def main(world: World) -> None:
        pipeline = Pipeline(gpt_layers(GPT(config, seed=0)), world=world)
        for given_state in (state, other):  # what the first name says counts, wherever the others lie
            pipeline.load_state_dict(given_state)
            for name, value in pipeline.state_dict().items():
                expected = state["wte.weight" if name == "lm_head.weight" else name]
                np.testing.assert_array_equal(value.numpy(), expected.numpy(), err_msg=name)
        renamed = {name.replace("wte", "lm_head"): value for name, value in state.items()}
        pipeline.load_state_dict(renamed)
        with pytest.raises(UsageError, match="missing: "):
            pipeline.load_state_dict({"wte.weight": state["wte.weight"]})

    dist.spawn(main, ranks=ranks)


def test_what_is_one_parameter_is_filled_once() -> None:
    """Layers without values: the second begins as the first."""
    layers = [lambda: nn.Linear(3, 3, bias=False, device="shapes") for _ in range(2)]
    pipeline = Pipeline(layers, balance=[2], shared=[["1.weight", "0.weight"]], world=SingleWorld())
    first, second = (pipeline.module.get_parameter(f"{place}.weight") for place in range(2))
    assert first is second
    assert first.device == "cpu"
    assert first.numpy().any()


class Idle(Dense):
    """Has a parameter more, which it does not use."""

    def __init__(self, values: np.random.Generator, spare: nn.Parameter) -> None:
        super().__init__(values)
        self.spare = spare


def test_what_no_stage_uses_is_not_updated() -> None:
    """Weight decay would shrink it."""

    def main(world: World) -> Arrays:
        values = np.random.default_rng(0)
        spare = nn.Parameter(np.ones(2))
        pipeline = Pipeline([Idle(values, spare), Idle(values, spare)], loss=mean_square, world=world)
        optimizer = nn.optim.AdamW(list(pipeline.parameters()), lr=0.1, weight_decay=0.5)
        pipeline.step(np.ones((2, WIDTH)), np.ones((2, WIDTH)))
        optimizer.step()
        return {name: parameter.numpy().copy() for name, parameter in pipeline.named_parameters()}

    for ranks in (1, 2):
        for found in dist.spawn(main, ranks=ranks):
            assert all((value == 1).all() for name, value in found.items() if name.endswith("spare"))
            assert len(found) == 3 + 2 * (ranks == 1)
