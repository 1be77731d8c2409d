"""Schedules along a cosine: once, again and again, with restarts, after a warm-up."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from minigrad.errors import UsageError
from minigrad.nn.lr_scheduler.schedule import LambdaLR, LRScheduler
from minigrad.nn.optim import Optimizer


class CosineAnnealingLR(LRScheduler):
    """Half a cosine from the starting rate down to `eta_min` in `T_max` epochs (and up again after that).

    Paper: Loshchilov, Hutter 2017, SGDR, eq. 5, without restarts.
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        if T_max < 1:
            raise UsageError(f"half a cosine takes at least one epoch, got T_max {T_max}")
        self.T_max, self.eta_min = T_max, eta_min
        super().__init__(optimizer, last_epoch)

    def rate(self, index: int, epoch: int) -> float:
        height = self.base_lrs[index] - self.eta_min
        return self.eta_min + height * (1 + math.cos(math.pi * epoch / self.T_max)) / 2

    def begin(self, index: int, lr: float) -> float:
        return lr if self.last_epoch == 0 else self.rate(index, self.last_epoch)

    def follow(self, index: int, lr: float, epoch: int) -> float:
        if (epoch - 1 - self.T_max) % (2 * self.T_max) == 0:  # up again from the lowest point
            height = self.base_lrs[index] - self.eta_min
            return lr + height * (1 - math.cos(math.pi / self.T_max)) / 2
        now, before = (1 + math.cos(math.pi * e / self.T_max) for e in (epoch, epoch - 1))
        return self.eta_min + now / before * (lr - self.eta_min)


class CosineAnnealingWarmRestarts(LRScheduler):
    """Half a cosine down to `eta_min` in `T_0` epochs, then again from the top, each `T_mult` times as long.

    Paper: Loshchilov, Hutter 2017, SGDR, eq. 5.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        T_0: int,
        T_mult: int = 1,
        eta_min: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        if min(T_0, T_mult) < 1 or int(T_0) != T_0 or int(T_mult) != T_mult:
            raise UsageError(f"T_0 and T_mult are whole numbers from 1 on, got {T_0} and {T_mult}")
        self.T_0, self.T_mult, self.eta_min = T_0, T_mult, eta_min
        super().__init__(optimizer, last_epoch)
        self._place = float(self.last_epoch)  # where it is, if `step` was given parts of epochs

    def rate(self, index: int, epoch: float) -> float:
        start, length = 0.0, self.T_0
        if self.T_mult == 1:
            start = epoch // length * length
        while epoch >= start + length:
            start, length = start + length, length * self.T_mult
        height = self.base_lrs[index] - self.eta_min
        return self.eta_min + height * (1 + math.cos(math.pi * (epoch - start) / length)) / 2

    def step(self, epoch: float | None = None) -> None:
        """Go to the next epoch's rate, or to that of `epoch`, which may have a fraction."""
        if epoch is not None and epoch < 0:
            raise UsageError(f"epochs are counted from 0, got {epoch}")
        self._place = self._place + 1.0 if epoch is None else float(epoch)
        self.last_epoch = math.floor(self._place)
        for index, group in enumerate(self.optimizer.param_groups[: len(self.base_lrs)]):
            group["lr"] = self.rate(index, self._place)

    def restart(self) -> None:
        self._place = 0.0
        super().restart()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "place": self._place}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._place = state["place"]


def warmup_cosine(step: int, *, warmup_steps: int, total_steps: int, minimum_ratio: float) -> float:
    """Linear from 1/warmup_steps to 1 over the warm-up, then half a cosine down to `minimum_ratio`, and flat
    after that.

    Paper: Loshchilov, Hutter 2017, SGDR, eq. 5, without restarts; warm-up as in Goyal et al. 2017, §2.2.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return minimum_ratio + (1 - minimum_ratio) * 0.5 * (1 + math.cos(math.pi * progress))


class WarmupCosine(LambdaLR):
    """Gradual warm-up, then a cosine down to `minimum_ratio` of the rate at `total_steps`."""

    def __init__(
        self, optimizer: Optimizer, warmup_steps: int, total_steps: int, minimum_ratio: float = 0.1
    ) -> None:
        if not 0 <= warmup_steps <= total_steps:
            raise UsageError(f"warm-up of {warmup_steps} steps does not fit {total_steps} steps in all")
        if not 0.0 <= minimum_ratio <= 1.0:
            raise UsageError(f"the smallest rate's ratio must lie between 0 and 1, got {minimum_ratio}")
        super().__init__(
            optimizer,
            lambda step: warmup_cosine(
                step, warmup_steps=warmup_steps, total_steps=total_steps, minimum_ratio=minimum_ratio
            ),
        )
