"""What all schedules share: a rate for each group and epoch, set, stepped, saved and taken up again."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from minigrad.errors import UsageError
from minigrad.nn.optim import Optimizer


class LRScheduler:
    """Sets the rate of each group of an optimizer, from epoch 0 on, and goes on with every `step()`.

    An "epoch" is whatever lies between two calls of `step`: an epoch, or one step of the optimizer. A group
    remembers the rate that it was made with as "initial_lr", from which every schedule over it is computed.
    Several schedules may change one rate in turn, as in torch: one that finds the rate as it left it, or as
    it would be alone, sets the next exactly; otherwise it changes what it finds in proportion.

    `last_epoch` is the last epoch of an earlier run, if this one goes on from there.
    """

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        check_optimizer(type(self).__name__, optimizer)
        self.optimizer, self.last_epoch = optimizer, last_epoch + 1
        for number, group in enumerate(optimizer.param_groups):
            if last_epoch != -1 and "initial_lr" not in group:
                raise UsageError(
                    f"group {number} has no initial_lr, from which to go on after epoch {last_epoch}; load "
                    "the optimizer's state first, or leave last_epoch out"
                )
            group.setdefault("initial_lr", group["lr"])
        self.base_lrs: list[float] = [group["initial_lr"] for group in optimizer.param_groups]
        for index, group in enumerate(optimizer.param_groups):
            group["lr"] = self.begin(index, group["lr"])
        self.set_momentum()

    def rate(self, index: int, epoch: int) -> float:
        """The rate of group `index` in an epoch, where no other schedule changes it."""
        raise NotImplementedError

    def follow(self, index: int, lr: float, epoch: int) -> float:
        """The rate of an epoch after one with rate `lr`, which something else has changed."""
        return self.rate(index, epoch)

    def begin(self, index: int, lr: float) -> float:
        """The first rate of group `index`, whose rate is `lr`."""
        return self.rate(index, self.last_epoch)

    def set_momentum(self) -> None:
        """Set what goes with the rate in some schedules."""

    def step(self) -> None:
        """Go to the next epoch's rate."""
        groups = self.optimizer.param_groups
        for group in groups[len(self.base_lrs) :]:  # added since
            self.base_lrs.append(group.setdefault("initial_lr", group["lr"]))
        for index, group in enumerate(groups):
            alone = group["lr"] == self.rate(index, self.last_epoch)
            next_epoch = self.last_epoch + 1
            group["lr"] = (
                self.rate(index, next_epoch) if alone else self.follow(index, group["lr"], next_epoch)
            )
        self.last_epoch += 1
        self.set_momentum()

    def restart(self) -> None:
        """Go back to epoch 0, whatever the rates are now."""
        self.last_epoch = 0
        for index, group in enumerate(self.optimizer.param_groups):
            group["lr"] = self.rate(index, 0)
        self.set_momentum()

    def get_last_lr(self) -> list[float]:
        """The rates that are set now."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on: numbers only."""
        return {
            "last_epoch": self.last_epoch,
            "base_lrs": list(self.base_lrs),
            "_last_lr": self.get_last_lr(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave, and set the rates."""
        if len(state["base_lrs"]) != len(self.optimizer.param_groups):
            raise UsageError(
                f"the saved schedule has {len(state['base_lrs'])} groups, this optimizer "
                f"{len(self.optimizer.param_groups)}; build it over the same groups"
            )
        self.last_epoch, self.base_lrs = state["last_epoch"], list(state["base_lrs"])
        for index, group in enumerate(self.optimizer.param_groups):
            group["lr"] = (
                state["_last_lr"][index] if "_last_lr" in state else self.rate(index, self.last_epoch)
            )
        self.set_momentum()


class FactorLR(LRScheduler):
    """A schedule that is a factor of the epoch, times the starting rate."""

    def factor(self, epoch: int) -> float:
        """What the starting rate is multiplied by."""
        raise NotImplementedError

    def rate(self, index: int, epoch: int) -> float:
        return self.base_lrs[index] * self.factor(epoch)

    def begin(self, index: int, lr: float) -> float:
        return lr * self.factor(0) if self.last_epoch == 0 else self.rate(index, self.last_epoch)

    def follow(self, index: int, lr: float, epoch: int) -> float:
        before, now = self.factor(epoch - 1), self.factor(epoch)
        if now == before:
            return lr
        return lr * now / before if before else self.rate(index, epoch)


class _ByFunction(LRScheduler):
    """Rates from a function of the epoch that the user gives: one for all groups, or one for each."""

    def __init__(
        self,
        optimizer: Optimizer,
        lr_lambda: Callable[[int], float] | Sequence[Callable[[int], float]],
        last_epoch: int = -1,
    ) -> None:
        check_optimizer(type(self).__name__, optimizer)
        self.lr_lambdas = _functions(optimizer, lr_lambda)
        super().__init__(optimizer, last_epoch)

    def factor(self, index: int, epoch: int) -> float:
        """What the function of a group says."""
        return self.lr_lambdas[min(index, len(self.lr_lambdas) - 1)](epoch)


class LambdaLR(_ByFunction):
    """Set each group's rate to its starting rate times `lr_lambda(epoch)`: one function, or one for each."""

    def rate(self, index: int, epoch: int) -> float:
        return self.base_lrs[index] * self.factor(index, epoch)


class MultiplicativeLR(_ByFunction):
    """Multiply each group's rate by `lr_lambda(epoch)` in every epoch from 1 on: one function, or one for
    each.
    """

    def rate(self, index: int, epoch: int) -> float:
        return self.base_lrs[index] * math.prod(self.factor(index, past) for past in range(1, epoch + 1))

    def begin(self, index: int, lr: float) -> float:
        return lr if self.last_epoch == 0 else self.rate(index, self.last_epoch)

    def follow(self, index: int, lr: float, epoch: int) -> float:
        return lr * self.lr_lambdas[min(index, len(self.lr_lambdas) - 1)](epoch)


def _functions(optimizer: Optimizer, given: Any) -> list[Callable[[int], float]]:
    """A function for each group."""
    count = len(optimizer.param_groups)
    functions = [given] * count if callable(given) else list(given)
    if len(functions) != count:
        raise UsageError(f"{len(functions)} functions for {count} groups; give one for each, or one")
    return functions


def check_optimizer(name: str, optimizer: Any) -> None:
    """Raise UsageError unless it is one."""
    if not isinstance(optimizer, Optimizer):
        raise UsageError(f"{name} sets the rates of an optimizer, and got a {type(optimizer).__name__}")


def for_each_group(name: str, optimizer: Optimizer, value: float | Sequence[float]) -> list[float]:
    """The setting `name` of each group, from one number or one for each."""
    count = len(optimizer.param_groups)
    values = [float(value)] * count if isinstance(value, (int, float)) else [float(v) for v in value]
    if len(values) != count:
        raise UsageError(
            f"{name} has {len(values)} values for {count} groups; give one for each, or one number"
        )
    return values
