"""What layers cost, counted and timed; and the way from a real run back to the model."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import dist, nn
from minigrad.dist.partitioning import balance
from minigrad.dist.pipeline import Pipeline
from minigrad.dist.pipeline_costs import layer_flops, layer_seconds, pause, profile
from minigrad.dist.schedule import Action, B, F, I, Kind, W
from minigrad.dist.schedules import make
from minigrad.dist.timing import Costs, measured, simulate
from minigrad.dist.world import World
from minigrad.errors import UsageError
from tests.dist.pipelines import WIDTH, layers, mean_square


def test_flops_are_those_of_the_products_and_nothing_is_changed():
    wide = nn.Sequential(nn.Linear(4, 100), nn.Tanh(), nn.Linear(100, 3))
    before = [p.data for p in wide.parameters()]
    counts = layer_flops(wide, mg.ones((5, 4)))
    assert counts[0] >= 2 * 5 * 4 * 100
    assert counts[2] >= 2 * 5 * 100 * 3
    assert counts[1] < counts[2]
    assert all(a is b.data for a, b in zip(before, wide.parameters(), strict=True))
    assert balance(counts, 2) == [1, 2]
    skips = layer_flops(layers(["keep", "dense", "join"], 0), np.ones((2, WIDTH)), np.ones(2, int))
    assert len(skips) == 3
    assert skips[1] >= 2 * 2 * WIDTH**2


def test_seconds_are_those_of_the_clock():
    ticks = [0.0]

    class Slow(nn.Module):
        def __init__(self, seconds: float) -> None:
            self.seconds = seconds
            self.weight = nn.Parameter(np.ones(3))

        def forward(self, x: mg.Tensor) -> mg.Tensor:
            ticks[0] += self.seconds
            return x * self.weight

    model = [Slow(1.0), Slow(4.0), Slow(2.0)]
    assert layer_seconds(model, np.ones((2, 3)), clock=lambda: ticks[0]) == [1.0, 4.0, 2.0]
    assert all(layer.weight.grad is None for layer in model)
    with pytest.raises(UsageError, match="0 times"):
        layer_seconds(model, np.ones((2, 3)), repeats=0)


def test_a_profile_of_the_model_is_the_model():
    schedule = make("zb-h1", 3, 5)
    timeline = simulate(schedule, Costs(2, 5, 2))
    seconds = profile([timeline])
    assert seconds == {(s, kind, 0): cost for s in range(3) for kind, cost in ((F, 2), (I, 3), (W, 2))}
    assert simulate(schedule, measured(seconds)).makespan == timeline.makespan


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 4), st.integers(1, 3))
def test_slices_keep_the_times_of_their_own(tokens, stages, chunks):
    """Later slices look at more tokens, and no two need take as long, there or back."""

    def cost(action: Action) -> int:
        return tokens[action.slice] * (2 + (action.kind is not F)) + action.stage

    schedule = make("terapipe", stages, chunks, slices=len(tokens))
    timeline = simulate(schedule, cost)
    assert simulate(schedule, measured(profile([timeline]))) == timeline


@pytest.mark.parametrize("name", ["naive", "gpipe", "1f1b", "zb-h1", "interleaved"])
@pytest.mark.parametrize("link", [0, 0.75])
def test_the_pause_of_the_model_is_the_models_however_often_ranks_wait(name, link):
    schedule = make(name, 3, 6, virtual=2 if name == "interleaved" else 1)
    for between in (0, 0.25):
        assert pause([simulate(schedule, Costs(2, 5, 2), link=link, between=between)]) == between


def test_no_pause_is_known_where_everybody_waits():
    assert pause([simulate(make("gpipe", 3, 1).only((F,)), Costs())]) == 0


def test_a_real_run_can_be_predicted_again():
    def main(world: World):
        pipeline = Pipeline(layers(["dense"] * 2, 0), chunks=3, loss=mean_square, world=world)
        pipeline.step(np.ones((6, WIDTH)), np.ones((6, WIDTH)))
        return pipeline.timeline()

    timeline, same = dist.spawn(main, ranks=2)
    assert timeline == same
    seconds = profile([timeline, timeline])
    assert set(seconds) == {(s, kind, 0) for s in range(2) for kind in (F, B)}
    model = simulate(make("1f1b", 2, 3), measured(seconds))
    assert 0 < model.makespan <= sum(3 * t for t in seconds.values())
    assert Kind.UPDATE not in {kind for _, kind, _ in seconds}
