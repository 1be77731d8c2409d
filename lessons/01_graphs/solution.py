"""Reference answers to lesson 1. Spoilers: try exercise.py first."""

import math

import numpy as np

Edge = tuple[int, int, float]


def sum_over_paths(edges: list[Edge], start: int, end: int) -> float:
    """d end / d start, path by path."""
    if start == end:
        return 1.0
    return sum(factor * sum_over_paths(edges, head, end) for tail, head, factor in edges if tail == start)


def derivatives(edges: list[Edge], end: int) -> dict[int, float]:
    """d end / d node for every node, edge by edge."""
    found = {end: 1.0}
    for tail, head, factor in sorted(edges, key=lambda edge: edge[1], reverse=True):
        if head in found:
            found[tail] = found.get(tail, 0.0) + factor * found[head]
    return found


class Dual:
    """A number and its derivative by one input."""

    def __init__(self, value: float, tangent: float = 0.0) -> None:
        self.value = value
        self.tangent = tangent

    def __add__(self, other: "Dual | float") -> "Dual":
        other = other if isinstance(other, Dual) else Dual(other)
        return Dual(self.value + other.value, self.tangent + other.tangent)

    def __mul__(self, other: "Dual | float") -> "Dual":
        other = other if isinstance(other, Dual) else Dual(other)
        return Dual(self.value * other.value, self.tangent * other.value + self.value * other.tangent)

    __radd__ = __add__
    __rmul__ = __mul__

    def sin(self) -> "Dual":
        """The sine."""
        return Dual(math.sin(self.value), math.cos(self.value) * self.tangent)

    def exp(self) -> "Dual":
        """The exponential."""
        power = math.exp(self.value)
        return Dual(power, power * self.tangent)


class Value:
    """A number that remembers what it was computed from."""

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
        return Value(self.value + other.value, (self, other), (1.0, 1.0))

    def __mul__(self, other: "Value") -> "Value":
        return Value(self.value * other.value, (self, other), (other.value, self.value))

    def sin(self) -> "Value":
        """The sine."""
        return Value(math.sin(self.value), (self,), (math.cos(self.value),))


def backward(output: Value) -> None:
    """The walk back, newest first."""
    nodes, stack = {output}, [output]
    while stack:
        for node in stack.pop().inputs:
            if node not in nodes:
                nodes.add(node)
                stack.append(node)
    for node in nodes:
        node.gradient = 0.0
    output.gradient = 1.0
    for node in sorted(nodes, key=lambda node: node.number, reverse=True):
        for source, factor in zip(node.inputs, node.factors, strict=True):
            source.gradient += factor * node.gradient


def unbroadcast(gradient: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Sum over the axes that were stretched."""
    extra = gradient.ndim - len(shape)
    gradient = gradient.sum(axis=tuple(range(extra)))
    stretched = tuple(axis for axis, length in enumerate(shape) if length == 1)
    return gradient.sum(axis=stretched, keepdims=True)
