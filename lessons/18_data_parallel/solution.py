"""Reference answers to lesson 18. Spoilers: try exercise.py first."""

from collections.abc import Callable, Sequence

import numpy as np

from minigrad.dist import World


def exchange(world: World, out: np.ndarray, to: int, into: np.ndarray, source: int) -> None:
    """Send and receive at the same time."""
    requests = [world.start_receive(into, source), world.start_send(out, to)]
    for request in requests:
        request.wait()


def ring_all_reduce(world: World, array: np.ndarray) -> None:
    """Around the ring twice."""
    p, pieces = world.size, np.array_split(array, world.size)
    right, left = (world.rank + 1) % p, (world.rank - 1) % p
    for step in range(p - 1):
        mine, theirs = (world.rank - step) % p, (world.rank - step - 1) % p
        arrived = np.empty_like(pieces[theirs])
        exchange(world, pieces[mine], right, arrived, left)
        pieces[theirs] += arrived
    for step in range(p - 1):
        mine, theirs = (world.rank + 1 - step) % p, (world.rank - step) % p
        exchange(world, pieces[mine], right, pieces[theirs], left)


def halving_doubling_all_reduce(world: World, array: np.ndarray) -> None:
    """Halves, quarters, ..., and back."""
    start, stop, distance, way = 0, array.size, world.size // 2, []
    while distance:
        partner, middle = world.rank ^ distance, (start + stop) // 2
        low, high = slice(start, middle), slice(middle, stop)
        mine, theirs = (high, low) if world.rank & distance else (low, high)
        arrived = np.empty_like(array[mine])
        exchange(world, array[theirs], partner, arrived, partner)
        array[mine] += arrived
        way.append((partner, mine, theirs))
        start, stop, distance = mine.start, mine.stop, distance // 2
    for partner, mine, theirs in reversed(way):
        exchange(world, array[mine], partner, array[theirs], partner)


Gradient = Callable[[np.ndarray, np.ndarray], np.ndarray]


def gradient_of_all(
    world: World, gradient_of_sum: Gradient, x: np.ndarray, y: np.ndarray, shape: tuple
) -> np.ndarray:
    """Sums over samples, divided by all samples."""
    gradient = gradient_of_sum(x, y).copy() if len(x) else np.zeros(shape)
    count = np.array([float(len(x))])
    world.all_reduce(gradient)
    world.all_reduce(count)
    return gradient / count[0]


def accumulate(
    world: World, gradient_of_sum: Gradient, microbatches: Sequence[tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
    """Sums at home first."""
    gradient = sum(gradient_of_sum(x, y) for x, y in microbatches)
    count = np.array([float(sum(len(x) for x, _ in microbatches))])
    world.all_reduce(gradient)
    world.all_reduce(count)
    return gradient / count[0]


def learning_rate(epoch: float, batch: int) -> float:
    """Warm-up and steps."""
    reference = 0.1 * batch / 256
    if epoch < 5:
        return 0.1 + (reference - 0.1) * epoch / 5
    return reference * 0.1 ** sum(epoch >= step for step in (30, 60, 80))
