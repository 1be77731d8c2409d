"""Collectives on Tensors: the derivative of a collective is a collective.

A value is *replicated* over a world where all ranks hold the same one, which counts once in an inner product,
or *per rank* where each has its own, and all of them count. Each collective declares both of its sides. Under
that inner product ⟨v, J t⟩ = ⟨Jᵀ v, t⟩, over all ranks together, and that decides what its reverse is:

    replicate        replicated → per rank     all_reduce      (data parallelism; Megatron's f)
                                               all_gather and a sum here (`gathered=True`)
    all_reduce       per rank → replicated     replicate       (Megatron's g)
    all_gather       per rank → per rank       reduce_scatter  (ZeRO-3: parameters live as shards)
    all_gather       per rank → replicated     shard           (`replicated=True`)
    shard            replicated → per rank     all_gather, replicated
    reduce_scatter   per rank → per rank       all_gather      (sequence parallelism)
    all_to_all       per rank → per rank       all_to_all, with the counts exchanged
    broadcast        per rank → per rank       reduce          (only the root's input counts)
    reduce           per rank → per rank       broadcast       (the other ranks get zeros)
    gather, scatter  per rank → per rank       scatter, gather
    send, receive    between two ranks         receive, send   (`minigrad/dist/collective_messages.py`)

Walks visit nodes in the order of their creation, the same on all ranks, and so collectives meet. For that,
all ranks must call the same and use what comes out of it alike. Where ranks have different parts (broadcast,
reduce, gather, scatter, send, receive), the operation is recorded on each of them whether or not its own
input wants a gradient; hand data round with the verbs of the World, or in `mg.no_grad()`. Pieces are rows:
`counts` are lengths along the first axis, one for each rank.

`purpose` is what the ledger books; gradients of parameters come back as "gradients", and the other way round.
"""

from collections.abc import Sequence
from typing import Any, cast

from minigrad.dist.algorithms import LIBRARY
from minigrad.dist.collective_messages import receive, send
from minigrad.dist.collective_rules import COLLECTIVES, How, anchored, tensor
from minigrad.dist.refusals import Purpose
from minigrad.dist.verbs import balanced_counts
from minigrad.dist.world import World
from minigrad.errors import ShapeError
from minigrad.tensor import Tensor

__all__ = [
    "replicate",
    "all_reduce",
    "all_gather",
    "shard",
    "reduce_scatter",
    "all_to_all",
    "broadcast",
    "reduce",
    "gather",
    "scatter",
    "send",
    "receive",
]


def replicate(
    x: Any,
    world: World,
    *,
    gathered: bool = False,
    purpose: Purpose = "activations",
    algorithm: str = LIBRARY,
) -> Tensor:
    """x itself, from here on used by each rank in its own way: its gradients are summed over ranks.

    `gathered`: every rank gets all of them, in one all-gather, and adds them up itself. That moves N/2 times
    the bytes of an all-reduce over N ranks, in fewer steps: for what is small.
    """
    name = "replicate_to_gather" if gathered else "replicate"
    return _run(name, x, How(world, purpose, algorithm))


def all_reduce(
    x: Any,
    world: World,
    *,
    replicated: bool = True,
    purpose: Purpose = "activations",
    algorithm: str = LIBRARY,
) -> Tensor:
    """The sum of all ranks' x. `replicated`: all ranks go on alike from here, and the gradient is one of it;
    if not, each uses it in its own way, and their gradients are summed too.

    >>> import minigrad as mg
    >>> from minigrad import dist
    >>> def main(world):
    ...     weight = mg.tensor(3.0, requires_grad=True)
    ...     loss = all_reduce(replicate(weight, world) * (world.rank + 1.0), world)
    ...     loss.backward()
    ...     return loss.item(), weight.grad.item()
    >>> dist.spawn(main, ranks=3)
    [(18.0, 6.0), (18.0, 6.0), (18.0, 6.0)]
    """
    name = "all_reduce" if replicated else "all_reduce_to_each"
    return _run(name, x, How(world, purpose, algorithm))


def all_gather(
    x: Any,
    world: World,
    *,
    counts: Sequence[int] | None = None,
    replicated: bool = False,
    purpose: Purpose = "activations",
    algorithm: str = LIBRARY,
) -> Tensor:
    """The rows of all ranks, one rank after the other: `counts[r]` of rank r, by default as many as here.

    `replicated`: all ranks go on alike from here, so that this rank's part of the gradient is its own rows.
    """
    x, counts = _pieces("all_gather", x, world, counts)
    name = "all_gather_replicated" if replicated else "all_gather"
    return _run(name, x, How(world, purpose, algorithm, counts=counts))


def shard(
    x: Any,
    world: World,
    *,
    counts: Sequence[int] | None = None,
    purpose: Purpose = "activations",
    algorithm: str = LIBRARY,
) -> Tensor:
    """This rank's rows of a replicated x: `counts[r]` for rank r, by default as even as can be."""
    x, counts = _cut("shard", x, world, counts)
    return _run("shard", x, How(world, purpose, algorithm, counts=counts))


