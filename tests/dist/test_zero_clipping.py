"""Clipping where gradients are in pieces: as on one rank; and where it would do nothing, it is refused."""

from collections.abc import Callable
from dataclasses import replace
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
from minigrad.nn.amp import GradScaler
from minigrad.nn.utils import clip_grad_norm_, clip_grad_value_, clip_grads_with_norm_, clip_values
from tests.dist.zero_training import Case, close, reference, run, same

STAGES = [0, 1, 2, 3]
CLIPS: list[Callable[[Any], Any]] = [
    lambda parameters: clip_grad_norm_(parameters, 1e-9),
    lambda parameters: clip_grad_value_(parameters, 1e-9),
    lambda parameters: clip_grads_with_norm_(parameters, 1e-9, mg.tensor(1.0)),
]


@given(
    st.sampled_from(STAGES),
    st.sampled_from([1, 2, 3, 4, 5, 7]),
    st.sampled_from([1e-3, 0.02, 100.0]),
    st.sampled_from([None, 0.05]),
    st.sampled_from(["library", "ordered"]),
    st.integers(1, 2),
)
@settings(max_examples=15, deadline=None)
def test_by_value_as_on_one_rank(
    stage: int, ranks: int, value: float, norm: float | None, algorithm: str, parts: int
) -> None:
    case = Case(
        optimizer=nn.optim.SGD,  # of whose steps the size of gradients counts
        max_norm=norm,
        max_value=value,
        parts=parts,
        seldom=1,
        zero={"stage": stage, "algorithm": algorithm, "bucket_bytes": 100},
    )
    expected = reference(case, ranks)
    unclipped = reference(replace(case, max_value=None), ranks)
    assert (value == 100.0) == all(
        np.allclose(expected.values[name], unclipped.values[name], rtol=1e-12) for name in expected.values
    )
    for result in run(case, ranks):
        close(result, expected)
        if algorithm == "ordered" and parts == 1:
            same(result, reference(case, ranks, ordered=True))


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("stage", STAGES)
def test_what_is_clipped_is_what_the_loss_scale_is_divided_out_of(stage: int) -> None:
    def main(world: World, scale: float | None, dtype: str) -> tuple[np.ndarray, Any]:
        model = nn.Linear(3, 2, dtype=dtype)
        scaler = None if scale is None else GradScaler(init_scale=scale)
        optimizer = nn.optim.SGD(model.parameters(), lr=1.0)
        zero = ZeRO(model, optimizer, world, stage=stage, scaler=scaler, max_value=0.25, master="float32")
        with zero.gathered():
            model.weight.assign(np.zeros((2, 3)))
        x = mg.tensor(np.array([[0.125, 2.0, -3.0]]), dtype=dtype)
        loss = mg.sum(zero(x)) * (1.0 / world.size)
        (loss if scaler is None else scaler.scale(loss)).backward()
        zero.step()
        with zero.gathered():
            return model.weight.numpy(), None if scaler is None else scaler.get_scale()

    expected = np.array([[-0.125, -0.25, 0.25]] * 2)
    for scale, dtype in ((None, "float64"), (8.0, "float64"), (2.0**13, "float16")):
        for values, after in dist.spawn(main, ranks=2, arguments=(scale, dtype)):
            assert (values == expected).all()
            assert after == scale
    for values, after in dist.spawn(main, ranks=2, arguments=(2.0**16, "float16")):
        assert (values == 0).all()  # too large for the dtype: all ranks left the step out
        assert after == 2.0**15


def test_a_limit_beyond_the_dtype() -> None:
    array = np.array([6e4, -6e4, np.inf, np.nan], dtype="float16")
    clip_values([array], np.asarray(1e9))
    assert array.tolist()[:3] == [6e4, -6e4, np.inf]
    assert np.isnan(array[3])
    clip_values([array], 2.0)
    assert array.tolist()[:3] == [2.0, -2.0, 2.0]
    assert np.isnan(array[3])


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_a_limit_that_makes_no_sense(value: float) -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(UsageError, match="the largest value must be positive"):
        ZeRO(model, nn.optim.SGD(model.parameters()), dist.SingleWorld(), max_value=value)


@pytest.mark.parametrize("stage", STAGES)
def test_values_are_clipped_in_their_own_precision_behind_a_loss_scale(stage: int) -> None:
    def main(world: World) -> float:
        model = nn.Linear(1, 1, bias=False, dtype="float64")
        scaler = nn.amp.GradScaler(init_scale=64.0)
        optimizer = nn.optim.SGD(model.parameters(), lr=1.0)
        zero = ZeRO(model, optimizer, world, stage=stage, scaler=scaler, max_value=0.02)
        with zero.gathered():
            model.weight.assign(mg.zeros((1, 1), dtype="float64"))
        scaler.scale(mg.sum(zero(mg.tensor([[5.0]], dtype="float64")))).backward()
        zero.step()
        with zero.gathered():
            return float(model.weight.item())

    np.testing.assert_allclose(dist.spawn(main, ranks=2), -0.02, rtol=1e-15)


# ----- Gradients that are not whole -----


def walk(model: Any, world: World) -> None:
    mg.sum(model(mg.tensor(np.full((1, 3), world.rank + 1.0), dtype="float64"))).backward()


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("clip", CLIPS)
def test_refused_under_zero(stage: int, ranks: int, clip: Callable[[Any], Any]) -> None:
    def main(world: World, quiet: bool) -> None:
        model = nn.Sequential(nn.Linear(3, 2, dtype="float64"))
        zero = ZeRO(model, nn.optim.SGD(model.parameters()), world, stage=stage)
        if quiet:
            with zero.no_sync():
                walk(zero, world)
        else:
            walk(zero, world)
        clip(model.parameters())

    for quiet in (False, True):
        with pytest.raises(UsageError, match=rf"rank \d of {ranks}: .*give max_norm or max_value to ZeRO"):
            dist.spawn(main, ranks=ranks, arguments=(quiet,))


@pytest.mark.parametrize("clip", CLIPS)
def test_under_data_parallelism_once_they_are_summed(clip: Callable[[Any], Any]) -> None:
    def main(world: World) -> Any:
        model = nn.Linear(3, 2, dtype="float64")
        parallel = dist.DataParallel(model, world)
        clip(model.parameters())  # there are none yet
        found = None
        for _ in range(2):
            with parallel.no_sync():
                walk(parallel, world)
            with pytest.raises(UsageError, match=r"rank \d of 2: .*do it after synchronize"):
                clip(model.parameters())
            walk(parallel, world)
            with pytest.raises(UsageError, match="not summed over ranks yet"):
                clip(model.weight)
            parallel.synchronize()
            clip(model.parameters())
            assert model.weight.grad is not None
            found = model.weight.grad.numpy().copy()
            model.zero_grad()
        return found

    alone = nn.Linear(3, 2, dtype="float64")
    for factor in (1.0, 1.0, 2.0, 2.0):
        mg.sum(alone(mg.tensor(np.full((1, 3), factor), dtype="float64"))).backward()
    clip(alone.parameters())
    assert alone.weight.grad is not None
    for found in dist.spawn(main, ranks=2):
        np.testing.assert_allclose(found, alone.weight.grad.numpy(), rtol=1e-12)
