"""Schedules that multiply or follow a cosine, beside their closed forms; chains and sequences of them."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigrad import nn
from minigrad.nn import lr_scheduler as schedules
from tests.nn.schedules import BASES, optimizer, rates

# ----- Factors: each beside its closed form ----------------------------------------------------------

Form = tuple[Callable[[Any], Any], Callable[[int], float]]


@st.composite
def factors(draw: Any) -> Form:
    """A schedule to build over an optimizer, and its factor as a function of the epoch."""
    gamma, count = draw(st.floats(0.1, 0.95)), draw(st.integers(1, 9))
    low, high = draw(st.floats(0.05, 1)), draw(st.floats(0.05, 1))
    stones = draw(st.lists(st.integers(0, 15), max_size=3))
    power = draw(st.floats(0.5, 3))
    forms: dict[str, Form] = {
        "step": (lambda o: schedules.StepLR(o, count, gamma), lambda t: gamma ** (t // count)),
        "multi": (
            lambda o: schedules.MultiStepLR(o, stones, gamma),
            lambda t: gamma ** sum(stone <= t for stone in stones),
        ),
        "exponential": (lambda o: schedules.ExponentialLR(o, gamma), lambda t: gamma**t),
        "constant": (lambda o: schedules.ConstantLR(o, low, count), lambda t: low if t < count else 1.0),
        "linear": (
            lambda o: schedules.LinearLR(o, low, high, count),
            lambda t: float(np.interp(t, [0, count], [low, high])),
        ),
        "polynomial": (
            lambda o: schedules.PolynomialLR(o, count, power),
            lambda t: max(0.0, 1 - t / count) ** power,
        ),
    }
    forms["multiplicative"] = (
        lambda o: schedules.MultiplicativeLR(o, lambda t: 1 - 1 / (t + count)),
        lambda t: math.prod(1 - 1 / (past + count) for past in range(1, t + 1)),
    )
    return forms[draw(st.sampled_from(sorted(forms)))]


@given(form=factors())
@settings(max_examples=150, deadline=None)
def test_rates_are_the_starting_rate_times_the_factor(form):
    build, factor = form
    found = rates(build(optimizer()), 20)
    np.testing.assert_allclose(found, np.outer([factor(t) for t in range(20)], BASES), rtol=1e-12)


@given(forms=st.lists(factors(), min_size=1, max_size=3))
@settings(max_examples=100, deadline=None)
def test_factors_of_a_chain_multiply(forms):
    own = optimizer()
    chain = schedules.ChainedScheduler([build(own) for build, _ in forms])
    product = [math.prod(factor(t) for _, factor in forms) for t in range(20)]
    np.testing.assert_allclose(rates(chain, 20), np.outer(product, BASES), rtol=1e-9)


@given(
    forms=st.lists(factors(), min_size=3, max_size=3),
    first=st.integers(1, 8),
    more=st.integers(1, 8),
)
@settings(max_examples=100, deadline=None)
def test_a_sequence_runs_each_from_its_beginning(forms, first, more):
    own = optimizer()
    sequence = schedules.SequentialLR(own, [build(own) for build, _ in forms], [first, first + more])
    starts = [0, first, first + more, 24]
    expected = [
        factor(t - start)
        for (_, factor), start, stop in zip(forms, starts, starts[1:], strict=False)
        for t in range(start, stop)
    ]
    np.testing.assert_allclose(rates(sequence, 24), np.outer(expected, BASES), rtol=1e-9)


# ----- Cosines ---------------------------------------------------------------------------------------


@given(length=st.integers(1, 12), low=st.sampled_from([0.0, 0.05]))
@settings(deadline=None)
def test_half_a_cosine_goes_down_and_up_again(length, low):
    found = rates(schedules.CosineAnnealingLR(optimizer(), length, low), 4 * length + 1)
    shape = (1 + np.cos(np.pi * np.arange(4 * length + 1) / length)) / 2
    np.testing.assert_allclose(found, low + np.outer(shape, np.subtract(BASES, low)), rtol=1e-12, atol=1e-16)


@given(first=st.integers(1, 5), longer=st.integers(1, 3), low=st.sampled_from([0.0, 0.05]))
@settings(deadline=None)
def test_warm_restarts_begin_again_at_the_top(first, longer, low):
    schedule = schedules.CosineAnnealingWarmRestarts(optimizer(), first, longer, low)
    found, length = rates(schedule, 40), first
    shape: list[float] = []
    while len(shape) < 40:
        shape += [(1 + math.cos(math.pi * t / length)) / 2 for t in range(length)]
        length *= longer
    np.testing.assert_allclose(found, low + np.outer(shape[:40], np.subtract(BASES, low)), rtol=1e-12)


def test_warm_restarts_take_parts_of_epochs():
    schedule = schedules.CosineAnnealingWarmRestarts(optimizer(), 4, 2)
    for epoch in (0.0, 0.5, 3.75, 4.0, 8.0, 11.5, 13.0):
        schedule.step(epoch)
        part = epoch / 4 if epoch < 4 else (epoch - 4) / 8 if epoch < 12 else (epoch - 12) / 16
        assert schedule.get_last_lr()[0] == pytest.approx(0.8 * (1 + math.cos(math.pi * part)) / 2)
    schedule.step()
    assert schedule.get_last_lr()[0] == pytest.approx(0.8 * (1 + math.cos(math.pi * 2 / 16)) / 2)


# ----- Several over one optimizer --------------------------------------------------------------------


def test_a_second_schedule_starts_from_the_rate_the_optimizer_was_made_with():
    own = optimizer()
    first = schedules.LambdaLR(own, lambda t: 0.5**t)
    rates(first, 5)
    second = schedules.LambdaLR(own, [lambda t: 1.0 + t, lambda t: 2.0])
    np.testing.assert_allclose(rates(second, 2), [[0.8, 0.2], [1.6, 0.2]])


def test_a_rate_changed_by_hand_stays_changed():
    own = optimizer()
    schedule = schedules.StepLR(own, 2, 0.5)
    schedule.step()
    own.param_groups[0]["lr"] = 10.0
    np.testing.assert_allclose(rates(schedule, 4), [[10.0, 0.1], [5.0, 0.05], [5.0, 0.05], [2.5, 0.025]])


def test_groups_that_are_added_later_follow():
    own = optimizer()
    schedule = schedules.ExponentialLR(own, 0.5)
    schedule.step()
    own.add_param_group({"params": [nn.Parameter(np.ones(1))], "lr": 7.0})
    schedule.step()
    assert [group["lr"] for group in own.param_groups[:2]] == pytest.approx([0.2, 0.025])
    assert own.param_groups[2]["initial_lr"] == 7.0


def test_averaging_takes_over_from_whatever_rate_there_is():
    own = optimizer()
    other = schedules.ExponentialLR(own, 0.5)
    late = schedules.SWALR(own, [0.05, 0.3], anneal_epochs=4, anneal_strategy="linear")
    rates(other, 3)
    here = [group["lr"] for group in own.param_groups]
    found = rates(late, 7)
    shares = np.minimum(np.arange(7) / 4, 1)[:, None]
    np.testing.assert_allclose(found, (1 - shares) * here + shares * [0.05, 0.3], rtol=1e-12)
    at_once = optimizer()
    schedules.SWALR(at_once, 0.05, anneal_epochs=0)
    assert [group["lr"] for group in at_once.param_groups] == [0.05, 0.05]
