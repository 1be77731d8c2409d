"""Optimizers over shards: the same numbers, whoever owns what."""

import weakref
from typing import Any
from unittest.mock import patch

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigrad import backend, dist, nn
from minigrad.dist.world import World
from minigrad.errors import UsageError
from minigrad.nn.optim import LARS, LBFGS, SGD, AdamW, Shard
from tests.nn.equations import OPTIONS
from tests.nn.optimizers import (
    LAYERWISE,
    NAMES,
    SHAPES,
    Part,
    cases,
    cuts,
    make,
    values,
    whole_step,
)

RANKS = st.sampled_from([1, 2, 3, 4, 5, 7])
PLACES = st.lists(st.integers(0, 99), min_size=6, max_size=6)
TOTAL = sum(value.size for value in values())


@given(
    case=cases(NAMES.filter(lambda name: name not in LAYERWISE)),
    ranks=RANKS,
    where=PLACES,
    dtype=st.sampled_from(["float32", "float64"]),
    block=st.sampled_from([3, 1 << 15]),
    scale=st.sampled_from([None, 0.3]),
)
@settings(max_examples=150, deadline=None)
def test_shards_take_the_same_steps_to_the_bit(case, ranks, where, dtype, block, scale):
    name, groups, present = case
    whole = make(name, groups, dtype)
    parts = [Part(make(name, groups, dtype), *span) for span in cuts(ranks, where)]
    with patch("minigrad.nn.optim.reading.BLOCK", block):
        for step, chosen in enumerate(present):
            whole_step(whole, step, chosen, gradient_scale=scale)
            for part in parts:
                part.step(step, chosen, gradient_scale=scale)
    expected = np.concatenate([p.numpy().reshape(-1) for p in whole.parameters])
    np.testing.assert_array_equal(np.concatenate([part.values for part in parts]), expected)
    for part in parts:
        assert part.optimizer.steps == whole.steps
    for state, array in whole.flat_state.items():
        joined = np.concatenate([part.optimizer.flat_state[state] for part in parts])
        np.testing.assert_array_equal(joined, array, err_msg=state)


@given(case=cases(st.sampled_from(sorted(LAYERWISE))), ranks=RANKS, where=PLACES)
@settings(max_examples=40, deadline=None)
def test_norms_are_those_of_whole_parameters(case, ranks, where):
    """Sums come in another order than on one rank, so the last bits may differ; they do not among ranks."""
    name, groups, present = case
    whole = make(name, groups)
    for step, chosen in enumerate(present):
        whole_step(whole, step, chosen)

    def main(world: World) -> tuple[np.ndarray, int]:
        calls = 0

        def reduce(array: np.ndarray) -> None:
            nonlocal calls
            calls += 1
            world.all_reduce(array, purpose="optimizer")

        part = Part(make(name, groups), *cuts(ranks, where)[world.rank], reduce=reduce)
        for step, chosen in enumerate(present):
            part.step(step, chosen)
        return part.values, calls

    found = dist.spawn(main, ranks=ranks)
    assert all(calls == len(present) for _, calls in found)
    expected = np.concatenate([p.numpy().reshape(-1) for p in whole.parameters])
    np.testing.assert_allclose(np.concatenate([v for v, _ in found]), expected, rtol=1e-12, atol=1e-12)


