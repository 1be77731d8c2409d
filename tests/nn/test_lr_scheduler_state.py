"""Every schedule saved and taken up again, and what schedules refuse."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from minigrad.errors import UsageError
from minigrad.nn import lr_scheduler as schedules
from minigrad.nn.optim import Adagrad, Optimizer
from tests.nn.schedules import optimizer, rates

# ----- Saved and taken up again ----------------------------------------------------------------------

EVERY: dict[str, Callable[[Any], Any]] = {
    "step": lambda o: schedules.StepLR(o, 3),
    "multi": lambda o: schedules.MultiStepLR(o, [2, 5]),
    "exponential": lambda o: schedules.ExponentialLR(o, 0.9),
    "constant": lambda o: schedules.ConstantLR(o),
    "linear": lambda o: schedules.LinearLR(o),
    "polynomial": lambda o: schedules.PolynomialLR(o, 9, 2.0),
    "cosine": lambda o: schedules.CosineAnnealingLR(o, 4),
    "restarts": lambda o: schedules.CosineAnnealingWarmRestarts(o, 3, 2),
    "cyclic": lambda o: schedules.CyclicLR(o, 0.1, 0.4, 3, mode="triangular2"),
    "one cycle": lambda o: schedules.OneCycleLR(o, 0.4, 20),
    "lambda": lambda o: schedules.LambdaLR(o, lambda t: 1 / (1 + t)),
    "multiplicative": lambda o: schedules.MultiplicativeLR(o, lambda t: 1 - 1 / (1 + t)),
    "noam": lambda o: schedules.Noam(o, 16, 4),
    "large batch": lambda o: schedules.LargeBatch(o, 512, 2, warmup_epochs=2, milestones=(4,)),
    "warm-up": lambda o: schedules.WarmupCosine(o, 3, 9),
    "averaging": lambda o: schedules.SWALR(o, 0.05, 5),
    "chain": lambda o: schedules.ChainedScheduler(
        [schedules.ConstantLR(o), schedules.ExponentialLR(o, 0.9), schedules.CosineAnnealingLR(o, 4)]
    ),
    "sequence": lambda o: schedules.SequentialLR(
        o, [schedules.LinearLR(o, 0.1), schedules.CosineAnnealingLR(o, 6), schedules.StepLR(o, 2)], [3, 8]
    ),
}


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("stop", [0, 4, 9])
def test_a_schedule_is_taken_up_again_to_the_bit(name, stop):
    """Through JSON, over an optimizer whose state was taken up too, and which was made with another rate."""

    def settings_of(own: Optimizer) -> list[Any]:
        return [(group["lr"], group["momentum"]) for group in own.param_groups]

    whole, own = optimizer(momentum=0.5), optimizer(momentum=0.5)
    expected, first = EVERY[name](whole), EVERY[name](own)
    for _ in range(stop):
        expected.step()
        first.step()
    fresh = optimizer(momentum=0.5)
    for group in fresh.param_groups:
        group["lr"] = 55.0
    second = EVERY[name](fresh)
    groups, state = json.loads(json.dumps([own.state_dict()["param_groups"], first.state_dict()]))
    fresh.load_state_dict({"state": {}, "param_groups": groups})
    second.load_state_dict(state)
    for _ in range(10):
        assert settings_of(fresh) == settings_of(whole)
        expected.step()
        second.step()


def test_a_plateau_is_taken_up_again():
    figures = [1.0, 0.5, 0.6, 0.6, 0.4, 0.5, 0.5, 0.5, 0.5]
    for stop in range(len(figures)):
        whole, own, fresh = optimizer(), optimizer(), optimizer()
        expected, first, second = (
            schedules.ReduceLROnPlateau(o, patience=1, cooldown=1) for o in (whole, own, fresh)
        )
        for figure in figures[:stop]:
            expected.step(figure)
            first.step(figure)
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        for figure in figures[stop:]:
            expected.step(figure)
            second.step(figure)
        assert second.get_last_lr() == expected.get_last_lr()


def test_a_run_can_go_on_from_an_epoch():
    own = optimizer()
    rates(schedules.CosineAnnealingLR(own, 9), 5)
    again = schedules.CosineAnnealingLR(own, 9, last_epoch=4)
    assert again.get_last_lr()[0] == pytest.approx(0.8 * (1 + math.cos(math.pi * 5 / 9)) / 2)
    with pytest.raises(UsageError, match="initial_lr"):
        schedules.StepLR(optimizer(), 3, last_epoch=4)


# ----- Misuse ----------------------------------------------------------------------------------------

wrong: Any = schedules  # types that no checker lets through

MISTAKES: list[tuple[Callable[[Any], Any], str]] = [
    (lambda o: schedules.StepLR(o, 0), "step_size 0"),
    (lambda o: schedules.ConstantLR(o, 1.5), "got 1.5"),
    (lambda o: schedules.LinearLR(o, 0.0), "got 0.0"),
    (lambda o: schedules.LinearLR(o, total_iters=0), "total_iters 0"),
    (lambda o: schedules.PolynomialLR(o, 0), "total_iters 0"),
    (lambda o: schedules.CosineAnnealingLR(o, 0), "T_max 0"),
    (lambda o: schedules.CosineAnnealingWarmRestarts(o, 0), "got 0"),
    (lambda o: schedules.CosineAnnealingWarmRestarts(o, 2).step(-1), "got -1"),
    (lambda o: wrong.CyclicLR(o, 0.1, 0.2, mode="square"), "square"),
    (lambda o: schedules.CyclicLR(o, 0.1, 0.2, 0), "got 0"),
    (lambda o: schedules.CyclicLR(o, [0.1], 0.2), "base_lr has 1 values for 2 groups"),
    (lambda o: schedules.OneCycleLR(o, 0.1), "needs total_steps"),
    (lambda o: schedules.OneCycleLR(o, 0.1, 0), "0 steps"),
    (lambda o: wrong.OneCycleLR(o, 0.1, 5, anneal_strategy="exp"), "exp"),
    (lambda o: schedules.LambdaLR(o, [lambda t: 1.0]), "1 functions for 2 groups"),
    (lambda o: schedules.MultiplicativeLR(o, [lambda t: 1.0]), "1 functions for 2 groups"),
    (
        lambda o: schedules.SequentialLR(o, [schedules.StepLR(o, 1)], [], last_epoch=3),
        "begins at epoch 0, and not after 3",
    ),
    (lambda o: schedules.ReduceLROnPlateau(o, factor=1.0), "got 1.0"),
    (lambda o: wrong.ReduceLROnPlateau(o, mode="most"), "most"),
    (lambda o: schedules.SWALR(o, 0.1, -1), "-1"),
    (lambda o: schedules.Noam(o, 0), "got 0"),
    (lambda o: schedules.LargeBatch(o, 0, 10), "batch of 0"),
    (lambda o: schedules.ChainedScheduler([]), "at least one"),
    (lambda o: schedules.SequentialLR(o, [schedules.StepLR(o, 2)], [3]), r"milestones \[3\]"),
    (lambda o: schedules.SequentialLR(o, [schedules.StepLR(o, 2)] * 3, [5, 3]), r"\[5, 3\]"),
    (lambda o: schedules.SequentialLR(optimizer(), [schedules.StepLR(o, 2)], []), "another optimizer"),
    (lambda o: schedules.ChainedScheduler([schedules.ReduceLROnPlateau(o)]), "ReduceLROnPlateau"),
    (lambda o: schedules.StepLR(o, 2).load_state_dict({"base_lrs": [1.0], "last_epoch": 0}), "1 groups"),
]


@pytest.mark.parametrize(("act", "message"), MISTAKES)
def test_what_makes_no_sense_is_refused(act, message):
    with pytest.raises(UsageError, match=message):
        act(optimizer(momentum=0.9))


def test_momentum_that_is_not_there_cannot_be_cycled():
    with pytest.raises(UsageError, match="Adagrad has neither momentum nor betas"):
        schedules.OneCycleLR(optimizer(Adagrad), 0.1, 10)
    schedules.OneCycleLR(optimizer(Adagrad), 0.1, 10, cycle_momentum=False)
