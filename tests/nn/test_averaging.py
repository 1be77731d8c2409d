"""Averages of weights: their formulas, what is copied, batch norm's statistics, and why it helps."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn
from minigrad.errors import UsageError
from minigrad.nn.averaging import (
    AveragedModel,
    get_ema_avg_fn,
    get_ema_multi_avg_fn,
    get_swa_multi_avg_fn,
    update_bn,
)
from minigrad.nn.layers.batch_norm import BatchNorm1d
from minigrad.nn.optim import SGD
from minigrad.tensor import Tensor


class Small(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        generator = np.random.default_rng(seed)
        self.weight = nn.Parameter(generator.normal(size=(2, 3)))
        self.inner = nn.Linear(3, 1, dtype="float64")
        self.scale = nn.Buffer(generator.normal(size=2))
        self.count = nn.Buffer(np.zeros((), int))

    def set(self, seed: int) -> None:
        generator = np.random.default_rng(seed)
        for tensor in (*self.parameters(), self.scale):
            tensor.assign(generator.normal(size=tensor.shape))
        self.count.assign(seed)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x @ self.weight)


def state_of(model: nn.Module) -> dict[str, np.ndarray]:
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}


@given(count=st.integers(1, 6), use_buffers=st.booleans(), multi=st.booleans())
@settings(max_examples=25, deadline=None)
def test_the_mean_of_all_weights(count, use_buffers, multi):
    model = Small()
    function = get_swa_multi_avg_fn() if multi else None
    averaged = AveragedModel(model, multi_avg_fn=function, use_buffers=use_buffers)
    seen = []
    for seed in range(count):
        model.set(seed)
        averaged.update_parameters(model)
        seen.append(state_of(model))
    for name, value in state_of(averaged.module).items():
        copied = name == "count" or (name == "scale" and not use_buffers)
        expected = seen[-1][name] if copied else np.mean([state[name] for state in seen], axis=0)
        np.testing.assert_allclose(value, expected, rtol=1e-12, err_msg=name)
    assert averaged.n_averaged.item() == count


@given(count=st.integers(1, 6), decay=st.sampled_from([0.0, 0.9, 1.0]), multi=st.booleans())
@settings(max_examples=25, deadline=None)
def test_an_exponential_mean_weighs_by_age(count, decay, multi):
    model = Small()
    options = {"multi_avg_fn": get_ema_multi_avg_fn(decay)} if multi else {"avg_fn": get_ema_avg_fn(decay)}
    averaged = AveragedModel(model, **options)
    seen = []
    for seed in range(count):
        model.set(seed)
        averaged.update_parameters(model)
        seen.append(model.weight.numpy().copy())
    weights = [decay ** (count - 1 - i) * (1 if i == 0 else 1 - decay) for i in range(count)]
    expected = np.sum([w * value for w, value in zip(weights, seen, strict=True)], axis=0)
    np.testing.assert_allclose(state_of(averaged.module)["weight"], expected, rtol=1e-12, atol=1e-15)


def test_the_average_is_a_copy_and_runs_as_the_model_does():
    model = Small()
    averaged = AveragedModel(model)
    averaged.update_parameters(model)
    x = mg.tensor(np.ones((1, 2)))
    assert averaged(x).item() == model(x).item()
    model.set(5)
    assert averaged(x).item() != model(x).item()


def test_state_has_torchs_names_and_is_taken_up_again():
    model = Small()
    first = AveragedModel(model)
    assert set(first.state_dict()) == {"n_averaged", *(f"module.{name}" for name in model.state_dict())}
    for seed in range(3):
        model.set(seed)
        first.update_parameters(model)
    second = AveragedModel(Small(9))
    second.load_state_dict(first.state_dict())
    model.set(7)
    for averaged in (first, second):
        averaged.update_parameters(model)
    for name, value in state_of(first).items():
        np.testing.assert_array_equal(state_of(second)[name], value, err_msg=name)
    assert json.dumps(second.n_averaged.item()) == "4"


def test_another_model_is_refused_by_name():
    averaged = AveragedModel(nn.Linear(2, 3))
    with pytest.raises(UsageError, match="differs from the one that is averaged in weight"):
        averaged.update_parameters(nn.Linear(3, 3))
    with pytest.raises(UsageError, match="give one"):
        AveragedModel(nn.Linear(2, 3), None, get_ema_avg_fn(), get_ema_multi_avg_fn())
    with pytest.raises(UsageError, match=r"got 1\.5"):
        get_ema_avg_fn(1.5)


def test_averaging_takes_the_noise_out_of_descent():
    """Descent on ½x² with gradient noise N(0, 1) and rate 0.3 hovers with variance lr/(2-lr) = 0.176.

    The mean of the last 50 of 300 steps has less than a fifth of that.
    """
    runs, lr = 500, 0.3
    p = nn.Parameter(np.full(runs, 2.0))  # every entry is a run of its own
    optimizer, noise = SGD([p], lr=lr), np.random.default_rng(0)
    model = nn.Module()
    model.weights = p
    averaged = AveragedModel(model)
    for step in range(300):
        p.grad = mg.tensor(p.numpy() + noise.normal(size=runs))
        optimizer.step()
        if step >= 250:
            averaged.update_parameters(model)
    last, mean = np.mean(p.numpy() ** 2), np.mean(next(averaged.parameters()).numpy() ** 2)
    assert last == pytest.approx(lr / (2 - lr), rel=0.2)
    assert mean < 0.2 * last


# ----- Batch norm ------------------------------------------------------------------------------------


def test_statistics_are_plain_means_over_the_batches():
    generator = np.random.default_rng(0)
    model = nn.Sequential(BatchNorm1d(3), nn.Linear(3, 2))
    model.eval()
    batches = [mg.tensor(generator.normal(size=(8, 3)) * (i + 1) + i, dtype="float32") for i in range(4)]
    model(batches[0])
    update_bn([(batch, "label") for batch in batches], model)
    norm = model[0]
    means = [batch.numpy().mean(axis=0) for batch in batches]
    variances = [batch.numpy().var(axis=0, ddof=1) for batch in batches]
    np.testing.assert_allclose(norm.running_mean.numpy(), np.mean(means, axis=0), rtol=1e-5)
    np.testing.assert_allclose(norm.running_var.numpy(), np.mean(variances, axis=0), rtol=1e-5)
    assert norm.momentum == 0.1
    assert not any(module.training for module in model.modules())


def test_a_loader_that_fails_leaves_the_model_as_it_was():
    model = nn.Sequential(BatchNorm1d(3))
    model.eval()

    with pytest.raises(ZeroDivisionError):
        update_bn((mg.ones((1, 3)) / (1 // number) for number in (0, 1)), model)
    assert model[0].momentum == 0.1
    assert not model.training


def test_a_model_without_batch_norm_is_not_even_run():
    update_bn(iter(lambda: pytest.fail("read a batch"), None), nn.Linear(2, 2))
