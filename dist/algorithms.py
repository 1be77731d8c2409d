"""minigrad's own collectives, made of sends and receives: ring, rank-ordered, binary tree.

Recursive halving and doubling has a file of its own, `minigrad/dist/algorithms_halving.py`. Each algorithm
is written once, as a generator of *rounds*: it yields the messages that travel at the same time, and goes on
when all of them have arrived. `minigrad/dist/rounds.py` carries the rounds out, whether or not the caller
waits. Elements that move, summed over N ranks, for an array of n elements in pieces of any sizes:

    reduce_scatter, all_gather   (N − 1) n    in N − 1 rounds (ring), ⌈log₂ N⌉ for powers of two (halving)
    all_reduce                   2 (N − 1) n  one after the other
    broadcast, reduce            (N − 1) n    in ⌈log₂ N⌉ rounds (tree)

Patarasuk, Yuan 2009, Bandwidth Optimal All-reduce Algorithms for Clusters of Workstations (ring); Thakur,
Rabenseifner, Gropp 2005, Optimization of Collective Communication Operations in MPICH, section 3 (tree).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from minigrad.dist import algorithms_halving as halving
from minigrad.dist.transfer import Round, put, take
from minigrad.dist.verbs import COMBINE, Array, Call, balanced_counts, pieces


@dataclass(frozen=True)
class Place:
    """Where an algorithm runs: this rank, how many ranks there are, and who books its memory."""

    rank: int
    ranks: int
    track: Callable[[Array], Array] = lambda array: array

    def beside(self, distance: int) -> int:
        """The rank that lies `distance` further, around the ring."""
        return (self.rank + distance) % self.ranks

    def room(self, like: Array, size: int | None = None) -> Array:
        """Memory for what arrives: a flat array of `size` elements, or of as many as `like` has."""
        return self.track(np.empty_like(like, shape=like.size if size is None else size))


def all_reduce(
    reduce: Callable[..., Iterator[Round]], gather: Callable[..., Iterator[Round]]
) -> Callable[..., Iterator[Round]]:
    """An all_reduce from two halves: rank r finishes piece r, then all pieces go round."""

    def rounds(place: Place, call: Call, array: Array, out: Array) -> Iterator[Round]:
        parts = pieces(array, balanced_counts(array.size, place.ranks))
        yield from reduce(place, call.operation, parts, parts[place.rank])
        yield from gather(place, parts)

    return rounds


def reduce_scatter(reduce: Callable[..., Iterator[Round]]) -> Callable[..., Iterator[Round]]:
    """A reduce_scatter that leaves the array as it is."""

    def rounds(place: Place, call: Call, array: Array, out: Array) -> Iterator[Round]:
        yield from reduce(place, call.operation, pieces(array, call.counts), out)

    return rounds


def all_gather(place: Place, call: Call, array: Array, out: Array) -> Iterator[Round]:
    """An all_gather around the ring."""
    parts = pieces(out, call.counts)
    parts[place.rank][...] = array
    yield from ring_gather(place, parts)


# ----------------------------------------------------------------------------------------- ring


def ring_reduce(place: Place, operation: str, parts: list[Array], out: Array) -> Iterator[Round]:
    """Sum piece r into `out` on rank r: it sets out at rank r + 1 and picks up a share on every rank."""
    longest = max(part.size for part in parts)
    spare = [place.room(out, longest) for _ in range(2)]
    given = parts[place.beside(-1)]
    for step in range(1, place.ranks):
        own = parts[place.beside(-step - 1)]
        arriving = spare[step % 2][: own.size]
        yield [take(arriving, place.beside(-1)), put(given, place.beside(1))]
        given = out if step == place.ranks - 1 else arriving
        COMBINE[operation](own, arriving, out=given)


def ring_gather(place: Place, parts: list[Array]) -> Iterator[Round]:
    """Hand every piece on to the right until all ranks have all; rank r begins with piece r."""
    for step in range(1, place.ranks):
        given, taken = parts[place.beside(1 - step)], parts[place.beside(-step)]
        yield [take(taken, place.beside(-1)), put(given, place.beside(1))]


def ring_broadcast(place: Place, call: Call, array: Array, out: Array) -> Iterator[Round]:
    """From one rank to the next, N − 1 times."""
    behind_root = (place.rank - call.root) % place.ranks
    if behind_root:
        yield [take(array, place.beside(-1))]
    if behind_root < place.ranks - 1:
        yield [put(array, place.beside(1))]


# --------------------------------------------------------------------------------- rank-ordered


def ordered_reduce(place: Place, operation: str, parts: list[Array], out: Array) -> Iterator[Round]:
    """Sum piece r on rank r as ((g₀ + g₁) + g₂) + …: each rank sends it there itself, all at once, and it
    takes room for as many elements as the whole array has.
    """
    peers = [place.beside(distance) for distance in range(1, place.ranks)]
    arrays = {peer: place.room(out) for peer in peers} | {place.rank: parts[place.rank]}
    yield [take(arrays[peer], peer) for peer in peers] + [put(parts[peer], peer) for peer in peers]
    total = arrays[0]
    for peer in range(1, place.ranks):
        own = total is parts[place.rank]  # which may not be overwritten before the end
        result = out if peer == place.ranks - 1 else arrays[peer] if own else total
        COMBINE[operation](total, arrays[peer], out=result)
        total = result


def ordered_reduce_to_root(place: Place, call: Call, array: Array, out: Array) -> Iterator[Round]:
    """Every rank sends to the root, which adds up in the order of ranks and needs room for two arrays."""
    if place.rank != call.root:
        yield [put(array, call.root)]
        return
    total, arriving = place.room(array), place.room(array)
    for peer in range(place.ranks):
        place_of_peer = total if peer == 0 else arriving
        if peer == place.rank:
            place_of_peer = array
        else:
            yield [take(place_of_peer, peer)]
        if peer == 0:
            total[...] = place_of_peer
        else:
            COMBINE[call.operation](total, place_of_peer, out=total)
    array[...] = total


# ----------------------------------------------------------------------------------- binary tree


def tree_broadcast(place: Place, call: Call, array: Array, out: Array) -> Iterator[Round]:
    """In each round, every rank that has the array sends it to one that has not: it spreads by doubling."""
    behind_root = (place.rank - call.root) % place.ranks
    for distance in doubling(place.ranks):
        if distance <= behind_root < 2 * distance:
            yield [take(array, place.beside(-distance))]
        elif behind_root < distance and behind_root + distance < place.ranks:
            yield [put(array, place.beside(distance))]


def tree_reduce(place: Place, call: Call, array: Array, out: Array) -> Iterator[Round]:
    """The broadcast backwards: in each round, half of those who still have something send it and are done."""
    behind_root = (place.rank - call.root) % place.ranks
    total, arriving = array, place.room(array, 0)
    for distance in reversed(doubling(place.ranks)):
        if distance <= behind_root < 2 * distance:
            yield [put(total, place.beside(-distance))]
        elif behind_root < distance and behind_root + distance < place.ranks:
            if arriving.size != array.size or arriving is total:
                arriving = place.room(array)
            yield [take(arriving, place.beside(distance))]
            # Only the root's own array may be written.
            result = arriving if total is array and behind_root else total
            COMBINE[call.operation](total, arriving, out=result)
            total = result


def tree_all_reduce(place: Place, call: Call, array: Array, out: Array) -> Iterator[Round]:
    """Up the tree to rank 0, and down again."""
    down = Call("broadcast", root=0)
    yield from tree_reduce(place, Call("reduce", operation=call.operation, root=0), array, out)
    yield from tree_broadcast(place, down, array, out)


def doubling(ranks: int) -> list[int]:
    """1, 2, 4, … below `ranks`."""
    return [1 << k for k in range((ranks - 1).bit_length())]


# ---------------------------------------------------------------------------------------- table

LIBRARY = "library"
ALGORITHMS: dict[str, dict[str, Callable[[Place, Call, Array, Array], Iterator[Round]]]] = {
    "all_reduce": {
        "ring": all_reduce(ring_reduce, ring_gather),
        "halving": lambda place, call, array, out: halving.all_reduce(
            place.rank, place.ranks, call.operation, array, room=place.room
        ),
        "tree": tree_all_reduce,
        "ordered": all_reduce(ordered_reduce, ring_gather),
    },
    "reduce_scatter": {
        "ring": reduce_scatter(ring_reduce),
        "halving": lambda place, call, array, out: halving.reduce_scatter(
            place.rank, call.counts, call.operation, array, out, room=place.room
        ),
        "ordered": reduce_scatter(ordered_reduce),
    },
    "all_gather": {
        "ring": all_gather,
        "halving": lambda place, call, array, out: halving.all_gather(place.rank, call.counts, array, out),
        "ordered": all_gather,
    },
    "broadcast": {"tree": tree_broadcast, "ring": ring_broadcast},
    "reduce": {"tree": tree_reduce, "ordered": ordered_reduce_to_root},
}
"""minigrad's own algorithms, by verb and name."""


def rounds_of(call: Call, place: Place, array: Array, out: Array) -> Iterator[Round]:
    """The rounds of a call that names one of these algorithms, as one rank goes through them."""
    return ALGORITHMS[call.verb][call.algorithm](place, call, array, out)
