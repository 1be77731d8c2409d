"""Activation checkpoints shared out over the ranks of a model-parallel world (ZeRO-R's P_a).

All ranks of such a world have the same inputs to a block, so each keeps one piece of them, and they gather
the whole before the block runs again. Per block that moves one all-gather of its inputs.

Rajbhandari et al. 2020, ZeRO: Memory Optimizations Toward Training Trillion Parameter Models, §6.1 and §8.
"""

from collections.abc import Callable
from typing import Any

from minigrad import backend
from minigrad.apply import PICK
from minigrad.checkpoint import Checkpoint, checkpoint
from minigrad.dist.contiguous import ContiguousMemory
from minigrad.dist.verbs import Array, balanced_counts
from minigrad.dist.world import World
from minigrad.graph import Leaf, Node
from minigrad.rules import OPERATIONS
from minigrad.tensor import Tensor
from minigrad.tree import flatten, rebuild


def partitioned_checkpoint(
    f: Callable[..., Any],
    *inputs: Any,
    world: World,
    memory: ContiguousMemory | None = None,
    on_host: bool = False,
) -> Any:
    """Return f(*inputs) as `mg.checkpoint` does, and keep only this rank's piece of each input.

    All ranks of `world` have the same inputs, and walk back together. Inputs that are leaves (parameters)
    are there anyway and stay whole. The pieces lie in `memory` if given, or on the host (P_a+cpu).
    """
    given = flatten(inputs)
    # The checkpoint holds on to these handles; the arrays behind them are let go.
    handles = [Tensor.of(x.data, x.node) if _computed(x) else x for x in given]
    outputs = checkpoint(f, *rebuild(inputs, handles))
    nodes = {
        x.node.inputs[0]
        for x in flatten(outputs)
        if isinstance(x, Tensor) and x.node is not None and x.node.operation is PICK
    }
    for node in nodes:
        assert node is not None  # an output of several belongs to the operation that made it
        arrays, run = node.saved
        kept = tuple(
            array if isinstance(edge, Leaf) else Kept(array, world, memory, on_host)
            for array, edge in zip(arrays, node.inputs, strict=False)
        )
        node.operation, node.saved = PARTITIONED, (kept, run)
        for x, handle in zip(given, handles, strict=True):
            if handle is not x:
                handle.data = None
    return outputs


def _computed(x: Any) -> bool:
    """Whether it is a Tensor that comes out of a graph."""
    return isinstance(x, Tensor) and x.node is not None and not isinstance(x.node, Leaf)


class Kept:
    """One rank's piece of an array that all ranks of `world` have."""

    def __init__(self, array: Array, world: World, memory: ContiguousMemory | None, on_host: bool) -> None:
        self.world, self.shape, self.dtype = world, array.shape, array.dtype
        self.namespace = backend.namespace(array)
        self.device = self.namespace.device(array)
        self.counts = balanced_counts(array.size, world.size)
        start = sum(self.counts[: world.rank])
        own = array.reshape(-1)[start : start + self.counts[world.rank]]
        if memory is not None:
            self.piece = memory.take(own.size, own.dtype)
            self.piece[...] = own
        else:
            self.piece = self.namespace.to_host(own).copy() if on_host else own.copy()

    def whole(self) -> Array:
        """The array, from all ranks' pieces."""
        piece = self.piece
        if backend.namespace(piece) is not self.namespace:
            piece = self.namespace.from_host(piece, device=self.device)
        out = self.namespace.empty(self.shape, dtype=self.dtype)
        self.world.all_gather(piece, out, counts=self.counts, purpose="activations")
        return out


class _Partitioned(Checkpoint):
    """The operation of a checkpoint whose inputs are gathered before it runs again."""

    def _held(self, node: Node) -> tuple[tuple[Any, ...], Any]:
        kept, run = node.saved
        return tuple(one.whole() if isinstance(one, Kept) else one for one in kept), run


def _partitioned(xp: Any, /, *inputs: Any) -> Any:
    """Run a function and keep only a piece of its inputs."""
    raise NotImplementedError("these nodes are made by partitioned_checkpoint")


PARTITIONED = _Partitioned(_partitioned, {})
PARTITIONED.rules, PARTITIONED.several_outputs = None, True
del OPERATIONS[PARTITIONED.name]  # not an operation of its own: a way to keep what another one needs
