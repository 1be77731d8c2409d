"""What the tests of schedules share: an optimizer of two groups, and the rates that a schedule sets."""

from typing import Any

import numpy as np

from minigrad import nn
from minigrad.nn.optim import SGD, Optimizer

BASES = (0.8, 0.1)


def optimizer(kind: Any = SGD, **options: Any) -> Optimizer:
    return kind([{"params": [nn.Parameter(np.ones(1))], "lr": lr} for lr in BASES], **options)


def rates(schedule: Any, count: int) -> np.ndarray:
    """The rates of both groups in `count` epochs from now on, (count, 2)."""
    found = []
    for _ in range(count):
        found.append(schedule.get_last_lr())
        schedule.step()
    return np.array(found)
