"""Schedules: the rates that they set, at which step, and that they can be taken up again."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigrad import nn
from minigrad.errors import UsageError
from minigrad.nn.lr_scheduler import LambdaLR, WarmupCosine


def optimizer(*rates: float) -> nn.optim.AdamW:
    return nn.optim.AdamW([{"params": [nn.Parameter(np.ones(2))], "lr": rate} for rate in rates])


def rates(schedule: LambdaLR, count: int) -> list[float]:
    """The rates of steps 0 ... count - 1 of the first group."""
    found = []
    for _ in range(count):
        found.append(schedule.get_last_lr()[0])
        schedule.step()
    return found


def test_warm_up_then_half_a_cosine_then_flat():
    schedule = WarmupCosine(optimizer(1.0), warmup_steps=4, total_steps=12, minimum_ratio=0.2)
    middle = 0.2 + 0.8 * 0.5
    quarter = 0.2 + 0.8 * (1 + math.sqrt(0.5)) / 2
    found = rates(schedule, 15)
    assert found[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert found[6] == pytest.approx(quarter)
    assert found[8] == pytest.approx(middle)
    assert found[10] == pytest.approx(0.4 + 0.8 - quarter)  # a cosine is odd around its middle
    assert found[12:] == pytest.approx([0.2] * 3)


def test_every_group_keeps_its_own_rate():
    own = optimizer(1.0, 0.01)
    schedule = WarmupCosine(own, 2, 10)
    assert [group["lr"] for group in own.param_groups] == [0.5, 0.005]
    schedule.step()
    assert [group["lr"] for group in own.param_groups] == schedule.get_last_lr() == [1.0, 0.01]


def test_a_step_of_the_optimizer_takes_the_rate_that_is_set():
    parameter = nn.Parameter(np.zeros(1))
    own = nn.optim.AdamW([parameter], lr=1.0, weight_decay=0.0)
    schedule = LambdaLR(own, lambda step: 10.0**-step)
    moves = []
    for _ in range(3):
        before = parameter.item()
        own.zero_grad()
        parameter.sum().backward()
        own.step()
        schedule.step()
        moves.append(before - parameter.item())
    assert moves == pytest.approx([1.0, 0.1, 0.01])  # Adam's step of a constant gradient is the rate itself


@given(
    warmup=st.integers(0, 20),
    more=st.integers(0, 50),
    ratio=st.floats(0, 1),
    rate=st.floats(1e-6, 10),
)
def test_rates_rise_then_fall_between_their_bounds(warmup, more, ratio, rate):
    found = rates(WarmupCosine(optimizer(rate), warmup, warmup + more, ratio), warmup + more + 5)
    slack = 1e-12 * rate
    assert all(0 <= value <= rate + slack for value in found)
    assert all(a < b for a, b in pairwise(found[:warmup]))
    falling = found[warmup:]
    assert falling[0] == pytest.approx(rate)
    assert all(a >= b - slack for a, b in pairwise(falling))
    assert found[-1] == pytest.approx(ratio * rate)


@given(stop=st.integers(0, 12))
def test_a_schedule_is_taken_up_again(stop):
    whole = rates(WarmupCosine(optimizer(0.3), 3, 12), 13)
    first = WarmupCosine(optimizer(0.3), 3, 12)
    assert rates(first, stop) == whole[:stop]
    second = WarmupCosine(optimizer(0.7), 3, 12)  # even over an optimizer that was made with another rate
    second.load_state_dict(first.state_dict())
    assert rates(second, 13 - stop) == whole[stop:]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((5, 4), "warm-up of 5 steps does not fit 4"),
        ((-1, 4), "warm-up of -1"),
        ((1, 4, 1.5), "between 0 and 1, got 1.5"),
        ((1, 4, math.nan), "between 0 and 1"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(arguments, message):
    own = optimizer(1.0)
    with pytest.raises(UsageError, match=message):
        WarmupCosine(own, *arguments)
    assert own.param_groups[0]["lr"] == 1.0
