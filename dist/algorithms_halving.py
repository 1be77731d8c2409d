"""Recursive halving and doubling, with binary blocks where the number of ranks is no power of two.

An array lies in pieces, and piece k is to end up, summed, on rank k. Among 2^q ranks: exchange half of the
array with the rank half the group away, keep the sum of the other half, and go on so with that half; after q
rounds each rank has sent (2^q − 1) / 2^q of the array, and one piece is left. Doubling is the same backwards.

Other numbers of ranks are cut into blocks of different powers of two, the largest first. Each block halves by
itself, and then sums travel from block to block: from the smallest towards the largest for the pieces that
belong there, and the other way for the rest. Every piece so takes ranks − 1 steps in all, and (ranks − 1)
times the array moves, however uneven the pieces are. An all_reduce cuts the array into as many pieces as the
largest block has ranks, so that everything ends there.

Thakur, Rabenseifner, Gropp 2005, Optimization of Collective Communication Operations in MPICH, sections 3.4
and 4.5 (halving and doubling); Rabenseifner, Träff 2004, More Efficient Reduction Algorithms for
Non-Power-of-Two Number of Processors (binary blocks).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

from minigrad.dist.transfer import Round, put, take
from minigrad.dist.verbs import COMBINE, Array, balanced_counts

Slices = tuple[slice, ...]
Room = Callable[[Array, int], Array]
"""Makes a flat array of so many elements, like another."""


@dataclass(frozen=True)
class Exchange:
    """What passes between this rank and another in one round: parts of the array, in rising order."""

    peer: int
    given: Slices
    taken: Slices


Plan = tuple[tuple[Exchange, ...], ...]


def reduce_scatter(
    rank: int, counts: tuple[int, ...], operation: str, array: Array, out: Array, *, room: Room
) -> Iterator[Round]:
    """Halving that leaves `array` as it is: the first exchange reads it, and fills the part that is kept."""
    start = sum(counts[:rank])
    alone = any(len(block) == 1 and rank in block for block in blocks_of(len(counts)))
    sums = room(array, array.size)
    if alone:
        sums[...] = array
    yield from halve(plan(rank, len(counts), counts), operation, sums if alone else array, sums, room)
    out[...] = sums[start : start + counts[rank]]


def all_gather(rank: int, counts: tuple[int, ...], array: Array, out: Array) -> Iterator[Round]:
    """Doubling."""
    start = sum(counts[:rank])
    out[start : start + counts[rank]] = array
    yield from double(plan(rank, len(counts), counts), out)


def all_reduce(rank: int, ranks: int, operation: str, array: Array, *, room: Room) -> Iterator[Round]:
    """Halving, then doubling, in place."""
    exchanges = plan(rank, ranks, balanced_counts(array.size, 1 << ranks.bit_length() - 1))
    yield from halve(exchanges, operation, array, array, room)
    yield from double(exchanges, array)


def halve(exchanges: Plan, operation: str, first: Array, sums: Array, room: Room) -> Iterator[Round]:
    """Send away what others will sum up, and add what comes; the first round takes values from `first`."""
    most = max((sum(length(e.taken) for e in several) for several in exchanges), default=0)
    arriving = room(sums, most)
    for several in exchanges:
        parts = [part for exchange in several for part in exchange.taken]
        places = side_by_side(arriving, parts)
        peers = [exchange.peer for exchange in several for _ in exchange.taken]
        yield list(map(take, places, peers)) + [
            put(first[part], exchange.peer) for exchange in several for part in exchange.given
        ]
        for part, place in zip(parts, places, strict=True):
            COMBINE[operation](first[part], place, out=sums[part])
        first = sums


def double(exchanges: Plan, whole: Array) -> Iterator[Round]:
    """The same exchanges from the last to the first: what was given comes back, summed up."""
    for several in reversed(exchanges):
        yield [take(whole[part], exchange.peer) for exchange in several for part in exchange.given] + [
            put(whole[part], exchange.peer) for exchange in several for part in exchange.taken
        ]


def length(parts: Slices) -> int:
    """How many elements several slices have."""
    return sum(part.stop - part.start for part in parts)


def side_by_side(buffer: Array, parts: list[slice]) -> list[Array]:
    """Room for slices of another array, one after the other."""
    stops = list(accumulate(part.stop - part.start for part in parts))
    return [buffer[stop - part.stop + part.start : stop] for stop, part in zip(stops, parts, strict=True)]


# ------------------------------------------------------------------------------------- the plan


def blocks_of(ranks: int) -> list[range]:
    """Ranks in blocks of different powers of two, the largest first."""
    sizes = [1 << bit for bit in reversed(range(ranks.bit_length())) if ranks >> bit & 1]
    return [range(stop - size, stop) for size, stop in zip(sizes, accumulate(sizes), strict=True)]


@lru_cache(maxsize=1024)
def plan(rank: int, ranks: int, counts: tuple[int, ...]) -> Plan:
    """What this rank exchanges, round by round, so that the sum of piece k, of counts[k] elements, ends on
    rank k. Rounds without a message are left out.
    """
    blocks, everything = blocks_of(ranks), range(len(counts))
    level = next(level for level, block in enumerate(blocks) if rank in block)
    block = blocks[level]
    owner = {piece: next(k for k, other in enumerate(blocks) if piece in other) for piece in everything}

    def home(piece: int, k: int) -> int:
        """The rank of block k that adds up a piece there: its owner, or one that stands for it."""
        owners = blocks[owner[piece]]
        return blocks[k].start + (piece - owners.start) * len(blocks[k]) // len(owners)

    def between(other: int, wanted: list[int], *, give: bool) -> tuple[Exchange, ...]:
        """One round with the block `other`: this rank's share of the pieces that pass."""
        mine = [piece for piece in wanted if home(piece, level) == rank]
        peers = sorted({home(piece, other) for piece in mine})
        several = []
        for peer in peers:
            parts = slices([piece for piece in mine if home(piece, other) == peer], counts)
            several.append(Exchange(peer, parts if give else (), () if give else parts))
        return tuple(several)

    rounds: list[tuple[Exchange, ...]] = []
    kept, distance = list(everything), len(block) // 2
    while distance:
        partner = block.start + ((rank - block.start) ^ distance)
        side = (rank - block.start) & distance
        given = [piece for piece in kept if (home(piece, level) - block.start) & distance != side]
        kept = [piece for piece in kept if (home(piece, level) - block.start) & distance == side]
        rounds.append((Exchange(partner, slices(given, counts), slices(kept, counts)),))
        distance //= 2
    below = [piece for piece in everything if owner[piece] <= level]
    above = [piece for piece in everything if owner[piece] >= level]
    if level + 1 < len(blocks):
        rounds.append(between(level + 1, below, give=False))
    if level > 0:
        rounds.append(between(level - 1, [piece for piece in below if owner[piece] < level], give=True))
        rounds.append(between(level - 1, above, give=False))
    if level + 1 < len(blocks):
        rounds.append(between(level + 1, [piece for piece in above if owner[piece] > level], give=True))
    moving = [tuple(e for e in several if e.given or e.taken) for several in rounds]
    return tuple(several for several in moving if several)


def slices(chosen: list[int], counts: tuple[int, ...]) -> Slices:
    """Where these pieces lie in the array; neighbours are joined, and empty ones left out."""
    starts = [0, *accumulate(counts)]
    joined: list[slice] = []
    for piece in sorted(chosen):
        start, stop = starts[piece], starts[piece + 1]
        if joined and joined[-1].stop == start:
            joined[-1] = slice(joined[-1].start, stop)
        elif start < stop:
            joined.append(slice(start, stop))
    return tuple(joined)
