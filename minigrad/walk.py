"""The two walks over a graph. Both are plain loops over nodes in the order of their creation.

*Pull* carries cotangents from outputs towards inputs (reverse mode: at each node, v ↦ Jᵀv); *push* carries
tangents from inputs towards outputs (forward mode: t ↦ Jt). At each node both add up everything that arrives
there before they go on, and that is why a graph with 3^k paths costs 3k steps.

Each walk has two readings. Raw: rules get arrays, nothing is recorded. Lifted: rules get Tensors and
minigrad's own functions, so that the walk itself becomes part of the graph and can be differentiated again.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from functools import partial
from typing import Any

from minigrad import backend, mutation
from minigrad.apply import PICK
from minigrad.backend import Array
from minigrad.errors import GraphError, ShapeError
from minigrad.graph import Leaf, Node, state
from minigrad.lifted import functions, lift
from minigrad.rules import Operation
from minigrad.tensor import Tensor


def gather(roots: Iterable[Node], floor: int = 0, once: dict[Node, float] | None = None) -> list[Node]:
    """Every node that the roots were computed from, newest first; nodes older than `floor` are left out.

    A leaf takes its turn directly after its lowest-numbered consumer: that is when its gradient is final,
    although the leaf itself may be older than everything else. Leaves to which one edge leads go into `once`
    instead, if given: their gradient is final when it is there. But where rules are applied one by one, a
    hook may not overwrite what the next one reads: such a leaf waits for its turn, too.
    """
    turn: dict[Node, float] = {root: root.number for root in roots}
    found = list(turn)
    leaves = turn if once is None else once
    for node in found:  # which grows meanwhile
        place, rules = node.number - 0.5, node.operation and node.operation.rules
        for edge in node.inputs:
            if edge is None:
                continue
            if edge.operation is None:
                waits = rules and type(edge) is Leaf and edge.hooks
                if edge not in leaves and edge not in turn and not waits:
                    leaves[edge] = place
                else:
                    turn[edge] = min(place, turn.get(edge, place), leaves.pop(edge, place))
            elif edge not in turn and edge.number >= floor:
                turn[edge] = edge.number
                found.append(edge)
    return sorted(turn, key=turn.__getitem__, reverse=True)


def reaching(order: Sequence[Node], targets: Iterable[Node]) -> set[Node]:
    """The nodes of `order` from which a walk can still reach a target (the targets included)."""
    reach = set(targets)
    for node in reversed(order):
        if any(edge in reach for edge in node.inputs):
            reach.add(node)
    return reach


# ----- Pull ---------------------------------------------------------------------------------------


class Postponed:
    """The part of a pull that was left for later: gradients of leaves, after those of the targets.

    Zero-bubble pipelines send input gradients on first and compute weight gradients in a gap. Each edge is
    followed in exactly one of the two phases, in the same order as an unsplit walk would.
    """

    def __init__(self, order: list[Node], reach: set[Node], retain: bool, lifted: bool) -> None:
        self._order, self._reach, self._retain, self._lifted = order, reach, retain, lifted
        self._done = False
        self.waiting: dict[Node, Any] = {}

    def run(self) -> None:
        """Finish the walk: add the gradients of the leaves into `.grad`. Once: then it raises GraphError."""
        if self._done:
            raise GraphError(
                "the postponed part of this walk was run already; each `run` belongs to one pull"
            )
        self._done = True
        waiting, self.waiting = self.waiting, {}
        order = [node for node in self._order if node in waiting or node not in self._reach]
        self._order = []
        _walk(order, waiting, {}, self._lifted, self._retain, skip=self._reach)


def pull(
    roots: Sequence[Node],
    cotangents: Sequence[Any],
    *,
    targets: Sequence[Node] | None = None,
    lifted: bool = False,
    retain: bool = False,
    postpone: bool = False,
) -> tuple[dict[Node, Any], Postponed | None]:
    """Walk from `roots`, each with its cotangent, towards the inputs.

    Without `targets`, the gradient of every leaf is added into its `.grad`. With them, returns the cotangents
    that arrive at the targets and touches nothing else; `postpone` keeps the leaves' part for
    `Postponed.run`. A node's saved values are released when it is passed, unless `retain` is set or the
    reading is `lifted`.
    """
    retain = retain or lifted
    start: dict[Node, Any] = {}
    for root, cotangent in zip(roots, cotangents, strict=True):
        if root.operation is None and not lifted:
            cotangent = cotangent.copy()  # what a leaf gets becomes its own, and this is the caller's
        start[root] = cotangent if root not in start else start[root] + cotangent
    if targets is None:
        once: dict[Node, float] = {}
        order = gather(roots, once=once)
        for watcher in state.watchers:
            if (watch := watcher()) is not None:
                watch(order, once)
        _walk(order, start, {}, lifted, retain, once=once)
        return {}, None
    collected: dict[Node, Any] = dict.fromkeys(targets)
    order = gather(roots, 0 if postpone else min((target.number for target in targets), default=0))
    reach = reaching(order, collected)
    later = Postponed(order, reach, retain, lifted) if postpone else None
    chosen = [node for node in order if node in reach]
    _walk(chosen, start, collected, lifted, retain, only=reach, later=later)
    if later is not None:
        later.waiting.update(start)  # roots from which no target can be reached
    if not lifted:
        _disown(collected, [*cotangents, *(later.waiting.values() if later else ())])
    return collected, later


def _disown(collected: dict[Node, Any], held: Sequence[Any]) -> None:
    """Copy what a walk hands out where another result, the caller or a leaf's buffer holds its memory."""
    seen = {id(array) for array in held}
    for node, v in collected.items():
        if isinstance(node, Leaf) and node.lent:
            seen.add(id(node.buffer))
            node.lent = False
        if v is not None and (v.base is not None or id(v) in seen):
            collected[node] = v.copy()
        seen.add(id(v))


