"""Fused operations: a readable composition, plus a hand-derived fast path that is held to it.

The composition is the definition. Forward mode, second derivatives, mixtures of dtypes and arrays that cannot
be written in place use it as it stands. Training takes the fast path: one node, few passes over memory, and
nothing saved but the inputs and small statistics. There the lifted reading runs the composition again from
the saved inputs; it costs one more forward pass.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from operator import attrgetter
from typing import Any, ParamSpec

from minigrad import backend
from minigrad.backend import Array
from minigrad.graph import Leaf, Node, moving, next_number, state
from minigrad.mutation import check, overwritten
from minigrad.operation import dressed
from minigrad.rules import Operation, Pairs
from minigrad.tensor import Tensor

P = ParamSpec("P")

_new = object.__new__


class Fused(Operation):
    """An operation with a fast path over the composition that defines it. Inputs may be None where it allows
    that.
    """

    def __init__(
        self, composition: Callable[..., Any], forward: Callable[..., Any], pull: Callable[..., Any]
    ) -> None:
        def signature_carrier(xp: Any, /, *inputs: Any) -> Any: ...

        signature = inspect.signature(composition)
        signature_carrier.__name__ = composition.__name__
        signature_carrier.__doc__ = composition.__doc__
        signature_carrier.__module__ = composition.__module__
        first = inspect.Parameter("xp", inspect.Parameter.POSITIONAL_ONLY)
        signature_carrier.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=[first, *signature.parameters.values()]
        )
        super().__init__(signature_carrier, {})
        self.rules = None
        self.composition, self.fast_forward, self.fast_pull = composition, forward, pull
        self.is_told = "keep" in inspect.signature(forward).parameters
        self.backwards = inspect.isgeneratorfunction(pull)

    def pull_node(
        self, xp: Any, v: Any, edges: Sequence[Node | None], node: Node, lifted: bool, once: Any = ()
    ) -> Pairs:
        arrays, kept = node.saved
        if not lifted:
            if self.backwards:
                for edge in edges:
                    if type(edge) is Leaf and edge.shown and edge.buffer is not None and edge in once:
                        overwritten(edge)
                        check(node)  # it may be what others are computed from
                open_leaf = partial(_open, once)
                found = self.fast_pull(xp, v, edges, arrays, kept, open_leaf, **node.parameters)
                return ((edges[index], g) for index, g in found)
            into: list[Array | None] = [None] * len(edges)
            for index, edge in enumerate(edges):
                if isinstance(edge, Leaf) and not edge.filled:
                    buffer = into[index] = edge.lend()
                    if buffer is not None:
                        overwritten(edge)
            needs = tuple(map(bool, edges))
            return zip(
                edges, self.fast_pull(xp, v, needs, arrays, kept, into, **node.parameters), strict=False
            )
        from minigrad.transforms import vjp

        chosen = [i for i, edge in enumerate(edges) if edge is not None]
        _, transposed = vjp(
            self._partial(node, chosen), *(Tensor.of(arrays[i], node.inputs[i]) for i in chosen)
        )
        cotangents = dict(zip(chosen, transposed(v), strict=True))
        return [(edges[i], g) for i, g in cotangents.items()]

    def push_node(self, xp: Any, tangents: Sequence[Any], node: Node, lifted: bool) -> Any:
        from minigrad.transforms import jvp

        arrays, _ = node.saved
        chosen = [i for i, t in enumerate(tangents) if t is not None]
        points = tuple(Tensor.of(arrays[i], node.inputs[i] if lifted else None) for i in chosen)
        moved = tuple(t if isinstance(t, Tensor) else Tensor.of(t) for t in (tangents[i] for i in chosen))
        tangent = jvp(self._partial(node, chosen), points, moved)[1]
        return tangent if lifted else tangent.data

    def _partial(self, node: Node, chosen: list[int]) -> Callable[..., Any]:
        """The composition as a function of the chosen inputs, the others fixed at what the node saved."""
        arrays = node.saved[0]

        def of_chosen(*values: Tensor) -> Any:
            inputs = [
                None if a is None else Tensor.of(a, edge) for a, edge in zip(arrays, node.inputs, strict=True)
            ]
            for i, value in zip(chosen, values, strict=True):
                inputs[i] = value
            return self.composition(*inputs, **node.parameters)

        return of_chosen


def _open(once: Any, edge: Node) -> Leaf | None:
    """An edge that is a leaf with a buffer, into which all of this walk's gradient may be written, or added
    where it is filled. Whoever has done so settles it.
    """
    if type(edge) is not Leaf or edge.lent or edge not in once or edge.target() is None:
        return None
    edge.lent = True
    if edge.shown:
        overwritten(edge)
    return edge


_data_of, _node_of, _dtype_of = attrgetter("data"), attrgetter("node"), attrgetter("dtype")


def _array(x: Any) -> Array | None:
    return x.data if isinstance(x, Tensor) else None if x is None else backend.asarray(x)


def calling(operation: Fused) -> Callable[..., Tensor]:
    """The function that users call: the fast path where it can be taken, otherwise the composition."""
    forward, defaults, namespaces = operation.fast_forward, operation.defaults, backend._namespaces
    is_told = operation.is_told

    def public(*inputs: Any, **parameters: Any) -> Tensor:
        try:
            nodes, arrays = tuple(map(_node_of, inputs)), tuple(map(_data_of, inputs))
            dtypes = [*map(_dtype_of, arrays)]
            alike = dtypes[0].kind in "fV" and dtypes.count(dtypes[0]) == len(dtypes)
        except AttributeError:  # they are not all Tensors
            nodes, arrays = tuple([getattr(x, "node", None) for x in inputs]), tuple(map(_array, inputs))
            alike = False
        xp = namespaces.get(type(arrays[0])) or backend.namespace(arrays[0])
        ordinary = state.ordinary
        if (
            not (alike or len({a.dtype for a in arrays if a is not None and a.dtype.kind in "fV"}) == 1)
            or not (state.fused and xp.in_place)
            or not (ordinary or not state.streaming or not any(map(moving, nodes)))
        ):
            return operation.composition(*inputs, **parameters)
        if defaults:
            parameters = {**defaults, **parameters}
        keep = (ordinary or state.recording) and any(nodes)
        try:
            if is_told:
                out, kept = forward(xp, *arrays, keep=keep, **parameters)
            else:
                out, kept = forward(xp, *arrays, **parameters)
        except (ValueError, TypeError, IndexError) as error:
            raise operation.explain(error, arrays) from error
        result = _new(Tensor)
        result.data, result.node = out, None
        if keep:
            new = result.node = _new(Node)
            new.operation, new.inputs, new.parameters = operation, nodes, parameters
            new.saved = (arrays, kept)
            new.shape, new.dtype, new.number = out.shape, out.dtype, next_number()
        return result

    return public


def fused(
    *, forward: Callable[..., Any], pull: Callable[..., Any]
) -> Callable[[Callable[P, Any]], Callable[P, Any]]:
    """Give a composition a fast path.

    `forward(xp, *arrays, **parameters)` returns the result and what `pull(xp, v, needs, arrays, kept, into,
    **parameters)` wants kept; one that names `keep` among its keywords is told there whether a pull can
    follow. `pull` returns a cotangent for each input, None where `needs` is false. Where `into` holds an
    array for an input, its cotangent may be written there.

    A `pull` that is a generator yields pairs, the number of an input and its cotangent, as soon as this is
    final, so that it can be sent while others are computed. Its `needs` are the edges, and `into(edge)` is a
    leaf into whose `buffer` the cotangent may be written, or added where it is `filled` (else None). Whoever
    does so calls the leaf's `settle()` and yields nothing.
    """

    def declare(composition: Callable[P, Any]) -> Callable[P, Any]:
        operation = Fused(composition, forward, pull)
        return dressed(calling(operation), operation)

    return declare
