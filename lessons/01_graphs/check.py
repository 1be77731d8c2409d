"""What the answers of lesson 1 must do."""

import math
from typing import NamedTuple

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from minigrad.lessons.checking import exercise, numbers, require, require_close

ENGINE = [
    "minigrad.derivatives.grad",
    "minigrad.transforms.vjp",
    "minigrad.transforms.jvp",
    "minigrad.derivatives.value_and_grad",
    "minigrad.derivatives.jacobian",
    "minigrad.tensor.Tensor.backward",
]


class Graph(NamedTuple):
    """Edges, and the last node."""

    edges: list
    end: int


@st.composite
def graphs(draw):
    """Edges among up to six nodes; the last node is the end."""
    count = draw(st.integers(2, 6))
    edges = draw(
        st.lists(
            st.tuples(st.integers(0, count - 2), st.integers(1, count - 1), numbers()).filter(
                lambda e: e[0] < e[1]
            ),
            max_size=9,
        )
    )
    return Graph(edges, count - 1)


def all_paths(edges, start, end):
    """The derivative by a stack of half-finished paths."""
    total, stack = 0.0, [(start, 1.0)]
    while stack:
        node, product = stack.pop()
        if node == end:
            total += product
        stack += [(head, product * factor) for tail, head, factor in edges if tail == node]
    return total


@exercise("1.1", "paths and their factored sum", points=1)
@given(graph=graphs())
def check_sum_over_paths(answer, graph):
    edges, end = graph
    for start in range(end + 1):
        expected = all_paths(edges, start, end)
        require_close(
            answer.sum_over_paths(list(edges), start, end), expected, f"d node {end} / d node {start}"
        )


@exercise("1.1", "paths and their factored sum", points=2)
@given(graph=graphs())
def check_derivatives(answer, graph):
    edges, end = graph
    found = answer.derivatives(list(edges), end)
    require(
        isinstance(found, dict), f"derivatives must return a dict, and yours returns a {type(found).__name__}"
    )
    for node in range(end + 1):
        expected = all_paths(edges, node, end)
        what = f"d node {end} / d node {node}"
        require_close(found.get(node, 0.0), expected, what + " (all paths that meet at a node must be added)")


@exercise("1.1", "paths and their factored sum", points=0)
def check_that_edges_are_visited_once(answer):
    layers = 40  # 3 to the 40th power paths: nobody walks them all
    edges = [(k, k + 1, 1.0) for k in range(layers) for _ in range(3)]
    found = answer.derivatives(edges, layers)
    what = "40 layers of three edges of factor 1: d node 40 / d node 0, which is 3^40"
    require_close(dict(found).get(0, 0.0), 3.0**layers, what)


def program(kind, x, y, operations):
    """Run a small random program over numbers of any kind that have +, * and sin."""
    values = [x, y]
    for name, i, j in operations:
        one, other = values[i % len(values)], values[j % len(values)]
        if name == "sin":
            values.append(kind(one))
        else:
            values.append(one + other if name == "+" else one * other)
    return values[-1]


class Program(list):
    """Operations (name, numbers of the operands), which read as a learner would write them."""

    def __repr__(self):
        lines, names = [], ["x", "y"]
        for name, i, j in self:
            one, other = names[i % len(names)], names[j % len(names)]
            lines.append(f"v{len(lines)} = " + (f"sin({one})" if name == "sin" else f"{one} {name} {other}"))
            names.append(f"v{len(lines) - 1}")
        return "; ".join(lines)


@st.composite
def programs(draw):
    """Up to eight operations on two numbers and what came of them."""
    operation = st.tuples(st.sampled_from(["+", "*", "sin"]), st.integers(0, 9), st.integers(0, 9))
    return Program(draw(st.lists(operation, min_size=1, max_size=8)))


def both_derivatives(operations, x, y):
    """Value and derivatives of the program, by exact rules on triples."""

    def add(a, b):
        return tuple(p + q for p, q in zip(a, b, strict=True))

    def multiply(a, b):
        return a[0] * b[0], a[1] * b[0] + a[0] * b[1], a[2] * b[0] + a[0] * b[2]

    values = [(x, 1.0, 0.0), (y, 0.0, 1.0)]
    for name, i, j in operations:
        one, other = values[i % len(values)], values[j % len(values)]
        if name == "sin":
            slope = math.cos(one[0])
            values.append((math.sin(one[0]), slope * one[1], slope * one[2]))
        else:
            values.append(add(one, other) if name == "+" else multiply(one, other))
    return values[-1]


