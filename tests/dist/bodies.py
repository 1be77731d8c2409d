"""Test bodies that run on every kind of world: each rank knows what all ranks bring, and checks what it gets.

What is expected is worked out here from all ranks' contributions, not with the code under test. The numbers
are small whole ones, so that sums are exact in every dtype.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from minigrad.dist.algorithms import ALGORITHMS
from minigrad.dist.debug_mode import debug
from minigrad.dist.world import World

DTYPES = ("float16", "float32", "float64", "int8", "int32", "int64", "uint16", "complex64", "bool")
NUMBERS = DTYPES[:7]
OPERATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sum": lambda table: table.sum(axis=0),
    "max": lambda table: table.max(axis=0),
    "min": lambda table: table.min(axis=0),
}
Body = Callable[[World, int, str, int], None]


def brought(world: World, seed: int, dtype: str, elements: int) -> np.ndarray:
    """What every rank brings: (ranks, elements)."""
    return np.random.default_rng(seed).integers(0, 9, (world.size, elements)).astype(dtype)


def uneven(world: World, seed: int, elements: int) -> list[int]:
    """Counts for every rank, some of them zero, the same on all ranks, adding up to `elements`."""
    generator = np.random.default_rng(seed + 1)
    cuts = np.sort(generator.integers(0, elements + 1, world.size - 1))
    return np.diff([0, *cuts, elements]).tolist()


def same(actual: np.ndarray, expected: np.ndarray) -> None:
    assert actual.dtype == expected.dtype
    np.testing.assert_array_equal(actual, expected)


def in_place_verbs(world: World, seed: int, dtype: str, elements: int) -> None:
    table = brought(world, seed, dtype, elements)
    root = seed % world.size
    own = table[world.rank].copy()
    world.broadcast(own, root=root)
    same(own, table[root])
    for operation, combine in OPERATIONS.items() if dtype in NUMBERS else ():
        expected = combine(table).astype(dtype)
        own = table[world.rank].copy()
        world.reduce(own, root=root, operation=operation)  # type: ignore[arg-type]
        same(own, expected if world.rank == root else table[world.rank])
        own = table[world.rank].copy()
        world.all_reduce(own, operation=operation)  # type: ignore[arg-type]
        same(own, expected)


def pieces_of_all(world: World, seed: int, dtype: str, elements: int) -> None:
    """Balanced and uneven pieces, apart and as views of the whole."""
    table = brought(world, seed, dtype, elements)
    share, rest = divmod(elements, world.size)
    balanced = [share + 1] * rest + [share] * (world.size - rest)
    for counts, given in ((balanced, None), (uneven(world, seed, elements), uneven(world, seed, elements))):
        start, stop = sum(counts[: world.rank]), sum(counts[: world.rank + 1])
        whole = table[0]
        out = np.zeros(elements, dtype)
        world.all_gather(whole[start:stop].copy(), out, counts=given)
        same(out, whole)
        out = np.zeros(elements, dtype)
        out[start:stop] = whole[start:stop]
        world.all_gather(out[start:stop], out, counts=given)
        same(out, whole)
        if dtype in NUMBERS:
            expected = table.sum(axis=0).astype(dtype)[start:stop]
            own, out = table[world.rank].copy(), np.zeros(stop - start, dtype)
            world.reduce_scatter(own, out, counts=given)
            same(out, expected)
            same(own, table[world.rank])
            world.reduce_scatter(own, own[start:stop], counts=given)
            same(own[start:stop], expected)


def gather_and_scatter(world: World, seed: int, dtype: str, elements: int) -> None:
    root = seed % world.size
    whole = brought(world, seed, dtype, elements)[0]
    counts = uneven(world, seed, elements)
    start, stop = sum(counts[: world.rank]), sum(counts[: world.rank + 1])
    at_root = world.rank == root
    out = np.zeros(stop - start, dtype)
    world.scatter(whole if at_root else None, out, root=root, counts=counts if at_root else None)
    same(out, whole[start:stop])
    gathered = np.zeros(elements, dtype) if at_root else None
    world.gather(out, gathered, root=root, counts=counts if at_root else None)
    if gathered is not None:
        same(gathered, whole)


def all_to_all(world: World, seed: int, dtype: str, elements: int) -> None:
    table = np.random.default_rng(seed).integers(
        0, 5, (world.size, world.size)
    )  # [sender, receiver]: elements
    messages = brought(world, seed, dtype, elements + 5)
    sent = [messages[world.rank][:count] for count in table[world.rank]]
    expected = [messages[sender][:count] for sender, count in enumerate(table[:, world.rank])]
    out = np.zeros(int(table[:, world.rank].sum()), dtype)
    counts, counts_received = table[world.rank].tolist(), table[:, world.rank].tolist()
    world.all_to_all(np.concatenate(sent), out, counts=counts, counts_received=counts_received)
    same(out, np.concatenate(expected))
    even = np.tile(messages[world.rank][: elements + 1], world.size)
    out = np.zeros_like(even)
    world.all_to_all(even, out)
    same(out, messages[:, : elements + 1].reshape(-1))


def messages(world: World, seed: int, dtype: str, elements: int) -> None:
    """Around the ring, two under one tag and one under another, received in another order than sent."""
    table = brought(world, seed, dtype, elements)
    right, left = (world.rank + 1) % world.size, (world.rank - 1) % world.size
    own = table[world.rank]
    sends = [world.start_send(own, right, tag=3), world.start_send(own[::-1].copy(), right, tag=3)]
    sends.append(world.start_send(np.full(2, world.rank), right, tag=8))
    other, first, second = np.zeros(2, int), np.zeros(elements, dtype), np.zeros(elements, dtype)
    world.receive(other, left, tag=8)
    world.receive(first, left, tag=3)
    world.receive(second, left, tag=3)
    for request in sends:
        request.wait()
        assert request.test()
    same(other, np.full(2, left))
    same(first, table[left])
    same(second, table[left][::-1])


def algorithms(world: World, seed: int, dtype: str, elements: int) -> None:
    """Every algorithm of every verb, waited for and not."""
    table, root, counts = (
        brought(world, seed, dtype, elements),
        seed % world.size,
        uneven(world, seed, elements),
    )
    start, stop = sum(counts[: world.rank]), sum(counts[: world.rank + 1])
    for name in ("library", *ALGORITHMS["broadcast"]):
        for started in (False, True):
            own = table[world.rank].copy()
            if started:
                world.start_broadcast(own, root=root, algorithm=name).wait()
            else:
                world.broadcast(own, root=root, algorithm=name)
            same(own, table[root])
    for name in ("library", *ALGORITHMS["all_gather"]):
        for started in (False, True):
            out = np.zeros(elements, dtype)
            piece = table[0][start:stop].copy()
            if started:
                world.start_all_gather(piece, out, counts=counts, algorithm=name).wait()
            else:
                world.all_gather(piece, out, counts=counts, algorithm=name)
            same(out, table[0])
    for operation, combine in OPERATIONS.items() if dtype in NUMBERS else ():
        reductions(world, table, combine(table).astype(dtype), operation, root, counts)


def reductions(
    world: World, table: np.ndarray, expected: np.ndarray, operation: Any, root: int, counts: list[int]
) -> None:
    start, stop = sum(counts[: world.rank]), sum(counts[: world.rank + 1])
    for name in ("library", *ALGORITHMS["reduce"]):
        own = table[world.rank].copy()
        world.reduce(own, root=root, operation=operation, algorithm=name)
        same(own, expected if world.rank == root else table[world.rank])
    for name in ("library", *ALGORITHMS["all_reduce"]):
        own = table[world.rank].copy()
        world.all_reduce(own, operation=operation, algorithm=name)
        same(own, expected)
    for name in ("library", *ALGORITHMS["reduce_scatter"]):
        for started in (False, True):
            own, out = table[world.rank].copy(), np.zeros(stop - start, table.dtype)
            own.flags.writeable = False
            if started:
                request = world.start_reduce_scatter(
                    own, out, counts=counts, operation=operation, algorithm=name
                )
                request.wait()
            else:
                world.reduce_scatter(own, out, counts=counts, operation=operation, algorithm=name)
            same(out, expected[start:stop])
            same(own, table[world.rank])


def no_numbers(world: World, seed: int, dtype: str, elements: int) -> None:
    """The maximum or minimum of a number and no number is no number, whoever has it and whoever adds up."""
    if np.dtype(dtype).kind != "f":
        return
    table = brought(world, seed, dtype, elements)
    table[np.random.default_rng(seed).random(table.shape) < 0.2] = np.nan
    root, counts = seed % world.size, uneven(world, seed, elements)
    for operation in ("max", "min"):
        expected = OPERATIONS[operation](table)  # as NumPy has it
        reductions(world, table, expected, operation, root, counts)


def started_together(world: World, seed: int, dtype: str, elements: int) -> None:
    """Several collectives at once, looked at on the way, waited for in an order of each rank's own."""
    if dtype not in NUMBERS:
        return
    table = brought(world, seed, dtype, elements)
    names = ["library", *ALGORITHMS["all_reduce"]]
    buffers = [table[world.rank] % (3 + k) for k in range(len(names))]
    requests = [
        world.start_all_reduce(buffer, algorithm=name) for buffer, name in zip(buffers, names, strict=True)
    ]
    spread = np.zeros(elements, dtype) if world.rank else table[0].copy()
    requests.append(world.start_broadcast(spread, algorithm="tree"))
    balanced = pieces_of(elements, world.size)
    start, stop = balanced[world.rank], balanced[world.rank + 1]
    whole, part = np.zeros(elements, dtype), np.zeros(stop - start, dtype)
    requests.append(world.start_all_gather(table[0][start:stop].copy(), whole, algorithm="halving"))
    requests.append(world.start_reduce_scatter(table[world.rank].copy(), part, algorithm="ring"))
    requests[1].test()
    order = np.random.default_rng(seed + world.rank).permutation(len(requests))
    for k in order:
        requests[k].wait()
    for k, buffer in enumerate(buffers):
        same(buffer, (table % (3 + k)).sum(axis=0).astype(dtype))
    same(spread, table[0])
    same(whole, table[0])
    same(part, table.sum(axis=0).astype(dtype)[start:stop])


