"""Lion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from minigrad.backend import Array
from minigrad.errors import UsageError
from minigrad.nn.optim.optimizer import Optimizer, Params


class Lion(Optimizer):
    """Steps of one length along the sign of an interpolation between momentum and gradient, in place.

    c = β₁m + (1-β₁)g
    θ ← θ - lr·(sign(c) + λ·θ)
    m ← β₂m + (1-β₂)g

    Where c is zero but for rounding, its sign, and so the whole step, is noise. Paper: Chen et al. 2023,
    Symbolic Discovery of Optimization Algorithms, algorithm 2.
    """

    state_names = ("exp_avg",)

    def __init__(
        self,
        params: Params,
        lr: float = 1e-4,
        betas: Sequence[float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr=lr, betas=tuple(betas), weight_decay=weight_decay, maximize=maximize)

    def check(self, settings: Mapping[str, Any]) -> None:
        lr, decay, betas = (settings[key] for key in ("lr", "weight_decay", "betas"))
        if not (lr >= 0 and decay >= 0 and len(betas) == 2 and all(0 <= beta <= 1 for beta in betas)):
            raise UsageError(
                f"Lion: lr {lr} and weight_decay {decay} must not be negative, and two betas ({betas}) must "
                "lie in [0, 1]"
            )

    def update(
        self, parameter: Array, gradient: Array, state: dict[str, Array], settings: dict[str, Any], step: Any
    ) -> None:
        xp, m = self.namespace, state["exp_avg"]
        lr, (beta1, beta2), decay = settings["lr"], settings["betas"], settings["weight_decay"]
        if decay:
            parameter *= 1 - lr * decay
        c = m * beta1
        c += gradient * (1 - beta1)
        xp.sign(c, out=c)
        c *= lr
        parameter -= c
        xp.axpby(1 - beta2, gradient, beta2, m, c)
