"""Optimizers, loss scales and training steps on a device: as on the host, and without looking at a value."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import backend, nn
from minigrad.nn import amp
from tests.nn.optimizers import NAMES, SHAPES, gradient, make, options

SAME_FIXTURE = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def on(device: str, value: Any) -> Any:
    return backend.of_device(device).from_host(np.asarray(value))


def taken(
    device: str,
    name: str,
    groups: list[dict[str, Any]],
    chosen: list[set[int]],
    skips: list[bool],
    scale: float,
) -> list[np.ndarray]:
    """Parameters after some steps with scaled gradients, some of which a flag on the device leaves out."""
    optimizer = make(name, groups, device=device)
    for step, (present, skip) in enumerate(zip(chosen, skips, strict=True)):
        optimizer.zero_grad()
        for index in present:
            optimizer.parameters[index].grad = mg.tensor(gradient(step, index), device=device)
        if present:
            flag, factor = on(device, np.array(skip)), on(device, np.array(scale))
            optimizer.step(gradient_scale=factor, skip=flag)
    return [p.numpy() for p in optimizer.parameters]


@SAME_FIXTURE
@given(st.data(), NAMES, st.lists(st.booleans(), min_size=1, max_size=4), st.sampled_from([1.0, 0.25]))
def test_skipped_and_scaled_steps_are_those_of_the_host(
    device: str, data: st.DataObject, name: str, skips: list[bool], scale: float
):
    groups = [data.draw(options(name)), data.draw(options(name))]
    present = st.sets(st.integers(0, len(SHAPES) - 1))
    chosen = [data.draw(present) for _ in skips]
    found = [taken(place, name, groups, chosen, skips, scale) for place in ("cpu", device)]
    for expected, actual in zip(*found, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-9)


def model_and_batch(device: str, dtype: str) -> tuple[nn.GPT, mg.Tensor, mg.Tensor]:
    config = nn.GPTConfig(vocabulary=32, context=8, layers=1, heads=2, width=16)
    tokens = np.random.default_rng(0).integers(0, 32, (2, 9))
    model = nn.GPT(config, dtype=dtype, device=device)
    return model, mg.tensor(tokens[:, :-1], device=device), mg.tensor(tokens[:, 1:], device=device)


def mixed(device: str, steps: int = 8) -> tuple[list[float], float]:
    """Losses in float16 with master copies and a scale that is too large at first, and the scale it finds."""
    model, inputs, targets = model_and_batch(device, "float32")
    optimizer = nn.optim.AdamW(model.parameters(), lr=1e-2)
    policy = amp.Policy("float16")
    policy.apply(model, optimizer)
    scaler, losses = policy.scaler(init_scale=2.0**18), []
    for _ in range(steps):
        loss = model.loss(inputs, targets)
        scaler.scale(loss.astype("float32")).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, scaler.get_scale()


@pytest.mark.filterwarnings("ignore:.*(overflow|invalid).*:RuntimeWarning")
def test_mixed_precision_is_that_of_the_host(device: str):
    (expected, scale), (losses, own) = mixed("cpu"), mixed(device)
    np.testing.assert_allclose(losses, expected, rtol=2e-2)
    assert own == scale < 2.0**18
    assert losses[-1] < losses[0]


def step_of(model: nn.GPT, optimizer: nn.optim.Optimizer, scaler: amp.GradScaler) -> Callable[..., None]:
    def step(inputs: mg.Tensor, targets: mg.Tensor) -> None:
        scaler.scale(model.loss(inputs, targets)).backward()
        norm = nn.utils.joint_norm(optimizer.gradients()) * scaler.inverse_scale
        scaler.step(optimizer, gradient_scale=nn.utils.clip_coefficient(norm, 1.0))
        scaler.update()
        optimizer.zero_grad()

    return step


@pytest.mark.parametrize("name", ["SGD", "AdamW", "LAMB", "Lion"])
def test_a_training_step_waits_for_nothing(device: str, waits: Callable[[], int], name: str):
    """Forward, backward, norm, clipping, overflow, update: the host asks for no value, however many steps."""
    model, inputs, targets = model_and_batch(device, "float32")
    optimizer = getattr(nn.optim, name)(model.parameters(), lr=1e-3)
    step = step_of(model, optimizer, amp.GradScaler(init_scale=2.0**8))
    before = waits()
    for _ in range(3):
        step(inputs, targets)
    assert waits() == before
    assert model.loss(inputs, targets).item() > 0
    assert waits() == before + 1  # that one was seen
