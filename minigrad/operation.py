"""Operations: declared once, forward and derivative rules side by side.

A forward function takes an array namespace `xp`, then the inputs (positional-only), then parameters. A rule
takes `xp`, the incoming derivative `v`, and *by name* whatever else it needs: an input, a parameter, `out`,
or an input's shape or dtype (`x_shape`, `x_dtype`). What it asks for is what is saved, and nothing else is
kept. There are three forms:

* `elementwise`: one factor per input serves both walks, `rule(xp, v, ...) = v · ∂f/∂x`;
* `linear`: the operation is its own derivative forwards; per input only the transpose is written;
* `general`: `pull` and `push` are written out, for any number of inputs and outputs.

`fused` (in minigrad.fused) adds a fast path to a composition of such operations. Rules never see a broadcast:
the walks take care of it. They use operators and functions of `xp` only, never `if` on values, and so they
also run on Tensors (`xp` is then minigrad itself), which is how second derivatives come about.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any, Concatenate, ParamSpec

from minigrad import backend
from minigrad.backend import Array
from minigrad.errors import DTypeError, MinigradError, ShapeError
from minigrad.graph import Dual, Node, moving, next_number, state
from minigrad.tensor import Tensor

P = ParamSpec("P")
Rule = Callable[..., Any]

OPERATIONS: dict[str, Operation] = {}
"""Every declared operation by name; the test suite sweeps over all of them."""

_new = object.__new__


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
            return _nothing
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

    def pull_node(self, xp: Any, v: Any, needs: tuple[bool, ...], node: Node, lifted: bool) -> Sequence[Any]:
        """Apply the `pull` rule of the general form to the values that a node saved."""
        from minigrad.walk import lift

        assert self.pull is not None
        values = dict(zip(self.wanted[0], lift(node, 0) if lifted else node.saved, strict=True))
        return self.pull(xp, v, needs, **{name: values[name] for name in self.pull_names})

    def push_node(self, xp: Any, tangents: Sequence[Any], node: Node, lifted: bool) -> Any:
        """Apply the `push` rule of the general form."""
        from minigrad.walk import lift

        assert self.push is not None
        values = dict(zip(self.wanted[0], lift(node, 0) if lifted else node.saved, strict=True))
        return self.push(xp, tangents, **{name: values[name] for name in self.push_names})

    def explain(self, error: Exception, arrays: Sequence[Array]) -> MinigradError:
        """Turn an array library's complaint into one that names the operation and the shapes."""
        shapes = ", ".join(
            f"{name} {getattr(a, 'shape', a)}" for name, a in zip(self.inputs, arrays, strict=False)
        )
        if isinstance(error, MinigradError):
            return error
        kinds = {type(array) for array in arrays}
        if len(kinds) > 1 and all(kind in backend._namespaces for kind in kinds):
            return backend.mixed(*arrays)
        kind = DTypeError if isinstance(error, TypeError) else ShapeError
        return kind(f"{self.name}({shapes}): {error}")