def _walk(
    order: Sequence[Node],
    cotangents: dict[Node, Any],
    collected: dict[Node, Any],
    lifted: bool,
    retain: bool,
    *,
    only: set[Node] | None = None,
    skip: set[Node] | None = None,
    later: Postponed | None = None,
    once: Container[Node] = (),
) -> None:
    """The loop of every pull. `only` and `skip` say which edges to follow; `cotangents` is used up. To leaves
    of `once` gradients are delivered as soon as they are there.
    """
    kind: type | None = None
    xp: Any = functions() if lifted else None
    for node in order:
        v = cotangents.pop(node, None)
        if v is None:
            continue
        operation = node.operation
        if collected and node in collected:
            collected[node] = v
        elif operation is None and isinstance(node, Leaf):
            deliver(node, v)
        if operation is None:
            continue
        if node.saved is None or node.number < mutation.latest:
            _check_usable(node)
        edges = node.inputs
        if operation is PICK:
            _place(cotangents, edges[0], node.parameters["index"], v)
            continue
        if only is not None or skip is not None:
            edges = tuple(edge if _follows(edge, only, skip) else None for edge in edges)
            if later is not None and edges != node.inputs:
                later.waiting[node] = v
        if not lifted and type(v) is not kind:
            kind = type(v)
            xp = backend.namespace(next(iter(v.values())) if kind is dict else v)
        rules = None if lifted else operation.rules
        pulls = rules is None and any(edges)
        pairs: Any = operation.pull_node(xp, v, edges, node, lifted, once) if pulls else enumerate(edges)
        saved: Any = None if pulls else node.saved
        if not retain and (later is None or node not in later.waiting):
            node.saved = None
        for edge, g in pairs:
            if not pulls:  # an index and its edge
                edge, g = g, None if g is None else rules[edge](xp, v, *saved[edge])  # type: ignore[index]
            if edge is None or g is None:
                continue
            if g.shape != edge.shape:
                g = unbroadcast(xp, g, edge.shape, operation)
            if g.dtype is not edge.dtype and g.dtype != edge.dtype:
                g = g.astype(edge.dtype)
            if isinstance(edge, Leaf) and edge in once:
                deliver(edge, g if lifted or edge.buffer is not None else _owned(g, v, operation, edge))
                continue
            if (old := cotangents.get(edge)) is not None:
                held = lifted or not xp.in_place or not g.shape or _may_be_held(g, v, operation)
                g = old + g if held else xp.add(old, g, out=g)
            elif edge.operation is None and not lifted:
                g = _owned(g, v, operation, edge)
            cotangents[edge] = g
        saved = None


def _may_be_held(g: Any, v: Any, operation: Operation) -> bool:
    """Whether the array that a rule returned for the cotangent v may be somebody else's too."""
    return g is v or g.base is not None or operation.pull is not None


def _owned(g: Any, v: Any, operation: Operation, leaf: Node) -> Any:
    """A leaf owns its gradient: never an array that somebody else may hold. A buffer gets a copy anyway."""
    buffered = isinstance(leaf, Leaf) and (leaf.buffer is not None or leaf.provide is not None)
    return g.copy() if not buffered and _may_be_held(g, v, operation) else g


def _follows(edge: Node | None, only: set[Node] | None, skip: set[Node] | None) -> bool:
    return edge is not None and (only is None or edge in only) and (skip is None or edge not in skip)


def _place(cotangents: dict[Node, Any], edge: Node | None, index: int, v: Any) -> None:
    """Put the cotangent of one output among those of its operation."""
    assert edge is not None
    parts = cotangents.setdefault(edge, {})
    parts[index] = v if index not in parts else parts[index] + v


def deliver(leaf: Leaf, gradient: Any) -> None:
    """Add a final gradient into the leaf, and run the leaf's hooks."""
    buffer = leaf.buffer if leaf.provide is None else leaf.target()
    if buffer is not None:
        if isinstance(gradient, Tensor):
            gradient = _without_graph(gradient)
        if leaf.filled:
            buffer += gradient
        elif gradient is not buffer:
            buffer[...] = gradient
        if leaf.shown:
            mutation.overwritten(leaf)
    elif not isinstance(gradient, Tensor):
        new = Tensor.of(backend.asarray(gradient))
        leaf.gradient = new if leaf.gradient is None else Tensor.of(leaf.gradient.data + new.data)
    else:
        own = Tensor.of(gradient.data.copy(), gradient.node)  # which may be scaled in place
        leaf.gradient = own if leaf.gradient is None else leaf.gradient + gradient
    leaf.settle()


