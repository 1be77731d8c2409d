"""Several schedules over one optimizer: at the same time, or one after the other."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

from minigrad.errors import UsageError
from minigrad.nn.lr_scheduler.schedule import LRScheduler
from minigrad.nn.optim import Optimizer

AnySchedule = Any  # an LRScheduler, or a combination of them


class Combined:
    """What both combinations share."""

    optimizer: Optimizer
    schedulers: list[AnySchedule]

    def __init__(self, optimizer: Optimizer, schedulers: Sequence[AnySchedule]) -> None:
        if not schedulers:
            raise UsageError("a combination needs at least one schedule")
        for place, scheduler in enumerate(schedulers):
            if not isinstance(scheduler, (LRScheduler, Combined)):
                raise UsageError(
                    f"schedule {place} is a {type(scheduler).__name__}, which does not go on by itself; step "
                    "it beside the others"
                )
            if scheduler.optimizer is not optimizer:
                raise UsageError(f"schedule {place} is over another optimizer; build all over one")
        self.optimizer, self.schedulers = optimizer, list(schedulers)

    def get_last_lr(self) -> list[float]:
        """The rates that are set now."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on: numbers only."""
        states = [scheduler.state_dict() for scheduler in self.schedulers]
        return {"_schedulers": states, "_last_lr": self.get_last_lr()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave, and set the rates."""
        for scheduler, saved in zip(self.schedulers, state["_schedulers"], strict=True):
            scheduler.load_state_dict(saved)
        for group, lr in zip(self.optimizer.param_groups, state["_last_lr"], strict=True):
            group["lr"] = lr


class ChainedScheduler(Combined):
    """Step all schedules at once: their factors multiply."""

    def __init__(self, schedulers: Sequence[AnySchedule], optimizer: Optimizer | None = None) -> None:
        first: Any = optimizer if optimizer is not None or not schedulers else schedulers[0].optimizer
        super().__init__(first, schedulers)

    def step(self) -> None:
        """Go to the next epoch's rate."""
        for scheduler in self.schedulers:
            scheduler.step()

    def restart(self) -> None:
        """Go back to epoch 0."""
        if any(isinstance(scheduler, Combined) for scheduler in self.schedulers):
            raise UsageError("a chain with combinations in it cannot begin again; chain plain schedules")
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"]
        for scheduler in self.schedulers:
            scheduler.last_epoch = 0
            for index, group in enumerate(self.optimizer.param_groups):
                group["lr"] = scheduler.begin(index, group["lr"])
            scheduler.set_momentum()


class SequentialLR(Combined):
    """One schedule after the other: schedule i + 1 begins, at its epoch 0, in epoch `milestones[i]`."""

    def __init__(
        self,
        optimizer: Optimizer,
        schedulers: Sequence[AnySchedule],
        milestones: Sequence[int],
        last_epoch: int = -1,
    ) -> None:
        if last_epoch != -1:
            raise UsageError(
                f"SequentialLR begins at epoch 0, and not after {last_epoch}; go on by load_state_dict"
            )
        super().__init__(optimizer, schedulers)
        if len(milestones) != len(schedulers) - 1 or sorted(milestones) != list(milestones):
            raise UsageError(
                f"{len(schedulers)} schedules change at {len(schedulers) - 1} epochs, in rising order; got "
                f"milestones {list(milestones)}"
            )
        self.milestones = list(milestones)
        self.restart()

    def restart(self) -> None:
        """Go back to epoch 0."""
        self.last_epoch = 0
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"]
        self.schedulers[bisect_right(self.milestones, 0)].restart()

    def step(self) -> None:
        """Go to the next epoch's rate."""
        self.last_epoch += 1
        place = bisect_right(self.milestones, self.last_epoch)
        if place and self.milestones[place - 1] == self.last_epoch:
            self.schedulers[place].restart()
        else:
            self.schedulers[place].step()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "last_epoch": self.last_epoch}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.last_epoch = state["last_epoch"]
