"""Schedules without a flush give the weights of the papers' update rules, simulated on one rank."""

from copy import deepcopy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import dist, nn
from minigrad.dist.memory import Meter
from minigrad.dist.pipeline import Pipeline
from minigrad.dist.schedule import parse
from minigrad.dist.world import World
from minigrad.errors import UsageError
from tests.dist.pipelines import layers, mean_square, walk_alone
from tests.dist.test_executor import grad_of

WIDTH, RATE, MOMENTUM = 3, 0.1, 0.9
Weights = list[list[np.ndarray]]  # by stage


def data(samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    values = np.random.default_rng(seed)
    return values.normal(size=(samples, WIDTH)), values.normal(size=(samples, WIDTH))


def simulated(stages: int, updates: int, samples: int, seed: int, delay, rates=()) -> list[Weights]:
    """Momentum descent on one rank, in which update t takes, of stage s, the weights of version delay(s, t).

    Narayanan et al. 2019, §3.3: w(t+1) = w(t) - ν ∇f(w₁, …, w_n), each w_s of its own age. Returns the
    weights after 0, 1, 2, … updates.
    """
    model = nn.Sequential(*layers(["dense"] * stages, seed))
    parameters = [list(layer.parameters()) for layer in model]
    history = [[[p.data.copy() for p in row] for row in parameters]]
    velocity = [[np.zeros(p.shape) for p in row] for row in parameters]
    x, y = data(samples, seed)
    for t in range(updates):
        rows = slice(t * samples // updates, (t + 1) * samples // updates)
        for s, row in enumerate(parameters):
            for p, old in zip(row, history[delay(s, t)][s], strict=True):
                p.data = old.copy()
        model.zero_grad()
        walk_alone(model, x[rows], y[rows])
        rate, after = rates[t] if rates else RATE, []
        for s, row in enumerate(parameters):
            velocity[s] = [MOMENTUM * v + grad_of(p) for v, p in zip(velocity[s], row, strict=True)]
            after.append([w - rate * v for w, v in zip(history[t][s], velocity[s], strict=True)])
        history.append(after)
    return history


def make_pipeline(world: World, seed: int, options: dict, **more) -> Pipeline:
    return Pipeline(
        layers(["dense"] * len(options["balance"]), seed),
        loss=mean_square,
        world=world,
        optimizer=lambda parameters: nn.optim.SGD(parameters, lr=RATE, momentum=MOMENTUM),
        **options,
        **more,
    )


def weights_of(pipeline: Pipeline) -> dict[int, list[np.ndarray]]:
    return {s: [p.data.copy() for p in stage.parameters()] for s, stage in pipeline.stages.items()}


Found = list[tuple[list[dict[int, list[np.ndarray]]], list[int]]]


def in_stages(
    world: World, samples: int, seed: int, options: dict, calls: int = 1
) -> tuple[list[dict[int, list[np.ndarray]]], list[int]]:
    """The weights by stage after each of `calls` steps, and the most versions that were held at a time."""
    pipeline = make_pipeline(world, seed, options)
    x, y = data(samples, seed)
    found = []
    for rows in np.split(np.arange(samples), calls):
        pipeline.step(x[rows], y[rows])
        found.append(weights_of(pipeline))
    return found, [versions.most_held for versions in pipeline.weight_versions.values()]


def compare(found: Found, expected: list[Weights]) -> None:
    """After each step, the weights after as many updates; `expected` are those after all that count."""
    calls = len(found[0][0])
    for call in range(calls):
        parts = {stage: weights for ranks, _ in found for stage, weights in ranks[call].items()}
        wanted = expected[(call + 1) * (len(expected) - 1) // calls]
        assert sorted(parts) == list(range(len(wanted)))
        for stage, weights in parts.items():
            for actual, value in zip(weights, wanted[stage], strict=True):
                np.testing.assert_allclose(actual, value, rtol=1e-10, atol=1e-12)


@settings(max_examples=25)
@given(
    n=st.integers(1, 4),
    updates=st.integers(1, 9),
    size=st.integers(1, 2),
    recompute=st.booleans(),
    rule=st.sampled_from([None, "stashing", "vertical-sync"]),
    seed=st.integers(0, 50),
)
def test_pipedream(n, updates, size, recompute, rule, seed):
    options = {"schedule": "pipedream", "chunks": updates, "versions": rule, "recompute": recompute}
    found = dist.spawn(in_stages, ranks=n, arguments=(updates * size, seed, {**options, "balance": [1] * n}))
    if rule != "vertical-sync":
        compare(found, simulated(n, updates, updates * size, seed, lambda s, t: max(0, t - (n - 1 - s))))
        for s, (_, [held]) in enumerate(found):
            assert held == n - s if updates >= 2 * (n - 1 - s) else held < n - s
    else:
        compare(found, simulated(n, updates, updates * size, seed, lambda s, t: max(0, t - (n - 1))))


@pytest.mark.parametrize("rule", ["stashing", "vertical-sync"])
def test_delays_of_pipedream_begin_anew_with_each_step(rule):
    """It drains there: `Pipeline.step` says so."""
    n, updates, calls = 3, 4, 2
    options = {"schedule": "pipedream", "chunks": updates, "versions": rule, "balance": [1] * n}
    found = dist.spawn(in_stages, ranks=n, arguments=(16, 0, options, calls))
    late = {"stashing": lambda s: n - 1 - s, "vertical-sync": lambda s: n - 1}[rule]
    compare(found, simulated(n, updates * calls, 16, 0, lambda s, t: t - min(t % updates, late(s))))


@settings(max_examples=25)
@given(
    n=st.integers(1, 4),
    extra=st.integers(0, 2),
    batches=st.integers(1, 3),
    calls=st.integers(1, 4),
    rule=st.sampled_from([None, "2bw"]),
    recompute=st.booleans(),
    seed=st.integers(0, 50),
    divisor=st.integers(1, 4),
)
def test_2bw(n, extra, batches, calls, rule, recompute, seed, divisor):
    """Narayanan et al. 2021, §3.1: w(t+1) = w(t) - ν ∇f(w(t-1)), with two versions, however updates are
    dealt out to steps, and stages to ranks.
    """
    options = {"schedule": "2bw", "versions": rule, "chunks": n + extra, "batches": batches}
    samples, updates = (n + extra) * batches * calls * 2, batches * calls
    options = {**options, "recompute": recompute, "balance": [1] * n}
    ranks = n if n % divisor else n // divisor
    found = dist.spawn(in_stages, ranks=ranks, arguments=(samples, seed, options, calls))
    compare(found, simulated(n, updates, samples, seed, lambda s, t: max(0, t - 1)))
    assert {held for _, every in found for held in every} == {2}


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_2bw_is_one_trajectory_however_it_is_cut_into_steps(ranks):
    ends = []
    for batches in (1, 2, 3, 6):
        options = {"schedule": "2bw", "chunks": 4, "batches": batches, "balance": [1] * ranks}
        found = dist.spawn(in_stages, ranks=ranks, arguments=(24, 3, options, 6 // batches))
        ends.append({stage: weights for steps, _ in found for stage, weights in steps[-1].items()})
    for end in ends[1:]:
        for stage, weights in end.items():
            for actual, wanted in zip(weights, ends[0][stage], strict=True):
                np.testing.assert_allclose(actual, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("schedule", ["pipedream", "2bw"])
def test_as_many_arrays_as_versions(schedule):
    """Memory, from the arrays themselves: n - s versions of PipeDream's stage s, two of 2BW."""
    n = 4

    def main(world: World) -> tuple[float, float]:
        meter = Meter()
        chunks = 2 * n if schedule == "pipedream" else n
        pipeline = make_pipeline(
            world, 0, {"schedule": schedule, "chunks": chunks, "balance": [1] * n}, meter=meter
        )
        pipeline.step(*data(16, 0))
        meter.reset_peak()
        pipeline.step(*data(16, 1))
        own = sum(p.data.nbytes for p in pipeline.parameters())
        return meter.peak["parameters"] / own, meter.current["parameters"] / own

    found = dist.spawn(main, ranks=n)
    assert found == ([(n - s, 1) for s in range(n)] if schedule == "pipedream" else [(2, 2)] * n)


@pytest.mark.parametrize("schedule", ["pipedream", "2bw"])
@pytest.mark.parametrize("complete", [True, False])
def test_a_run_goes_on_from_what_was_saved(schedule, complete):
    """Weights, optimizers with their learning rates, and versions: to the bit as if it had not stopped."""
    options = {"schedule": schedule, "chunks": 3, "balance": [1, 1]}
    steps = [data(6, step) for step in range(6)]

    def scheduled(world: World):
        pipeline = make_pipeline(world, 0, options)
        return pipeline, [nn.lr_scheduler.StepLR(o, 2, gamma=0.5) for o in pipeline.optimizers.values()]

    def train(pipeline: Pipeline, rates, part) -> None:
        for batch in part:
            pipeline.step(*batch)
            for rate in rates:
                rate.step()

    def main(world: World):
        whole, rates = scheduled(world)
        train(whole, rates, steps)
        first, rates = scheduled(world)
        train(first, rates, steps[:3])
        saved = [x.state_dict() for x in (*first.optimizers.values(), *rates)]
        older = {stage: versions.state_dict() for stage, versions in first.weight_versions.items()}
        again, rates = scheduled(world)
        again.load_state_dict(first.state_dict())
        for part, state in zip((*again.optimizers.values(), *rates), saved, strict=True):
            part.load_state_dict(state)
        for stage, versions in again.weight_versions.items() if complete else ():
            versions.load_state_dict(older[stage])
        train(again, rates, steps[3:])
        return weights_of(whole), weights_of(again), rates[0].get_last_lr()

    for whole, again, rate in dist.spawn(main, ranks=2):
        assert rate == [RATE / 8]
        for stage, weights in whole.items():
            alike = all((a == b).all() for a, b in zip(weights, again[stage], strict=True))
            assert alike == (complete or schedule == "pipedream")


def test_other_weights_have_no_past():
    """Loading weights alone begins anew: gradients of before belong to other weights."""

    def main(world: World):
        pipeline = make_pipeline(world, 0, {"schedule": "2bw", "chunks": 2, "balance": [1, 1]})
        begin = {name: x.numpy().copy() for name, x in pipeline.state_dict().items()}
        states = deepcopy({stage: optimizer.state_dict() for stage, optimizer in pipeline.optimizers.items()})
        ends = []
        for _ in range(2):
            for step in range(2):
                pipeline.step(*data(4, step))
            ends.append(weights_of(pipeline))
            pipeline.load_state_dict(begin)
            for stage, state in states.items():
                pipeline.optimizers[stage].load_state_dict(state)
        return ends

    for first, second in dist.spawn(main, ranks=2):
        for stage, weights in first.items():
            for a, b in zip(weights, second[stage], strict=True):
                np.testing.assert_array_equal(a, b)


def test_a_state_that_lacks_a_parameter():
    def main(world: World) -> None:
        pipeline = make_pipeline(world, 0, {"schedule": "2bw", "chunks": 1, "balance": [1]})
        pipeline.step(*data(4, 0))
        [versions] = pipeline.weight_versions.values()
        state = versions.state_dict()
        assert sorted(state) == ["1.0.bias", "1.0.weight"]
        del state["1.0.bias"]
        versions.load_state_dict(state)

    with pytest.raises(UsageError, match=r"the state lacks '1.0.bias'"):
        dist.spawn(main, ranks=1)


def test_rates_change_between_steps():
    def main(world: World):
        pipeline = make_pipeline(world, 0, {"schedule": "2bw", "chunks": 2, "balance": [1, 1]})
        found = []
        for step, rows in enumerate(np.split(np.arange(12), 3)):
            for optimizer in pipeline.optimizers.values():
                optimizer.param_groups[0]["lr"] = 0.1 / (step + 1)
            pipeline.step(*(x[rows] for x in data(12, 0)))
            found.append(weights_of(pipeline))
        return found, []

    rates = [0.1 / (t + 1) for t in range(3)]
    compare(dist.spawn(main, ranks=2), simulated(2, 3, 12, 0, lambda s, t: max(0, t - 1), rates))


def test_without_the_rule_the_weights_would_be_others():
    """A consistent gradient, a stashed one and that of no delay at all are three different things."""
    results = [
        simulated(3, 8, 8, 0, lambda s, t: max(0, t - (2 - s))),
        simulated(3, 8, 8, 0, lambda s, t: max(0, t - 2)),
        simulated(3, 8, 8, 0, lambda s, t: t),
    ]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert abs(results[a][-1][0][0] - results[b][-1][0][0]).max() > 1e-4


def test_an_update_of_its_own_at_the_end_is_a_flush():
    schedule = parse("F0 F1 B0 B1 U0\nF0 F1 B0 B1 U0", name="own")
    options = {"schedule": schedule, "balance": [1, 1]}
    found = dist.spawn(in_stages, ranks=2, arguments=(6, 1, options))
    compare(found, simulated(2, 1, 6, 1, lambda s, t: 0))


@pytest.mark.parametrize("kinds", [["frozen", "dense"], ["keep", "dense"]])
def test_a_stage_that_learns_nothing_has_no_versions(kinds):
    """The other follows the rule of 2BW."""
    x, y = data(8, 0)

    def main(world: World):
        pipeline = Pipeline(
            layers(kinds, 0),
            schedule="2bw",
            chunks=2,
            loss=mean_square,
            world=world,
            optimizer=lambda parameters: nn.optim.SGD(parameters, lr=RATE),
        )
        for rows in np.split(np.arange(8), 4):
            pipeline.step(x[rows], y[rows])
        assert list(pipeline.weight_versions) == list(pipeline.optimizers) == [1] * (world.rank == 1)
        return weights_of(pipeline)

    found = {stage: weights for part in dist.spawn(main, ranks=2) for stage, weights in part.items()}
    whole = layers(kinds, 0)
    history = [[p.data.copy() for p in whole[1].parameters()]]
    for t, rows in enumerate(np.split(np.arange(8), 4)):
        for p, old in zip(whole[1].parameters(), history[max(0, t - 1)], strict=True):
            p.data = old.copy()
            p.zero_grad()
        values = whole[1](*whole[0](mg.tensor(x[rows], dtype="float64")))
        mean_square(values, mg.tensor(y[rows], dtype="float64")).backward()
        moved = zip(history[t], whole[1].parameters(), strict=True)
        history.append([w - RATE * grad_of(p) for w, p in moved])
    for actual, wanted in zip(found[1], history[-1], strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-10, atol=1e-12)


def test_one_stage_may_use_a_parameter_twice():
    """It has its whole gradient at the update of that stage; between stages it would have none."""

    def train(model: nn.Module, step) -> list[np.ndarray]:
        for number in range(3):
            step(*data(4, number))
        return [p.data.copy() for p in model.parameters()]

    def main(world: World) -> list[np.ndarray]:
        pipeline = Pipeline(
            layers(["tied", "tied"], 0),
            balance=[2],
            schedule="pipedream",
            loss=mean_square,
            world=world,
            optimizer=lambda parameters: nn.optim.SGD(parameters, lr=RATE),
        )
        return train(pipeline.module, pipeline.step)

    model = nn.Sequential(*layers(["tied", "tied"], 0))
    optimizer = nn.optim.SGD(model.parameters(), lr=RATE)

    def step(x: np.ndarray, y: np.ndarray) -> None:
        walk_alone(model, x, y)
        optimizer.step()
        optimizer.zero_grad()

    for actual, wanted in zip(dist.spawn(main, ranks=1)[0], train(model, step), strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-12)


@pytest.mark.parametrize(
    ("kinds", "options", "message"),
    [
        (["dense"] * 2, {"schedule": "pipedream"}, "updates while it runs; give optimizer="),
        (["tied"] * 2, {"schedule": "pipedream", "optimizer": nn.optim.SGD}, "share parameters"),
        (["dense"] * 2, {"schedule": "1f1b", "optimizer": nn.optim.SGD}, "1f1b never updates"),
        (["dense"] * 2, {"schedule": "1f1b", "versions": "2bw"}, "1f1b never updates.*leave versions='2bw'"),
        (
            ["dense"] * 2,
            {"schedule": "2bw", "optimizer": nn.optim.SGD, "versions": "stashing"},
            "leave versi",
        ),
    ],
)
def test_misuse(kinds, options, message):
    def main(world: World) -> None:
        Pipeline(layers(kinds, 0), chunks=2, loss=mean_square, world=world, **options)

    with pytest.raises(UsageError, match=message):
        dist.spawn(main, ranks=2)
