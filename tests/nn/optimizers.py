"""What the tests over all optimizers share: drawn options, gradients, shards of parameters."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from minigrad import nn
from minigrad.errors import UsageError
from minigrad.nn.optim import Optimizer, Shard
from minigrad.ops import tensor
from tests.nn.equations import EQUATIONS, OPTIONS

SHAPES = [(3, 4), (5,), (2, 2, 2), (), (0,), (4, 1)]
NAMES = st.sampled_from(sorted(EQUATIONS))
LAYERWISE = {"LARS", "LAMB"}


@st.composite
def options(draw: Any, name: str) -> dict[str, Any]:
    """Options of an optimizer that fit together."""
    found = {key: draw(st.sampled_from(values)) for key, values in OPTIONS[name].items()}
    if name == "SGD" and found["nesterov"]:
        found["momentum"], found["dampening"] = found["momentum"] or 0.9, 0.0
    return {"lr": draw(st.sampled_from([0.1, 0.003])), "maximize": draw(st.booleans()), **found}


@st.composite
def cases(draw: Any, names: Any = NAMES) -> tuple[str, list[dict[str, Any]], list[set[int]]]:
    """An optimizer's name, options for two groups, and which parameters have a gradient in each step."""
    name = draw(names)
    groups = [draw(options(name)), draw(options(name))]
    present = st.sets(st.integers(0, len(SHAPES) - 1))
    return name, groups, draw(st.lists(present, min_size=1, max_size=6))


def values(dtype: Any = "float64") -> list[np.ndarray]:
    return [
        np.asarray(np.random.default_rng(i).normal(size=shape)).astype(dtype)
        for i, shape in enumerate(SHAPES)
    ]


def gradient(step: int, index: int, dtype: Any = "float64") -> np.ndarray:
    generator = np.random.default_rng((step, index))
    size = 10.0 ** generator.integers(-3, 3)
    return np.asarray(generator.normal(size=SHAPES[index]) * size).astype(dtype)


def make(
    name: str, groups: Sequence[dict[str, Any]], dtype: Any = "float64", device: str | None = None
) -> Optimizer:
    """An optimizer over parameters of all shapes, the first two in one group and the rest in another."""
    own = [nn.Parameter(value, device=device) for value in values(dtype)]
    build: Callable[..., Optimizer] = getattr(nn.optim, name)
    return build([{"params": own[:2], **groups[0]}, {"params": own[2:], **groups[1]}])


def whole_step(optimizer: Optimizer, step: int, chosen: set[int], **how: Any) -> None:
    """One step of an optimizer that has all of its parameters."""
    optimizer.zero_grad()
    for index in chosen:
        p = optimizer.parameters[index]
        p.grad = tensor(gradient(step, index, p.dtype))
    if chosen or any(optimizer.steps) or any(value is not None for value in how.values()):
        optimizer.step(**how)
        return
    with pytest.raises(UsageError, match="none of 6 parameters"):  # nobody can have called backward
        optimizer.step()


class Part:
    """What one rank has: entries `start` ... `stop` of all parameters, laid one after the other."""

    def __init__(self, optimizer: Optimizer, start: int, stop: int, **how: Any) -> None:
        self.optimizer, self.dtype = optimizer, optimizer.parameters[0].dtype
        joined = np.concatenate([p.numpy().reshape(-1) for p in optimizer.parameters])
        self.values, self.gradients = joined[start:stop].copy(), np.zeros(stop - start, self.dtype)
        self.place = slice(start, stop)
        self.shards, first, used = [], 0, 0
        for p in optimizer.parameters:
            low, high = (min(max(edge - first, 0), p.size) for edge in (start, stop))
            own = slice(used, used + high - low)
            self.shards.append(Shard(low, high, self.values[own], self.gradients[own]))
            first, used = first + p.size, used + high - low
        optimizer.shard(self.shards, **how)

    def step(self, step: int, chosen: set[int], **how: Any) -> None:
        self.optimizer.zero_grad()
        flat = [gradient(step, index, self.dtype).reshape(-1) for index in range(len(SHAPES))]
        self.gradients[:] = np.concatenate(flat)[self.place]
        for index, shard in enumerate(self.shards):
            shard.filled = index in chosen
        self.optimizer.step(**how)


def cuts(ranks: int, where: Sequence[int]) -> list[tuple[int, int]]:
    """Spans of all entries for each rank, uneven, some of them empty."""
    total = sum(value.size for value in values())
    edges = [0, *sorted(place % (total + 1) for place in where[: ranks - 1]), total]
    return list(pairwise(edges))
