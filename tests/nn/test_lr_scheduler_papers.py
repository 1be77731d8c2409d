"""Cycles, the schedules of single papers, and the one that looks at a figure."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigrad import nn
from minigrad.errors import UsageError
from minigrad.nn import lr_scheduler as schedules
from minigrad.nn.optim import SGD, AdamW
from tests.nn.schedules import optimizer, rates

# ----- Cycles, and the momentum that goes the other way ----------------------------------------------


def test_cycles_have_the_papers_rates():
    """Smith 2017, §3.2, with a step size of 2000 and rates of 0.001 and 0.006."""
    for mode, late in (("triangular", 0.006), ("triangular2", 0.0035)):
        own = optimizer(momentum=0.9)
        schedule = schedules.CyclicLR(own, 0.001, 0.006, mode=mode)  # type: ignore[arg-type]
        found = rates(schedule, 8001)[:, 0]
        chosen = found[[0, 1000, 2000, 4000, 6000]]
        np.testing.assert_allclose(chosen, [0.001, 0.0035, 0.006, 0.001, late], rtol=1e-12)


@given(
    up=st.integers(1, 6),
    down=st.integers(1, 6),
    mode=st.sampled_from(["triangular", "triangular2", "exp_range", "own"]),
)
@settings(deadline=None)
def test_a_cycle_goes_up_and_down_in_straight_lines(up, down, mode):
    own = optimizer(AdamW)
    options = {"scale_fn": lambda cycle: 1 / cycle} if mode == "own" else {"mode": mode, "gamma": 0.9}
    schedule = schedules.CyclicLR(own, 0.1, [0.5, 0.9], up, down, **options)
    for t in range(30):
        place, cycle = t % (up + down), t // (up + down)
        shape = float(np.interp(place, [0, up, up + down], [0, 1, 0]))
        shape *= {"triangular": 1, "triangular2": 0.5**cycle, "exp_range": 0.9**t, "own": 1 / (cycle + 1)}[
            mode
        ]
        assert schedule.get_last_lr() == pytest.approx([0.1 + 0.4 * shape, 0.1 + 0.8 * shape])
        assert [group["betas"] for group in own.param_groups] == [
            pytest.approx((0.9 - 0.1 * shape, 0.999))
        ] * 2
        schedule.step()


@given(
    total=st.integers(12, 40),
    start=st.sampled_from([0.2, 0.3, 0.45]),
    three=st.booleans(),
    strategy=st.sampled_from(["cos", "linear"]),
)
@settings(deadline=None)
def test_one_cycle_passes_its_corners_and_runs_smoothly_between(total, start, three, strategy):
    own = optimizer(momentum=0.5)
    schedule = schedules.OneCycleLR(
        own, 2.0, total, pct_start=start, three_phase=three, anneal_strategy=strategy
    )
    corners = [(0.0, 2 / 25, 0.95), (start * total - 1, 2.0, 0.85)]
    if three:
        corners.append((2 * start * total - 2, 2 / 25, 0.95))
    corners.append((total - 1, 2 / 25 / 1e4, 0.95))
    times, heights, momenta = (np.array(column) for column in zip(*corners, strict=True))

    def between(t: int, values: np.ndarray) -> float:
        place = min(int(np.searchsorted(times, t)), len(times) - 1) or 1
        share = (t - times[place - 1]) / (times[place] - times[place - 1])
        if strategy == "cos":
            share = (1 - math.cos(math.pi * share)) / 2
        return float(values[place - 1] + share * (values[place] - values[place - 1]))

    for t in range(total):
        assert schedule.get_last_lr()[0] == pytest.approx(between(t, heights), rel=1e-9)
        assert own.param_groups[1]["momentum"] == pytest.approx(between(t, momenta))
        schedule.step()
    with pytest.raises(UsageError, match=rf"step {total + 1} of a cycle of {total}"):
        schedule.step()


def test_one_cycle_counts_its_steps_from_epochs():
    schedule = schedules.OneCycleLR(optimizer(), 1.0, epochs=3, steps_per_epoch=5, cycle_momentum=False)
    assert schedule.total_steps == 15
    assert optimizer().param_groups[0]["momentum"] == 0.0


# ----- Schedules of papers ---------------------------------------------------------------------------


def test_the_transformers_schedule():
    """Vaswani et al. 2017, eq. 3, with a width of 512 and a warm-up of 4000."""
    own = SGD([nn.Parameter(np.ones(1))], lr=1.0)
    found = rates(schedules.Noam(own, 512, 4000), 8000)[:, 0]
    expected = {1: 1.746928e-7, 1000: 1.746928e-4, 4000: 6.987712e-4, 8000: 4.941059e-4}
    for step, rate in expected.items():
        assert found[step - 1] == pytest.approx(rate, rel=1e-6)
    assert found.argmax() == 3999
    assert schedules.noam(100_000, model_size=512, warmup_steps=4000) == pytest.approx(1.397542e-4, rel=1e-6)


def test_the_large_batch_schedule():
    """Goyal et al. 2017, §5.1: 8192 images, 157 steps an epoch, the rate of 0.1 for 256."""
    own = SGD([nn.Parameter(np.ones(1))], lr=0.1, momentum=0.9, nesterov=True)
    found = rates(schedules.LargeBatch(own, 8192, steps_per_epoch=100), 9000)[:, 0]
    expected = {0: 0.1, 2.5: 1.65, 5: 3.2, 29.99: 3.2, 30: 0.32, 60: 0.032, 80: 0.0032, 89.99: 0.0032}
    for epoch, rate in expected.items():
        assert found[round(epoch * 100)] == pytest.approx(rate, rel=1e-12)
    np.testing.assert_allclose(np.diff(found[:501]), np.full(500, 3.1 / 500), rtol=1e-9)


def test_smaller_batches_than_the_reference_need_no_warm_up():
    assert schedules.large_batch(0, scale=0.5) == schedules.large_batch(20, scale=0.5) == 0.5


# ----- A figure that no longer gets better -----------------------------------------------------------


def test_the_rate_falls_after_more_than_patience_bad_epochs():
    own = optimizer()
    schedule = schedules.ReduceLROnPlateau(own, factor=0.5, patience=2, cooldown=1, min_lr=[0.3, 0.0])
    figures = [1.0, 1.0, 1.0, 0.99995, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 0.6, 0.6, 0.6]
    expected = [0.8, 0.8, 0.8, 0.4, 0.4, 0.4, 0.4, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3]
    for figure, rate in zip(figures, expected, strict=True):
        schedule.step(figure)
        assert own.param_groups[0]["lr"] == pytest.approx(rate), figure
    assert own.param_groups[1]["lr"] == pytest.approx(0.1 / 8)


@pytest.mark.parametrize(
    ("mode", "threshold_mode", "better", "worse"),
    [
        ("min", "rel", 0.89, 0.91),
        ("min", "abs", 0.89, 0.91),
        ("max", "rel", 1.11, 1.09),
        ("max", "abs", 1.11, 1.09),
    ],
)
def test_better_means_by_the_threshold(mode, threshold_mode, better, worse):
    own = optimizer()
    schedule = schedules.ReduceLROnPlateau(
        own, mode, patience=0, threshold=0.1, threshold_mode=threshold_mode
    )
    schedule.step(1.0)
    schedule.step(better)
    assert own.param_groups[0]["lr"] == 0.8
    own = optimizer()
    schedule = schedules.ReduceLROnPlateau(
        own, mode, patience=0, threshold=0.1, threshold_mode=threshold_mode
    )
    schedule.step(1.0)
    schedule.step(worse)
    assert own.param_groups[0]["lr"] == pytest.approx(0.08)
