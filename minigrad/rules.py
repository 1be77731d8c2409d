"""What an operation is: its forward function, its derivative rules, and which values these want saved."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any

from minigrad import backend
from minigrad.backend import Array
from minigrad.errors import DTypeError, IndexRangeError, MinigradError, ShapeError, UsageError
from minigrad.graph import Node

Rule = Callable[..., Any]
Pairs = Iterable[tuple[Node | None, Any]]

OPERATIONS: dict[str, Operation] = {}
"""Every declared operation by name; the test suite sweeps over all of them."""


class Operation:
    """A declared operation: its forward function, its rules, and which values the rules want saved."""

    def __init__(self, forward: Callable[..., Any], rules: dict[str, Rule | None]) -> None:
        signature = inspect.signature(forward).parameters.values()
        self.name = forward.__name__.strip("_")
        self.forward = forward
        names = [p.name for p in signature if p.kind in (p.POSITIONAL_ONLY, p.VAR_POSITIONAL)]
        self.inputs = tuple(names[1:])
        self.variadic = any(p.kind is p.VAR_POSITIONAL for p in signature)
        keywords = [p for p in signature if p.kind is p.KEYWORD_ONLY]
        self.parameters = {p.name for p in keywords}
        self.defaults = {p.name: p.default for p in keywords if p.default is not p.empty}
        self.linear = False
        self.several_outputs = False
        self.pull: Rule | None = None  # general form: one function for all inputs
        self.push: Rule | None = None
        self.pull_names: tuple[str, ...] = ()
        self.push_names: tuple[str, ...] = ()
        self.rules: tuple[Rule | None, ...] | None = tuple(rules.get(name) for name in self.inputs)
        self.wanted: tuple[tuple[str, ...], ...] = tuple(_wanted(rule) for rule in self.rules)
        unknown = rules.keys() - set(self.inputs)
        if unknown:
            raise TypeError(f"{self.name}: rules for {sorted(unknown)}, but the inputs are {self.inputs}")
        self._check(name for names in self.wanted for name in names)
        self.savers = tuple(self._saver(names) for names in self.wanted)
        self.public: Callable[..., Any] = forward  # what users call, once it is made
        if self.name in OPERATIONS:
            raise TypeError(f"an operation named {self.name!r} exists already; choose another name")
        OPERATIONS[self.name] = self

    def _check(self, wanted: Iterable[str]) -> None:
        """Raise TypeError if a rule asks for a name that this operation cannot give."""
        given = {"out", *self.inputs, *self.parameters}
        for name in wanted:
            base, _, what = name.rpartition("_")
            if name not in given and not (what in ("shape", "dtype") and base in self.inputs):
                raise TypeError(
                    f"{self.name}: a rule asks for {name!r}, which is no input, parameter, shape or 'out'"
                )

    def __repr__(self) -> str:
        return f"<operation {self.name}({', '.join(self.inputs)})>"

    def _saver(self, names: tuple[str, ...]) -> Callable[[tuple[Any, ...]], tuple[Any, ...]] | None:
        """Pick `names` out of (inputs..., out) at C speed, where that is all a rule wants; otherwise None."""
        layout = (*self.inputs, "out")
        if not all(name in layout for name in names):
            return None
        places = [layout.index(name) for name in names]
        if not places:
            return nothing
        return itemgetter(slice(places[0], places[0] + 1)) if len(places) == 1 else itemgetter(*places)

    def save(self, index: int, values: tuple[Any, ...], parameters: dict[str, Any]) -> tuple[Any, ...]:
        """The arguments that the rule of input `index` asked for."""
        saver = self.savers[index]
        if saver is not None:
            return saver(values)
        return tuple(self._value(name, values, parameters) for name in self.wanted[index])

    def _value(self, name: str, values: tuple[Any, ...], parameters: dict[str, Any]) -> Any:
        if name == "out":
            return values[-1]
        if name in parameters:
            return parameters[name]
        if self.variadic and name == self.inputs[0]:
            return values[:-1]
        if name in self.inputs:
            return values[self.inputs.index(name)]
        base, _, what = name.rpartition("_")
        if self.variadic:  # of all of them
            return tuple(getattr(value, what) for value in values[:-1])
        return getattr(values[self.inputs.index(base)], what)

    def pull_node(
        self, xp: Any, v: Any, edges: Sequence[Node | None], node: Node, lifted: bool, once: Any = ()
    ) -> Pairs:
        """Pairs of edges and their cotangents (or None) from what a node saved, in the general form or when
        lifted. Leaves of `once` get no other in this walk.
        """
        from minigrad.lifted import lift

        if self.rules is not None:
            return [
                (edge, None if edge is None else rule(xp, v, *lift(node, index)))  # type: ignore[misc]
                for index, (edge, rule) in enumerate(zip(edges, self.rules, strict=True))
            ]
        if self.several_outputs:
            v = tuple(v.get(index) for index in range(len(node.shape)))
        assert self.pull is not None
        values = dict(zip(self.wanted[0], lift(node, 0) if lifted else node.saved, strict=True))
        needs = tuple(edge is not None for edge in edges)
        return zip(
            edges, self.pull(xp, v, needs, **{name: values[name] for name in self.pull_names}), strict=True
        )

    def push_node(self, xp: Any, tangents: Sequence[Any], node: Node, lifted: bool) -> Any:
        """Apply the `push` rule of the general form. A tangent has the dtype of the result."""
        from minigrad.lifted import lift

        assert self.push is not None
        values = dict(zip(self.wanted[0], lift(node, 0) if lifted else node.saved, strict=True))
        moved = self.push(xp, tangents, **{name: values[name] for name in self.push_names})
        return moved if node.dtype is None or node.dtype == moved.dtype else moved.astype(node.dtype)

    def explain(self, error: Exception, arrays: Sequence[Array]) -> MinigradError:
        """Turn an array library's complaint into one that names the operation and the shapes."""
        shapes = ", ".join(
            f"{name} {getattr(a, 'shape', a)}" for name, a in zip(self.inputs, arrays, strict=False)
        )
        if isinstance(error, MinigradError):
            return error
        kinds = {type(array) for array in arrays if array is not None}
        if len(kinds) > 1 and all(kind in backend._namespaces for kind in kinds):
            return backend.mixed(*(array for array in arrays if array is not None))
        kind: type[MinigradError] = DTypeError if isinstance(error, TypeError) else ShapeError
        kind, text = IndexRangeError if isinstance(error, IndexError) else kind, str(error)
        if "interpreted as an integer" in text:
            text += "; an axis is a whole number, several are a tuple of them"
        elif "integer powers" in text:
            kind, text = UsageError, f"{text} Convert first, as in x.astype('float64')."
        elif "broadcast" in text and kind is ShapeError:
            text += "; lengths are equal or 1, from the last axis on: insert axes, as in x[:, None]"
        return kind(f"{self.name}({shapes}): {text}")


def nothing(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """What is saved for a rule that asks for nothing."""
    return ()


def _wanted(rule: Rule | None) -> tuple[str, ...]:
    return () if rule is None else tuple(inspect.signature(rule).parameters)[2:]
