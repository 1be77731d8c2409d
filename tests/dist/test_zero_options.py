"""What goes with the stages: mixed precision, a second axis, checkpoints, steps that are left out."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import dist, nn
from minigrad.dist import checkpoint
from minigrad.dist.single import SingleWorld
from minigrad.dist.world import World
from minigrad.dist.zero import ZeRO
from minigrad.graph import Leaf
from minigrad.nn.amp import GradScaler, Policy
from tests.dist.zero_training import Case, Net, close_values, loss_of, reference, run, shares, state, trained

STAGES = [0, 1, 2, 3]


# ----- Mixed precision -----


def half(world: World, stage: int, ranks_of_data: int, overflow: int | None) -> tuple[Any, ...]:
    """Train in float16 with float32 masters. In step `overflow` the gradients of the last rank overflow."""
    case = Case(samples=6, steps=5, width=4, tied=frozenset())
    model = Net(0, case).to(dtype="float16")
    scaler = GradScaler(init_scale=256.0, growth_interval=3)
    optimizer = nn.optim.AdamW(trained(case, model), lr=0.01)
    options: dict[str, Any] = {"stage": stage, "algorithm": "ordered", "bucket_bytes": 40, "max_norm": 0.5}
    zero = ZeRO(model, optimizer, world, scaler=scaler, master="float32", **options)
    norms, scales = [], []
    for step in range(case.steps):
        for number, share in enumerate(shares(case, step, ranks_of_data)):
            if world.size > 1 and number != world.rank:
                continue
            x, marked = share[0]
            loss = mg.sum(mg.square(zero(mg.tensor(x.astype("float16")), marked))) * (1.0 / case.samples)
            if step == overflow and number == ranks_of_data - 1:
                loss = loss * 1e4
            scaler.scale(loss).backward()
        norms.append(float(zero.step()))  # type: ignore[arg-type]
        scales.append(scaler.get_scale())
    with zero.gathered():
        values = state(model)
    return values, norms, scales, optimizer.steps


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
@pytest.mark.parametrize("overflow", [None, 2])
def test_half_precision_with_a_loss_scale(overflow: int | None):
    """All stages take the same steps, to the bit, as one rank that adds up the same parts."""
    ranks = 3
    values, norms, scales, steps = half(SingleWorld(), 0, 1, None)
    first, *others = [dist.spawn(half, ranks=ranks, arguments=(stage, ranks, overflow)) for stage in STAGES]
    assert all(result[1:] == first[0][1:] for results in [first, *others] for result in results)
    for results in [first, *others]:
        for result in results:
            for name, value in result[0].items():
                assert value.dtype == np.float16
                assert value.tobytes() == first[0][0][name].tobytes()
    if overflow is None:
        for name, value in first[0][0].items():
            np.testing.assert_allclose(value, values[name], rtol=2e-2, atol=2e-2)  # of 2⁻¹¹ a step
        np.testing.assert_allclose(first[0][1], norms, rtol=2e-2)
        assert first[0][2:] == (scales, steps)
        assert scales == [256.0, 256.0, 512.0, 512.0, 512.0]
        assert set(steps) == {5, 0}  # what nobody uses takes none
    else:
        assert not np.isfinite(first[0][1][overflow])
        assert first[0][2] == [256.0, 256.0, 128.0, 128.0, 128.0]
        assert set(first[0][3]) == {4, 0}


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")
@pytest.mark.parametrize("stage", STAGES)
def test_an_overflow_in_the_shard_of_one_rank_stops_all(stage: int):
    class Two(nn.Module):
        def __init__(self) -> None:
            self.first = nn.Parameter(np.ones(3), dtype="float16")
            self.second = nn.Parameter(np.ones(3), dtype="float16")

        def forward(self) -> mg.Tensor:
            return mg.sum(self.first) + mg.sum(self.second) * 30000.0

    def main(world: World) -> list[list[float]]:
        model = Two()
        scaler = GradScaler(init_scale=4.0)
        optimizer = nn.optim.SGD(model.parameters(), lr=0.5)
        zero = ZeRO(model, optimizer, world, stage=stage, master="float32", scaler=scaler)
        scaler.scale(zero() * 0.5).backward()  # 60000 on each rank: finite until they are summed
        zero.step()
        assert scaler.get_scale() == 2.0
        with zero.gathered():
            return [parameter.numpy().tolist() for parameter in model.parameters()]

    for values in dist.spawn(main, ranks=2):
        assert values == [[1.0] * 3, [1.0] * 3]


@pytest.mark.parametrize("stage", STAGES)
def test_masters_follow_values_that_others_changed(stage: int):
    """Those of rank 0 when the model is wrapped, and what is loaded later."""

    def main(world: World) -> list[float]:
        model = nn.Linear(3, 1, bias=False)
        model.weight.assign(np.full((1, 3), 1.0 + world.rank + 1e-4))
        optimizer = Policy("float16").apply(model, nn.optim.SGD(model.parameters(), lr=1e-4))
        assert optimizer is not None
        zero = ZeRO(model, optimizer, world, stage=stage)
        x = mg.tensor(np.ones((1, 3), dtype="float16"))
        found = []
        for start in (1.0, 5.0):
            if start != 1.0:
                with zero.gathered():
                    model.load_state_dict({"weight": np.full((1, 3), start)})
            mg.sum(zero(x) * (1.0 / world.size)).backward()
            zero.step()
            with zero.gathered():
                found += model.weight.numpy().reshape(-1).tolist()
        return found

    for values in dist.spawn(main, ranks=2):
        assert values == [1.0] * 3 + [5.0] * 3


def test_masters_keep_what_half_precision_rounds_away():
    def main(world: World) -> list[float]:
        model = nn.Linear(1, 1, bias=False)
        model.weight.assign(np.ones((1, 1)))
        model.to(dtype="float16")
        zero = ZeRO(model, nn.optim.SGD(model.parameters(), lr=1e-4), world, stage=2, master="float32")
        x = mg.tensor(np.ones((1, 1), dtype="float16"))
        for _ in range(20):  # one step of 1e-4 is less than half of what float16 can tell from 1
            mg.sum(zero(x) * (1.0 / world.size)).backward()
            zero.step()
        return model.weight.numpy().reshape(-1).tolist()

    for values in dist.spawn(main, ranks=2):
        assert values == [np.float16(1.0 - 20 * 1e-4)]


# ----- Two axes -----


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(("shards", "replicas"), [(2, 2), (3, 2), (2, 3)])
def test_shards_on_one_axis_and_replicas_on_the_other(stage: int, shards: int, replicas: int):
    case = Case(samples=11, max_norm=0.5, seldom=1)

    def main(world: World) -> dict[str, np.ndarray]:
        inner = world.split(world.rank // shards)
        outer = world.split(world.rank % shards)
        model = Net(world.rank, case)
        optimizer = nn.optim.AdamW(trained(case, model), lr=0.01)
        zero = ZeRO(model, optimizer, inner, stage=stage, replicas=outer, max_norm=case.max_norm)
        for step in range(case.steps):
            loss_of(zero, shares(case, step, world.size)[world.rank][0], case.samples).backward()
            zero.step()
        with zero.gathered():
            return state(model)

    expected = reference(case).values
    for values in dist.spawn(main, ranks=shards * replicas):
        for name, value in values.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-10, atol=1e-10, err_msg=name)


# ----- Checkpoints -----


@pytest.mark.parametrize(
    ("before", "after"), [((2, 3), (3, 2)), ((3, 4), (1, 1)), ((0, 1), (3, 5)), ((1, 2), (2, 7))]
)
def test_a_run_goes_on_at_another_stage_on_other_ranks(
    tmp_path: Path, before: tuple[int, int], after: tuple[int, int]
):
    """Saved by (stage, ranks) `before` and loaded by `after`: the numbers of a run that was never stopped."""
    case = Case(samples=7, steps=6, seldom=1)

    def main(world: World, stage: int, first: int, last: int) -> dict[str, np.ndarray]:
        model = Net(world.rank + first, case)
        optimizer = nn.optim.AdamW(trained(case, model), lr=0.01)
        zero = ZeRO(model, optimizer, world, stage=stage, bucket_bytes=200)
        if first:
            zero.loaded(checkpoint.load(tmp_path / "step-3", world, zero.pieces()))
        for step in range(first, last):
            part = shares(case, step, world.size)[world.rank][0]
            if len(part[0]):
                loss_of(zero, part, case.samples).backward()
            zero.step()
        if last < case.steps:
            checkpoint.save(tmp_path / "step-3", world, zero.pieces(), zero.state())
        with zero.gathered():
            return state(model)

    dist.spawn(main, ranks=before[1], arguments=(before[0], 0, 3))
    expected = reference(case).values
    for values in dist.spawn(main, ranks=after[1], arguments=(after[0], 3, case.steps)):
        for name, value in values.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-10, atol=1e-10, err_msg=name)


# ----- Steps that are left out, and figures -----


@pytest.mark.parametrize("stage", STAGES)
def test_gradients_without_a_step_are_forgotten(stage: int):
    case = Case(zero={"stage": stage})
    expected = reference(case)

    def main(world: World) -> dict[str, np.ndarray]:
        model = Net(0, case)
        zero = ZeRO(model, nn.optim.AdamW(trained(case, model), lr=0.01), world, stage=stage, bucket_bytes=1)
        for step in range(case.steps):
            for thrown_away in (True, False):
                part = shares(case, step, world.size)[world.rank][0]
                loss_of(zero, part, case.samples).backward()
                if thrown_away:
                    zero.zero_grad()
                else:
                    zero.step()
        with zero.gathered():
            return state(model)

    for values in dist.spawn(main, ranks=2):
        close_values(values, expected.values)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("broken", [0, 2])
@pytest.mark.parametrize("block", [0, 3, 4])
@pytest.mark.parametrize("back", [ZeRO.zero_grad, ZeRO.step])
def test_after_a_pass_that_was_broken_off(stage: int, broken: int, block: int, back: Any):
    """A step without any gradients leaves everything as it was."""
    case = Case(blocks=5)
    expected = reference(case)

    def refuse(*_: Any) -> None:
        raise ArithmeticError

    def main(world: World) -> dict[str, np.ndarray]:
        model = Net(0, case)
        zero = ZeRO(model, nn.optim.AdamW(trained(case, model), lr=0.01), world, stage=stage)
        for step in range(case.steps):
            part = shares(case, step, world.size)[world.rank][0]
            if step == broken:
                handle = model.blocks[block].register_forward_pre_hook(refuse)
                with pytest.raises(ArithmeticError):
                    loss_of(zero, part, case.samples)
                handle.remove()
                back(zero)
            loss_of(zero, part, case.samples).backward()
            zero.step()
        with zero.gathered():
            return state(model)

    for values in dist.spawn(main, ranks=2):
        close_values(values, expected.values)


@pytest.mark.filterwarnings("ignore:(overflow|invalid value|divide by zero) encountered:RuntimeWarning")
@pytest.mark.parametrize("stage", STAGES)
def test_a_step_that_is_not_finite_can_be_left_out(stage: int):
    def main(world: World, finite_only: bool) -> list[bool]:
        case = Case(max_norm=math.inf)
        model = Net(0, case)
        optimizer = nn.optim.AdamW(trained(case, model), lr=0.01)
        options: dict[str, Any] = {"stage": stage, "max_norm": math.inf, "finite_only": finite_only}
        zero = ZeRO(model, optimizer, world, **options)
        found = []
        for factor in (1.0, math.nan, 1.0):
            share = shares(case, 0, world.size)[world.rank][0]
            loss = loss_of(zero, share, case.samples)
            (loss * factor if world.rank == 1 else loss).backward()
            norm = zero.step()
            with zero.gathered():
                whole = all(np.isfinite(value).all() for value in state(model).values())
            found += [math.isfinite(float(norm)), whole]  # type: ignore[arg-type]
        return found

    for found in dist.spawn(main, ranks=2, arguments=(True,)):
        assert found == [True, True, False, True, True, True]
    for found in dist.spawn(main, ranks=2, arguments=(False,)):
        assert found == [True, True, False, False, False, False]


@pytest.mark.parametrize("stage", STAGES)
def test_seconds_are_of_the_latest_step(stage: int):
    for result in run(Case(zero={"stage": stage}), 2):
        assert result.zero is not None
        assert result.zero.seconds_waiting > 0
        assert result.zero.seconds_driving > 0


@pytest.mark.parametrize("checkpointed", [False, True])
def test_memory_for_a_gradient_is_asked_for_when_its_first_contribution_comes(checkpointed: bool):
    """The engine's side of stages 2 and 3: once for each walk, late, and only where the walk arrives."""
    values = np.random.default_rng(0)
    weights = [nn.Parameter(values.normal(size=(3, 3))) for _ in range(3)]
    spare = nn.Parameter(np.zeros(2))
    bias = nn.Parameter(values.normal(size=3))
    events: list[str] = []
    names = {"w0": weights[0], "w1": weights[1], "w2": weights[2], "bias": bias, "spare": spare}
    memory = {name: np.full(parameter.shape, np.nan) for name, parameter in names.items()}

    def provide(name: str) -> np.ndarray:
        events.append(f"ask {name}")
        return memory[name]

    def final(name: str, _: Any) -> None:
        events.append(f"final {name}")

    def loss() -> mg.Tensor:
        h = mg.tensor(np.arange(3.0).reshape(1, 3))
        for weight in weights:

            def layer(h: mg.Tensor, weight: nn.Parameter = weight) -> mg.Tensor:
                return mg.tanh(nn.functional.linear(h, weight, bias)) @ weight

            h = mg.checkpoint(layer, h) if checkpointed else layer(h)
        return mg.sum(h)

    loss().backward()
    expected = {name: p.grad for name, p in names.items()}
    for name, parameter in names.items():
        assert isinstance(parameter.node, Leaf)
        parameter.zero_grad()
        parameter.node.gradient = None
        parameter.node.provide = partial(provide, name)
        parameter.register_post_accumulate_grad_hook(partial(final, name))
    loss().backward()
    order = [event for event in events if "bias" not in event]
    assert order == [f"{what} w{number}" for number in (2, 1, 0) for what in ("ask", "final")]
    assert events.count("ask bias") == 1
    assert np.isnan(memory["spare"]).all()
    for name, gradient in expected.items():
        if gradient is not None:
            np.testing.assert_array_equal(memory[name], gradient.data)
