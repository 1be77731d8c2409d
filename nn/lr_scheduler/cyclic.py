"""Schedules that go up and down between two rates, with the momentum going the other way."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

from minigrad.errors import UsageError
from minigrad.nn.lr_scheduler.schedule import LRScheduler, for_each_group
from minigrad.nn.optim import Optimizer


class MomentumCycle(LRScheduler):
    """A schedule that may set the momentum (or the first beta) of each group too."""

    cycle_momentum: bool

    def momentum(self, index: int, epoch: int) -> float:
        """The momentum of group `index` in an epoch."""
        raise NotImplementedError

    def set_momentum(self) -> None:
        if not self.cycle_momentum:
            return
        for index, group in enumerate(self.optimizer.param_groups[: len(self.base_lrs)]):
            value = self.momentum(index, self.last_epoch)
            if "betas" in self.optimizer.defaults:
                group["betas"] = (value, *group["betas"][1:])
            else:
                group["momentum"] = value

    def _check_momentum(self, optimizer: Optimizer) -> None:
        if self.cycle_momentum and not {"momentum", "betas"} & set(optimizer.defaults):
            raise UsageError(
                f"{type(optimizer).__name__} has neither momentum nor betas to cycle; give "
                "cycle_momentum=False"
            )


class CyclicLR(MomentumCycle):
    """Up from `base_lr` to `max_lr` in `step_size_up` steps, down again in `step_size_down`, over and over.

    `mode`: "triangular"; "triangular2", whose height halves in each cycle; "exp_range", whose height is
    multiplied by `gamma` in each step. Or give `scale_fn`, the height as a function of the number of the
    cycle (from 1; with scale_mode "iterations", of the step). Paper: Smith 2017, Cyclical Learning Rates for
    Training Neural Networks, §3.2.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        base_lr: float | Sequence[float],
        max_lr: float | Sequence[float],
        step_size_up: int = 2000,
        step_size_down: int | None = None,
        mode: Literal["triangular", "triangular2", "exp_range"] = "triangular",
        gamma: float = 1.0,
        scale_fn: Callable[[float], float] | None = None,
        scale_mode: Literal["cycle", "iterations"] = "cycle",
        cycle_momentum: bool = True,
        base_momentum: float | Sequence[float] = 0.8,
        max_momentum: float | Sequence[float] = 0.9,
        last_epoch: int = -1,
    ) -> None:
        heights: dict[str, tuple[Callable[[float], float], str]] = {
            "triangular": (lambda cycle: 1.0, "cycle"),
            "triangular2": (lambda cycle: 0.5 ** (cycle - 1), "cycle"),
            "exp_range": (lambda step: gamma**step, "iterations"),
        }
        if scale_fn is None and mode not in heights:
            raise UsageError(f"mode is one of {list(heights)}, got {mode!r}; or give scale_fn")
        self._height, self._counts = (scale_fn, scale_mode) if scale_fn is not None else heights[mode]
        lows = for_each_group("base_lr", optimizer, base_lr)
        self.max_lrs = for_each_group("max_lr", optimizer, max_lr)
        up, down = step_size_up, step_size_up if step_size_down is None else step_size_down
        if up < 1 or down < 1:
            raise UsageError(f"a cycle goes up and down in at least one step each, got {up} and {down}")
        self.total_size, self.step_ratio = up + down, up / (up + down)
        self.cycle_momentum = cycle_momentum
        self._check_momentum(optimizer)
        self.base_momentums = for_each_group("base_momentum", optimizer, base_momentum)
        self.max_momentums = for_each_group("max_momentum", optimizer, max_momentum)
        self._lows = lows
        for group, low in zip(optimizer.param_groups if last_epoch == -1 else [], lows, strict=False):
            group["lr"] = low
        super().__init__(optimizer, last_epoch)

    def _share(self, epoch: int) -> float:
        """How far up it is, between 0 and the height of its cycle."""
        cycle = math.floor(1 + epoch / self.total_size)
        x = 1.0 + epoch / self.total_size - cycle
        share = x / self.step_ratio if x <= self.step_ratio else (x - 1) / (self.step_ratio - 1)
        return share * self._height(cycle if self._counts == "cycle" else epoch)

    def rate(self, index: int, epoch: int) -> float:
        low = self._lows[index]
        return low + (self.max_lrs[index] - low) * self._share(epoch)

    def momentum(self, index: int, epoch: int) -> float:
        high = self.max_momentums[index]
        return high - (high - self.base_momentums[index]) * self._share(epoch)


