"""NAdam: Adam with Nesterov's momentum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from minigrad.backend import Array
from minigrad.errors import UsageError
from minigrad.nn.optim.adam import average, check_moments
from minigrad.nn.optim.optimizer import Optimizer, Params


class NAdam(Optimizer):
    """Adam that looks one step of momentum ahead, in place.

    μₜ = β₁·(1 - ½·0.96^(t·ψ)),  g ← g + λ·θ,  m ← β₁m + (1-β₁)g,  v ← β₂v + (1-β₂)g²
    m̂ = μₜ₊₁·m / (1 - Π_{i≤t+1} μᵢ) + (1-μₜ)·g / (1 - Π_{i≤t} μᵢ),  v̂ = v/(1-β₂ᵗ)
    θ ← θ - lr · m̂ / (√v̂ + ε)

    ψ is `momentum_decay`. With `decoupled_weight_decay` θ ← (1 - lr·λ)·θ instead of the term in the gradient.
    Paper: Dozat 2016, Incorporating Nesterov Momentum into Adam, algorithm 2.
    """

    state_names = ("exp_avg", "exp_avg_sq")

    def __init__(
        self,
        params: Params,
        lr: float = 2e-3,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        self._products: dict[tuple[float, float], list[float]] = {}
        super().__init__(
            params,
            lr=lr,
            betas=tuple(betas),
            eps=eps,
            weight_decay=weight_decay,
            momentum_decay=momentum_decay,
            decoupled_weight_decay=decoupled_weight_decay,
            maximize=maximize,
        )

    def check(self, settings: Mapping[str, Any]) -> None:
        check_moments("NAdam", settings)
        if not settings["momentum_decay"] >= 0:
            raise UsageError(f"NAdam: momentum_decay {settings['momentum_decay']} must not be negative")

    def products(self, beta1: float, decay: float, count: int) -> list[float]:
        """Π_{i≤t} μᵢ for t = 0 ... at least `count`."""
        found = self._products.setdefault((beta1, decay), [1.0])
        while len(found) <= count:
            found.append(found[-1] * factor(beta1, decay, len(found)))
        return found

    def update(
        self, parameter: Array, gradient: Array, state: dict[str, Array], settings: dict[str, Any], step: Any
    ) -> None:
        xp, m, v = self.namespace, state["exp_avg"], state["exp_avg_sq"]
        lr, (beta1, beta2), decay = settings["lr"], settings["betas"], settings["weight_decay"]
        if decay and settings["decoupled_weight_decay"]:
            parameter *= 1 - lr * decay
        elif decay:
            gradient = gradient + parameter * decay
        now, ahead = self._shares(beta1, settings["momentum_decay"], step)
        s = self.scratch(m)
        average(xp, state, gradient, settings, s)
        root = (1 - beta2**step) ** 0.5
        xp.sqrt(v, out=s)
        s += settings["eps"] * root
        mean = m * ahead
        mean += gradient * now
        xp.divide(mean, s, out=s)
        s *= lr * root
        parameter -= s

    def _shares(self, beta1: float, decay: float, step: Any) -> tuple[Any, Any]:
        """What gradient and momentum are multiplied by in m̂."""
        if isinstance(step, int):
            product, after = self.products(beta1, decay, step + 1)[step : step + 2]
        else:  # the device alone knows which step it is
            most = max(self.steps_counted) + 2
            table = self.namespace.asarray(self.products(beta1, decay, most)[:most], dtype="float64")
            product, after = (
                self.namespace.take(table, step.astype("int64") + ahead, axis=0) for ahead in (0, 1)
            )
        return (1 - factor(beta1, decay, step)) / (1 - product), factor(beta1, decay, step + 1) / (1 - after)

    def state_dict(self) -> dict[str, Any]:
        saved = super().state_dict()
        for index, entry in saved["state"].items():
            group = self.param_groups[self._group_of[index]]
            table = self.products(group["betas"][0], group["momentum_decay"], entry["step"])
            entry["mu_product"] = table[entry["step"]]
        return saved


def factor(beta1: float, decay: float, step: Any) -> Any:
    """μ of a step."""
    return beta1 * (1 - 0.5 * 0.96 ** (step * decay))