def _nothing(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return ()


def _wanted(rule: Rule | None) -> tuple[str, ...]:
    return () if rule is None else tuple(inspect.signature(rule).parameters)[2:]


# ----- Declaration --------------------------------------------------------------------------------


def elementwise(**rules: Rule | None) -> Callable[[Callable[Concatenate[Any, P], Any]], Callable[P, Any]]:
    """Declare an operation that acts entry by entry, with broadcasting. `x=rule` gives v · ∂f/∂x; None means
    zero.
    """

    def declare(forward: Callable[Concatenate[Any, P], Any]) -> Callable[P, Any]:
        return _public(Operation(forward, rules))

    return declare


def linear(**transposes: Rule | None) -> Callable[[Callable[Concatenate[Any, P], Any]], Callable[P, Any]]:
    """Declare an operation that is linear in each input that has a rule; the rule applies the transpose to
    `v`.

    A transpose must ask for every other input by name: the forward derivative is the operation itself with
    that input replaced by its tangent, and takes the others from what was saved.
    """

    def declare(forward: Callable[Concatenate[Any, P], Any]) -> Callable[P, Any]:
        operation = Operation(forward, transposes)
        operation.linear = True
        for name, wanted, rule in zip(operation.inputs, operation.wanted, operation.rules or (), strict=True):
            missing = set(operation.inputs) - {name} - set(wanted)
            if rule is not None and missing:
                raise TypeError(
                    f"{operation.name}: the transpose for {name} must ask for {sorted(missing)} too"
                )
        return _public(operation)

    return declare


def general(
    *, pull: Rule, push: Rule, several_outputs: bool = False
) -> Callable[[Callable[Concatenate[Any, P], Any]], Callable[P, Any]]:
    """Declare an operation by both rules in full.

    `pull(xp, v, needs, ...)` returns a cotangent for each input (None where `needs` is false); `push(xp,
    tangents, ...)` gets None for inputs without a tangent. With `several_outputs` the forward function
    returns a tuple, `v` is a tuple with None for unused outputs, and `push` returns a tuple.
    """

    def declare(forward: Callable[Concatenate[Any, P], Any]) -> Callable[P, Any]:
        operation = Operation(forward, {})
        operation.rules, operation.several_outputs = None, several_outputs
        operation.pull, operation.push = pull, push
        operation.pull_names = tuple(inspect.signature(pull).parameters)[3:]
        operation.push_names = tuple(inspect.signature(push).parameters)[2:]
        operation.wanted = (tuple(dict.fromkeys(operation.pull_names + operation.push_names)),)
        operation._check(operation.wanted[0])
        operation.savers = (None,)
        return _public(operation)

    return declare


def constant(forward: Callable[Concatenate[Any, P], Any]) -> Callable[P, Any]:
    """Declare an operation without a derivative (comparisons, rounding to integers, argmax): its result is a
    constant.
    """
    operation = Operation(forward, {})

    def public(*inputs: Any, **parameters: Any) -> Any:
        arrays = [x.data if isinstance(x, Tensor) else x for x in inputs]
        like = _beside(arrays)
        arrays = [_operand(a, like) for a in arrays]
        xp = backend.namespace(arrays[0])
        try:
            out = forward(xp, *arrays, **parameters)
        except (ValueError, TypeError, IndexError) as error:
            raise operation.explain(error, arrays) from error
        return Tensor.of(xp.asarray(out))

    return _dressed(public, operation)


def _public(operation: Operation) -> Callable[..., Any]:
    """The function that users call, unrolled for the operations that are called most."""
    if operation.rules is not None and not operation.variadic and not operation.parameters:
        if len(operation.inputs) == 1:
            return _dressed(_unary(operation), operation)
        if len(operation.inputs) == 2:
            return _dressed(_binary(operation), operation)

    def public(*inputs: Any, **parameters: Any) -> Any:
        return apply(operation, inputs, parameters)

    return _dressed(public, operation)


def _dressed(function: Callable[..., Any], operation: Operation) -> Callable[..., Any]:
    forward = operation.forward
    function.__name__ = function.__qualname__ = operation.name
    function.__doc__ = forward.__doc__
    function.__module__ = forward.__module__
    signature = inspect.signature(forward)
    function.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=list(signature.parameters.values())[1:]
    )
    function.operation = operation  # type: ignore[attr-defined]
    operation.public = function
    return function


# ----- Application --------------------------------------------------------------------------------


def _operand(x: Any, like: Array | None) -> Array:
    """A raw array of an operand that is no Tensor: a number takes the dtype of the array it stands beside."""
    if isinstance(x, (float, int)) and like is not None:
        return backend.constant(x, like)
    return backend.asarray(x)


def _beside(values: Sequence[Any]) -> Array | None:
    """The array whose dtype the numbers among some operands take: floats before integers before booleans."""
    arrays = [value for value in values if hasattr(value, "dtype")]
    return max(arrays, key=lambda a: "buifV".find(a.dtype.kind), default=None)


def _unary(operation: Operation) -> Callable[[Any], Tensor]:
    forward, namespaces = operation.forward, backend._namespaces
    assert operation.rules is not None
    (rule,), (saver,) = operation.rules, operation.savers

    def public(x: Any, /) -> Tensor:
        if not isinstance(x, Tensor):
            x = Tensor.of(backend.asarray(x))
        a, node = x.data, x.node
        kind = type(a)
        xp = namespaces.get(kind) or backend.namespace(a)
        try:
            out = forward(xp, a)
        except (ValueError, TypeError) as error:
            raise operation.explain(error, (a,)) from error
        if type(out) is not kind:
            out = xp.asarray(out)
        if node is None or rule is None:
            return Tensor.of(out)
        if not state.ordinary or saver is None:
            return _attach(operation, (a,), (node,), out, {})
        result = _new(Tensor)
        result.data = out
        new = result.node = _new(Node)
        new.operation, new.inputs, new.parameters = operation, (node,), _EMPTY
        new.saved = (saver((a, out)),)
        new.shape, new.dtype, new.number = out.shape, out.dtype, next_number()
        return result

    return public


_EMPTY: dict[str, Any] = {}


def _binary(operation: Operation) -> Callable[[Any, Any], Tensor]:
    forward, namespaces = operation.forward, backend._namespaces
    assert operation.rules is not None
    (rule_x, rule_y), (saver_x, saver_y) = operation.rules, operation.savers
    simple = None not in (rule_x, rule_y, saver_x, saver_y)
    save_x, save_y = saver_x or _nothing, saver_y or _nothing

    def public(x: Any, y: Any, /) -> Tensor:
        if isinstance(x, Tensor):
            a, p = x.data, x.node
            if isinstance(y, Tensor):
                b, q = y.data, y.node
            else:
                b, q = _operand(y, a), None
        elif isinstance(y, Tensor):
            b, q = y.data, y.node
            a, p = _operand(x, b), None
        else:
            a, b, p, q = backend.asarray(x), backend.asarray(y), None, None
        kind = type(a)
        xp = namespaces.get(kind) or backend.namespace(a)
        try:
            out = forward(xp, a, b)
        except (ValueError, TypeError) as error:
            raise operation.explain(error, (a, b)) from error
        if type(out) is not kind:
            out = xp.asarray(out)
        if p is None and q is None:
            return Tensor.of(out)
        if not state.ordinary or not simple:
            return _attach(operation, (a, b), (p, q), out, {})
        values = (a, b, out)
        result = _new(Tensor)
        result.data = out
        new = result.node = _new(Node)
        new.operation, new.inputs, new.parameters = operation, (p, q), _EMPTY
        new.saved = (save_x(values) if p is not None else None, save_y(values) if q is not None else None)
        new.shape, new.dtype, new.number = out.shape, out.dtype, next_number()
        return result

    return public


