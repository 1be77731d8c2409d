"""A delayed run goes its own way: whatever the program changes, looks at, saves or resumes meanwhile."""

import threading
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import dist, nn
from minigrad.dist import World, checkpoint
from minigrad.dist.agreement import AgreedError
from minigrad.dist.offload import HostCopies
from minigrad.dist.single import SingleWorld
from minigrad.dist.zero import ZeRO
from tests.dist import mesh_training
from tests.dist.zero_training import Case, Net, loss_of, shares, state, trained

STAGES = st.sampled_from([0, 1, 2, 3])
RANKS = st.sampled_from([1, 2, 3])


def wrapped(world: World, case: Case, **options: Any) -> ZeRO:
    model = Net(case.seed + world.rank, case)
    optimizer = case.optimizer(trained(case, model), lr=0.01)
    return ZeRO(model, optimizer, world, algorithm="ordered", bucket_bytes=100, **options)


def walk(zero: ZeRO, case: Case, step: int) -> None:
    (part,) = shares(case, step, zero.world.size)[zero.world.rank]
    if len(part[0]):
        loss_of(zero, part, case.samples).backward()


def shown(zero: ZeRO) -> dict[str, np.ndarray]:
    with zero.gathered():
        return state(zero.module)


def alike(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return all(one[name].tobytes() == other[name].tobytes() for name in one)


# ----- Settings -----


class Gated(nn.optim.SGD):
    """Takes its steps only once somebody opens the gate."""

    def __init__(self, *parameters: Any, **options: Any) -> None:
        super().__init__(*parameters, **options)
        self.gate = threading.Event()

    def update(self, *arguments: Any) -> None:
        assert self.gate.wait(10)
        super().update(*arguments)


@given(STAGES, RANKS, st.integers(1, 4), st.lists(st.sampled_from([1.0, 0.1, 0.01]), min_size=1, max_size=6))
@settings(max_examples=12, deadline=None)
def test_an_update_has_the_settings_of_its_step(
    stage: int, ranks: int, first: int, rates: list[float]
) -> None:
    """Schedules change them while it runs; here, always before it begins."""

    def main(world: World) -> dict[str, np.ndarray]:
        model = nn.Linear(3, 2, dtype="float64")
        optimizer = Gated(model.named_parameters(), lr=0.0, momentum=0.5)
        zero = ZeRO(model, optimizer, world, stage=stage, offload="host", delayed=first)
        with zero.gathered():
            for parameter in model.parameters():
                parameter.assign(np.zeros(parameter.shape))
        for step, rate in enumerate(rates, 1):
            optimizer.param_groups[0].update(lr=rate, weight_decay=rate)
            (mg.sum(zero(mg.tensor(np.ones((1, 3)), dtype="float64"))) * (1.0 / world.size)).backward()
            if step < first:
                optimizer.gate.set()
            zero.step()
            optimizer.param_groups[0].update(lr=7.0, weight_decay=7.0)
            optimizer.zero_grad()
            optimizer.gate.set()
            zero._offload.updated()  # it is done
            optimizer.gate.clear()
        optimizer.gate.set()
        zero.settle()
        return shown(zero)

    value = velocity = 0.0
    for rate in rates:  # the gradient is 1 everywhere
        velocity = 0.5 * velocity + 1.0 + rate * value
        value -= rate * velocity
    for values in dist.spawn(main, ranks=ranks):
        for found in values.values():
            np.testing.assert_allclose(found, value, rtol=1e-12)


# ----- Looking, saving, resuming -----


@given(STAGES, STAGES, RANKS, st.integers(1, 5), st.sets(st.integers(0, 5)), st.integers(0, 5))
@settings(max_examples=15, deadline=None)
def test_looking_saving_and_resuming_change_nothing(
    stage: int, other: int, ranks: int, first: int, looks: set[int], saved: int
) -> None:
    case = Case(samples=5, steps=6, optimizer=nn.optim.AdamW)
    options: dict[str, Any] = {"offload": "host", "delayed": first}

    def ends(zero: ZeRO) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        last = shown(zero)
        zero.settle()
        return last, shown(zero)

    def plain(world: World) -> Any:
        zero = wrapped(world, case, stage=stage, **options)
        for step in range(case.steps):
            walk(zero, case, step)
            zero.step()
        return ends(zero)

    def disturbed(world: World) -> Any:
        zero = wrapped(world, case, stage=stage, **options)
        for step in range(case.steps):
            walk(zero, case, step)
            zero.step()
            if step in looks:
                shown(zero)
            if step == saved:
                checkpoint.save(folder / f"step_{step}", world, zero.pieces(), zero.state())
        return ends(zero)

    def resumed(world: World) -> Any:
        zero = wrapped(world, case, stage=other, **options)
        zero.loaded(checkpoint.load(folder / f"step_{saved}", world, zero.pieces()))
        for step in range(saved + 1, case.steps):
            walk(zero, case, step)
            zero.step()
        return ends(zero)

    with TemporaryDirectory() as name:
        folder = Path(name)
        expected = dist.spawn(plain, ranks=ranks)
        for main in (disturbed, resumed):
            for here, there in zip(dist.spawn(main, ranks=ranks), expected, strict=True):
                assert alike(here[0], there[0])
                assert alike(here[1], there[1])
    if first <= case.steps:
        assert not alike(*expected[0])  # there was an update to leave alone


@pytest.mark.parametrize(("pipeline", "tensor"), [(1, 2), (2, 1)])
@pytest.mark.parametrize("stage", [0, 1, 3])
def test_nor_on_a_mesh(tmp_path: Path, pipeline: int, tensor: int, stage: int) -> None:
    config = nn.GPTConfig(vocabulary=7, context=mesh_training.TIME, layers=2, heads=2, width=4)
    options = {"stage": stage, "algorithm": "ordered", "offload": "host", "delayed": 2, "max_value": 0.01}
    case = mesh_training.Case(5, data=2, pipeline=pipeline, tensor=tensor, config=config, zero=options)

    def main(world: World, how: str) -> list[Any]:
        part, zero, rows = mesh_training.build(world, case)
        if how == "resumed":
            zero.loaded(checkpoint.load(tmp_path / "step_3", world, zero.pieces()))
        for step in range(3 if how == "resumed" else 0, 5):
            mesh_training.learn(part, case, rows, step)
            zero.step()
            if how == "disturbed":
                shown(zero)
            if how == "disturbed" and step == 2:
                checkpoint.save(tmp_path / "step_3", world, zero.pieces(), zero.state())
        last = shown(zero)
        zero.settle()
        return [last, shown(zero)]

    plain, disturbed, resumed = (
        dist.spawn(main, ranks=4, arguments=(how,)) for how in ("plain", "disturbed", "resumed")
    )
    for here, one, other in zip(plain, disturbed, resumed, strict=True):
        assert not alike(*here)
        assert all(alike(a, b) and alike(a, c) for a, b, c in zip(here, one, other, strict=True))


@given(STAGES, RANKS, st.booleans())
@settings(max_examples=8, deadline=None)
def test_what_is_written_while_an_update_is_under_way_counts(stage: int, ranks: int, fails: bool) -> None:
    case = Case(samples=5)

    def main(world: World, write: bool) -> Any:
        zero = wrapped(world, case, stage=stage, offload="host", delayed=1)
        model: Any = zero.module
        walk(zero, case, 0)
        zero.step()
        if write:
            try:
                with zero.gathered():
                    model.leave.assign(np.full(model.leave.shape, 5.0))
                    model.enter.data[0, 0] = np.nan  # unseen by `mutated`
                    if fails:
                        raise ZeroDivisionError
            except ZeroDivisionError:
                pass
        now = shown(zero)
        zero.settle()
        return now, shown(zero)

    for (now, end), (_, other) in zip(
        dist.spawn(main, ranks=ranks, arguments=(True,)),
        dist.spawn(main, ranks=ranks, arguments=(False,)),
        strict=True,
    ):
        assert np.isnan(now["enter"][0, 0])
        assert np.isnan(end["enter"][0, 0])
        assert (now["leave"] == 5.0).all()
        assert (end["leave"] == 5.0).all()
        other["leave"], other["enter"][0, 0] = end["leave"], end["enter"][0, 0]
        assert alike(end, other)


def test_other_runs_load_what_a_delayed_one_saved(tmp_path: Path) -> None:
    case = Case(samples=5)

    def main(world: World) -> None:
        zero = wrapped(world, case, stage=2, offload="host", delayed=2)
        for step in range(3):
            walk(zero, case, step)
            zero.step()
        checkpoint.save(tmp_path / "step_3", world, zero.pieces(), zero.state())
        zero.settle()
        other = wrapped(world, case, stage=1)
        other.loaded(checkpoint.load(tmp_path / "step_3", world, other.pieces()))
        assert alike(shown(other), shown(zero))  # every update is in it
        checkpoint.save(tmp_path / "step_4", world, other.pieces(), other.state())
        with pytest.raises(AgreedError, match=r"holds no array 'shown\."):
            checkpoint.load(tmp_path / "step_4", world, zero.pieces())

    dist.spawn(main, ranks=2)


def test_a_run_that_was_not_delayed_has_its_first_steps_behind_it() -> None:
    zero = wrapped(SingleWorld(), Case(), offload="host", delayed=3)
    saved = zero.state() | {"delayed": {}, "steps": dict.fromkeys(zero.state()["steps"], 10)}
    zero.loaded(saved)
    before = shown(zero)
    walk(zero, Case(), 0)
    zero.step()
    assert alike(shown(zero), before)
    zero.settle()
    assert not alike(shown(zero), before)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_only_bytes_that_changed_are_taken_over(dtype: str) -> None:
    model = np.array([1.0, np.nan, 0.0, 3.0], dtype=dtype)
    copies = HostCopies([model, model[:0]], [model.copy(), model[:0]], track=lambda category, array: array)
    copies.values[0][...] = [10.0, 20.0, 30.0, 40.0]
    before = copies.shown()
    model[2:] = [-0.0, 5.0]
    copies.take_over(before)
    assert copies.values[0].tolist() == [10.0, 20.0, 0.0, 5.0]
    assert np.signbit(copies.values[0][2])


# ----- Values that count elsewhere -----


def filled_with(value: float, model: nn.Module) -> dict[str, np.ndarray]:
    return {name: np.full(array.shape, value) for name, array in model.state_dict().items()}


KEEPING: list[dict[str, Any]] = [{"master": "float32"}, {"offload": "host", "delayed": 1}]


@pytest.mark.parametrize("stage", [0, 1, 2])
@pytest.mark.parametrize("options", [*KEEPING, {}], ids=["master", "delayed", "plain"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_state_loaded_where_it_would_be_undone(stage: int, options: dict[str, Any], ranks: int) -> None:
    dtype = "float16" if "master" in options else "float64"

    def learn(zero: ZeRO) -> None:
        mg.sum(zero(mg.tensor(np.ones((1, 2)), dtype=dtype))).backward()
        zero.step()

    def main(world: World) -> None:
        model = nn.Linear(2, 3, dtype=dtype)
        zero = ZeRO(model, nn.optim.SGD(model.parameters(), lr=0.25), world, stage=stage, **options)
        for _ in range(2):
            learn(zero)
        with zero.gathered():
            model.load_state_dict(filled_with(5.0, model))
        learn(zero)
        zero.settle()
        assert (model.weight.numpy() == 5.0 - 0.25 * world.size).all()
        model.load_state_dict(filled_with(3.0, model))
        if options:
            learn(zero)

    def outside(world: World) -> None:
        model = nn.Linear(2, 3, dtype=dtype)
        zero = ZeRO(model, nn.optim.SGD(model.parameters(), lr=0.25), world, stage=stage, **options)
        model.load_state_dict(filled_with(3.0, model))
        learn(zero)
        assert (model.weight.numpy() == 3.0 - 0.25 * world.size).all()

    if options:
        refused(main, ranks, "which the next step would undo")
        refused(outside, ranks, "in `with zero.gathered")
    else:
        dist.spawn(main, ranks=ranks)
        dist.spawn(outside, ranks=ranks)


def refused(main: Callable[[World], None], ranks: int, message: str) -> None:
    with pytest.raises(mg.errors.UsageError, match=rf"rank \d of {ranks}: .*{message}"):
        dist.spawn(main, ranks=ranks)
