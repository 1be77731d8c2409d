"""LARS: layer-wise adaptive rate scaling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minigrad.backend import Array
from minigrad.errors import UsageError
from minigrad.nn.optim.layerwise import Layerwise, quotient
from minigrad.nn.optim.optimizer import Params


class LARS(Layerwise):
    """SGD with momentum whose rate is scaled, for each parameter, by its norm over its gradient's, in place.

    r = η·‖θ‖ / (‖g‖ + λ·‖θ‖ + ε)   (1 where either norm is zero)
    v ← μ·v + lr·r·(g + λ·θ)
    θ ← θ - v

    η is `trust_coefficient`, μ `momentum`, λ `weight_decay`. Paper: You, Gitman, Ginsburg 2017, Large Batch
    Training of Convolutional Networks, §4, algorithm 1; ε, which the paper has not, is 0 unless given.
    """

    state_names = ("momentum_buffer",)

    def __init__(
        self,
        params: Params,
        lr: float = 1e-1,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        *,
        trust_coefficient: float = 1e-3,
        eps: float = 0.0,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            trust_coefficient=trust_coefficient,
            eps=eps,
            maximize=maximize,
        )

    def check(self, settings: Mapping[str, Any]) -> None:
        names = ("lr", "momentum", "weight_decay", "trust_coefficient", "eps")
        if not all(settings[name] >= 0 for name in names):
            given = ", ".join(f"{name} {settings[name]}" for name in names)
            raise UsageError(f"LARS: {given} must not be negative")

    def prepare(
        self, parameter: Array, gradient: Array, state: dict[str, Array], settings: dict[str, Any], step: Any
    ) -> Array:
        return gradient

    def ratio(self, parameter_norm: Array, other_norm: Array, settings: dict[str, Any]) -> Array:
        xp = self.namespace
        below = other_norm + parameter_norm * settings["weight_decay"] + settings["eps"]
        trusted = quotient(xp, parameter_norm * settings["trust_coefficient"], below)
        return xp.where(other_norm > 0, trusted, 1.0)

    def move(
        self,
        parameter: Array,
        gradient: Array,
        state: dict[str, Array],
        settings: dict[str, Any],
        step: Any,
        ratio: Array,
    ) -> None:
        if settings["weight_decay"]:
            gradient = gradient + parameter * settings["weight_decay"]
        velocity = state["momentum_buffer"]
        velocity *= settings["momentum"]
        velocity += gradient * (ratio * settings["lr"])
        parameter -= velocity
