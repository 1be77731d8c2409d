"""Exercises of lesson 20: shard.

Replace each `raise Todo(...)`; keep the names. `minigrad check 20` checks all, `minigrad check 20.2` one.

A `world` has `rank`, `size` and, among others, these verbs on flat arrays of float64:

    world.reduce_scatter(array, out, counts=[...])
        adds `array` up over ranks; `out` becomes the rank's own piece of the sum, counts[rank] entries long
    world.all_gather(array, out, counts=[...])
        everybody gets in `out` the pieces `array` of all ranks, one after the other
    world.all_reduce(array)
        replaces `array` by its sum over ranks
"""

from collections.abc import Callable

import numpy as np

from minigrad.dist import World
from minigrad.lessons import Todo

# ----- 20.1 ---------------------------------------------------------------------------------------


def shard(size: int, ranks: int, rank: int) -> tuple[int, int]:
    """Return where the shard of `rank` begins and ends (past its last entry).

    The shards cover 0 ... size - 1 in order of ranks, without gaps, and differ by one entry at most; the
    first ones are the longer ones. There may be more ranks than entries.
    """
    raise Todo("20.1: no padding, only uneven shards")


# ----- 20.2 ---------------------------------------------------------------------------------------


class ShardedAdam:
    """Adam whose moments are shared out (ZeRO stage 1)."""

    def __init__(self, world: World, size: int, rate: float = 0.1) -> None:
        self.world = world
        self.size = size
        self.rate = rate
        self.steps = 0
        raise Todo("20.2: moments m and v, as flat arrays, for this rank's shard only")

    def step(self, parameters: np.ndarray, gradient: np.ndarray) -> None:
        """Update `parameters` (flat, whole, equal on all ranks) in place, on every rank.

        `gradient` is this rank's part of a sum: the gradient is the sum over ranks. Adam with betas 0.9 and
        0.999: m = 0.9 m + 0.1 g, v = 0.999 v + 0.001 g g, both divided by 1 - beta ** steps, and the
        parameter less rate * m / (sqrt(v) + 1e-8). Send no more than 2 (N - 1) entries for each parameter,
        over all N ranks together (an all-reduce takes that much alone), and keep no other arrays.
        """
        raise Todo("20.2: reduce-scatter, update the shard, all-gather")


# ----- 20.3 ---------------------------------------------------------------------------------------


def joint_norm(world: World, own: np.ndarray) -> float:
    """Return the 2-norm of the vector whose shards are `own` on all ranks; some may be empty."""
    raise Todo("20.3: squares add up, norms do not")


# ----- 20.4 ---------------------------------------------------------------------------------------


class Unit:
    """One layer of stage 3: its weights live as shards and are whole only while they are used.

    `own` is this rank's shard of the flat weights (see `shard`); `shape` that of the whole. `layer(weights,
    x)` is the output, `pull(weights, x, cotangent)` gives (cotangent of x, gradient of the weights).
    """

    def __init__(
        self, world: World, own: np.ndarray, shape: tuple[int, ...], layer: Callable, pull: Callable
    ) -> None:
        self.world, self.own, self.shape = world, own, shape
        self.layer, self.pull = layer, pull
        self.gradient = np.zeros_like(own)  # of this rank's shard, summed over ranks

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Gather the weights, return what the layer makes of them and x; keep x, and let the weights go."""
        raise Todo("20.4: whole weights only in here")

    def backward(self, cotangent: np.ndarray) -> np.ndarray:
        """Gather the weights again, set `self.gradient`, and return the cotangent of x."""
        raise Todo("20.4: gather, pull, reduce-scatter")


# ----- 20.5 ---------------------------------------------------------------------------------------


def memory(parameters: float, ranks: int, stage: int, k: float = 12) -> float:
    """Return the bytes that a rank holds for the model's states: 2 a parameter, 2 a gradient, k an optimizer.

    Stage 0 is plain data parallelism.
    """
    raise Todo("20.5: what is shared out, by stage")


def fewest_ranks(parameters: float, stage: int, limit: float, k: float = 12) -> int | None:
    """Return the smallest number of ranks with which the states fit into `limit` bytes; None if none does."""
    raise Todo("20.5: no search over all numbers of ranks: solve for it")