@exercise("1.2", "dual numbers", points=2, rebuilds=ENGINE)
@given(operations=programs(), x=numbers(-1, 1), y=numbers(-1, 1))
def check_dual(answer, operations, x, y):
    value, by_x, by_y = both_derivatives(operations, x, y)
    for name, tangents, expected in (("x", (1.0, 0.0), by_x), ("y", (0.0, 1.0), by_y)):
        result = program(
            lambda d: d.sin(), answer.Dual(x, tangents[0]), answer.Dual(y, tangents[1]), operations
        )
        require(hasattr(result, "tangent"), f"{operations}: the result must be a Dual, not {result!r}")
        require_close(result.value, value, f"the value of {operations}")
        require_close(result.tangent, expected, f"the derivative by {name} of {operations}")


@exercise("1.2", "dual numbers", points=0)
@given(x=numbers(-1, 1), t=numbers(), number=numbers())
def check_dual_with_plain_numbers(answer, x, t, number):
    d = answer.Dual(x, t)
    for what, result, value, tangent in (
        ("x + number", d + number, x + number, t),
        ("number + x", number + d, x + number, t),
        ("x * number", d * number, x * number, number * t),
        ("number * x", number * d, x * number, number * t),
        ("exp(x)", d.exp(), math.exp(x), math.exp(x) * t),
    ):
        require(hasattr(result, "tangent"), f"{what}: the result must be a Dual, not {result!r}")
        require_close(result.value, value, f"the value of {what}")
        require_close(result.tangent, tangent, f"the tangent of {what}, where that of x is {t:g}")
    require(d.value == x and d.tangent == t, "an operation changed its operand; return a new Dual")


@exercise("1.3", "a tape and the walk back", points=3, rebuilds=ENGINE)
@given(operations=programs(), x=numbers(-1, 1), y=numbers(-1, 1))
def check_backward(answer, operations, x, y):
    value, by_x, by_y = both_derivatives(operations, x, y)
    first, second = answer.Value(x), answer.Value(y)
    output = program(lambda v: v.sin(), first, second, operations)
    require_close(output.value, value, f"the value of {operations}")
    for time in ("", " when backward runs a second time"):
        answer.backward(output)
        for name, leaf, expected in (("x", first, by_x), ("y", second, by_y)):
            what = f"the gradient of {name} in {operations}{time}"
            require_close(leaf.gradient, expected, what)
        require_close(output.gradient, 1.0, f"the gradient of the output of {operations}{time}, by itself")


@exercise("1.3", "a tape and the walk back", points=0)
def check_deep_graphs(answer):
    x = answer.Value(1.0)
    y, one = x, answer.Value(1.0)
    for _ in range(20_000):
        y = y * one
    answer.backward(y)
    require_close(x.gradient, 1.0, "the gradient at the end of a chain of 20,000 multiplications by 1")
    y = x
    for _ in range(60):
        y = y + y
    answer.backward(y)
    require_close(x.gradient, 2.0**60, "the gradient below 60 times y = y + y (each node passes on once)")


@st.composite
def stretched(draw):
    """A shape, and one that NumPy stretches to it."""
    long = draw(st.lists(st.integers(1, 3), max_size=3))
    short = [1 if draw(st.booleans()) else n for n in long]
    return tuple(long), tuple(short[draw(st.integers(0, 3)) :])


@exercise("1.4", "un-broadcasting", points=2)
@given(shapes=stretched(), seed=st.integers(0, 99))
def check_unbroadcast(answer, shapes, seed):
    long, shape = shapes
    gradient = np.random.default_rng(seed).integers(-4, 5, size=long).astype(float)
    found = answer.unbroadcast(gradient.copy(), shape)
    expected = np.zeros(shape)
    places = np.broadcast_to(np.arange(expected.size).reshape(shape), gradient.shape)
    np.add.at(expected.reshape(-1), places.reshape(-1), gradient.reshape(-1))
    require_close(found, expected, f"a gradient of shape {gradient.shape} for an array of shape {shape}")