def reduce_scatter(
    x: Any,
    world: World,
    *,
    counts: Sequence[int] | None = None,
    purpose: Purpose = "activations",
    algorithm: str = LIBRARY,
) -> Tensor:
    """This rank's rows of the sum of all ranks' x: `counts[r]` for rank r, by default as even as can be."""
    x, counts = _cut("reduce_scatter", x, world, counts)
    return _run("reduce_scatter", x, How(world, purpose, algorithm, counts=counts))


def all_to_all(
    x: Any,
    world: World,
    *,
    counts: Sequence[int] | None = None,
    counts_received: Sequence[int] | None = None,
    purpose: Purpose = "activations",
) -> Tensor:
    """The rows that every rank has for this one: `counts[s]` of x go to rank s, `counts_received[s]` come.

    Without either, all ranks bring as many rows, which are split as evenly as can be.
    """
    x, given = _cut("all_to_all", x, world, counts)
    if counts is None and counts_received is None:
        counts_received = [given[world.rank]] * world.size
    if counts_received is None or len(counts_received) != world.size:
        raise ShapeError(
            f"{world.name}: all_to_all got counts_received {counts_received}; give {world.size}, one per rank"
        )
    return _run("all_to_all", x, How(world, purpose, counts=given, counts_received=tuple(counts_received)))


def broadcast(
    x: Any, world: World, *, root: int = 0, purpose: Purpose = "activations", algorithm: str = LIBRARY
) -> Tensor:
    """Rank `root`'s x. Elsewhere x only tells shape and dtype, and its gradient is zero."""
    return _run("broadcast", anchored(x), How(world, purpose, algorithm, root))


def reduce(
    x: Any, world: World, *, root: int = 0, purpose: Purpose = "activations", algorithm: str = LIBRARY
) -> Tensor:
    """The sum of all ranks' x on rank `root`, and zeros elsewhere."""
    return _run("reduce", anchored(x), How(world, purpose, algorithm, root))


def gather(
    x: Any,
    world: World,
    *,
    root: int = 0,
    counts: Sequence[int] | None = None,
    purpose: Purpose = "activations",
) -> Tensor:
    """On rank `root` the rows of all ranks, `counts[r]` of rank r, by default as many as here; elsewhere no
    rows.
    """
    x, counts = _pieces("gather", x, world, counts)
    return _run("gather", anchored(x), How(world, purpose, root=root, counts=counts))


def scatter(
    x: Any, world: World, *, counts: Sequence[int], root: int = 0, purpose: Purpose = "activations"
) -> Tensor:
    """This rank's rows, `counts[r]` for rank r, of what rank `root` has. Elsewhere x has no rows, as in
    `mg.zeros((0, 3))`, and tells only what a row is.
    """
    x = tensor(x)
    expected = sum(counts) if world.rank == root else 0
    if len(counts) != world.size or x.ndim == 0 or x.shape[0] != expected:
        raise ShapeError(
            f"{world.name}: scatter got shape {x.shape} and counts {tuple(counts)}; give {world.size} "
            f"counts, one per rank, and {expected} rows here"
        )
    return _run("scatter", anchored(x), How(world, purpose, root=root, counts=tuple(counts)))


# ----------------------------------------------------------------------------------------- helpers


def _run(name: str, x: Any, how: How) -> Tensor:
    return cast("Tensor", COLLECTIVES[name].run(tensor(x), how=how))


def _pieces(name: str, x: Any, world: World, counts: Sequence[int] | None) -> tuple[Tensor, tuple[int, ...]]:
    """x, whose rows are this rank's piece, and the rows of all pieces."""
    x = tensor(x)
    sizes = (x.shape[0] if x.ndim else -1,) * world.size if counts is None else tuple(counts)
    if x.ndim == 0 or len(sizes) != world.size or sizes[world.rank] != x.shape[0]:
        raise ShapeError(
            f"{world.name}: {name} got shape {x.shape} and counts {sizes}; give {world.size} counts, one per "
            "rank, and as many rows as this rank's"
        )
    return x, sizes


def _cut(name: str, x: Any, world: World, counts: Sequence[int] | None) -> tuple[Tensor, tuple[int, ...]]:
    """x, whose rows are cut into one piece for each rank, and the rows of all pieces."""
    x = tensor(x)
    rows = x.shape[0] if x.ndim else -1
    sizes = balanced_counts(max(rows, 0), world.size) if counts is None else tuple(counts)
    if rows < 0 or len(sizes) != world.size or sum(sizes) != rows or min(sizes) < 0:
        raise ShapeError(
            f"{world.name}: {name} got shape {x.shape} and counts {sizes}; give {world.size} counts, one per "
            "rank, that add up to the number of rows"
        )
    return x, sizes
