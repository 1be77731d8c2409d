"""Adagrad."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minigrad.backend import Array
from minigrad.errors import UsageError
from minigrad.nn.optim.optimizer import Optimizer, Params


class Adagrad(Optimizer):
    """Divides each gradient by the root of the sum of all its squares so far, in place.

    g ← g + λ·θ,  s ← s + g²
    θ ← θ - lr / (1 + (t-1)·lr_decay) · g / (√s + ε)

    Where the true gradients have all been zero, s is rounding noise, and so is the whole step. Paper: Duchi,
    Hazan, Singer 2011, Adaptive Subgradient Methods, §1.1 and fig. 1, with a diagonal matrix.
    """

    state_names = ("sum",)

    def __init__(
        self,
        params: Params,
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            lr_decay=lr_decay,
            eps=eps,
            weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value,
            maximize=maximize,
        )

    def check(self, settings: Mapping[str, Any]) -> None:
        names = ("lr", "lr_decay", "eps", "weight_decay", "initial_accumulator_value")
        if not all(settings[name] >= 0 for name in names):
            given = ", ".join(f"{name} {settings[name]}" for name in names)
            raise UsageError(f"Adagrad: {given} must not be negative")

    def fill_state(self, name: str, array: Array, index: int) -> None:
        if name == "sum":
            array += self.param_groups[self._group_of[index]]["initial_accumulator_value"]

    def update(
        self, parameter: Array, gradient: Array, state: dict[str, Array], settings: dict[str, Any], step: Any
    ) -> None:
        xp, total = self.namespace, state["sum"]
        if settings["weight_decay"]:
            gradient = gradient + parameter * settings["weight_decay"]
        s = gradient * gradient
        total += s
        xp.sqrt(total, out=s)
        s += settings["eps"]
        xp.divide(gradient, s, out=s)
        s *= settings["lr"] / (1 + (step - 1) * settings["lr_decay"])
        parameter -= s
