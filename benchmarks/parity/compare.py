"""Run a module of minigrad and its namesake of torch on the same numbers, and keep the largest difference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import minigrad as mg
from minigrad.nn import layers

TOLERANCE = 1e-9


class Parity:
    """The largest difference of each class so far, relative to the largest entry (or 1, if that is more)."""

    def __init__(self) -> None:
        self.errors: dict[str, float] = {}
        self.trials: dict[str, int] = {}

    def note(self, name: str, what: str, ours: Any, theirs: Any) -> None:
        """Compare two arrays. Infinities and NaNs must agree."""
        ours, theirs = np.asarray(ours), np.asarray(theirs)
        if ours.shape != theirs.shape:
            raise AssertionError(f"{name}, {what}: shape {ours.shape}, and torch has {theirs.shape}")
        finite = np.isfinite(theirs)
        if not np.array_equal(ours[~finite], theirs[~finite], equal_nan=True):
            raise AssertionError(f"{name}, {what}: infinities or NaNs differ")
        distance = np.abs(ours[finite] - theirs[finite]).max(initial=0.0)
        error = float(distance / max(1.0, np.abs(theirs[finite]).max(initial=0.0)))
        self.errors[name] = max(self.errors.get(name, 0.0), error)

    def pair(self, name: str, *arguments: Any, **options: Any) -> tuple[Any, Any]:
        """The two modules of this name."""
        return getattr(layers, name)(*arguments, **options), getattr(torch.nn, name)(*arguments, **options)

    def compare(
        self,
        name: str,
        ours: Any,
        theirs: Any,
        inputs: list[Any],
        random: np.random.Generator,
        *,
        call: Callable[..., Any] | None = None,
        their_call: Callable[..., Any] | None = None,
        label: str = "",
    ) -> None:
        """Outputs, gradients of inputs and parameters, and buffers, both starting from torch's state.

        `call` and `their_call` say how the modules are called, if not with the inputs alone.
        """
        label = label or name
        self.trials[label] = self.trials.get(label, 0) + 1
        ours.to(dtype="float64")
        state = {key: value.detach().numpy() for key, value in theirs.state_dict().items()}
        ours.load_state_dict(state)
        ours.zero_grad()
        theirs.zero_grad()
        floats = [isinstance(x, np.ndarray) and x.dtype.kind == "f" for x in inputs]
        own: list[Any] = [
            mg.tensor(x, requires_grad=f) if isinstance(x, np.ndarray) else x
            for x, f in zip(inputs, floats, strict=True)
        ]
        other = [
            torch.tensor(x, requires_grad=f) if isinstance(x, np.ndarray) else x
            for x, f in zip(inputs, floats, strict=True)
        ]
        outputs = list(_flat((call or ours)(*own)))
        expected: list[Any] = list(_flat((their_call or theirs)(*other)))
        if len(outputs) != len(expected):
            raise AssertionError(f"{name}: {len(outputs)} outputs, and torch has {len(expected)}")
        total: Any = 0.0
        wanted: Any = 0.0
        for a, b in zip(outputs, expected, strict=True):
            self.note(label, "output", a.numpy(), b.detach().numpy())
            if b.requires_grad and torch.isfinite(b).all():
                weights = random.normal(size=tuple(b.shape))
                total = total + (a * mg.tensor(weights)).sum()
                wanted = wanted + (b * torch.tensor(weights)).sum()
        if isinstance(wanted, torch.Tensor):
            total.backward()
            wanted.backward()
            for place, (a, b) in enumerate(zip(own, other, strict=True)):
                if isinstance(b, torch.Tensor) and b.grad is not None:
                    self.note(label, f"gradient of input {place}", a.grad.numpy(), b.grad.numpy())
            found: dict[str, Any] = dict(ours.named_parameters())
            for key, parameter in theirs.named_parameters():
                if parameter.grad is not None:
                    self.note(label, f"gradient of {key}", found[key].grad.numpy(), parameter.grad.numpy())
        buffers = dict(ours.named_buffers())
        for key, buffer in theirs.named_buffers():
            self.note(label, f"buffer {key}", buffers[key].numpy(), buffer.numpy())

    def check(self, name: str, *arguments: Any, inputs: list[Any], random: Any, **options: Any) -> None:
        """Build both modules of this name and compare them on these inputs."""
        self.compare(name, *self.pair(name, *arguments, **options), inputs, random)


def _flat(x: Any) -> Any:
    if isinstance(x, tuple | list):
        for part in x:
            yield from _flat(part)
    elif x is not None:
        yield x


def chosen(random: np.random.Generator, *values: Any) -> Any:
    """One of these."""
    return values[random.integers(len(values))]


def whole(random: np.random.Generator, low: int, high: int) -> int:
    """A number from low to high, both included."""
    return int(random.integers(low, high + 1))


def true(random: np.random.Generator) -> bool:
    """A coin."""
    return bool(random.integers(2))
