"""Test bodies that run on every kind of world: each rank knows what all ranks bring, and checks what it gets.

What is expected is worked out here from all ranks' contributions, not with the code under test. The numbers
are small whole ones, so that sums are exact in every dtype.
"""

from collections.abc import Callable

import numpy as np

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


def started_reductions(world: World, seed: int, dtype: str, elements: int) -> None:
    """Several at once, looked at on the way, waited for in another order."""
    if dtype not in NUMBERS:
        return
    table = brought(world, seed, dtype, elements)
    buffers = [table[world.rank] % (3 + k) for k in range(3)]
    requests = [world.start_all_reduce(buffer) for buffer in buffers]
    requests[1].test()
    for request in reversed(requests):
        request.wait()
    for k, buffer in enumerate(buffers):
        same(buffer, (table % (3 + k)).sum(axis=0).astype(dtype))


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
    started_reductions,
    groups,
    no_dimensions_and_many,
)
