"""Exercises of lesson 1: graphs and derivatives.

Replace each `raise Todo(...)`; keep the names. `minigrad check 1` checks all, `minigrad check 1.2` one.
"""

import math

import numpy as np

from minigrad.lessons import Todo

# A graph is a list of edges (tail, head, factor): head was computed from tail, and d head / d tail is factor.
# Nodes are whole numbers, and an edge always leads from a smaller number to a larger one.
Edge = tuple[int, int, float]


# ----- 1.1 ----------------------------------------------------------------------------------------


def sum_over_paths(edges: list[Edge], start: int, end: int) -> float:
    """Return d end / d start as the sum, over all paths from `start` to `end`, of the products of factors.

    The path from a node to itself has no edges, and the product of nothing is 1. Write it as it is defined;
    it may take as long as there are paths.
    """
    raise Todo("1.1: add up the products along all paths")


def derivatives(edges: list[Edge], end: int) -> dict[int, float]:
    """Return {node: d end / d node} for `end` and every node that leads to it, visiting each edge once.

    Go from `end` downwards. When you come to a node, everything that it gets must have arrived already.
    """
    raise Todo("1.1: merge at the nodes instead of walking along paths")


# ----- 1.2 ----------------------------------------------------------------------------------------


class Dual:
    """A number and its derivative by one input: forward mode.

    Make `+`, `*` (with plain numbers on either side too), `sin` and `exp` work. Each result is a new Dual.
    """

    def __init__(self, value: float, tangent: float = 0.0) -> None:
        self.value = value
        self.tangent = tangent

    def __add__(self, other: "Dual | float") -> "Dual":
        raise Todo("1.2: the value and the tangent of a sum")

    def __mul__(self, other: "Dual | float") -> "Dual":
        raise Todo("1.2: the value and the tangent of a product")

    __radd__ = __add__
    __rmul__ = __mul__

    def sin(self) -> "Dual":
        """The sine; `math.sin` gives the value."""
        raise Todo("1.2: sin")

    def exp(self) -> "Dual":
        """The exponential; `math.exp` gives the value."""
        raise Todo("1.2: exp")


# ----- 1.3 ----------------------------------------------------------------------------------------


class Value:
    """A number that remembers what it was computed from: one node of a tape.

    `inputs` are the Values it was computed from, `factors` the derivatives by each of them, in the same
    order. `number` counts creations: who uses a Value has a larger number.
    """

    count = 0

    def __init__(
        self, value: float, inputs: tuple["Value", ...] = (), factors: tuple[float, ...] = ()
    ) -> None:
        Value.count += 1
        self.number = Value.count
        self.value = value
        self.inputs = inputs
        self.factors = factors
        self.gradient = 0.0

    def __add__(self, other: "Value") -> "Value":
        raise Todo("1.3: a new Value with its inputs and factors")

    def __mul__(self, other: "Value") -> "Value":
        raise Todo("1.3: a new Value with its inputs and factors")

    def sin(self) -> "Value":
        """The sine."""
        return Value(math.sin(self.value), (self,), (math.cos(self.value),))


def backward(output: Value) -> None:
    """Set `gradient` of `output` and every Value that it was computed from to d output / d that Value.

    Set them from zero: a second call over the same graph gives the same. No recursion: graphs may be 20,000
    operations deep, and one with 2^60 paths must be no trouble: each node passes on what it got exactly once.
    """
    raise Todo("1.3: collect the nodes, then walk from the newest to the oldest")


# ----- 1.4 ----------------------------------------------------------------------------------------


def unbroadcast(gradient: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the gradient for an array of `shape` that NumPy stretched to `gradient.shape`.

    When one entry was used many times, its gradient is the sum over its uses. NumPy puts missing axes in
    front, and stretches axes of length 1.
    """
    raise Todo("1.4: sum over the axes that were stretched")
