"""Reference answers to lesson 20. Spoilers: try exercise.py first."""

import math
from collections.abc import Callable

import numpy as np

from minigrad.dist import World


def shard(size: int, ranks: int, rank: int) -> tuple[int, int]:
    """Uneven shards."""
    share, rest = divmod(size, ranks)
    start = rank * share + min(rank, rest)
    return start, start + share + (rank < rest)


def counts(size: int, ranks: int) -> list[int]:
    """The lengths of all shards."""
    return [stop - start for start, stop in (shard(size, ranks, rank) for rank in range(ranks))]


class ShardedAdam:
    """Stage 1."""

    def __init__(self, world: World, size: int, rate: float = 0.1) -> None:
        self.world, self.size, self.rate, self.steps = world, size, rate, 0
        self.start, self.stop = shard(size, world.size, world.rank)
        self.m, self.v = np.zeros(self.stop - self.start), np.zeros(self.stop - self.start)

    def step(self, parameters: np.ndarray, gradient: np.ndarray) -> None:
        """Scatter, update, gather."""
        lengths = counts(self.size, self.world.size)
        g = np.empty(self.stop - self.start)
        self.world.reduce_scatter(gradient, g, counts=lengths)
        self.steps += 1
        self.m = 0.9 * self.m + 0.1 * g
        self.v = 0.999 * self.v + 0.001 * g * g
        m, v = self.m / (1 - 0.9**self.steps), self.v / (1 - 0.999**self.steps)
        own = parameters[self.start : self.stop] - self.rate * m / (np.sqrt(v) + 1e-8)
        self.world.all_gather(own, parameters, counts=lengths)


def joint_norm(world: World, own: np.ndarray) -> float:
    """The root of the sum of all squares."""
    total = np.array([np.sum(own * own)])
    world.all_reduce(total)
    return float(np.sqrt(total[0]))


class Unit:
    """Stage 3 for one layer."""

    def __init__(
        self, world: World, own: np.ndarray, shape: tuple[int, ...], layer: Callable, pull: Callable
    ) -> None:
        self.world, self.own, self.shape = world, own, shape
        self.layer, self.pull = layer, pull
        self.gradient = np.zeros_like(own)

    def gather(self) -> np.ndarray:
        """The whole weights, for whoever holds on to them."""
        size = math.prod(self.shape)
        whole = np.empty(size)
        self.world.all_gather(self.own, whole, counts=counts(size, self.world.size))
        return whole.reshape(self.shape)

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Gather, run, let go."""
        self.x = x
        return self.layer(self.gather(), x)

    def backward(self, cotangent: np.ndarray) -> np.ndarray:
        """Gather, pull, scatter."""
        back, gradient = self.pull(self.gather(), self.x, cotangent)
        flat = np.ascontiguousarray(gradient).reshape(-1)
        self.world.reduce_scatter(flat, self.gradient, counts=counts(flat.size, self.world.size))
        return back


def memory(parameters: float, ranks: int, stage: int, k: float = 12) -> float:
    """Figure 1."""
    whole = 2 * (stage < 3) + 2 * (stage < 2) + k * (stage < 1)
    return parameters * (whole + (4 + k - whole) / ranks)


def fewest_ranks(parameters: float, stage: int, limit: float, k: float = 12) -> int | None:
    """Solve whole + shared / N <= limit."""
    whole = 2 * (stage < 3) + 2 * (stage < 2) + k * (stage < 1)
    if parameters * (4 + k) <= limit:
        return 1
    room = limit - parameters * whole
    if room <= 0 or stage == 0:
        return None
    return math.ceil(parameters * (4 + k - whole) / room)