class OneCycleLR(MomentumCycle):
    """Once up to `max_lr` and down to almost nothing in `total_steps` steps.

    From max_lr / div_factor up in the share `pct_start` of the steps, then down to that divided by
    `final_div_factor`; with `three_phase` first down as it came up, then to the end. Paper: Smith, Topin
    2018, Super-Convergence, §3 (which has three phases).
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | Sequence[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: Literal["cos", "linear"] = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | Sequence[float] = 0.85,
        max_momentum: float | Sequence[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise UsageError("OneCycleLR needs total_steps, or epochs and steps_per_epoch")
            total_steps = epochs * steps_per_epoch
        if total_steps < 1 or not 0 <= pct_start <= 1:
            raise UsageError(
                f"one cycle takes at least one step and goes up in a share of them; got {total_steps} steps "
                f"and pct_start {pct_start}"
            )
        if anneal_strategy not in ("cos", "linear"):
            raise UsageError(f'anneal_strategy is "cos" or "linear", got {anneal_strategy!r}')
        self.total_steps, self._anneal = total_steps, anneal_strategy
        top = pct_start * total_steps - 1
        # Where each phase ends, and between which of start, top and end rate it leads.
        self._phases = [(top, 0, 1), (total_steps - 1, 1, 2)]
        if three_phase:
            self._phases = [(top, 0, 1), (2 * pct_start * total_steps - 2, 1, 0), (total_steps - 1, 0, 2)]
        self.cycle_momentum = cycle_momentum
        self._check_momentum(optimizer)
        tops = for_each_group("max_lr", optimizer, max_lr)
        low = for_each_group("base_momentum", optimizer, base_momentum)
        high = for_each_group("max_momentum", optimizer, max_momentum)
        for index, group in enumerate(optimizer.param_groups if last_epoch == -1 else []):
            start = tops[index] / div_factor
            group.update(initial_lr=start, max_lr=tops[index], min_lr=start / final_div_factor)
            if cycle_momentum:
                group.update(base_momentum=low[index], max_momentum=high[index])
        super().__init__(optimizer, last_epoch)

    def _between(self, values: tuple[float, float, float], epoch: int) -> float:
        """Between the values at the start, at the top and at the end."""
        if epoch > self.total_steps:
            raise UsageError(
                f"step {epoch} of a cycle of {self.total_steps}; make it longer, or stop stepping"
            )
        start = 0.0
        for place, (end, source, target) in enumerate(self._phases):
            if epoch <= end or place == len(self._phases) - 1:
                share = (epoch - start) / (end - start) if end != start else 1.0
                one, other = values[source], values[target]
                if self._anneal == "cos":
                    return other + (one - other) / 2.0 * (1 + math.cos(math.pi * share))
                return one + (other - one) * share
            start = end
        raise AssertionError

    def rate(self, index: int, epoch: int) -> float:
        group: dict[str, Any] = self.optimizer.param_groups[index]
        return self._between((group["initial_lr"], group["max_lr"], group["min_lr"]), epoch)

    def momentum(self, index: int, epoch: int) -> float:
        group: dict[str, Any] = self.optimizer.param_groups[index]
        high = group["max_momentum"]
        return self._between((high, group["base_momentum"], high), epoch)
