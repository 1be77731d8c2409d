"""LAMB: Adam with layer-wise adaptive rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from minigrad.backend import Array
from minigrad.nn.optim.adam import average, check_moments
from minigrad.nn.optim.layerwise import Layerwise, quotient
from minigrad.nn.optim.optimizer import Params


class LAMB(Layerwise):
    """Adam's step with decay, made as long, for each parameter, as the parameter itself, in place.

    m ← β₁m + (1-β₁)g,  v ← β₂v + (1-β₂)g²,  m̂ = m/(1-β₁ᵗ),  v̂ = v/(1-β₂ᵗ)
    u = m̂ / (√v̂ + ε) + λ·θ
    θ ← θ - lr · ‖θ‖/‖u‖ · u   (the quotient is 1 where either norm is zero)

    Paper: You et al. 2019, Large Batch Optimization for Deep Learning, algorithm 2, with φ(x) = x.
    """

    state_names = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params, lr=lr, betas=tuple(betas), eps=eps, weight_decay=weight_decay, maximize=maximize
        )

    def check(self, settings: Mapping[str, Any]) -> None:
        check_moments("LAMB", settings)

    def prepare(
        self, parameter: Array, gradient: Array, state: dict[str, Array], settings: dict[str, Any], step: Any
    ) -> Array:
        average(self.namespace, state, gradient, settings, self.scratch(state["exp_avg"]))
        return self._direction(parameter, state, settings, step)

    def _direction(
        self, parameter: Array, state: dict[str, Array], settings: dict[str, Any], step: Any
    ) -> Array:
        """u, from a state that is up to date."""
        xp, (beta1, beta2) = self.namespace, settings["betas"]
        root = (1 - beta2**step) ** 0.5
        s = xp.sqrt(state["exp_avg_sq"])
        s += settings["eps"] * root
        xp.divide(state["exp_avg"], s, out=s)
        s *= root / (1 - beta1**step)
        if settings["weight_decay"]:
            s += parameter * settings["weight_decay"]
        return s

    def ratio(self, parameter_norm: Array, other_norm: Array, settings: dict[str, Any]) -> Array:
        return quotient(self.namespace, parameter_norm, other_norm)

    def move(
        self,
        parameter: Array,
        gradient: Array,
        state: dict[str, Array],
        settings: dict[str, Any],
        step: Any,
        ratio: Array,
    ) -> None:
        s = self._direction(parameter, state, settings, step)
        s *= ratio * settings["lr"]
        parameter -= s
