"""Running an operation: compute on the arrays, and leave a node behind if derivatives are wanted.

The operations that are called most, of one and two inputs, have a path of their own, unrolled and without
anything that could be done once. All others go through `apply`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from minigrad import backend
from minigrad.backend import Array
from minigrad.graph import Dual, Node, moving, next_number, state
from minigrad.rules import Operation, nothing
from minigrad.tensor import Tensor

_new = object.__new__


def operand(x: Any, like: Array | None) -> Array:
    """A raw array of an operand that is no Tensor: a number takes the dtype of the array it stands beside."""
    if isinstance(x, (float, int)) and like is not None:
        return backend.constant(x, like)
    return backend.asarray(x)


def beside(values: Sequence[Any]) -> Array | None:
    """The array whose dtype the numbers among some operands take: floats before integers before booleans."""
    arrays = [value for value in values if hasattr(value, "dtype")]
    return max(arrays, key=lambda a: "buifV".find(a.dtype.kind), default=None)


def unary(operation: Operation) -> Callable[[Any], Tensor]:
    """The fast path of an operation of one input without parameters."""
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
            return attach(operation, (a,), (node,), out, {})
        result = _new(Tensor)
        result.data = out
        new = result.node = _new(Node)
        new.operation, new.inputs, new.parameters = operation, (node,), _EMPTY
        new.saved = (saver((a, out)),)
        new.shape, new.dtype, new.number = out.shape, out.dtype, next_number()
        return result

    return public


_EMPTY: dict[str, Any] = {}


def binary(operation: Operation) -> Callable[[Any, Any], Tensor]:
    """The fast path of an operation of two inputs without parameters."""
    forward, namespaces = operation.forward, backend._namespaces
    assert operation.rules is not None
    (rule_x, rule_y), (saver_x, saver_y) = operation.rules, operation.savers
    simple = None not in (rule_x, rule_y, saver_x, saver_y)
    save_x, save_y = saver_x or nothing, saver_y or nothing

    def public(x: Any, y: Any, /) -> Tensor:
        if isinstance(x, Tensor):
            a, p = x.data, x.node
            if isinstance(y, Tensor):
                b, q = y.data, y.node
            else:
                b, q = operand(y, a), None
        elif isinstance(y, Tensor):
            b, q = y.data, y.node
            a, p = operand(x, b), None
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
            return attach(operation, (a, b), (p, q), out, {})
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
    like = beside([x.data if isinstance(x, Tensor) else x for x in inputs]) if len(inputs) > 1 else None
    arrays = tuple([x.data if isinstance(x, Tensor) else operand(x, like) for x in inputs])
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
    return attach(operation, arrays, nodes, out, parameters)


def attach(
    operation: Operation,
    arrays: tuple[Array, ...],
    nodes: tuple[Node | None, ...],
    out: Any,
    parameters: dict[str, Any],
) -> Any:
    """Wrap the result: with a tangent if a forward derivative streams by, with a node if it is to be
    recorded.
    """
    if operation.rules is not None and None in operation.rules:  # without a rule: derivative zero
        nodes = tuple([n if rule else None for n, rule in zip(nodes, operation.rules, strict=True)])
    attached = [node for node in nodes if node is not None]
    streamed = bool(state.streaming) and any(map(moving, attached))
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
            duals = [None if t is None else Dual(t) for t in moved]
            return tuple(map(Tensor.of, out, duals))
        return Tensor.of(out, Dual(moved))
    if operation.several_outputs:
        return tuple(Tensor.of(array, pick_node(node, i, array)) for i, array in enumerate(out))
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


def pick_node(node: Node, index: int, array: Array) -> Node | None:
    """A node for output `index` of `node`: in a walk it hands its cotangent to that place of it. Integers
    have none.
    """
    if array.dtype.kind not in "fV":
        return None
    return Node(PICK, (node,), ((),), {"index": index}, array.shape, array.dtype)