def _without_graph(gradient: Tensor) -> Array:
    """What is written into a buffer."""
    if gradient.node is not None:
        raise GraphError(
            "a gradient with a graph of its own (create_graph) cannot be written into a given buffer; "
            "use mg.gradients(...), or set grad_buffer to None first"
        )
    return gradient.data


def unbroadcast(xp: Any, g: Any, shape: tuple[int, ...], operation: Operation | None = None) -> Any:
    """Sum `g` over the axes along which an input of `shape` was repeated: the transpose of broadcasting."""
    extra = len(g.shape) - len(shape)
    if extra < 0 or any(n not in (1, m) for n, m in zip(shape, g.shape[extra:], strict=True)):
        name = operation.name if operation is not None else "an operation"
        raise ShapeError(
            f"{name}: its derivative rule returned shape {g.shape} for an input of shape {shape}"
        )
    repeated = tuple(range(extra)) + tuple(
        extra + i for i, n in enumerate(shape) if n == 1 and g.shape[extra + i] != 1
    )
    if extra:
        leading = xp.sum(g, axis=repeated, keepdims=True)
        return xp.reshape(leading, shape)
    return xp.sum(g, axis=repeated, keepdims=True)


def _check_usable(node: Node) -> None:
    """Raise GraphError if what the node saved was released, or overwritten since."""
    if node.saved is not None:
        if node.number < mutation.latest:
            mutation.check(node)
        return
    assert node.operation is not None
    raise GraphError(
        f"the values that {node.operation.name} (node {node.number}) had saved were released by an earlier "
        "backward walk; pass retain_graph=True to that walk to go through the same graph again"
    )


# ----- Push ---------------------------------------------------------------------------------------


def push(outputs: Sequence[Node], starts: dict[Node, Any], *, lifted: bool = False) -> list[Any]:
    """Walk from `starts`, each with its tangent, to `outputs`, over a recorded graph.

    Returns the tangent of each output (None where no path leads). A tangent is dropped after its last
    consumer.
    """
    order = gather(outputs, min((node.number for node in starts), default=0))[::-1]
    last = {edge: node for node in order for edge in node.inputs if edge is not None}
    tangents: dict[Node, Any] = dict(starts)
    keep = set(outputs)
    for node in order:
        edges = node.inputs
        if node in starts or node.operation is None or not any(edge in tangents for edge in edges):
            continue
        _check_usable(node)
        incoming = [tangents.get(edge) if edge is not None else None for edge in edges]
        if node.operation is PICK:
            several: Any = incoming[0]
            part = several[node.parameters["index"]]
            if part is not None:
                tangents[node] = part
        else:
            first = next(t for t in incoming if t is not None)
            xp = functions() if lifted else backend.namespace(first)
            tangents[node] = tangent_of(node, incoming, xp, lifted=lifted)
        for edge in edges:
            if edge is not None and last[edge] is node and edge not in keep:
                tangents.pop(edge, None)
    return [tangents.get(node) for node in outputs]


def tangent_of(node: Node, tangents: Sequence[Any], xp: Any, *, lifted: bool) -> Any:
    """The tangent of a node's result from the tangents of its inputs (None: zero)."""
    operation = node.operation
    assert operation is not None
    if operation.rules is None:
        return operation.push_node(xp, tangents, node, lifted)
    total: Any = None
    for index, t in enumerate(tangents):
        if t is None:
            continue
        arguments = lift(node, index) if lifted else node.saved[index]
        if operation.linear:
            values = dict(zip(operation.wanted[index], arguments, strict=True))
            inputs = [t if k == index else values[name] for k, name in enumerate(operation.inputs)]
            forward = operation.public if lifted else partial(operation.forward, xp)
            part = forward(*inputs, **node.parameters)
        else:
            part = operation.rules[index](xp, t, *arguments)  # type: ignore[misc]
        total = part if total is None else total + part
    assert total is not None
    if total.shape != node.shape:
        total = xp.broadcast_to(total, node.shape)
    if not lifted and not backend.is_array(total):
        total = xp.asarray(total)
    return total if total.dtype == node.dtype else total.astype(node.dtype)


def seed(output: Tensor, cotangent: Any) -> Array:
    """The raw cotangent to start a walk from `output` with: ones for a single number, otherwise what the
    caller gives.
    """
    if cotangent is None:
        if output.data.size != 1:
            raise GraphError(
                f"a gradient starts from one number, and this output has shape {output.shape}; "
                "reduce it first (.sum(), .mean()) or pass the cotangent to start with"
            )
        if not output.shape:
            return backend.constant(1.0, output.data)
        return backend.namespace(output.data).ones_like(output.data)
    array = cotangent.data if isinstance(cotangent, Tensor) else backend.asarray(cotangent)
    if array.shape != output.shape:
        raise ShapeError(
            f"the cotangent has shape {array.shape}, but the output has shape {output.shape}; give it that"
        )
    return array if array.dtype == output.dtype else array.astype(output.dtype)
