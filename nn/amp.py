"""Mixed precision: a model in half precision, its master copy in float32, and a loss scale that adapts.

Gradients in float16 vanish below 6e-8. The loss is multiplied by a large number before the backward walk, and
the gradients are divided by it as the optimizer reads them. A step whose gradients are not finite is left
out, and the scale goes down; after many good steps it goes up. Nothing of that is decided on the host: a flag
on the device says whether a step happens, so it works without synchronisation, and on arrays without values.

    policy = amp.Policy("float16")
    optimizer = policy.apply(model, optimizer)
    scaler = policy.scaler()
    scaler.scale(model.loss(policy.cast(inputs), targets)).backward()
    scaler.step(optimizer)
    scaler.update()

Paper: Micikevicius et al. 2018, Mixed Precision Training, §3.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from minigrad import backend
from minigrad.backend import Array
from minigrad.errors import DTypeError, UsageError
from minigrad.nn.module import Module
from minigrad.nn.optim import LBFGS, Optimizer
from minigrad.tensor import Tensor

BLOCK = 1 << 15  # entries that are looked at together on a processor
LARGEST = float(np.finfo("float32").max)


class GradScaler:
    """Multiplies losses by a scale, divides gradients by it, and adapts it, as torch's class of that name.

    device            torch's, and without meaning here: the scale lies where the losses do
    init_scale        the first scale
    growth_factor     what it is multiplied by after `growth_interval` good steps in a row
    backoff_factor    what it is multiplied by after a step whose gradients were not finite
    enabled           False: everything passes through unchanged
    reduce            set by distributed training: brings the largest value of an array over all ranks into
                      it, in place, so that all ranks decide alike
    """

    def __init__(
        self,
        device: str | None = None,
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        if device is not None and not isinstance(device, str):
            raise UsageError(
                f"GradScaler: the first argument names a device, and is {device!r}; give "
                f"init_scale={device!r}"
            )
        if not (init_scale > 0 and growth_factor > 1 and 0 < backoff_factor < 1 and growth_interval >= 1):
            raise UsageError(
                f"a loss scale starts above 0 (got {init_scale}), grows by more than 1 (got {growth_factor}) "
                f"every one or more steps (got {growth_interval}) and backs off by a factor between 0 and 1 "
                f"(got {backoff_factor})"
            )
        self.init_scale, self.growth_factor, self.backoff_factor = init_scale, growth_factor, backoff_factor
        self.growth_interval, self.enabled = growth_interval, enabled
        self.reduce: Callable[[Array], None] | None = None
        self._scale: Array | None = None
        self._good_steps: Array | None = None
        self._loaded_good_steps = 0
        self._found: dict[int, Array] = {}  # by optimizer, since the last update
        self._flags: list[Array] = []
        self._unscaled: set[int] = set()
        self._stepped: set[int] = set()

    # ----- The scale -----

    def scale(self, outputs: Any) -> Any:
        """The loss (or a list or tuple of losses) times the scale."""
        if not self.enabled:
            return outputs
        if isinstance(outputs, Tensor):
            return outputs * Tensor.of(self._scale_on(outputs.data))
        return type(outputs)(self.scale(output) for output in outputs)

    def _scale_on(self, like: Array) -> Array:
        if self._scale is None:
            xp, device = backend.namespace(like), backend.namespace(like).device(like)
            made = [np.asarray(self.init_scale, "float32"), np.asarray(self._loaded_good_steps, "int32")]
            self._scale, self._good_steps = (xp.from_host(array, device=device) for array in made)
        return self._scale

    @property
    def inverse_scale(self) -> Array:
        """1 / scale, a 0-d float32 array on the device: what gradients are multiplied by."""
        if self._scale is None:
            raise UsageError("the scale does not exist yet: call scaler.scale(loss) before the backward walk")
        return 1.0 / self._scale

    def get_scale(self) -> float:
        """The scale as a number. On a GPU this waits for all that was started."""
        if not self.enabled:
            return 1.0
        return self.init_scale if self._scale is None else float(self._scale)

    # ----- Gradients -----

    def found_inf(self, gradients: list[Array]) -> Array:
        """Whether an entry on any rank is not finite: a 0-d boolean array that nobody has looked at.

        `update` takes it into account. Every rank has to call this, those without gradients too.
        """
        like = gradients[0] if gradients else self._scale_on(backend.host.zeros(0))
        xp = backend.namespace(like)
        flag = xp.zeros(1, dtype="float32")
        for gradient in gradients:
            flat = gradient.reshape(-1)
            length = BLOCK if xp.blocked else max(flat.size, 1)
            for start in range(0, flat.size, length):
                good = xp.all(xp.isfinite(flat[start : start + length]))
                flag = xp.maximum(flag, 1.0 - good.astype("float32"))
        if self.reduce is not None:
            self.reduce(flag)
        self._scale_on(like)
        self._flags.append(flag)
        return (flag > 0).reshape(())

    def unscale_(self, optimizer: Optimizer) -> None:
        """Divide the optimizer's gradients by the scale in place, to clip them before `step`.

        Raises UsageError for gradients in half precision, which would vanish (give `step` a gradient_scale
        instead), and for a second call before `update`.
        """
        if not self.enabled:
            return
        if id(optimizer) in self._unscaled | self._stepped:
            raise UsageError(
                "unscale_ was called for this optimizer already, or it took its step; update first"
            )
        gradients = optimizer.gradients()
        if any(gradient.dtype.itemsize < 4 for gradient in gradients):
            raise UsageError(
                f"gradients in {gradients[0].dtype} would vanish when they are divided in place; leave "
                "unscale_ out: step divides them as it reads them, and takes a gradient_scale for clipping"
            )
        self._found[id(optimizer)] = self.found_inf(gradients)
        for gradient in gradients:
            gradient *= self.inverse_scale.astype(gradient.dtype)
        self._unscaled.add(id(optimizer))

    def step(self, optimizer: Optimizer, *, gradient_scale: Array | float = 1.0) -> Any:
        """Take the optimizer's step with gradients divided by the scale, unless one is not finite.

        `gradient_scale` multiplies them further, for instance to clip them (`nn.utils.clip_coefficient`).
        Raises UsageError for a second call before `update`.
        """
        if not self.enabled:
            return optimizer.step(gradient_scale=gradient_scale)
        if isinstance(optimizer, LBFGS):
            raise UsageError(
                "LBFGS needs its losses and gradients as they are; train it without a loss scale"
            )
        if id(optimizer) in self._stepped:
            raise UsageError("step was called twice for this optimizer; call update() after each step")
        self._stepped.add(id(optimizer))
        if id(optimizer) in self._unscaled:
            return optimizer.step(gradient_scale=gradient_scale, skip=self._found[id(optimizer)])
        found = self.found_inf(optimizer.gradients())
        return optimizer.step(gradient_scale=self.inverse_scale * gradient_scale, skip=found)

    def update(self, new_scale: float | None = None) -> None:
        """Adapt the scale to what was found since the last call, or set it."""
        if not self.enabled:
            return
        if not self._flags:
            raise UsageError("no gradients were looked at since the last update; call step(optimizer) first")
        xp = backend.namespace(self._flags[0])
        assert self._scale is not None  # found_inf has made them
        assert self._good_steps is not None
        found = self._flags[0]
        for flag in self._flags[1:]:
            found = xp.maximum(found, flag)
        found = (found > 0).reshape(())
        if new_scale is not None:
            self._scale = xp.asarray(xp.full((), new_scale, dtype="float32"))
        else:
            good = self._good_steps + 1
            due = xp.logical_and(good >= self.growth_interval, xp.logical_not(found))
            # A scale that would be infinite, were it to grow, stays.
            grows = xp.logical_and(due, self._scale <= LARGEST / self.growth_factor)
            scale = self._scale * xp.where(grows, self.growth_factor, 1.0)
            scale = xp.where(found, self._scale * self.backoff_factor, scale)
            self._scale = xp.asarray(scale, dtype="float32")
            rest = xp.where(xp.logical_or(due, found), 0, good)
            self._good_steps = xp.asarray(rest.astype("int32"))
        self._found, self._flags = {}, []
        self._unscaled, self._stepped = set(), set()

    # ----- State -----

    def state_dict(self) -> dict[str, Any]:
        """The scale and how it adapts, as numbers, under torch's names; {} where it is not enabled."""
        if not self.enabled:
            return {}
        return {
            "scale": self.get_scale(),
            "growth_factor": self.growth_factor,
            "backoff_factor": self.backoff_factor,
            "growth_interval": self.growth_interval,
            "_growth_tracker": self._loaded_good_steps if self._good_steps is None else int(self._good_steps),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave. Raises UsageError for {} and the like."""
        if not self.enabled:
            return
        names = ("scale", "growth_factor", "backoff_factor", "growth_interval", "_growth_tracker")
        missing = [name for name in names if name not in state]
        if missing:
            raise UsageError(f"the saved loss scale lacks {missing}; was it saved with enabled=False?")
        self.init_scale, self.growth_factor, self.backoff_factor, self.growth_interval, tracker = (
            state[name] for name in names
        )
        self._loaded_good_steps = int(tracker)
        self._scale = self._good_steps = None


@dataclass(frozen=True)
class Policy:
    """In which precision a model computes: "float16", "bfloat16" (with ml_dtypes installed) or "float32".

    `master` is the dtype of the copy that the optimizer updates. Raises DTypeError for others.
    """

    compute: str = "float16"
    master: str = "float32"

    def __post_init__(self) -> None:
        if self.compute not in ("float16", "bfloat16", "float32") or self.master not in (
            "float32",
            "float64",
        ):
            raise DTypeError(
                f"a policy computes in float16, bfloat16 or float32, with a master copy in float32 or "
                f"float64; got {self.compute} and {self.master}"
            )
        _ = self.dtype

    @property
    def dtype(self) -> np.dtype:
        """The dtype of parameters, activations and gradients."""
        if self.compute == "bfloat16":
            with suppress(ImportError):
                return np.dtype(importlib.import_module("ml_dtypes").bfloat16)
            raise DTypeError("bfloat16 needs ml_dtypes: pip install ml_dtypes, or compute in float16")
        return np.dtype(self.compute)

    def apply(self, model: Module, optimizer: Optimizer | None = None) -> Optimizer | None:
        """Move the model's parameters and buffers to the dtype in place; return the optimizer.

        An optimizer over the model's parameters, before its first step, keeps the values as they are now as
        its master copy.
        """
        values = [] if optimizer is None else [p.data for p in optimizer.parameters]
        model.to(dtype=self.dtype)
        if optimizer is not None:
            optimizer.keep_master(self.master, values=values)
        return optimizer

    def scaler(self, **options: Any) -> GradScaler:
        """A loss scale, enabled only where the dtype needs one: bfloat16 has float32's range."""
        return GradScaler(**{"enabled": self.compute == "float16", **options})

    def cast(self, inputs: Any) -> Any:
        """Tensors, arrays and lists, tuples or dicts of them, floating-point ones moved to the dtype."""
        if isinstance(inputs, Mapping):
            return {name: self.cast(value) for name, value in inputs.items()}
        if isinstance(inputs, (list, tuple)):
            return type(inputs)(self.cast(value) for value in inputs)
        is_array = isinstance(inputs, Tensor) or backend.is_array(inputs)
        return inputs.astype(self.dtype) if is_array and inputs.dtype.kind in "fV" else inputs
