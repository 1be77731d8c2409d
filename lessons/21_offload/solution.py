"""Reference answers to lesson 21. Spoilers: try exercise.py first."""

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np


def best_placement(
    sizes: Mapping[str, int], edges: Mapping[tuple[str, str], int], pinned: str
) -> tuple[int, frozenset[str]]:
    """All sets of nodes."""
    free = [name for name in sizes if name != pinned]
    found = []
    for count in range(1, len(free) + 1):
        for chosen in combinations(free, count):
            host = frozenset(chosen)
            moved = sum(size for (a, b), size in edges.items() if (a in host) != (b in host))
            left = sum(size for name, size in sizes.items() if name not in host)
            found.append((moved, left, sorted(host)))
    moved, _, names = min(found)
    return moved, frozenset(names)


class OffloadedAdam:
    """Down, update, up."""

    def __init__(self, parameters: Any, link: Any, rate: float = 0.01) -> None:
        self.parameters, self.link, self.rate, self.steps = parameters, link, rate, 0
        self.master = link.fetch(parameters).astype(np.float32)
        self.m, self.v = np.zeros_like(self.master), np.zeros_like(self.master)

    def step(self, gradient: Any) -> None:
        """The step on the host."""
        g = self.link.fetch(gradient).astype(np.float32)
        self.steps += 1
        self.m = 0.9 * self.m + 0.1 * g
        self.v = 0.999 * self.v + 0.001 * g * g
        m, v = self.m / (1 - 0.9**self.steps), self.v / (1 - 0.999**self.steps)
        self.master = self.master - self.rate * m / (np.sqrt(v) + 1e-8)
        self.link.push(self.master.astype(np.float16), self.parameters)


class Delayed:
    """One step late."""

    def __init__(self, x: np.ndarray, rate: float, first: int) -> None:
        self.x = x.copy()
        self.rate, self.first, self.steps = rate, first, 0
        self.waiting: np.ndarray | None = None

    def step(self, gradient: np.ndarray) -> None:
        """Apply what waits."""
        self.steps += 1
        if self.steps < self.first:
            self.x = self.x - self.rate * gradient
            return
        self.settle()
        self.waiting = gradient.copy()

    def settle(self) -> None:
        """Once."""
        if self.waiting is not None:
            self.x = self.x - self.rate * self.waiting
            self.waiting = None


def growth(rate: float, delay: int) -> float:
    """Roots of the characteristic polynomial."""
    coefficients = np.zeros(delay + 2)
    coefficients[0] = 1
    coefficients[1] -= 1
    coefficients[-1] += rate
    return float(np.abs(np.roots(coefficients)).max(initial=0.0))


def largest_rate(delay: int, curvature: float) -> float:
    """The formula."""
    return float(2 * np.sin(np.pi / (2 * (2 * delay + 1)))) / curvature


class DiskMomentum:
    """Block by block."""

    def __init__(self, path: Path, size: int, rate: float = 0.1, block: int = 1024) -> None:
        self.path, self.size, self.rate, self.block = path, size, rate, block
        mode = "r+" if Path(path).exists() else "w+"
        self.state = np.memmap(path, dtype=np.float64, mode=mode, shape=(size,))

    def step(self, parameters: np.ndarray, gradient: np.ndarray) -> None:
        """Read, update, write."""
        for start in range(0, self.size, self.block):
            part = slice(start, start + self.block)
            u = 0.9 * self.state[part] + gradient[part]
            self.state[part] = u
            parameters[part] -= self.rate * u
        self.state.flush()
