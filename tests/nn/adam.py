"""Adam as its papers write it, and what else the tests of optimizers share."""

from typing import Any

import numpy as np

from minigrad import nn
from minigrad.nn.optim import AdamW
from minigrad.ops import tensor

SHAPES = [(3, 4), (5,), (2, 2, 2), (), (0,), (4, 1)]


def parameters(shapes: list[tuple[int, ...]] = SHAPES, dtype: str = "float64") -> list[nn.Parameter]:
    generator = np.random.default_rng(0)
    return [nn.Parameter(np.asarray(generator.normal(size=shape)).astype(dtype)) for shape in shapes]


def give(parameter: nn.Parameter, gradient: np.ndarray) -> None:
    """Make `gradient` the gradient, the way training does: by a backward walk."""
    (parameter * tensor(gradient)).sum().backward()


def grad(parameter: nn.Parameter) -> Any:
    return None if parameter.grad is None else parameter.grad.tolist()


class Textbook:
    """One parameter's Adam with decoupled weight decay, as the papers write it."""

    def __init__(self, value: np.ndarray) -> None:
        self.value, self.steps = value.copy(), 0
        self.m, self.v = np.zeros_like(value), np.zeros_like(value)

    def step(self, gradient: np.ndarray, group: dict[str, Any]) -> None:
        self.steps += 1
        beta1, beta2 = group["betas"]
        self.m = beta1 * self.m + (1 - beta1) * gradient
        self.v = beta2 * self.v + (1 - beta2) * gradient**2
        corrected = self.m / (1 - beta1**self.steps), self.v / (1 - beta2**self.steps)
        self.value = self.value - group["lr"] * group["weight_decay"] * self.value
        self.value = self.value - group["lr"] * corrected[0] / (np.sqrt(corrected[1]) + group["eps"])


class Counting(AdamW):
    """Counts how many pieces a step worked through."""

    calls = 0

    def update(self, *arguments: Any) -> None:
        self.calls += 1
        super().update(*arguments)


def lay_out(kind: str, own: list[nn.Parameter], order: list[int]) -> None:
    """Give the parameters gradient buffers: parts of one flat array in some order, or arrays of their own."""
    flat = np.full(sum(p.size for p in own) + len(own), np.nan)
    if kind == "bytes":  # a view of memory of another type, with something before it
        flat = np.full(flat.nbytes + 24, 255, np.uint8).view(np.float64)[3:]
    start = 0
    for index in order:
        p = own[index]
        if kind == "apart":
            p.grad_buffer = np.full(p.shape, np.nan)
        else:
            p.grad_buffer = flat[start : start + p.size].reshape(p.shape)
            start += p.size + (kind == "gaps")
