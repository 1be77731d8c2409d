"""Adam and AdamW."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from minigrad.backend import Array
from minigrad.errors import UsageError
from minigrad.nn.optim.optimizer import Optimizer, Params


class Adam(Optimizer):
    """Steps along the mean of gradients, divided by the root of the mean of their squares, in place.

    g ← g + λ·θ
    m ← β₁m + (1-β₁)g,  v ← β₂v + (1-β₂)g²,  m̂ = m/(1-β₁ᵗ),  v̂ = v/(1-β₂ᵗ)
    θ ← θ - lr · m̂ / (√v̂ + ε)

    With `amsgrad`, v̂ comes from the largest v so far. Papers: Kingma, Ba 2015, Adam, algorithm 1; Reddi,
    Kale, Kumar 2018, On the Convergence of Adam and Beyond, algorithm 2.
    """

    decoupled = False

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            betas=tuple(betas),
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            maximize=maximize,
        )

    @property
    def state_names(self) -> tuple[str, ...]:  # type: ignore[override]
        averages = ("exp_avg", "exp_avg_sq")
        some = any(group["amsgrad"] for group in self.param_groups)
        return (*averages, "max_exp_avg_sq") if some else averages

    def check(self, settings: Mapping[str, Any]) -> None:
        check_moments(type(self).__name__, settings)

    def update(
        self, parameter: Array, gradient: Array, state: dict[str, Array], settings: dict[str, Any], step: Any
    ) -> None:
        xp = self.namespace
        lr, (beta1, beta2), decay = settings["lr"], settings["betas"], settings["weight_decay"]
        m, v = state["exp_avg"], state["exp_avg_sq"]
        if decay and not self.decoupled:
            gradient = gradient + parameter * decay
        s = self.scratch(m)
        average(xp, state, gradient, settings, s)
        if settings["amsgrad"]:
            largest = state["max_exp_avg_sq"]
            v = xp.maximum(largest, v, out=largest)
        # m̂/(√v̂ + ε) = m · √(1-β₂ᵗ)/(1-β₁ᵗ) / (√v + ε·√(1-β₂ᵗ))
        root = (1 - beta2**step) ** 0.5
        xp.sqrt(v, out=s)
        s += settings["eps"] * root
        xp.divide(m, s, out=s)
        left = 1 - lr * decay if self.decoupled else 1.0
        xp.axpby(-lr * root / (1 - beta1**step), s, left, parameter, s)


class AdamW(Adam):
    """Adam with decoupled weight decay: θ ← θ - lr·λ·θ instead of a term in the gradient.

    Paper: Loshchilov, Hutter 2019, Decoupled Weight Decay Regularization, algorithm 2.
    """

    decoupled = True

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)


def average(
    xp: Any, state: Mapping[str, Array], gradient: Array, settings: Mapping[str, Any], s: Array
) -> None:
    """Update the two moving averages of an optimizer, in place; `s` is work space like the gradient."""
    (beta1, beta2), m, v = settings["betas"], state["exp_avg"], state["exp_avg_sq"]
    xp.axpby(1 - beta1, gradient, beta1, m, s)
    xp.multiply(gradient, gradient, out=s)
    xp.axpby(1 - beta2, s, beta2, v, s)


def check_moments(name: str, settings: Mapping[str, Any]) -> None:
    """Raise UsageError for settings that no optimizer with two moving averages can take."""
    lr, eps, decay, betas = (settings[key] for key in ("lr", "eps", "weight_decay", "betas"))
    if not (lr >= 0 and eps >= 0 and decay >= 0 and len(betas) == 2 and all(0 <= beta < 1 for beta in betas)):
        raise UsageError(
            f"{name}: lr {lr}, eps {eps} and weight_decay {decay} must not be negative, and two betas "
            f"({betas}) must lie in [0, 1)"
        )
