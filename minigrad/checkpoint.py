"""Checkpointing: forget what a function computed on the way, and compute it again when a walk comes by.

Papers: Griewank, Walther 2000, Revolve; Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost, §3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from minigrad import mutation, random
from minigrad.apply import pick_node
from minigrad.errors import GraphError
from minigrad.graph import Leaf, Node, mode, next_number, state
from minigrad.ops.shape import alias
from minigrad.rules import Operation, Pairs
from minigrad.tensor import Tensor
from minigrad.tree import flatten, rebuild
from minigrad.walk import _walk, gather, push


def checkpoint(f: Callable[..., Any], *inputs: Any) -> Any:
    """Return f(*inputs) and keep only the inputs; the pull walk runs f once more for what its rules need.

    Inputs and outputs may be nested. Parameters that f closes over get their gradients, and random numbers
    come out the same again. f must compute the same each time: it must not depend on what changes in between.
    What f keeps is held until f returns, so memory is saved where f is one part of many.

    >>> import minigrad as mg
    >>> x = mg.tensor(2.0, requires_grad=True)
    >>> mg.checkpoint(lambda x: mg.exp(x * x), x).backward()
    >>> round(x.grad.item(), 3)
    218.393
    """
    leaves = flatten(inputs)
    given = [i for i, x in enumerate(leaves) if isinstance(x, Tensor) and x.node is not None]
    if not state.recording or state.streaming:
        return f(*inputs)
    before = random.snapshot()

    def run(values: Sequence[Tensor]) -> tuple[int, Any]:
        """Run f with these in place of its inputs. Also the number from which its nodes count."""
        replaced = list(leaves)
        for i, value in zip(given, values, strict=True):
            replaced[i] = value
        start = next_number()
        with mode(recording=True):
            outputs = f(*rebuild(inputs, replaced))
        # What f merely hands on is given a node of its own, so that every result is one of f's.
        fresh = [own_node(x, start) for x in flatten(outputs)]
        return start, rebuild(outputs, fresh)

    entries = [entry(leaves[i].data) for i in given]
    start, outputs = run(entries)
    results = flatten(outputs)
    places = [i for i, x in enumerate(results) if isinstance(x, Tensor) and x.node is not None]
    if not places:
        return outputs
    outside = closed_over(outputs, start, entries)

    def run_again(values: Sequence[Tensor]) -> tuple[int, Any]:
        with random.restored(before):
            return run(values)

    saved = (tuple(leaves[i].data for i in given), run_again)
    shapes: Any = tuple(results[i].shape for i in places)
    node = Node(CHECKPOINT, (*(leaves[i].node for i in given), *outside), saved, {}, shapes, None)
    for number, i in enumerate(places):
        results[i] = Tensor.of(results[i].data, pick_node(node, number, results[i].data))
    return rebuild(outputs, results)


def closed_over(outputs: Any, start: int, entries: Sequence[Tensor]) -> list[Node]:
    """The nodes older than `start`, beside the entries, that the outputs were computed from."""
    own = {x.node for x in entries}
    edges = dict.fromkeys(e for node in gather(_nodes(outputs), start) for e in node.inputs if e is not None)
    return [edge for edge in edges if edge.number < start and edge not in own]


def entry(array: Any) -> Tensor:
    """A Tensor that stands for an input, a leaf where the function's own graph begins."""
    return Tensor.of(array, Leaf(array.shape, array.dtype))


def own_node(x: Any, start: int) -> Any:
    """x with a node from `start` on: what a function merely hands on gets one of its own."""
    return alias(x) if isinstance(x, Tensor) and x.node is not None and x.node.number < start else x


def _nodes(outputs: Any) -> list[Node]:
    return [x.node for x in flatten(outputs) if isinstance(x, Tensor) and x.node is not None]


class Checkpoint(Operation):
    """The operation of checkpoint nodes: both rules run the function again and go on from there.

    A node's inputs are those of the function and, after them, whatever it closed over.
    """

    def _again(self, node: Node, lifted: bool) -> tuple[int, list[Node], list[Node | None]]:
        """The number from which the new nodes count, the outputs' nodes, and what stands for the inputs."""
        arrays, run = self._held(node)
        values = [
            Tensor.of(a, edge) if lifted else entry(a) for a, edge in zip(arrays, node.inputs, strict=False)
        ]
        start, outputs = run(values)
        roots = _nodes(outputs)
        if len(roots) != len(node.shape):
            raise GraphError(
                f"a checkpointed function had {len(node.shape)} outputs with a gradient, and {len(roots)} "
                "when it ran again; it must compute the same each time"
            )
        if node.number < mutation.latest:
            for fresh in gather(roots, start):
                mutation.check(fresh, since=node)
        return start, roots, [*(value.node for value in values), *node.inputs[len(arrays) :]]

    def _held(self, node: Node) -> tuple[tuple[Any, ...], Callable[[Sequence[Tensor]], tuple[int, Any]]]:
        """The arrays of the inputs that have a gradient, and what runs the function on Tensors of them."""
        arrays, run = node.saved
        return arrays, run

    def pull_node(
        self, xp: Any, v: Any, edges: Sequence[Node | None], node: Node, lifted: bool, once: Any = ()
    ) -> Pairs:
        start, roots, inner = self._again(node, lifted)
        cotangents: dict[Node, Any] = {}
        for index, root in enumerate(roots):
            part = v.get(index)
            if part is not None:
                cotangents[root] = part if root not in cotangents else cotangents[root] + part
        leaves = [edge for edge in inner if edge is not None and edge.operation is None]
        collected: dict[Node, Any] = dict.fromkeys(leaves)
        # Older nodes are not walked through: what arrives there stays in `cotangents`, for the outer walk.
        with mode(recording=lifted):
            _walk(gather(roots, start), cotangents, collected, lifted, lifted)
        found = {**cotangents, **collected}
        return [
            (edge, found.pop(own, None)) for edge, own in zip(edges, inner, strict=True) if own is not None
        ]

    def push_node(self, xp: Any, tangents: Sequence[Any], node: Node, lifted: bool) -> Any:
        _, roots, edges = self._again(node, lifted)
        starts = {e: t for e, t in zip(edges, tangents, strict=True) if e is not None and t is not None}
        return tuple(push(roots, starts, lifted=lifted))


def _checkpoint(xp: Any, /, *inputs: Any) -> Any:
    """Run a function and keep only its inputs."""
    raise NotImplementedError("checkpoint nodes are made by mg.checkpoint")


CHECKPOINT = Checkpoint(_checkpoint, {})
CHECKPOINT.rules, CHECKPOINT.several_outputs = None, True
