"""Derivatives of functions: each transform runs the function on alias nodes of its inputs and walks between
them.

Because a transform starts and stops exactly at its own aliases, transforms nest in any order without
confusing their perturbations: an inner derivative never sees the outer one's variable, and the other way
round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from minigrad import backend
from minigrad.errors import DTypeError, ShapeError
from minigrad.graph import Dual, Node, mode, moving, next_number, state
from minigrad.ops import creation
from minigrad.ops.shape import alias
from minigrad.tensor import Tensor
from minigrad.tree import flatten, paired, rebuild
from minigrad.walk import gather, pull, push, seed


def _differentiable(x: Any) -> Tensor:
    x = x if isinstance(x, Tensor) else Tensor(x)
    if x.dtype.kind not in "fV":
        raise DTypeError(
            f"derivatives are taken at floating-point tensors, and this one is {x.dtype}; use x.astype(...)"
        )
    return x


def _aliases(leaves: Sequence[Any]) -> tuple[list[Tensor], list[Node]]:
    """Fresh nodes for the inputs of a transform, linked to their history if they have one."""
    from minigrad.apply import record

    tensors, nodes = [], []
    for x in map(_differentiable, leaves):
        node = record(alias.operation, (x.data,), (x.node,), x.data, {})  # type: ignore[attr-defined]
        tensors.append(Tensor.of(x.data, node))
        nodes.append(node)
    return tensors, nodes


def _beyond(roots: Sequence[Node], own: Sequence[Node]) -> bool:
    """Whether the graph of `roots` reaches anything but this transform's own starting nodes."""
    inside = set(own)
    floor = min((node.number for node in own), default=0)
    if any(root not in inside and (root.operation is None or root.number < floor) for root in roots):
        return True
    for node in gather(roots, floor):
        for edge in node.inputs:
            if edge is not None and edge not in inside and (edge.operation is None or edge.number < floor):
                return True
    return any(edge is not None for node in own for edge in node.inputs)


def _settled(tensors: list[Tensor], beyond: bool = True) -> list[Tensor]:
    """Results as the caller's mode wants them: in the graph, as a streamed dual number, or as constants."""
    if not beyond or not (state.recording or state.streaming):
        return [Tensor.of(x.data) for x in tensors]
    if state.recording:
        return tensors
    nodes = [x.node for x in tensors if x.node is not None]
    duals: dict[Node, Any] = {
        node: node.tangent for node in gather(nodes) if isinstance(node, Dual) and moving(node)
    }
    moved = dict(zip(nodes, push(nodes, duals), strict=True)) if nodes else {}
    return [
        x
        if isinstance(x.node, Dual)
        else Tensor.of(x.data, Dual(t) if (t := moved.get(x.node)) is not None else None)  # type: ignore[arg-type]
        for x in tensors
    ]


# ----- Reverse mode -------------------------------------------------------------------------------


def vjp(f: Callable[..., Any], *inputs: Any) -> tuple[Any, Callable[[Any], Any]]:
    """Return f(*inputs) and the function v ↦ Jᵀv, which gives a cotangent for each input (a tuple, in their
    nesting).

    v is nested as the outputs are: dicts are paired by key. Tensors nobody depends on get zeros. The function
    can be called any number of times. Raises ShapeError where nests or shapes do not fit.
    """
    leaves = flatten(inputs)
    tensors, nodes = _aliases(leaves)
    with mode(recording=True):
        outputs = f(*rebuild(inputs, list(tensors)))
    results = [x if isinstance(x, Tensor) else Tensor(x) for x in flatten(outputs)]
    roots = [x.node for x in results if x.node is not None]
    beyond = (state.recording or state.streaming > 0) and bool(nodes) and _beyond(roots, nodes)

    def transposed(cotangent: Any) -> Any:
        cotangents = paired("cotangents", cotangent, "outputs", outputs)
        return rebuild(inputs, _pulled(results, cotangents, tensors, nodes, beyond))

    return rebuild(outputs, _settled(results, beyond)), transposed