def apply(operation: Operation, inputs: tuple[Any, ...], parameters: dict[str, Any]) -> Any:
    """Run any operation on Tensors, arrays or numbers and record it: the general path."""
    if not inputs or not (operation.variadic or len(inputs) == len(operation.inputs)):
        needed = "at least one input" if operation.variadic else f"{len(operation.inputs)} inputs"
        raise TypeError(f"{operation.name} takes {needed}, got {len(inputs)}")
    parameters = {**operation.defaults, **parameters}
    if parameters.keys() != operation.parameters:
        raise TypeError(f"{operation.name} takes {sorted(operation.parameters)}, got {sorted(parameters)}")
    like = _beside([x.data if isinstance(x, Tensor) else x for x in inputs])
    arrays = tuple([x.data if isinstance(x, Tensor) else _operand(x, like) for x in inputs])
    nodes = tuple([x.node if isinstance(x, Tensor) else None for x in inputs])
    xp = backend.namespace(arrays[0])
    try:
        out = operation.forward(xp, *arrays, **parameters)
    except (ValueError, TypeError, IndexError) as error:
        raise operation.explain(error, arrays) from error
    if operation.several_outputs:
        out = tuple(xp.asarray(part) for part in out)
    elif type(out) is not type(arrays[0]) and not backend.is_array(out):  # (a transfer changes the library)
        out = xp.asarray(out)
    return _attach(operation, arrays, nodes, out, parameters)


def _attach(
    operation: Operation,
    arrays: tuple[Array, ...],
    nodes: tuple[Node | None, ...],
    out: Any,
    parameters: dict[str, Any],
) -> Any:
    """Wrap the result: with a tangent if a forward derivative streams by, with a node if it is to be
    recorded.
    """
    if operation.rules is not None:  # an input without a rule has derivative zero
        nodes = tuple(n if rule is not None else None for n, rule in zip(nodes, operation.rules, strict=True))
    attached = [node for node in nodes if node is not None]
    streamed = state.streaming and any(map(moving, attached))
    if streamed and not state.recording:
        nodes = tuple(node if moving(node) else None for node in nodes)
        attached = [node for node in nodes if node is not None]
    kinds = {array.dtype.kind for array in out} if operation.several_outputs else {out.dtype.kind}
    if not attached or not (state.recording or streamed) or not kinds & {"f", "V"}:
        return tuple(map(Tensor.of, out)) if operation.several_outputs else Tensor.of(out)
    node = record(operation, arrays, nodes, out, parameters)
    if streamed and all(map(moving, attached)):
        from minigrad.walk import tangent_of

        tangents = [n.tangent if isinstance(n, Dual) else None for n in nodes]
        moved = tangent_of(node, tangents, backend.namespace(arrays[0]), lifted=False)
        if operation.several_outputs:
            return tuple(
                Tensor.of(array, Dual(t) if t is not None else None)
                for array, t in zip(out, moved, strict=True)
            )
        return Tensor.of(out, Dual(moved))
    if operation.several_outputs:
        return tuple(
            Tensor.of(array, pick_node(node, i, array) if array.dtype.kind in "fV" else None)
            for i, array in enumerate(out)
        )
    return Tensor.of(out, node)


def record(
    operation: Operation,
    arrays: tuple[Array, ...],
    nodes: tuple[Node | None, ...],
    out: Any,
    parameters: dict[str, Any],
) -> Node:
    """Make the node of an operation that just ran, saving what its rules ask for."""
    values = (*arrays, out)
    if operation.rules is not None:
        saved: Any = tuple(
            operation.save(i, values, parameters) if node is not None else None
            for i, node in enumerate(nodes)
        )
    else:
        saved = operation.save(0, values, parameters)
    shape, dtype = (
        (tuple(a.shape for a in out), None) if operation.several_outputs else (out.shape, out.dtype)
    )
    return Node(operation, nodes, saved, parameters, shape, dtype)


class _Pick(Operation):
    """One of several outputs, as a node of its own, so that a Tensor always belongs to exactly one node."""


def _pick(xp: Any, several: Any, /, *, index: int) -> Any:
    """Select output `index` of an operation with several outputs."""
    return several[index]


PICK = _Pick(_pick, {})


def pick_node(node: Node, index: int, array: Array) -> Node:
    """A node for output `index` of `node`: in a walk it hands its cotangent to that place of it."""
    return Node(PICK, (node,), ((),), {"index": index}, array.shape, array.dtype)
