"""Learning-rate schedules: a factor of the step number, applied to every group's starting rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from minigrad.errors import UsageError
from minigrad.nn.optim import Optimizer


class LambdaLR:
    """Set each group's rate to its starting rate times `lr_lambda(step)`, from step 0 on."""

    def __init__(self, optimizer: Optimizer, lr_lambda: Callable[[int], float]) -> None:
        self.optimizer, self.lr_lambda, self.last_epoch = optimizer, lr_lambda, 0
        self.base_lrs = [group["lr"] for group in optimizer.param_groups]
        self._apply()

    def _apply(self) -> None:
        scale = self.lr_lambda(self.last_epoch)
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = base * scale

    def step(self) -> None:
        """Go to the next step's rate."""
        self.last_epoch += 1
        self._apply()

    def get_last_lr(self) -> list[float]:
        """The rates that are set now."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        return {"last_epoch": self.last_epoch, "base_lrs": self.base_lrs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.last_epoch, self.base_lrs = state["last_epoch"], list(state["base_lrs"])
        self._apply()


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