@given(case=cases(NAMES.filter(lambda name: name not in LAYERWISE)), where=PLACES, stop=st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_a_run_goes_on_with_other_shards(case, where, stop):
    """State is written into the arrays of `shard_state`, as a checkpoint does it."""
    name, groups, present = case
    whole = make(name, groups)
    first = [Part(make(name, groups), *span) for span in cuts(3, where)]
    for step, chosen in enumerate(present):
        whole_step(whole, step, chosen)
        if step < stop:
            for part in first:
                part.step(step, chosen)
    second = [Part(make(name, groups), *span) for span in cuts(4, where[1:])]
    joined = np.concatenate([part.values for part in first])
    state = {
        key: np.concatenate([part.optimizer.flat_state[key] for part in first])
        for key in first[0].optimizer.state_names
    }
    for part in second:
        part.values[:] = joined[part.place]
        place = part.place.start
        for entry in part.optimizer.shard_state():
            for key, array in entry.items():
                if key != "step":
                    array[:] = state[key][place : place + array.size]
            place += next((a.size for k, a in entry.items() if k != "step"), 0)
        part.optimizer.set_steps(first[0].optimizer.steps)
        for step, chosen in list(enumerate(present))[stop:]:
            part.step(step, chosen)
    expected = np.concatenate([p.numpy().reshape(-1) for p in whole.parameters])
    np.testing.assert_array_equal(np.concatenate([part.values for part in second]), expected)


def test_state_that_is_there_already_is_shared_out():
    whole, twin = make("AdamW", [{}, {}]), make("AdamW", [{}, {}])
    for step in range(2):
        whole_step(whole, step, {0, 1, 2, 3, 5})
        whole_step(twin, step, {0, 1, 2, 3, 5})
    parts = []
    for span in cuts(3, [5, 17]):
        optimizer = make("AdamW", [{}, {}])
        for p, other in zip(optimizer.parameters, twin.parameters, strict=True):
            p.assign(other.numpy())
        optimizer.load_state_dict(twin.state_dict())
        parts.append(Part(optimizer, *span))
    for step in range(2, 4):
        whole_step(whole, step, {0, 1, 2, 3, 5})
        for part in parts:
            part.step(step, {0, 1, 2, 3, 5})
    expected = np.concatenate([p.numpy().reshape(-1) for p in whole.parameters])
    np.testing.assert_array_equal(np.concatenate([part.values for part in parts]), expected)


# ----- Memory ----------------------------------------------------------------------------------------


def test_no_state_is_made_before_it_is_needed_nor_more_than_the_shard_needs():
    made: list[tuple[str, int, Any]] = []

    def allocate(name: str, size: int, dtype: Any) -> np.ndarray:
        made.append((name, size, dtype))
        return np.zeros(size, dtype)

    optimizer = make("AdamW", [{}, {}])
    part = Part(optimizer, 3, 15, allocate=allocate)
    assert made == []
    part.step(0, {0, 1, 2})
    part.step(1, {0, 1, 2})
    assert made == [("exp_avg", 12, np.float64), ("exp_avg_sq", 12, np.float64)]
    assert optimizer.flat_parameters is None


def test_state_may_lie_in_files(tmp_path):
    def allocate(name: str, size: int, dtype: Any) -> np.ndarray:
        return np.memmap(tmp_path / name, dtype=dtype, mode="w+", shape=(size,))

    whole = make("AdamW", [{}, {}])
    part = Part(make("AdamW", [{}, {}]), 0, TOTAL, allocate=allocate, master="float32")
    for step in range(3):
        whole_step(whole, step, {0, 1, 2})
        part.step(step, {0, 1, 2})
    assert {path.name for path in tmp_path.iterdir()} == {"master", "exp_avg", "exp_avg_sq"}
    stored = np.fromfile(tmp_path / "exp_avg", dtype="float32")
    np.testing.assert_allclose(stored, whole.flat_state["exp_avg"], rtol=1e-5)


def test_shards_that_adjoin_are_one_piece_for_each_group():
    part = Part(make("AdamW", [{}, {}]), 0, TOTAL)
    part.step(0, {0, 1, 2, 3, 5})
    assert [gradient.size for gradient in part.optimizer.gradients()] == [17, 13]
    apart = Part(make("LAMB", [{}, {}]), 0, TOTAL)
    apart.step(0, {0, 1, 2, 3, 5})
    assert [gradient.size for gradient in apart.optimizer.gradients()] == [12, 5, 8, 1, 4]


def test_gradients_may_be_replaced_between_steps_and_are_let_go():
    optimizer = SGD([nn.Parameter(np.zeros(2))], lr=1.0)
    shard = Shard(0, 2, np.zeros(2))
    optimizer.shard([shard])
    for size in (1.0, 10.0):
        shard.gradient, shard.filled = np.full(2, size), True
        optimizer.step()
        alive = weakref.ref(shard.gradient)
        shard.gradient = None
        optimizer.zero_grad()
        assert alive() is None
        assert optimizer.gradients() == []
    np.testing.assert_array_equal(shard.values, [-11.0, -11.0])


def test_the_parameters_own_arrays_are_left_alone():
    optimizer = make("SGD", [{}, {}])
    before = [p.data for p in optimizer.parameters]
    part = Part(optimizer, 0, TOTAL)
    part.step(0, {0, 1, 2})
    for p, array, value in zip(optimizer.parameters, before, values(), strict=True):
        assert p.data is array
        np.testing.assert_array_equal(array, value)
        assert p.grad is None


# ----- Master copies ---------------------------------------------------------------------------------


@pytest.mark.parametrize("half", ["float16", ml_dtypes.bfloat16])
@pytest.mark.parametrize("ranks", [1, 3])
def test_a_master_copy_takes_steps_that_half_precision_would_round_away(half, ranks):
    def small(step: int) -> float:
        return 0.5 + 0.25 * (step % 3)

    start = np.linspace(-2, 2, 7).astype(half)
    exact = SGD([nn.Parameter(start.astype("float32"))], lr=1e-5, momentum=0.9)
    parts = []
    for low, high in [(0, 7)] if ranks == 1 else [(0, 4), (4, 4), (4, 7)]:
        optimizer = SGD([nn.Parameter(start)], lr=1e-5, momentum=0.9)
        shard = Shard(low, high, start[low:high].copy(), np.zeros(high - low, half))
        optimizer.shard([shard], master="float32")
        parts.append((optimizer, shard))
    for step in range(200):
        exact.zero_grad()
        (exact.parameters[0] * small(step)).sum().backward()
        exact.step(gradient_scale=0.5)
        for optimizer, shard in parts:
            shard.gradient, shard.filled = np.full_like(shard.values, small(step)), True
            optimizer.step(gradient_scale=0.5)
    found = np.concatenate([shard.values for _, shard in parts])
    np.testing.assert_array_equal(found, exact.parameters[0].numpy().astype(half))
    assert not np.array_equal(found, start)
    masters = np.concatenate([optimizer.shard_state()[0]["master"] for optimizer, _ in parts])
    np.testing.assert_array_equal(masters, exact.parameters[0].numpy())


def test_a_master_copy_of_whole_parameters_is_saved_and_resumed():
    def build() -> AdamW:
        optimizer = AdamW([nn.Parameter(np.ones(3, "float16"))], lr=1e-4)
        optimizer.keep_master()
        return optimizer

    def step(optimizer: AdamW, number: int) -> None:
        optimizer.zero_grad()
        (optimizer.parameters[0] * float(number + 1)).sum().backward()
        optimizer.step()

    whole, first, second = build(), build(), build()
    for number in range(6):
        step(whole, number)
    for number in range(3):
        step(first, number)
    second.parameters[0].assign(first.parameters[0].numpy())
    second.load_state_dict(first.state_dict())
    for number in range(3, 6):
        step(second, number)
    for name, array in whole.flat_state.items():
        np.testing.assert_array_equal(second.flat_state[name], array, err_msg=name)
    assert set(whole.flat_state) == {"master", "exp_avg", "exp_avg_sq"}
    with pytest.raises(UsageError, match="has state already"):
        whole.keep_master()


def test_a_master_in_the_models_own_dtype_is_no_copy():
    part = Part(make("AdamW", [{}, {}], "float32"), 0, TOTAL, master="float32")
    part.step(0, {0})
    assert set(part.optimizer.flat_state) == {"exp_avg", "exp_avg_sq"}


# ----- Steps that are left out -----------------------------------------------------------------------


@pytest.mark.parametrize("on_device", [False, True])
@given(case=cases(), skipped=st.sets(st.integers(0, 5)))
@settings(max_examples=60, deadline=None)
def test_a_skipped_step_changes_nothing(on_device, case, skipped):
    """Neither where the flag lies on the host, nor where only the device sees it."""
    name, groups, present = case
    left_out, plain = make(name, groups), make(name, groups)
    host = object() if on_device else backend.host
    for step, chosen in enumerate(present):
        with patch.object(backend, "host", host):
            whole_step(left_out, step, chosen, skip=np.asarray(step in skipped))
        if step not in skipped:
            whole_step(plain, step, chosen)
    assert left_out.steps == plain.steps
    for p, other in zip(left_out.parameters, plain.parameters, strict=True):
        np.testing.assert_allclose(p.numpy(), other.numpy(), rtol=1e-11, atol=1e-13)
    for key, array in plain.flat_state.items():
        np.testing.assert_allclose(left_out.flat_state[key], array, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_skipped_steps_are_counted_for_each_parameter_on_the_device(name):
    """All options on; parameters that took as many calls, but not as many steps, are not mixed up."""
    last = {key: choices[-1] for key, choices in OPTIONS[name].items()}
    groups = [{**last, "nesterov": False} if name == "SGD" else last] * 2
    left_out, plain = make(name, groups), make(name, groups)
    for step, (chosen, skip) in enumerate([({0, 2}, True), ({1, 3}, False), ({0, 1, 2, 3}, False)] * 2):
        with patch.object(backend, "host", object()):
            whole_step(left_out, step, chosen, skip=np.asarray(skip))
        if not skip:
            whole_step(plain, step, chosen)
    assert left_out.steps == plain.steps == [2, 4, 2, 4, 0, 0]
    for p, other in zip(left_out.parameters, plain.parameters, strict=True):
        np.testing.assert_allclose(p.numpy(), other.numpy(), rtol=1e-11, atol=1e-13)


def test_a_skipped_step_survives_gradients_that_are_not_finite():
    for host in (backend.host, object()):
        optimizer = make("AdamW", [{}, {}])
        before = [p.numpy().copy() for p in optimizer.parameters]
        for p in optimizer.parameters:
            p.grad = nn.Parameter(np.full(p.shape, np.inf)).detach()
        with patch.object(backend, "host", host), np.errstate(all="ignore"):
            optimizer.step(skip=np.asarray(True))
        for p, old in zip(optimizer.parameters, before, strict=True):
            np.testing.assert_array_equal(p.numpy(), old)
        assert optimizer.steps == [0] * len(SHAPES)


# ----- Misuse ----------------------------------------------------------------------------------------


def shards(*spans: tuple[int, int], **arrays: Any) -> list[Shard]:
    return [Shard(low, high, np.zeros(high - low)) for low, high in spans]


@pytest.mark.parametrize(
    ("given_shards", "message"),
    [
        (shards((0, 4)), "1 shards for 2 parameters"),
        (shards((0, 4), (0, 4)), "shard of parameter 1 runs from 0 to 4, beyond its 3"),
        (shards((2, 4), (-1, 3)), "from -1 to 3"),
        ([Shard(0, 4, np.zeros(3)), *shards((0, 3))], r"values of shard 0 have shape \(3,\); expected 4"),
        ([Shard(0, 4, np.zeros(8)[::2]), *shards((0, 3))], "contiguous"),
        ([Shard(0, 4, np.zeros(4), np.zeros((2, 2))), *shards((0, 3))], "gradient of shard 0"),
    ],
)
def test_shards_that_do_not_fit_are_refused_and_change_nothing(given_shards, message):
    optimizer = SGD([nn.Parameter(np.ones(4)), nn.Parameter(np.ones(3))])
    with pytest.raises(UsageError, match=message):
        optimizer.shard(given_shards)
    optimizer.shard(shards((0, 4), (3, 3)))


def test_what_needs_whole_parameters_is_refused_with_shards():
    optimizer = SGD([nn.Parameter(np.ones(4))])
    optimizer.shard(shards((0, 4)))
    for act in (
        optimizer.state_dict,
        lambda: optimizer.load_state_dict({}),
        lambda: optimizer.shard(shards((0, 4))),
        lambda: optimizer.add_param_group({"params": [nn.Parameter(np.ones(2))]}),
    ):
        with pytest.raises(UsageError, match=r"sharded|shared out"):
            act()
    optimizer._shards[0].filled = True  # type: ignore[index]
    with pytest.raises(UsageError, match="parameter 0 is marked as filled"):
        optimizer.step()
    with pytest.raises(UsageError, match="cannot be sharded"):
        LBFGS([nn.Parameter(np.ones(4))]).shard(shards((0, 4)))
    with pytest.raises(UsageError, match=r"2 of 4 entries of parameter 0, and LARS needs the norm"):
        LARS([nn.Parameter(np.ones(4))]).shard(shards((0, 2)))
    with pytest.raises(UsageError, match="2 numbers of steps for 1"):
        optimizer.set_steps([1, 2])
