"""Collectives as operations of the engine: what each does to arrays, its two sides, and its transpose.

`minigrad/dist/collectives.py` has the table and the functions that users call.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal, cast

from minigrad import backend
from minigrad.dist.algorithms import LIBRARY
from minigrad.dist.refusals import Purpose
from minigrad.dist.verbs import Array
from minigrad.dist.world import World
from minigrad.graph import Leaf, state
from minigrad.operation import linear
from minigrad.rules import OPERATIONS, Operation, Rule
from minigrad.tensor import Tensor

Side = Literal["replicated", "per rank"]
COMES_BACK_AS: dict[Purpose, Purpose] = {"parameters": "gradients", "gradients": "parameters"}


@dataclass(frozen=True)
class How:
    """The parameters of a collective; `counts` are rows, of the pieces in the order of ranks."""

    world: World
    purpose: Purpose = "activations"
    algorithm: str = LIBRARY
    root: int = 0
    counts: tuple[int, ...] = ()
    counts_received: tuple[int, ...] = ()

    def back(self) -> "How":
        """The parameters of the reverse: what comes back is booked as what it is, by exchanged counts."""
        swapped = (self.counts_received, self.counts) if self.counts_received else (self.counts, ())
        purpose = COMES_BACK_AS.get(self.purpose, self.purpose)
        return replace(self, purpose=purpose, counts=swapped[0], counts_received=swapped[1])

    def elements(self, x: Array, counts: tuple[int, ...]) -> list[int]:
        """How many elements so many rows have."""
        row = prod(x.shape[1:])
        return [count * row for count in counts]

    def own_rows(self) -> slice:
        """This rank's rows of the whole."""
        start = sum(self.counts[: self.world.rank])
        return slice(start, start + self.counts[self.world.rank])


# ----------------------------------------------------------------------------------- declaration


@dataclass(frozen=True)
class Collective:
    """An operation, and what its input and its output are over the world."""

    run: Callable[..., Any]
    given: Side
    result: Side

    def on(self, x: Any, how: How) -> Any:
        """Apply it to a Tensor, recording it, or to an array."""
        if isinstance(x, Tensor):
            return self.run(x, how=how)
        operation: Operation = self.run.operation  # type: ignore[attr-defined]
        return operation.forward(None, backend.asarray(x), how=how)  # (walks carry NumPy's scalars, too)


COLLECTIVES: dict[str, Collective] = {}
"""Every collective by the name of its node; the tests sweep over all of them."""


@contextmanager
def apart() -> Iterator[None]:
    """What is declared in this block stays out of the engine's table: its names are free for others, and the
    sweeps over it run operations on one rank.
    """
    before = dict(OPERATIONS)
    OPERATIONS.clear()
    try:
        yield
    finally:
        OPERATIONS.clear()
        OPERATIONS.update(before)


