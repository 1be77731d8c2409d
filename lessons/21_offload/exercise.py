"""Exercises of lesson 21: offload.

Replace each `raise Todo(...)`; keep the names. `minigrad check 21` checks all, `minigrad check 21.2` one.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minigrad.lessons import Todo

# ----- 21.1 ---------------------------------------------------------------------------------------


def best_placement(
    sizes: Mapping[str, int], edges: Mapping[tuple[str, str], int], pinned: str
) -> tuple[int, frozenset[str]]:
    """Return (bytes moved, nodes on the host) of the best way to move something to the host.

    `sizes` are the bytes that each node of a data-flow graph keeps (0 for a computation), `edges` the bytes
    that pass between two nodes in a step, in the direction given. `pinned` stays on the device. Every other
    node may go; an edge between the device and the host costs its bytes, whichever way it points. Of all
    placements with at least one node on the host, take those that move least; of these, the one that leaves
    the fewest bytes on the device. There are few nodes: try all placements.
    """
    raise Todo("21.1: all sets of nodes, the cut of each, the smallest tuple")


# ----- 21.2 ---------------------------------------------------------------------------------------


class OffloadedAdam:
    """Adam for half-precision parameters on a device, with its step and its states on the host.

    `parameters` and `gradient` live on the device: you can only hand them to the link, which counts bytes.
    `link.fetch(on_device)` returns a copy on the host (NumPy, of the same dtype), and
    `link.push(array, on_device)` overwrites what is on the device (the dtypes must agree).
    """

    def __init__(self, parameters: Any, link: Any, rate: float = 0.01) -> None:
        self.parameters, self.link, self.rate, self.steps = parameters, link, rate, 0
        raise Todo("21.2: a copy of the parameters in float32 (the master), and two moments in float32")

    def step(self, gradient: Any) -> None:
        """Update the parameters on the device; move 2 bytes a parameter down and 2 up.

        With betas 0.9 and 0.999, all in float32: m = 0.9 m + 0.1 g and v = 0.999 v + 0.001 g g are kept. This
        step, counted from 1, uses m / (1 - 0.9 ** steps) and v / (1 - 0.999 ** steps): of those, the master
        loses rate * m / (sqrt(v) + 1e-8). The device gets the master, rounded to float16.
        """
        raise Todo("21.2: gradient down, update, parameters up")


# ----- 21.3 ---------------------------------------------------------------------------------------


class Delayed:
    """Gradient descent whose update runs one step late, from step number `first` (1, 2, ...) on."""

    def __init__(self, x: np.ndarray, rate: float, first: int) -> None:
        self.x = x.copy()  # what the model computes with
        self.rate, self.first, self.steps = rate, first, 0
        self.waiting: np.ndarray | None = None  # a gradient that is not applied yet

    def step(self, gradient: np.ndarray) -> None:
        """Take note of the gradient at self.x, and set self.x to what the next step computes with.

        Steps before `first` apply it at once. Step `first` applies nothing, and each later step applies the
        gradient of the step before. To apply a gradient is to subtract rate * gradient from x. The caller
        may fill the same array with the next gradient.
        """
        raise Todo("21.3: apply what waits, and let this gradient wait")

    def settle(self) -> None:
        """Apply what waits, if there is something: at the end, or before a checkpoint."""
        raise Todo("21.3: nothing may be lost, and nothing applied twice")


# ----- 21.4 ---------------------------------------------------------------------------------------


def growth(rate: float, delay: int) -> float:
    """Return by what factor x grows each step in the long run: the largest |z| among the roots.

    Put x_t = z ** t into x_{t+1} = x_t - rate * x_{t-delay} and divide by z ** (t - delay): a polynomial,
    whose roots may be complex. `np.roots([1, 2, 3])` gives the roots of z^2 + 2 z + 3.
    """
    raise Todo("21.4: the coefficients of z^(delay+1) - z^delay + rate; mind delay 0")


def largest_rate(delay: int, curvature: float) -> float:
    """Return the rate below which descent on f(x) = curvature * x^2 / 2 shrinks x, with that delay.

    Halve an interval with `growth`, or use the formula of the lesson. An error of 1 % is small enough.
    """
    raise Todo("21.4: the gradient is curvature * x")


# ----- 21.5 ---------------------------------------------------------------------------------------


class DiskMomentum:
    """SGD with momentum whose state lives in a file, worked through block by block."""

    def __init__(self, path: Path, size: int, rate: float = 0.1, block: int = 1024) -> None:
        self.path, self.size, self.rate, self.block = path, size, rate, block
        raise Todo("21.5: np.memmap(path, dtype=..., mode=..., shape=...); a file that is there goes on")

    def step(self, parameters: np.ndarray, gradient: np.ndarray) -> None:
        """Update flat float64 `parameters` in place: u = 0.9 u + g, from 0, and the parameter less rate * u.

        Take `block` entries at a time, so that memory beyond the arguments stays below 8 blocks. What was
        learned must be in the file afterwards (call `flush`), and is all of the state: another DiskMomentum
        on the same path goes on with it.
        """
        raise Todo("21.5: for each block: read, update, write")
