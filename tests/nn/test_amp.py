"""Loss scaling: what it lets through, when it backs off and grows, and that ranks decide alike."""

import json
import math
from typing import Any
from unittest.mock import patch

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import backend, dist, nn
from minigrad.dist.world import World
from minigrad.errors import DTypeError, UsageError
from minigrad.nn.amp import GradScaler, Policy
from minigrad.nn.optim import SGD, AdamW
from minigrad.tensor import Tensor


def train_step(
    scaler: GradScaler, optimizer: SGD | AdamW, gradient: Any, *, unscale: bool = False, **how: Any
) -> None:
    (p,) = optimizer.parameters
    optimizer.zero_grad()
    with np.errstate(all="ignore"):
        scaler.scale((p * mg.tensor(np.asarray(gradient, p.dtype))).sum()).backward()
        if unscale:
            scaler.unscale_(optimizer)
        scaler.step(optimizer, **how)
    scaler.update()


@given(
    bad=st.lists(st.booleans(), min_size=1, max_size=12),
    interval=st.integers(1, 4),
    unscale=st.booleans(),
    on_device=st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_the_scale_follows_its_rule_and_bad_steps_are_left_out(bad, interval, unscale, on_device):
    """The rule as a plain loop over numbers. On a device whose values nobody may look at it is the same."""
    scaler = GradScaler(init_scale=2.0**4, growth_factor=4.0, backoff_factor=0.5, growth_interval=interval)
    optimizer = SGD([nn.Parameter(np.zeros(3))], lr=1.0)
    scale, good, value = 2.0**4, 0, 0.0
    for number, broken in enumerate(bad):
        gradient = np.array([1.0, [math.inf, math.nan][number % 2] if broken else 1.0, 1.0])
        with patch.object(backend, "host", object() if on_device else backend.host):
            train_step(scaler, optimizer, gradient, unscale=unscale)
        if broken:
            scale, good = scale * 0.5, 0
        else:
            good, value = good + 1, value - 1.0
            if good == interval:
                scale, good = scale * 4.0, 0
        assert scaler.get_scale() == scale
        np.testing.assert_array_equal(optimizer.parameters[0].numpy(), np.full(3, value))
        assert scaler.state_dict()["_growth_tracker"] == good
    assert optimizer.steps == [bad.count(False)]


def test_small_gradients_come_through_where_half_precision_alone_loses_them():
    """A product of 1e-4 and 1e-5 is below the least float16, unless the loss is scaled."""

    def train(scaler: GradScaler) -> float:
        p = nn.Parameter(np.ones(1, "float16"))
        optimizer = SGD([p], lr=1e6)
        optimizer.keep_master()
        weights = [mg.tensor(np.full(1, 2.0**-14, "float16")), mg.tensor(np.full(1, 2.0**-14, "float16"))]
        scaler.scale((p * weights[0] * weights[1]).sum()).backward()
        scaler.step(optimizer)
        return float(optimizer.flat_state["master"][0])

    assert train(GradScaler(enabled=False)) == 1.0
    assert train(GradScaler(init_scale=2.0**15)) == pytest.approx(1.0 - 1e6 * 2.0**-28, rel=1e-6)


def test_a_scale_that_is_too_large_finds_its_place_by_itself():
    scaler = GradScaler(init_scale=2.0**16)
    p = nn.Parameter(np.zeros(1, "float16"))
    optimizer = SGD([p], lr=1.0)
    optimizer.keep_master()
    for _ in range(4):
        train_step(scaler, optimizer, [3.0])
    assert scaler.get_scale() == 2.0**14  # 3 · 2¹⁴ is below 65504, and 3 · 2¹⁵ is not
    assert optimizer.steps == [2]
    assert p.numpy().tolist() == [-6.0]


@pytest.mark.parametrize("unscale", [False, True])
def test_gradients_can_be_clipped_between(unscale):
    scaler = GradScaler(init_scale=2.0**8)
    p = nn.Parameter(np.zeros(2))
    optimizer = SGD([p], lr=1.0)
    scaler.scale((p * mg.tensor([3.0, 4.0])).sum()).backward()
    if unscale:
        scaler.unscale_(optimizer)
        assert float(nn.utils.clip_grad_norm_([p], 1.0)) == 5.0
        scaler.step(optimizer)
    else:
        norm = nn.utils.joint_norm(optimizer.gradients()) * scaler.inverse_scale
        scaler.step(optimizer, gradient_scale=nn.utils.clip_coefficient(norm, 1.0))
    np.testing.assert_allclose(p.numpy(), [-0.6, -0.8], rtol=1e-6)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_all_ranks_decide_alike(ranks):
    """One rank alone has a gradient that is not finite; another has none at all."""

    def main(world: World) -> list[Any]:
        scaler = GradScaler(init_scale=8.0)
        scaler.reduce = lambda array: world.all_reduce(array, operation="max", purpose="control")
        optimizer = SGD([nn.Parameter(np.zeros(2))], lr=1.0)
        found: list[Any] = []
        for step in range(3):
            optimizer.zero_grad()
            loss = (optimizer.parameters[0] * (math.inf if (step, world.rank) == (1, 0) else 1.0)).sum()
            with np.errstate(all="ignore"):
                scaled = scaler.scale(loss)
                if world.rank != 2:
                    scaled.backward()
                scaler.step(optimizer)
            scaler.update()
            found.append(scaler.get_scale())
        return [*found, optimizer.steps]

    for rank, found in enumerate(dist.spawn(main, ranks=ranks)):
        assert found == [8.0, 4.0, 4.0, [0 if rank == 2 else 2]]


def test_nothing_is_looked_at_on_arrays_without_values():
    scaler = GradScaler()
    model = nn.Linear(3, 2, device="shapes")
    optimizer = AdamW(model.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        loss = model(Tensor.of(backend.of_device("shapes").empty((4, 3), dtype="float32"))).sum()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    with pytest.raises(DTypeError, match="no values"):
        scaler.get_scale()


def test_without_need_everything_passes_through():
    scaler = GradScaler(enabled=False)
    p = nn.Parameter(np.zeros(1))
    optimizer = SGD([p], lr=1.0)
    loss = (p * 2.0).sum()
    assert scaler.scale(loss) is loss
    loss.backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer, gradient_scale=0.5)
    scaler.update()
    assert (p.item(), scaler.get_scale(), scaler.state_dict()) == (-1.0, 1.0, {})
    scaler.load_state_dict({})


def test_lists_of_losses_are_scaled_each():
    losses = [mg.tensor(1.0, dtype="float64"), mg.tensor(2.0, dtype="float64")]
    assert [loss.item() for loss in GradScaler(init_scale=8.0).scale(losses)] == [8.0, 16.0]
    assert isinstance(GradScaler(init_scale=8.0).scale(tuple(losses)), tuple)


def test_the_scale_is_saved_and_taken_up_again():
    first = GradScaler(init_scale=2.0**4, growth_factor=3.0, growth_interval=3)
    optimizer = SGD([nn.Parameter(np.zeros(1))], lr=1.0)
    for _ in range(2):
        train_step(first, optimizer, [1.0])
    second = GradScaler()
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for scaler in (first, second):
        train_step(scaler, optimizer, [1.0])
        assert scaler.get_scale() == 48.0
    with pytest.raises(UsageError, match="lacks"):
        second.load_state_dict({})


def test_the_scale_does_not_grow_beyond_what_is_finite_and_can_be_set():
    scaler = GradScaler(init_scale=2.0**127, growth_interval=1)
    optimizer = SGD([nn.Parameter(np.zeros(1))], lr=1.0)
    train_step(scaler, optimizer, [1e-9])
    assert scaler.get_scale() == 2.0**127
    train_step(scaler, optimizer, [1e-9])
    scaler.found_inf([np.zeros(1)])
    scaler.update(4.0)
    assert scaler.get_scale() == 4.0


def test_misuse_is_refused():
    scaler, p = GradScaler(init_scale=2.0), nn.Parameter(np.zeros(1))
    optimizer = SGD([p], lr=1.0)
    with pytest.raises(UsageError, match=r"call scaler\.scale"):
        _ = scaler.inverse_scale
    with pytest.raises(UsageError, match="no gradients were looked at"):
        scaler.update()
    scaler.scale((p * 1.0).sum()).backward()
    scaler.step(optimizer)
    with pytest.raises(UsageError, match="called twice"):
        scaler.step(optimizer)
    with pytest.raises(UsageError, match="took its step"):
        scaler.unscale_(optimizer)
    scaler.update()
    scaler.unscale_(optimizer)
    with pytest.raises(UsageError, match="already"):
        scaler.unscale_(optimizer)
    half = nn.Parameter(np.zeros(1, "float16"))
    (half * 1.0).sum().backward()
    with pytest.raises(UsageError, match="float16 would vanish"):
        scaler.unscale_(SGD([half]))
    with pytest.raises(UsageError, match="LBFGS"):
        scaler.step(nn.optim.LBFGS([p]))
    for wrong in (
        {"init_scale": 0.0},
        {"growth_factor": 1.0},
        {"backoff_factor": 1.0},
        {"growth_interval": 0},
    ):
        with pytest.raises(UsageError, match="loss scale starts"):
            GradScaler(**wrong)
    with pytest.raises(UsageError, match=r"give init_scale=8\.0"):
        GradScaler(8.0)  # type: ignore[arg-type]


# ----- Policies --------------------------------------------------------------------------------------


@pytest.mark.parametrize("compute", ["float16", "bfloat16", "float32"])
def test_a_model_trains_in_its_precision_about_as_well(compute):
    """Regression on made-up data; the same model in double precision is the measure."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(64, 4))
    y = np.tanh(x @ generator.normal(size=(4, 1)))

    def train(policy: Policy | None) -> tuple[list[float], nn.Module]:
        mg.random.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))
        optimizer, scaler = AdamW(model.parameters(), lr=0.02), GradScaler(enabled=False)
        inputs, targets = mg.tensor(x), mg.tensor(y)
        if policy is None:
            model.to(dtype="float64")
        else:
            policy.apply(model, optimizer)
            scaler, (inputs, targets) = policy.scaler(init_scale=2.0**10), policy.cast([inputs, targets])
        losses = []
        for _ in range(60):
            optimizer.zero_grad()
            loss = mg.mean(mg.square(model(inputs) - targets))
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            losses.append(float(loss))
        return losses, model

    exact, _ = train(None)
    found, model = train(Policy(compute))
    assert {p.dtype for p in model.parameters()} == {Policy(compute).dtype}
    assert exact[-1] < exact[0] / 10
    assert found[-1] < exact[0] / 10
    assert found[0] == pytest.approx(exact[0], rel=2e-2)


def test_the_master_copy_keeps_the_values_from_before():
    model = nn.Linear(5, 3)
    before = model.weight.numpy().copy()
    optimizer = SGD(model.parameters())
    assert Policy("float16").apply(model, optimizer) is optimizer
    np.testing.assert_array_equal(optimizer.shard_state()[0]["master"].reshape(3, 5), before)
    np.testing.assert_array_equal(model.weight.numpy(), before.astype("float16"))


def test_inputs_are_cast_wherever_they_are_and_integers_are_left():
    policy = Policy("bfloat16")
    inputs = {"x": [np.ones(2), mg.tensor([1.0])], "tokens": (np.ones(2, int), 3)}
    found = policy.cast(inputs)
    assert {found["x"][0].dtype, found["x"][1].dtype} == {np.dtype(ml_dtypes.bfloat16)}
    assert found["tokens"][0].dtype == np.int64
    assert found["tokens"][1] == 3


def test_only_float16_needs_a_scale():
    assert [Policy(kind).scaler().enabled for kind in ("float16", "bfloat16", "float32")] == [
        True,
        False,
        False,
    ]
    assert Policy("float16").scaler(init_scale=4.0).get_scale() == 4.0
    for wrong in ("int8", "float64"):
        with pytest.raises(DTypeError, match=wrong):
            Policy(wrong)
    with (
        patch("importlib.import_module", side_effect=ImportError),
        pytest.raises(DTypeError, match="ml_dtypes"),
    ):
        Policy("bfloat16")