def collective(
    given: Side, result: Side, *, reverse: str
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare a collective, all of which are linear, by its two sides and the name of its transpose."""

    def transpose(xp: Any, v: Any, how: How) -> Any:
        return COLLECTIVES[reverse].on(v, how.back())

    def declare(forward: Callable[..., Any]) -> Callable[..., Any]:
        with apart():
            run = linear(x=cast("Rule", transpose))(forward)
        COLLECTIVES[run.operation.name] = Collective(run, given, result)  # type: ignore[attr-defined]
        return run

    return declare


def contiguous(x: Array) -> Array:
    """x as the verbs take it."""
    return x if x.flags.c_contiguous else x.copy()


def _empty(x: Array, rows: int) -> Array:
    return backend.namespace(x).empty((rows, *x.shape[1:]), dtype=x.dtype)


@collective("replicated", "per rank", reverse="all_reduce")
def _replicate(xp: Any, x: Array, /, *, how: How) -> Array:
    return x


@collective("replicated", "per rank", reverse="all_gather_and_add")
def _replicate_to_gather(xp: Any, x: Array, /, *, how: How) -> Array:
    return x


@collective("per rank", "replicated", reverse="replicate_to_gather")
def _all_gather_and_add(xp: Any, x: Array, /, *, how: How) -> Array:
    every = _empty(x[None], how.world.size)
    how.world.all_gather(contiguous(x), every, purpose=how.purpose, algorithm=how.algorithm)
    return cast("Array", backend.namespace(x).sum(every, axis=0))  # half precision in float32


def _summed(xp: Any, x: Array, /, *, how: How) -> Array:
    out = x.copy()
    how.world.all_reduce(out, purpose=how.purpose, algorithm=how.algorithm)
    return out


@collective("per rank", "replicated", reverse="replicate")
def _all_reduce(xp: Any, x: Array, /, *, how: How) -> Array:
    return _summed(xp, x, how=how)


@collective("per rank", "per rank", reverse="all_reduce_to_each")
def _all_reduce_to_each(xp: Any, x: Array, /, *, how: How) -> Array:
    return _summed(xp, x, how=how)


def _joined(xp: Any, x: Array, /, *, how: How) -> Array:
    out = _empty(x, sum(how.counts))
    counts = how.elements(x, how.counts)
    how.world.all_gather(contiguous(x), out, counts=counts, purpose=how.purpose, algorithm=how.algorithm)
    return out


@collective("per rank", "per rank", reverse="reduce_scatter")
def _all_gather(xp: Any, x: Array, /, *, how: How) -> Array:
    return _joined(xp, x, how=how)


@collective("per rank", "replicated", reverse="shard")
def _all_gather_replicated(xp: Any, x: Array, /, *, how: How) -> Array:
    return _joined(xp, x, how=how)


@collective("replicated", "per rank", reverse="all_gather_replicated")
def _shard(xp: Any, x: Array, /, *, how: How) -> Array:
    return x[how.own_rows()]


@collective("per rank", "per rank", reverse="all_gather")
def _reduce_scatter(xp: Any, x: Array, /, *, how: How) -> Array:
    out = _empty(x, how.counts[how.world.rank])
    counts = how.elements(x, how.counts)
    how.world.reduce_scatter(contiguous(x), out, counts=counts, purpose=how.purpose, algorithm=how.algorithm)
    return out


@collective("per rank", "per rank", reverse="all_to_all")
def _all_to_all(xp: Any, x: Array, /, *, how: How) -> Array:
    out = _empty(x, sum(how.counts_received))
    given, taken = how.elements(x, how.counts), how.elements(x, how.counts_received)
    how.world.all_to_all(contiguous(x), out, counts=given, counts_received=taken, purpose=how.purpose)
    return out


@collective("per rank", "per rank", reverse="reduce")
def _broadcast(xp: Any, x: Array, /, *, how: How) -> Array:
    out = x.copy()
    how.world.broadcast(out, root=how.root, purpose=how.purpose, algorithm=how.algorithm)
    return out


@collective("per rank", "per rank", reverse="broadcast")
def _reduce(xp: Any, x: Array, /, *, how: How) -> Array:
    out = x.copy()
    how.world.reduce(out, root=how.root, purpose=how.purpose, algorithm=how.algorithm)
    if how.world.rank != how.root:
        out[...] = 0
    return out


@collective("per rank", "per rank", reverse="scatter")
def _gather(xp: Any, x: Array, /, *, how: How) -> Array:
    at_root = how.world.rank == how.root
    out = _empty(x, sum(how.counts) if at_root else 0)
    counts = how.elements(x, how.counts)
    how.world.gather(
        contiguous(x), out if at_root else None, root=how.root, counts=counts, purpose=how.purpose
    )
    return out


@collective("per rank", "per rank", reverse="gather")
def _scatter(xp: Any, x: Array, /, *, how: How) -> Array:
    whole = contiguous(x) if how.world.rank == how.root else None
    out = _empty(x, how.counts[how.world.rank])
    counts = how.elements(x, how.counts)
    how.world.scatter(whole, out, root=how.root, counts=counts, purpose=how.purpose)
    return out


def tensor(x: Any) -> Tensor:
    """x, or a constant Tensor of it."""
    return x if isinstance(x, Tensor) else Tensor.of(backend.asarray(x))


def anchored(x: Any) -> Tensor:
    """x with a node, so that walks come by on every rank."""
    x = tensor(x)
    if x.node is None and state.recording:
        return Tensor.of(x.data, Leaf(x.shape, x.dtype))
    return x
