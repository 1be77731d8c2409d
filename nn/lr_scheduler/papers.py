"""Schedules that one paper made known: the Transformer's, and that of large batches."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from minigrad.errors import UsageError
from minigrad.nn.lr_scheduler.schedule import LambdaLR
from minigrad.nn.optim import Optimizer


def noam(step: int, *, model_size: int, warmup_steps: int) -> float:
    """model_size^-½ · min(step^-½, step · warmup_steps^-1½), for steps from 1 on.

    Paper: Vaswani et al. 2017, Attention Is All You Need, eq. 3.

    >>> noam(4000, model_size=512, warmup_steps=4000)
    0.000698771
    """
    return model_size**-0.5 * min(step**-0.5, step * warmup_steps**-1.5)


class Noam(LambdaLR):
    """Linear warm-up, then a fall with the root of the step; the paper's where the optimizer's rate is 1."""

    def __init__(self, optimizer: Optimizer, model_size: int, warmup_steps: int = 4000) -> None:
        if model_size < 1 or warmup_steps < 1:
            raise UsageError(f"model size and warm-up are at least 1, got {model_size} and {warmup_steps}")
        super().__init__(
            optimizer, lambda step: noam(step + 1, model_size=model_size, warmup_steps=warmup_steps)
        )


def large_batch(
    epoch: float,
    *,
    scale: float,
    warmup_epochs: float = 5.0,
    milestones: Sequence[float] = (30, 60, 80),
    gamma: float = 0.1,
) -> float:
    """What the rate of the small batch is multiplied by at an epoch (with its fraction) of the large one.

    From 1 linearly to `scale` (how many times larger the batch is) over the warm-up, then `scale`, times
    `gamma` at each milestone. Paper: Goyal et al. 2017, Accurate, Large Minibatch SGD, §2.1, §2.2, §5.1.

    >>> [round(0.1 * large_batch(epoch, scale=8192 / 256), 6) for epoch in (0, 2.5, 5, 30, 60, 80)]
    [0.1, 1.65, 3.2, 0.32, 0.032, 0.0032]
    """
    reached = scale
    if epoch < warmup_epochs and scale > 1:
        reached = 1 + (scale - 1) * epoch / warmup_epochs
    return reached * gamma ** bisect_right(milestones, epoch)


class LargeBatch(LambdaLR):
    """The linear scaling rule with gradual warm-up and steps; `step()` after every step of the optimizer.

    The optimizer's rate is that for batches of `reference_batch` samples (the paper: 0.1 for 256), and
    `batch` is the number of samples in a step of all ranks together.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        batch: int,
        steps_per_epoch: int,
        *,
        reference_batch: int = 256,
        warmup_epochs: float = 5.0,
        milestones: Sequence[float] = (30, 60, 80),
        gamma: float = 0.1,
    ) -> None:
        if min(batch, steps_per_epoch, reference_batch) < 1:
            raise UsageError(
                f"batches and epochs are not empty, got a batch of {batch}, {steps_per_epoch} steps in an "
                f"epoch and a reference batch of {reference_batch}"
            )
        super().__init__(
            optimizer,
            lambda step: large_batch(
                step / steps_per_epoch,
                scale=batch / reference_batch,
                warmup_epochs=warmup_epochs,
                milestones=milestones,
                gamma=gamma,
            ),
        )
