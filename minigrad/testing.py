"""Tests of derivatives, for minigrad's own operations and for yours: a check, and strategies for Hypothesis.

`check_gradients` compares both walks with central differences and with each other, to any order:

>>> import minigrad as mg
>>> mg.testing.check_gradients(mg.tanh, [0.5, -1.5])

`shapes`, `broadcastable_shapes`, `arrays` and `programs` are strategies: they import Hypothesis when called.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy

from minigrad import ops
from minigrad.errors import DTypeError, UsageError
from minigrad.graph import no_grad
from minigrad.tensor import Tensor
from minigrad.transforms import jvp, vjp
from minigrad.tree import flatten

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

Function = Callable[..., list[Tensor]]
Arrays = list[numpy.ndarray]
Shape = tuple[int, ...]

# ----- The check ----------------------------------------------------------------------------------


def check_gradients(
    f: Callable[..., Any],
    *x: Any,
    order: int = 2,
    modes: Sequence[str] = ("reverse", "forward"),
    tolerance: float = 1e-6,
    seed: int = 0,
) -> None:
    """Check the derivatives of f at x, in float64. f takes tensors and returns a tensor or a nest of them.

    For each argument a random direction t and a random cotangent v are drawn. The forward walk must give the
    J t of central differences, and the reverse walk must agree: ⟨v, J t⟩ = ⟨Jᵀ v, t⟩. For order 2 the same is
    asked of the functions (x, v) ↦ Jᵀ v and (x, t) ↦ J t, and so on: forward over reverse, reverse over
    reverse, ... `modes` leaves one walk out.

    f must be smooth within 0.002 of x (`arrays` keeps clear of kinks). `tolerance`, of the central
    differences, is relative to the largest entry; the walks must agree to 1e-9. Raises AssertionError that
    names the derivative, the argument and its worst entry, with both values.
    """
    unknown = set(modes) - {"reverse", "forward"}
    if unknown or not modes:
        raise UsageError(f'modes are "reverse" and "forward"; got {list(modes)}')
    if any(isinstance(a, dict) for a in x):
        raise UsageError("check_gradients takes tensors; give the leaves of a nest as arguments of their own")
    points = [a.numpy() if isinstance(a, Tensor) else numpy.asarray(a) for a in x]
    for place, (given, point) in enumerate(zip(x, points, strict=True)):
        if hasattr(given, "dtype") and point.dtype.kind not in "fV":
            raise DTypeError(f"argument {place} is {point.dtype}; close over what has no derivative")

    def outputs(*values: Tensor) -> list[Tensor]:
        return [y if isinstance(y, Tensor) else Tensor(y) for y in flatten(f(*values))]

    check = _Check(tuple(modes), tolerance, numpy.random.default_rng(seed))
    check.run(outputs, [point.astype("float64") for point in points], _names(f, len(x)), order, "")


def _names(f: Callable[..., Any], count: int) -> list[str]:
    try:
        parameters = list(inspect.signature(f).parameters.values())
    except ValueError:
        parameters = []  # it is written in C and does not tell
    known = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return [f"{i} ({known[i]})" if i < len(known) else str(i) for i in range(count)]


class _Check:
    """One run of `check_gradients`: its settings, and the comparisons."""

    def __init__(self, modes: tuple[str, ...], tolerance: float, random: numpy.random.Generator) -> None:
        self.modes, self.tolerance, self.random = modes, tolerance, random

    def run(self, f: Function, x: Arrays, names: list[str], order: int, over: str) -> None:
        """Compare the first derivatives of f, then those of these. `over` says of what f is a derivative."""
        if order < 1:
            return
        outputs = _evaluate(f, x)
        smooth = [k for k, value in enumerate(outputs) if value.dtype.kind == "f"]
        values = [outputs[k] for k in smooth]
        if not values:
            kinds = ", ".join(str(value.dtype) for value in outputs) or "nothing"
            raise DTypeError(f"derivatives are of floating-point outputs, and f returned {kinds}")

        def g(*tensors: Tensor) -> list[Tensor]:
            results = f(*tensors)
            return [results[k] for k in smooth]

        v = [self.random.normal(size=value.shape) for value in values]
        t = [self.random.normal(size=a.shape) for a in x]
        pulled: Arrays = []
        if "reverse" in self.modes:
            results, transposed = vjp(g, *map(Tensor, x))
            self.same(results, values, values, "reverse" + over + ", value of output {}")
            pulled = [c.data for c in transposed([Tensor(c) for c in v])]
            for i, name in enumerate(names):
                self.reverse(g, x, v, t, i, pulled[i], values, f"reverse{over}, argument {name}")
        if "forward" in self.modes:
            for i, name in enumerate(names):
                along = [Tensor(a if k == i else 0.0 * a) for k, a in enumerate(t)]
                results, moved = jvp(g, tuple(map(Tensor, x)), tuple(along))
                self.same(results, values, values, "forward" + over + ", value of output {}")
                where = f"forward{over}, argument {name}, output {{}}, along a random direction"
                self.same(moved, _differences(g, x, i, t[i]), values, where)
                if pulled:
                    _agree(pulled[i], t[i], v, [a.data for a in moved], f"both walks{over}, argument {name}")
        if order > 1:
            self.higher(g, x, v, t, names, order, over)

    def higher(
        self, g: Function, x: Arrays, v: Arrays, t: Arrays, names: list[str], order: int, over: str
    ) -> None:
        count = len(x)  # (x, v) and (x, t) come as one list
        if "reverse" in self.modes:

            def pulled(*values: Tensor) -> list[Tensor]:
                return list(vjp(g, *values[:count])[1](list(values[count:])))

            more = [f"cotangent {k}" for k in range(len(v))]
            self.run(pulled, [*x, *v], names + more, order - 1, f" over reverse{over}")
        if "forward" in self.modes:

            def pushed(*values: Tensor) -> list[Tensor]:
                return list(jvp(g, tuple(values[:count]), tuple(values[count:]))[1])

            more = [f"tangent {k}" for k in range(count)]
            self.run(pushed, [*x, *t], names + more, order - 1, f" over forward{over}")

    def reverse(
        self, g: Function, x: Arrays, v: Arrays, t: Arrays, i: int, pulled: Any, values: Arrays, where: str
    ) -> None:
        """Compare ⟨Jᵀ v, t⟩ with ⟨v, J t⟩ along argument i; where they differ, look for the entry."""
        found, expected = _inner([pulled], [t[i]]), _inner(v, _differences(g, x, i, t[i]))
        scale = _scale(
            [pulled * t[i], numpy.asarray(expected)], [a * b for a, b in zip(v, values, strict=True)]
        )
        if abs(found - expected) <= self.tolerance * scale:
            return
        each = numpy.zeros_like(x[i])
        for entry in numpy.ndindex(x[i].shape):
            unit = numpy.zeros_like(x[i])
            unit[entry] = 1.0
            each[entry] = _inner(v, _differences(g, x, i, unit))
        self.same([Tensor(pulled)], [each], values, where)
        raise AssertionError(f"{where}: ⟨Jᵀ v, t⟩ = {found:.10g}, but ⟨v, J t⟩ = {expected:.10g}")

    def same(self, found: list[Tensor], expected: Arrays, values: Arrays, where: str) -> None:
        """Compare arrays entry by entry; a NaN is never right."""
        scale = _scale(expected, values)
        for k, (result, b) in enumerate(zip(found, expected, strict=True)):
            a, name = result.data, where.format(k)
            if a.shape != b.shape:
                raise AssertionError(f"{name}: shape {a.shape}, expected {b.shape}")
            distance = numpy.where(a == b, 0.0, numpy.nan_to_num(numpy.abs(a - b), nan=numpy.inf))
            wrong = distance > self.tolerance * scale
            if numpy.any(wrong):
                entry = tuple(int(n) for n in numpy.unravel_index(numpy.argmax(distance), distance.shape))
                raise AssertionError(
                    f"{name}: worst at entry {entry}: got {a[entry]:.10g}, central differences say "
                    f"{b[entry]:.10g} ({int(numpy.sum(wrong))} of {wrong.size} entries differ)"
                )


def _evaluate(f: Function, x: Arrays) -> Arrays:
    with no_grad():
        return [y.data for y in f(*map(Tensor, x))]


def _agree(pulled: Any, t: Any, v: Arrays, moved: Arrays, where: str) -> None:
    """Raise AssertionError unless ⟨Jᵀ v, t⟩ = ⟨v, J t⟩ but for rounding."""
    reverse, forward = _inner([pulled], [t]), _inner(v, moved)
    sizes = [numpy.sum(numpy.abs(a * b)) for a, b in zip([pulled, *v], [t, *moved], strict=True)]
    if not abs(reverse - forward) <= 1e-9 * max(1e-3, *map(float, sizes)):
        message = (
            f"the reverse walk gives ⟨Jᵀ v, t⟩ = {reverse:.12g}, the forward walk ⟨v, J t⟩ = {forward:.12g}"
        )
        raise AssertionError(f"{where}: {message}")


def _differences(f: Function, x: Arrays, i: int, t: Any) -> Arrays:
    """J t along argument i by a five-point formula, whose error is of fourth order in the step."""
    step = 1e-3 / max(1e-30, float(numpy.max(numpy.abs(t), initial=0.0)))

    def moved(steps: int) -> Arrays:
        return _evaluate(f, [a + steps * step * t if k == i else a for k, a in enumerate(x)])

    points = zip(moved(1), moved(-1), moved(2), moved(-2), strict=True)
    return [numpy.asarray((8.0 * (b - a) - (d - c)) / (12.0 * step)) for b, a, d, c in points]


def _inner(a: Arrays, b: Arrays) -> float:
    return float(sum(numpy.sum(p * q) for p, q in zip(a, b, strict=True)))


def _scale(derivatives: Arrays, values: Arrays) -> float:
    """What a tolerance is relative to: the largest derivative, or what rounding leaves if it is small."""
    sizes = [numpy.abs(a) for a in derivatives] + [1e-3 * numpy.abs(a) for a in values]
    return max(1e-6, *(float(numpy.max(a, initial=0.0, where=numpy.isfinite(a))) for a in sizes))


# ----- Strategies for Hypothesis ------------------------------------------------------------------


def shapes(*, dimensions: int = 3, shortest: int = 0, longest: int = 4) -> SearchStrategy[Shape]:
    """Shapes of up to `dimensions` axes (none at all included), each `shortest` to `longest` long."""
    from hypothesis import strategies as st

    return st.lists(st.integers(shortest, longest), max_size=dimensions).map(tuple)


def broadcastable_shapes(count: int = 2, **bounds: int) -> SearchStrategy[tuple[Shape, ...]]:
    """`count` shapes that broadcast together: one of `shapes(**bounds)` with axes cut to 1 or left out."""
    from hypothesis import strategies as st

    @st.composite
    def draw(draw: Callable[[Any], Any]) -> tuple[Shape, ...]:
        whole = draw(shapes(**bounds))
        several = []
        for _ in range(count):
            cut = tuple(1 if draw(st.booleans()) else n for n in whole)
            several.append(cut[draw(st.integers(0, len(cut))) :])
        return tuple(several)

    return draw()


def arrays(shape: Any, *, positive: bool = False, dtype: Any = "float64") -> SearchStrategy[numpy.ndarray]:
    """Arrays far from every kink: entries between 0.2 and 2 in size, no two of the same size, of either sign.

    `shape` is a shape or a strategy for shapes. With `positive` no entry is negative.
    """
    from hypothesis import strategies as st

    def fill(shape: Shape, seed: int) -> numpy.ndarray:
        random = numpy.random.default_rng(seed)
        size = int(numpy.prod(shape))
        sizes = numpy.linspace(0.2, 2.0, size + 2)[1:-1] + random.uniform(-0.4, 0.4, size) * 0.9 / (size + 1)
        signs = numpy.ones(size) if positive else random.choice([-1.0, 1.0], size)
        return numpy.asarray(random.permutation(sizes) * signs, dtype).reshape(shape)

    shape = shape if hasattr(shape, "example") else st.just(tuple(shape))
    return st.builds(fill, shape, st.integers(0, 2**32 - 1))


_STEPS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sin(x)": lambda x, y: ops.sin(x),
    "tanh(x)": lambda x, y: ops.tanh(x),
    "sigmoid(x)": lambda x, y: ops.sigmoid(x),
    "x.mT": lambda x, y: x.mT,
    "(x - y) / 2": lambda x, y: (x - y) / 2.0,
    "cos(x) * y": lambda x, y: ops.cos(x) * y,
    "x / (1 + y * y)": lambda x, y: x / (1.0 + y * y),
    "tanh(x) @ y / n": lambda x, y: ops.tanh(x) @ y / float(len(x)),
    "(x + mean(y, axis=0)) / 2": lambda x, y: (x + ops.mean(y, axis=0, keepdims=True)) / 2.0,
    "concat([x, y])[1 : n + 1]": lambda x, y: ops.concat([x, y])[1 : len(x) + 1],
    "(logsumexp(x, axis=1) + y[0]) / 4": lambda x, y: (ops.logsumexp(x, axis=1, keepdims=True) + y[0]) / 4.0,
}


class Program:
    """A random graph: a sequence of operations on earlier results. Call it on square matrices.

    Printed, it reads as code. Its values stay about as small as its inputs', and it is smooth everywhere.
    """

    def __init__(self, leaves: int, chosen: list[tuple[str, int, int]]) -> None:
        self.leaves, self.chosen = leaves, chosen

    def __call__(self, *leaves: Tensor) -> Tensor:
        values = list(leaves)
        for step, first, second in self.chosen:
            values.append(_STEPS[step](values[first], values[second]))
        return values[-1]

    def __repr__(self) -> str:
        lines = ["", *(f"v{i} = leaf" for i in range(self.leaves))]
        for k, (step, x, y) in enumerate(self.chosen, self.leaves):
            lines.append(f"v{k} = {step}  # x = v{x}, y = v{y}")
        return "\n".join(lines)


def programs(*, leaves: int = 2, length: int = 12) -> SearchStrategy[Program]:
    """Random graphs over `leaves` square matrices, with up to `length` operations, reuse and diamonds."""
    from hypothesis import strategies as st

    @st.composite
    def draw(draw: Callable[[Any], Any]) -> Program:
        chosen = []
        for k in range(draw(st.integers(1, length))):
            # Recent results more often than old ones, so that the graph grows deep as well as wide.
            newest = leaves + k - 1
            first, second = (newest - draw(st.integers(0, min(newest, reach))) for reach in (2, newest))
            chosen.append((draw(st.sampled_from(sorted(_STEPS))), first, second))
        return Program(leaves, chosen)

    return draw()