def again_and_again(world: World, seed: int, dtype: str, elements: int) -> None:
    """A collective that is checked once takes what the array holds at each start; each is booked anew."""
    if dtype not in NUMBERS:
        return
    for name in ("library", *ALGORITHMS["all_reduce"]):
        array = np.zeros(elements, dtype)
        start = world.persistent_all_reduce(array, algorithm=name, purpose="optimizer")
        world.ledger.clear()
        booked = []
        for turn in range(3):
            table = brought(world, seed + turn, dtype, elements)
            array[...] = table[world.rank]
            if turn == 1:
                with debug():
                    start().wait()
            else:
                start().wait()
            same(array, table.sum(axis=0).astype(dtype))
            entry = world.ledger.by_kind.get(("all_reduce", "optimizer"))
            booked.append(entry.bytes_sent if entry is not None else 0)
        assert booked == [booked[0], 2 * booked[0], 3 * booked[0]]


def other_orders(world: World, seed: int, dtype: str, elements: int) -> None:
    """A rank that waits for something else does not hold up a collective that others wait for first."""
    if dtype not in NUMBERS:
        return
    table = brought(world, seed, dtype, elements)
    for name in ALGORITHMS["all_reduce"]:
        own, last, note = table[world.rank].copy(), world.size - 1, np.array([world.rank])
        reduced = world.start_all_reduce(own, algorithm=name)
        if world.rank == last:
            reduced.wait()
            if last:
                world.send(note, 0)
        elif world.rank == 0:
            world.receive(note, last)  # which is sent only after the sum arrived there
            assert note[0] == last
        elif world.rank % 2:
            reduced.wait()
        world.barrier()
        reduced.wait()
        same(own, table.sum(axis=0).astype(dtype))


