"""Adamax."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from minigrad.backend import Array
from minigrad.nn.optim.adam import check_moments
from minigrad.nn.optim.optimizer import Optimizer, Params


class Adamax(Optimizer):
    """Adam with the largest recent gradient (a decaying maximum) in place of the root of mean squares.

    g ← g + λ·θ,  m ← β₁m + (1-β₁)g,  u ← max(β₂u, |g| + ε)
    θ ← θ - lr / (1-β₁ᵗ) · m / u

    Paper: Kingma, Ba 2015, Adam, algorithm 2; ε, which the paper has not, is torch's.
    """

    state_names = ("exp_avg", "exp_inf")

    def __init__(
        self,
        params: Params,
        lr: float = 2e-3,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params, lr=lr, betas=tuple(betas), eps=eps, weight_decay=weight_decay, maximize=maximize
        )

    def check(self, settings: Mapping[str, Any]) -> None:
        check_moments("Adamax", settings)

    def update(
        self, parameter: Array, gradient: Array, state: dict[str, Array], settings: dict[str, Any], step: Any
    ) -> None:
        xp, (beta1, beta2) = self.namespace, settings["betas"]
        m, u = state["exp_avg"], state["exp_inf"]
        if settings["weight_decay"]:
            gradient = gradient + parameter * settings["weight_decay"]
        s = self.scratch(m)
        xp.axpby(1 - beta1, gradient, beta1, m, s)
        xp.abs(gradient, out=s)
        s += settings["eps"]
        u *= beta2
        xp.maximum(u, s, out=u)
        xp.divide(m, u, out=s)
        s *= settings["lr"] / (1 - beta1**step)
        parameter -= s
