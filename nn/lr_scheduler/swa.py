"""The rate of stochastic weight averaging."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from minigrad.errors import UsageError
from minigrad.nn.lr_scheduler.schedule import LRScheduler, for_each_group
from minigrad.nn.optim import Optimizer


class SWALR(LRScheduler):
    """From the rate at the first step, whatever it is, to `swa_lr` in `anneal_epochs` epochs, then flat.

    Another schedule may set the rate before that. Paper: Izmailov et al. 2018, Averaging Weights Leads to
    Wider Optima and Better Generalization, §3.2, with a constant rate.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        swa_lr: float | Sequence[float],
        anneal_epochs: int = 10,
        anneal_strategy: Literal["cos", "linear"] = "cos",
        last_epoch: int = -1,
    ) -> None:
        if anneal_strategy not in ("cos", "linear") or anneal_epochs < 0:
            raise UsageError(
                f'anneal_strategy is "cos" or "linear" and anneal_epochs not negative, got '
                f"{anneal_strategy!r} and {anneal_epochs}"
            )
        for group, lr in zip(
            optimizer.param_groups, for_each_group("swa_lr", optimizer, swa_lr), strict=True
        ):
            group["swa_lr"] = lr
        self.anneal_epochs, self._anneal = anneal_epochs, anneal_strategy
        super().__init__(optimizer, last_epoch)

    def _share(self, epoch: int) -> float:
        """How far the rate is on its way."""
        way = min(1.0, epoch / self.anneal_epochs) if self.anneal_epochs else 1.0
        return (1 - math.cos(math.pi * way)) / 2 if self._anneal == "cos" else way

    def rate(self, index: int, epoch: int) -> float:
        return math.nan  # it has none of its own: it always follows

    def begin(self, index: int, lr: float) -> float:
        return lr if self.anneal_epochs else self.optimizer.param_groups[index]["swa_lr"]

    def restart(self) -> None:
        self.last_epoch = 0
        for index, group in enumerate(self.optimizer.param_groups):
            group["lr"] = self.begin(index, group["lr"])

    def follow(self, index: int, lr: float, epoch: int) -> float:
        goal = self.optimizer.param_groups[index]["swa_lr"]
        before, now = self._share(epoch - 1), self._share(epoch)
        start = (lr - before * goal) / (1 - before) if before < 1 else goal
        return goal * now + start * (1 - now)