def pieces_of(elements: int, ranks: int) -> list[int]:
    """Where balanced pieces begin, and where the last one ends."""
    share, rest = divmod(elements, ranks)
    return [rank * share + min(rank, rest) for rank in range(ranks + 1)]


def groups(world: World, seed: int, dtype: str, elements: int) -> None:
    """Split by colors of chance and in reverse order, then once more."""
    colors = np.random.default_rng(seed).integers(0, 3, world.size)
    group = world.split(int(colors[world.rank]), key=-world.rank)
    ranks = [rank for rank in range(world.size) if colors[rank] == colors[world.rank]][::-1]
    assert (group.size, group.rank, group.kind) == (len(ranks), ranks.index(world.rank), world.kind)
    assert group.name == world.name
    out = np.zeros(group.size, int)
    group.all_gather(np.array([world.rank]), out)
    assert out.tolist() == ranks
    half = group.split(group.rank % 2)
    total = np.array([world.rank])
    half.all_reduce(total)
    assert total.item() == sum(ranks[group.rank % 2 :: 2])
    world.barrier()


def no_dimensions_and_many(world: World, seed: int, dtype: str, elements: int) -> None:
    if dtype in NUMBERS:
        scalar, cube = np.array(2, dtype), np.ones((2, elements, 3), dtype)
        world.all_reduce(scalar)
        world.all_reduce(cube)
        same(scalar, np.array(2 * world.size, dtype))
        same(cube, np.full((2, elements, 3), world.size, dtype))


BODIES: tuple[Body, ...] = (
    in_place_verbs,
    pieces_of_all,
    gather_and_scatter,
    all_to_all,
    messages,
    algorithms,
    no_numbers,
    started_together,
    again_and_again,
    other_orders,
    groups,
    no_dimensions_and_many,
)
