"""Stochastic gradient descent, with momentum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minigrad.backend import Array
from minigrad.errors import UsageError
from minigrad.nn.optim.optimizer import Optimizer, Params


class SGD(Optimizer):
    """Steps against the gradient, or along a velocity that remembers earlier ones, in place.

    g ← g + λ·θ
    u ← μ·u + (1-τ)·g   (the first time u ← g)
    θ ← θ - lr·u        (nesterov: θ - lr·(g + μ·u))

    μ is `momentum`, τ `dampening`, λ `weight_decay`. The rate stands outside of the velocity, so a new rate
    applies to all that u remembers. With `momentum_correction=False` it stands inside,

    v ← μ·v + lr·g,  θ ← θ - v

    the form of some libraries, in which v goes on with the rates of old steps; it would need the correction
    v ← μ·(lr / lr of the step before)·v + lr·g to be the same. Paper: Goyal et al. 2017, Accurate, Large
    Minibatch SGD, §3, eqs. 9 and 10, remark 2. Nesterov's form is that of Sutskever et al. 2013, On the
    importance of initialization and momentum, §2, as torch rearranges it.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        momentum_correction: bool = True,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
            maximize=maximize,
            momentum_correction=momentum_correction,
        )

    @property
    def state_names(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("momentum_buffer",) if any(group["momentum"] for group in self.param_groups) else ()

    def check(self, settings: Mapping[str, Any]) -> None:
        lr, momentum, dampening, decay = (
            settings[name] for name in ("lr", "momentum", "dampening", "weight_decay")
        )
        if not (lr >= 0 and momentum >= 0 and decay >= 0):
            raise UsageError(
                f"SGD: lr {lr}, momentum {momentum} and weight_decay {decay} must not be negative"
            )
        if settings["nesterov"] and (not momentum or dampening):
            raise UsageError(
                f"SGD: nesterov needs momentum and no dampening; got momentum {momentum} and dampening "
                f"{dampening}"
            )

    def update(
        self, parameter: Array, gradient: Array, state: dict[str, Array], settings: dict[str, Any], step: Any
    ) -> None:
        lr, momentum = settings["lr"], settings["momentum"]
        if settings["weight_decay"]:
            gradient = gradient + parameter * settings["weight_decay"]
        if not momentum:
            parameter -= gradient * lr
            return
        inside = 1.0 if settings["momentum_correction"] else lr
        velocity = state["momentum_buffer"]
        velocity *= momentum
        velocity += gradient * (inside * self._share(settings["dampening"], step))
        if settings["nesterov"]:
            move = velocity * momentum
            move += gradient if inside == 1.0 else gradient * inside
        else:
            move = velocity
        parameter -= move * (lr if settings["momentum_correction"] else 1.0)

    def _share(self, dampening: float, step: Any) -> Any:
        """How much of a gradient enters the velocity: all of the first one."""
        if not dampening:
            return 1.0
        if isinstance(step, int):
            return 1.0 if step == 1 else 1.0 - dampening
        return 1.0 - dampening * (step > 1).astype("float64")

    def _checked(self, index: int, entry: Mapping[str, Any]) -> Mapping[str, Any]:
        # torch counts no steps here: a velocity that is there is not the first.
        if entry.get("momentum_buffer", 0) is None:
            entry = {name: value for name, value in entry.items() if name != "momentum_buffer"}
        return super()._checked(index, {"step": 1, **entry} if entry else {})