def _pulled(
    outputs: list[Tensor], cotangents: list[Any], inputs: list[Tensor], nodes: list[Node], beyond: bool
) -> list[Tensor]:
    """Cotangents at a transform's aliases; recorded if that matters to anybody outside."""
    pairs = [(x.node, c, x) for x, c in zip(outputs, cotangents, strict=True) if x.node is not None]
    roots = [node for node, _, _ in pairs]
    starts: list[Any] = [seed(x, c) for _, c, x in pairs]
    attached = any(isinstance(c, Tensor) and c.node is not None for _, c, _ in pairs)
    lifted = beyond or ((state.recording or state.streaming > 0) and attached)
    if lifted:
        starts = [
            c if isinstance(c, Tensor) else Tensor.of(s) for (_, c, _), s in zip(pairs, starts, strict=True)
        ]
    with mode(recording=lifted):
        found, _ = pull(roots, starts, targets=nodes, lifted=lifted, retain=True)
    cotangents = []
    for x, node in zip(inputs, nodes, strict=True):
        g = found[node]
        if g is None:
            g = creation.zeros_like(Tensor.of(x.data))
        cotangents.append(g if isinstance(g, Tensor) else Tensor.of(backend.asarray(g)))
    return _settled(cotangents, lifted)


# ----- Forward mode -------------------------------------------------------------------------------


def jvp(f: Callable[..., Any], inputs: Any, tangents: Any) -> tuple[Any, Any]:
    """Return f(x) and Jt, the derivative of f at x in direction t. A tuple of inputs is f's several
    arguments; tangents are nested as the inputs are, and dicts are paired by key.

    At the top level the tangent travels with the computation and nothing is kept, so memory is that of
    running f alone.
    """
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    leaves = [_differentiable(x) for x in flatten(arguments)]
    moves = [
        t if isinstance(t, Tensor) else Tensor(t) for t in paired("tangents", tangents, "inputs", inputs)
    ]
    if [x.shape for x in leaves] != [t.shape for t in moves]:
        raise ShapeError(f"tangents {[t.shape for t in moves]} do not fit inputs {[x.shape for x in leaves]}")
    moves = [t.astype(x.dtype) for x, t in zip(leaves, moves, strict=True)]
    nested = state.streaming or (state.recording and any(x.node is not None for x in (*leaves, *moves)))
    run = _jvp_recorded if nested else _jvp_streamed
    outputs, results, moved, beyond = run(f, arguments, leaves, moves)
    moved = [creation.zeros_like(x.detach()) if t is None else t for x, t in zip(results, moved, strict=True)]
    return rebuild(outputs, _settled(results, beyond)), rebuild(outputs, _settled(moved, beyond))


def _jvp_streamed(f: Callable[..., Any], arguments: Any, leaves: list[Tensor], moves: list[Tensor]) -> Any:
    began = next_number()
    duals = [Dual(t.data) for t in moves]
    with mode(streaming=began):
        outputs = f(
            *rebuild(arguments, [Tensor.of(x.data, dual) for x, dual in zip(leaves, duals, strict=True)])
        )
    results = [x if isinstance(x, Tensor) else Tensor(x) for x in flatten(outputs)]
    recorded = [x.node for x in results if x.node is not None and not isinstance(x.node, Dual)]
    # What met tensors of a graph on its way was recorded there, and its tangent belongs to that graph too.
    starts: dict[Node, Any] = {
        node: node.tangent for node in gather(recorded) if isinstance(node, Dual) and node.number > began
    }
    beyond = state.recording and _beyond(recorded, list(starts))
    if beyond:
        starts = {node: Tensor.of(tangent) for node, tangent in starts.items()}
    pushed = iter(push(recorded, starts, lifted=beyond) if starts else [None] * len(recorded))
    moved = [_tangent(x.node, pushed) for x in results]
    return outputs, [x.detach() if isinstance(x.node, Dual) else x for x in results], moved, beyond


def _tangent(node: Node | None, pushed: Iterator[Any]) -> Tensor | None:
    if node is None:
        return None
    tangent = node.tangent if isinstance(node, Dual) else next(pushed)
    return tangent if tangent is None or isinstance(tangent, Tensor) else Tensor.of(backend.asarray(tangent))


def _jvp_recorded(f: Callable[..., Any], arguments: Any, leaves: list[Tensor], moves: list[Tensor]) -> Any:
    tensors, nodes = _aliases(leaves)
    with mode(recording=True):
        outputs = f(*rebuild(arguments, list(tensors)))
        results = [x if isinstance(x, Tensor) else Tensor(x) for x in flatten(outputs)]
        attached = [x.node for x in results if x.node is not None]
        pushed = iter(push(attached, dict(zip(nodes, moves, strict=True)), lifted=True))
    # A result may be a dual number of an enclosing derivative: in this one it stands still.
    return outputs, results, [None if x.node is None else next(pushed) for x in results], True
