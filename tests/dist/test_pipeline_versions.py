"""Schedules without a flush give the weights of the papers' update rules, simulated on one rank."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import dist, nn
from minigrad.dist.pipeline import Pipeline
from minigrad.dist.schedule import parse
from minigrad.dist.schedules import make
from minigrad.dist.weight_versions import (
    WeightVersions,
    double_buffered,
    find_versions,
    stashing,
    vertical_sync,
)
from minigrad.dist.world import World
from minigrad.errors import UsageError
from tests.dist.pipelines import Dense, layers, mean_square
from tests.dist.test_executor import grad_of

WIDTH, RATE, MOMENTUM = 3, 0.1, 0.9
Weights = list[list[np.ndarray]]  # by stage


def data(samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    values = np.random.default_rng(seed)
    return values.normal(size=(samples, WIDTH)), values.normal(size=(samples, WIDTH))


def simulated(stages: int, updates: int, samples: int, seed: int, delay) -> Weights:
    """Momentum descent on one rank, in which update t takes, of stage s, the weights of version delay(s, t).

    Narayanan et al. 2019, §3.3: w(t+1) = w(t) - ν ∇f(w₁, …, w_n), each w_s of its own age.
    """
    model = nn.Sequential(*layers(["dense"] * stages, seed))
    parameters = [list(layer.parameters()) for layer in model]
    history = [[[p.data.copy() for p in row]] for row in parameters]
    velocity = [[np.zeros(p.shape) for p in row] for row in parameters]
    x, y = data(samples, seed)
    for t in range(updates):
        rows = slice(t * samples // updates, (t + 1) * samples // updates)
        for s, row in enumerate(parameters):
            for p, old in zip(row, history[s][delay(s, t)], strict=True):
                p.data = old.copy()
        model.zero_grad()
        values = (mg.tensor(x[rows], dtype="float64"),)
        for layer in model:
            values = layer(*values)
        mean_square(values, mg.tensor(y[rows], dtype="float64")).backward()
        for s, row in enumerate(parameters):
            velocity[s] = [MOMENTUM * v + grad_of(p) for v, p in zip(velocity[s], row, strict=True)]
            history[s].append([w - RATE * v for w, v in zip(history[s][t], velocity[s], strict=True)])
    return [versions[-1] for versions in history]


def in_stages(
    world: World, samples: int, seed: int, options: dict
) -> tuple[dict[int, list[np.ndarray]], list[int]]:
    """The weights by stage, and the most versions that were held at a time."""
    stages = len(options["balance"])
    pipeline = Pipeline(
        layers(["dense"] * stages, seed),
        loss=mean_square,
        world=world,
        optimizer=lambda parameters: nn.optim.SGD(parameters, lr=RATE, momentum=MOMENTUM),
        **options,
    )
    pipeline.step(*data(samples, seed))
    held = [versions.most_held for versions in pipeline.weight_versions.values()]
    return {s: [p.data.copy() for p in stage.parameters()] for s, stage in pipeline.stages.items()}, held


def compare(found, expected: Weights) -> None:
    parts = {stage: weights for part, _ in found for stage, weights in part.items()}
    assert sorted(parts) == list(range(len(expected)))
    for stage, weights in parts.items():
        for actual, wanted in zip(weights, expected[stage], strict=True):
            np.testing.assert_allclose(actual, wanted, rtol=1e-10, atol=1e-12)


@settings(max_examples=25)
@given(
    n=st.integers(1, 4),
    updates=st.integers(1, 9),
    size=st.integers(1, 2),
    recompute=st.booleans(),
    rule=st.sampled_from(["stashing", "vertical-sync"]),
    seed=st.integers(0, 50),
)
def test_pipedream(n, updates, size, recompute, rule, seed):
    options = {"schedule": "pipedream", "chunks": updates, "versions": rule, "recompute": recompute}
    found = dist.spawn(in_stages, ranks=n, arguments=(updates * size, seed, {**options, "balance": [1] * n}))
    if rule == "stashing":
        compare(found, simulated(n, updates, updates * size, seed, lambda s, t: max(0, t - (n - 1 - s))))
        for s, (_, [held]) in enumerate(found):
            assert held == n - s if updates >= 2 * (n - 1 - s) else held < n - s
    else:
        compare(found, simulated(n, updates, updates * size, seed, lambda s, t: max(0, t - (n - 1))))


@settings(max_examples=15)
@given(
    n=st.integers(1, 3),
    extra=st.integers(0, 2),
    batches=st.integers(1, 4),
    recompute=st.booleans(),
    seed=st.integers(0, 50),
)
def test_2bw(n, extra, batches, recompute, seed):
    """Narayanan et al. 2021, §3.1: w(t+1) = w(t) - ν ∇f(w(t-1)), with two versions."""
    options = {"schedule": "2bw", "versions": "2bw", "chunks": n + extra, "batches": batches}
    samples = (n + extra) * batches * 2
    options = {**options, "recompute": recompute, "balance": [1] * n}
    found = dist.spawn(in_stages, ranks=n, arguments=(samples, seed, options))
    compare(found, simulated(n, batches, samples, seed, lambda s, t: max(0, t - 1)))
    assert max(held for _, [held] in found) <= 2


def test_without_the_rule_the_weights_would_be_others():
    """A consistent gradient, a stashed one and that of no delay at all are three different things."""
    results = [
        simulated(3, 8, 8, 0, lambda s, t: max(0, t - (2 - s))),
        simulated(3, 8, 8, 0, lambda s, t: max(0, t - 2)),
        simulated(3, 8, 8, 0, lambda s, t: t),
    ]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert abs(results[a][0][0] - results[b][0][0]).max() > 1e-4


def test_an_update_of_its_own_at_the_end_is_a_flush():
    schedule = parse("F0 F1 B0 B1 U0\nF0 F1 B0 B1 U0", name="own")
    options = {"schedule": schedule, "balance": [1, 1]}
    found = dist.spawn(in_stages, ranks=2, arguments=(6, 1, options))
    compare(found, simulated(2, 1, 6, 1, lambda s, t: 0))


def test_versions_are_dropped_with_the_last_that_needs_them():
    schedule = make("pipedream", 3, 5)
    stage = type("S", (nn.Module,), {"number": 0})()
    stage.layer = Dense(np.random.default_rng(0))
    versions = WeightVersions(stage, schedule, stashing(schedule))
    for action in schedule.ranks[0]:
        if action.kind.value == "F":
            with versions.used_by(action.microbatch):
                pass
        elif action.kind.value == "U":
            versions.finished(action.microbatch)
            versions.before_update()
    assert versions.held == [5]
    assert versions.most_held == 3


# ------------------------------------------------------------------------------------------ the tables


def test_tables():
    schedule = make("pipedream", 3, 6)
    assert [stashing(schedule)[1, j] for j in range(6)] == [0, 0, 1, 2, 3, 4]
    assert [vertical_sync(schedule)[1, j] for j in range(6)] == [0, 0, 0, 1, 2, 3]
    double = double_buffered(make("2bw", 2, 2, batches=3))
    assert [double[0, j] for j in range(6)] == [0, 0, 0, 0, 1, 1]
    assert set(stashing(make("1f1b", 3, 4)).values()) == {0}


def test_weights_that_are_not_there_yet():
    late = parse("F0 B0 U0 F1 B1 U1\nF0 B0 F1 U0 B1 U1")
    assert set(find_versions(late, "stashing").values()) == {0, 1}
    with pytest.raises(UsageError, match="microbatch 1 needs version 1 of the weights on stage 1"):
        find_versions(late, "vertical-sync")
    with pytest.raises(UsageError, match="no rule 'stash'"):
        find_versions(late, "stash")


@pytest.mark.parametrize(
    ("kinds", "options", "message"),
    [
        (["dense"] * 2, {"schedule": "pipedream"}, "updates while it runs; give optimizer="),
        (["tied"] * 2, {"schedule": "pipedream", "optimizer": nn.optim.SGD}, "share parameters"),
        (["dense"] * 2, {"schedule": "1f1b", "optimizer": nn.optim.SGD}, "1f1b never updates"),
    ],
)
def test_misuse(kinds, options, message):
    def main(world: World) -> None:
        Pipeline(layers(kinds, 0), chunks=2, loss=mean_square, world=world, **options)

    with pytest.raises(UsageError, match=message):
        dist.spawn(main, ranks=2)
