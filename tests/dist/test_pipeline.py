"""A pipeline gives the parameters of the one-rank run, whatever the model, the schedule and the split."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import dist, nn
from minigrad.dist.checkpoint import load, save
from minigrad.dist.pipeline import Pipeline
from minigrad.dist.schedule import parse
from minigrad.dist.schedules import make
from minigrad.dist.single import SingleWorld
from minigrad.dist.world import World
from minigrad.errors import CommunicationError, UsageError
from tests.dist.pipelines import (
    KINDS,
    Case,
    batch,
    equal,
    layers,
    mean_square,
    optimizer,
    state_of,
    train_alone,
    train_in_stages,
)

FLUSHED = ("naive", "gpipe", "1f1b", "interleaved", "zb-h1", "zb-h2")


@st.composite
def cases(draw) -> Case:
    ranks = draw(st.integers(1, 4))
    schedule = draw(st.sampled_from(FLUSHED))
    virtual = draw(st.integers(1, 3))  # also of schedules for one stage on each rank
    if schedule == "interleaved":
        chunks = ranks * draw(st.integers(1, 3))
    else:
        chunks = draw(st.sampled_from(sorted({1, max(1, ranks - 1), ranks, 2 * ranks + 1})))
    balance = draw(st.lists(st.integers(1, 2), min_size=ranks * virtual, max_size=ranks * virtual))
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=sum(balance), max_size=sum(balance)))
    kinds[-1] = "dense"
    fewest = 2 * chunks if "norm" in kinds else chunks
    return Case(
        kinds=tuple(kinds),
        balance=tuple(balance),
        schedule=schedule,
        chunks=chunks,
        samples=fewest + draw(st.integers(0, 5)),
        ranks=ranks,
        recompute=draw(st.booleans()),
        seed=draw(st.integers(0, 100)),
        max_norm=draw(st.sampled_from([None, 0.3])),
    )


@settings(max_examples=80)
@given(cases())
def test_equal_to_one_rank(case: Case):
    found = dist.spawn(train_in_stages, ranks=case.ranks, arguments=(case,))
    equal(found, train_alone(case))


def test_three_lines():
    def main(world: World) -> float:
        rng = np.random.default_rng(0)
        model = nn.Sequential(*layers(["dense"] * 4, 0))
        pipeline = Pipeline(model, balance=[2, 2], chunks=8, schedule="1f1b", loss=mean_square)
        return float(pipeline.step(rng.normal(size=(8, 3)), rng.normal(size=(8, 3))))

    first, second = dist.spawn(main, ranks=2)
    assert first == second


def test_a_schedule_of_ones_own_with_a_stage_order_of_its_own():
    """Stages 0 and 3 on rank 0, 1 and 2 on rank 1: a V, in which neighbours share a rank."""
    text = "F0@0 F1@0 F0@3 B0@3 F1@3 B1@3 B0@0 B1@0\nF0@1 F0@2 F1@1 F1@2 I0@2 B0@1 W0@2 B1@2 B1@1"
    kinds = ("dense", "keep", "tied", "join", "tied")
    case = Case(kinds, (1, 2, 1, 1), parse(text, name="v"), chunks=2, samples=5)
    equal(dist.spawn(train_in_stages, ranks=2, arguments=(case,)), train_alone(case))


def test_layers_that_only_their_rank_makes():
    """Functions instead of modules, a skip connection across all stages, and a shared weight by its names."""
    kinds = ("keep", "tied", "dense", "join", "tied")
    case = Case(kinds, (2, 1, 2), "1f1b", chunks=3, samples=7, ranks=3)
    made: list[int] = []

    def maker(place: int):
        def make() -> nn.Module:
            made.append(place)
            return layers(kinds, case.seed)[place]

        return make

    def main(world: World):
        pipeline = Pipeline(
            [maker(place) for place in range(5)],
            balance=case.balance,
            chunks=3,
            loss=mean_square,
            world=world,
            shared=[("1.weight", "4.weight")],
        )
        learner = optimizer(pipeline.parameters())
        losses = []
        for step in range(case.steps):
            losses.append(float(pipeline.step(*batch(case, step))))
            learner.step()
            learner.zero_grad()
        return state_of(pipeline), losses

    equal(dist.spawn(main, ranks=3), train_alone(case))
    assert sorted(made) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("schedule", ["gpipe", "interleaved", "1f1b"])
def test_predictions_come_out_on_the_last_rank_and_nothing_is_learned(schedule):
    case = Case(("dense", "norm", "dense", "dense"), (1, 1, 1, 1), schedule, chunks=4, samples=9)
    ranks = 2 if schedule == "interleaved" else 4

    def main(world: World):
        model = nn.Sequential(*layers(case.kinds, case.seed))
        pipeline = Pipeline(model, balance=case.balance, chunks=4, schedule=schedule, world=world).eval()
        found = pipeline.predict(batch(case, 0)[0])
        assert all(p.grad is None for p in pipeline.parameters())
        return found

    *others, last = dist.spawn(main, ranks=ranks)
    assert others == [None] * (ranks - 1)
    model = nn.Sequential(*layers(case.kinds, case.seed)).eval()
    values = batch(case, 0)[0]
    for layer in model:
        values = layer(*values)
    for found, expected in zip(last, values, strict=True):
        np.testing.assert_allclose(found.data, expected.data, rtol=1e-12)


def test_the_norm_counts_shared_parameters_once():
    case = Case(("tied", "dense", "tied"), (1, 1, 1), "1f1b", chunks=2, samples=4, ranks=3)

    def main(world: World) -> float:
        model = nn.Sequential(*layers(case.kinds, case.seed))
        pipeline = Pipeline(model, chunks=2, loss=mean_square, world=world)
        pipeline.step(*batch(case, 0))
        return float(pipeline.clip_grad_norm_(1e9))

    model = nn.Sequential(*layers(case.kinds, case.seed))
    values, targets = batch(case, 0)
    for layer in model:
        values = layer(*values)
    mean_square(values, targets).backward()
    expected = float(nn.utils.clip_grad_norm_(list(model.parameters()), 1e9))
    assert dist.spawn(main, ranks=3) == pytest.approx([expected] * 3, rel=1e-12)


def test_gradients_of_two_steps_add_up_shared_ones_too():
    case = Case(("tied", "dense", "tied"), (2, 1), "1f1b", chunks=2, samples=4)

    def main(world: World, steps: int) -> dict[str, np.ndarray]:
        model = nn.Sequential(*layers(case.kinds, case.seed))
        pipeline = Pipeline(model, balance=case.balance, chunks=2, loss=mean_square, world=world)
        for _ in range(steps):
            pipeline.step(*batch(case, 0))
        return {name: p.grad.data.copy() for name, p in pipeline.named_parameters() if p.grad is not None}

    once, twice = (dist.spawn(main, ranks=2, arguments=(steps,)) for steps in (1, 2))
    for one, two in zip(once, twice, strict=True):
        assert {"2.weight", "0.weight"} & set(one)
        for name, gradient in one.items():
            np.testing.assert_allclose(two[name], 2 * gradient, rtol=1e-12)


@pytest.mark.parametrize(("saving", "loading"), [(1, 3), (3, 2), (2, 1)])
def test_checkpoints_load_on_other_numbers_of_stages(saving, loading, tmp_path):
    """Statistics and a shared weight included, which keeps its first name wherever it lies."""
    kinds = ("tied", "norm", "dense", "tied")

    def pipeline(world: World, seed: int) -> Pipeline:
        return Pipeline(nn.Sequential(*layers(kinds, seed)), chunks=2, loss=mean_square, world=world)

    def write(world: World) -> None:
        here = pipeline(world, 1)
        here.step(np.ones((4, 3)) * np.arange(4)[:, None], np.ones((4, 3)))
        save(tmp_path / "step-1", world, here.pieces(), {"step": 1})

    def read(world: World) -> dict[str, np.ndarray]:
        here = pipeline(world, 2)
        assert load(tmp_path / "step-1", world, here.pieces()) == {"step": 1}
        return {here.name_in_model(name): x.data.copy() for name, x in here.state_dict().items()}

    dist.spawn(write, ranks=saving)
    found: dict[str, np.ndarray] = {}
    for part in dist.spawn(read, ranks=loading):
        found.update(part)
    [again] = dist.spawn(read, ranks=1)
    assert set(again) == set(found)
    for name, value in again.items():
        np.testing.assert_array_equal(found[name], value)
    assert any(value.any() for name, value in found.items() if name.endswith("running_mean"))


def test_ranks_that_were_told_different_things():
    def main(world: World) -> None:
        small(world, balance=[3, 1] if world.rank else [2, 2])

    with pytest.raises(CommunicationError, match="rank 1 of this pipeline was given another schedule"):
        dist.spawn(main, ranks=2)


def test_random_numbers_by_step_where_nobody_says_more():
    """Dropout draws new masks each step, the same ones however the batch is cut."""

    def main(world: World, chunks: int) -> list[float]:
        model = nn.Sequential(*layers(["dense", "drop", "dense"], 0))
        pipeline = Pipeline(model, balance=[1, 2], chunks=chunks, loss=mean_square, world=world)
        x = np.ones((6, 3))
        return [float(pipeline.step(x, x)) for _ in range(3)]

    cut, whole = (dist.spawn(main, ranks=2, arguments=(chunks,))[0] for chunks in (4, 1))
    assert cut == pytest.approx(whole, rel=1e-12)
    assert len(set(whole)) == 3


# ------------------------------------------------------------------------------------------ misuse


def small(world: World, **options) -> Pipeline:
    chosen = {"layers": layers(["dense"] * 4, 0), "loss": mean_square, "chunks": 2, "world": world, **options}
    return Pipeline(chosen.pop("layers"), **chosen)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"balance": [3, 0]}, r"the balance \[3, 0\] gives stage 1 0 layers; give every stage at least one"),
        ({"balance": [-2, 6]}, r"the balance \[-2, 6\] gives stage 0 -2 layers"),
        ({"balance": [2, 1]}, r"the balance \[2, 1\] adds up to 3 layers, and the model has 4"),
        ({"balance": [2, 1, 1]}, "3 stages cannot be dealt out to 2 ranks"),
        ({"balance": [2.0, 2.0]}, r"Pipeline: balance\[0\] is 2.0; expected a whole number"),
        ({"balance": []}, "0 stages cannot be dealt out to 2 ranks; give a balance of 2 numbers"),
        ({"layers": []}, "0 layers cannot be spread over 2 stages"),
        ({"loss": 3}, "the loss is 3; give a function of output and target"),
        ({"balance": 4}, "Pipeline: balance is 4; expected a list of whole numbers"),
        ({"balance": "22"}, "Pipeline: balance is '22'; expected a list of whole numbers"),
        ({"chunks": 2.5}, "Pipeline: chunks is 2.5; expected a whole number from 1 up"),
        ({"chunks": "2"}, "Pipeline: chunks is '2'"),
        ({"batches": 2}, "the schedule 1f1b has no use for batches 2"),
        ({"slices": [1.5]}, r"Pipeline: slices\[0\] is 1.5"),
        ({"schedule": 3}, "the schedule is 3; give the name of one, or a Schedule"),
        ({"versions": "x"}, "versions='x'"),
        ({"layers": layers(["dense"], 0)}, "1 layers cannot be spread over 2 stages"),
        ({"schedule": make("gpipe", 2, 3)}, "gpipe is for 3 microbatches, and chunks 2"),
        ({"schedule": make("gpipe", 3, 2)}, "gpipe is for 3 ranks, and this world has 2"),
        ({"schedule": make("interleaved", 2, 2, virtual=2)}, "has 4 stages, and the balance 2"),
        ({"schedule": "pipe"}, "there is no schedule 'pipe'"),
        ({"schedule": parse("F0 B0 F1 B1\nF0 F1 B0 B1")}, "deadlock"),
        ({"schedule": "interleaved", "chunks": 3}, "3 microbatches are no multiple of 2 ranks"),
        ({"chunks": 0}, "Pipeline: chunks is 0"),
        ({"layers": {"a": nn.Tanh(), "forward": nn.Tanh()}}, "a layer cannot be called 'forward'"),
        ({"layers": [1, 2]}, "layer 0 is 1; give a Module"),
        ({"layers": 4}, "the layers are 4; give an nn.Sequential, or a list or mapping"),
        ({"layers": [lambda: None] * 4}, "the function for layer [02] returned None; it is to make a Module"),
        ({"shared": [("0.weight", "9.weight")]}, "no layer holds a parameter '9.weight'"),
        ({"shared": ["0.weight", "1.weight"]}, "shared has '0.weight' where a group of names is expected"),
        ({"shared": [("0.weight", 1)]}, r"shared has \('0.weight', 1\) where a group"),
        ({"shared": 5}, "shared has 5 where a group of names is expected"),
        ({"shared": [("0.weight", "1.wieght")]}, "shared names '1.wieght', and that layer has no such"),
        ({"shared": [("0.weight", "1.bias")]}, r"0.weight \(float64 \(3, 3\), learned\) and 1.bias"),
    ],
)
def test_refused_before_the_first_message(options, message):
    worlds: list[World] = []

    def main(world: World) -> None:
        worlds.append(world)
        small(world, **options)

    with pytest.raises(UsageError, match=message):
        dist.spawn(main, ranks=2)
    assert all(not world.ledger.by_kind for world in worlds)


@pytest.mark.parametrize(
    ("inputs", "targets", "message"),
    [
        (np.ones((0, 3)), np.ones((0, 3)), "a batch of 0 samples, .* leaves none for the step"),
        (np.ones((4, 3)), np.ones((3, 3)), "make all first axes equal"),
        (np.ones(()), None, "first axis"),
    ],
)
def test_batches_that_cannot_be_cut(inputs, targets, message):
    with pytest.raises(UsageError, match=message):
        dist.spawn(lambda world: small(world).step(inputs, targets), ranks=2)


def test_shapes_that_do_not_fit_are_found_before_anything_runs():
    def main(world: World) -> None:
        pipeline = small(world)
        pipeline.step(np.ones((4, 5)), np.ones((4, 3)))

    with pytest.raises(
        CommunicationError, match=r"rank 0 of 2: stage 0 \(0 to 1\) cannot take float64 \(2, 5\)"
    ):
        dist.spawn(main, ranks=2)

    class Odd(nn.Module):
        def forward(self, *values: mg.Tensor):
            return 1.5

    with pytest.raises(CommunicationError, match=r"rank 0 of 2: .* returned 1.5"):
        dist.spawn(lambda w: small(w, layers=[Odd(), Odd()]).step(np.ones((4, 3)), np.ones((4, 3))), ranks=2)


def test_nothing_to_divide_by():
    with pytest.raises(UsageError, match="divided by 0; give a number above 0"):
        small(SingleWorld()).step(np.ones((4, 3)), np.ones((4, 3)), count=0)


def test_no_loss():
    with pytest.raises(UsageError, match="no loss to learn from"):
        small(SingleWorld(), loss=None).step(np.ones((2, 3)))
