"""RMSprop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minigrad.backend import Array
from minigrad.errors import UsageError
from minigrad.nn.optim.optimizer import Optimizer, Params


class RMSprop(Optimizer):
    """Divides each gradient by the root of a moving average of its squares, in place.

    g ← g + λ·θ,  v ← α·v + (1-α)·g²
    θ ← θ - lr · g / (√v + ε)

    With `momentum` μ: b ← μ·b + g/(√v + ε), θ ← θ - lr·b. With `centered` the mean of the gradients
    (ḡ ← α·ḡ + (1-α)·g) is taken off: √(v - ḡ²) instead of √v. Sources: Tieleman, Hinton 2012, Neural
    Networks for Machine Learning, lecture 6e; Graves 2013, Generating Sequences With Recurrent Neural
    Networks, §4.2 for the centred form.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            alpha=alpha,
            eps=eps,
            weight_decay=weight_decay,
            momentum=momentum,
            centered=centered,
            maximize=maximize,
        )

    @property
    def state_names(self) -> tuple[str, ...]:  # type: ignore[override]
        names = ["square_avg"]
        if any(group["momentum"] for group in self.param_groups):
            names.append("momentum_buffer")
        if any(group["centered"] for group in self.param_groups):
            names.append("grad_avg")
        return tuple(names)

    def check(self, settings: Mapping[str, Any]) -> None:
        names = ("lr", "alpha", "eps", "weight_decay", "momentum")
        if not all(settings[name] >= 0 for name in names):
            given = ", ".join(f"{name} {settings[name]}" for name in names)
            raise UsageError(f"RMSprop: {given} must not be negative")

    def update(
        self, parameter: Array, gradient: Array, state: dict[str, Array], settings: dict[str, Any], step: Any
    ) -> None:
        xp, alpha = self.namespace, settings["alpha"]
        if settings["weight_decay"]:
            gradient = gradient + parameter * settings["weight_decay"]
        square = state["square_avg"]
        square *= alpha
        s = gradient * (1 - alpha)
        mean = state["grad_avg"] if settings["centered"] else None
        if mean is not None:
            mean *= alpha
            mean += s
        s *= gradient
        square += s
        if mean is not None:
            xp.multiply(mean, mean, out=s)
            xp.subtract(square, s, out=s)
            xp.sqrt(s, out=s)
        else:
            xp.sqrt(square, out=s)
        s += settings["eps"]
        xp.divide(gradient, s, out=s)
        if settings["momentum"]:
            buffer = state["momentum_buffer"]
            buffer *= settings["momentum"]
            buffer += s
            xp.multiply(buffer, settings["lr"], out=s)
        else:
            s *= settings["lr"]
        parameter -= s
