"""Exercises of lesson 18: data parallelism.

Replace each `raise Todo(...)`; keep the names. `minigrad check 18` checks all, `minigrad check 18.2` one.

A `world` has `rank`, `size`, `start_send(array, destination)` and `start_receive(out, source)`; both return a
request whose `wait()` returns when the message is through. Nothing is buffered: whoever waits for a send that
nobody receives waits for ever, so start both and wait then. Arrays must be contiguous.
"""

from collections.abc import Callable, Sequence

import numpy as np

from minigrad.dist import World
from minigrad.lessons import Todo

# ----- 18.1 ---------------------------------------------------------------------------------------


def ring_all_reduce(world: World, array: np.ndarray) -> None:
    """Replace `array` (flat, on every rank) by its sum over all ranks.

    Cut it into world.size pieces (np.array_split does, also where the sizes are uneven). Send to the right
    neighbour and receive from the left one, 2 (p - 1) times one piece, even an
    empty one; p is world.size. Send nothing else.
    """
    raise Todo("18.1: p - 1 steps of reduce-scatter, then p - 1 steps of all-gather")


# ----- 18.2 ---------------------------------------------------------------------------------------


def halving_doubling_all_reduce(world: World, array: np.ndarray) -> None:
    """Replace `array` (flat) by its sum over all ranks.

    p = world.size is a power of two that divides array.size. Halving: at distance p/2, p/4, ..., 1 exchange
    with rank XOR distance the half of your part that is theirs, and add what you get to the half that is
    yours. Doubling: the same way back, with finished parts.
    """
    raise Todo("18.2: log2 p exchanges that halve, log2 p that double")


# ----- 18.3 ---------------------------------------------------------------------------------------

Gradient = Callable[[np.ndarray, np.ndarray], np.ndarray]


def gradient_of_all(
    world: World, gradient_of_sum: Gradient, x: np.ndarray, y: np.ndarray, shape: tuple
) -> np.ndarray:
    """Return the gradient of the mean loss over the samples of all ranks, on every rank.

    x and y are this rank's samples; ranks may have different numbers of them, some none at all.
    `gradient_of_sum(x, y)` is the gradient, of that shape, of the summed loss of at least one sample. Use
    `world.all_reduce(array)`, which sums an array over ranks in place.
    """
    raise Todo("18.3: sum the gradients, sum the counts, divide once")


# ----- 18.4 ---------------------------------------------------------------------------------------


def accumulate(
    world: World, gradient_of_sum: Gradient, microbatches: Sequence[tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
    """Return the gradient of the mean loss over all samples of all microbatches of all ranks.

    Each rank has at least one microbatch (x, y), none of them empty. Sum over your own first: gradients go
    over the wires once (one all-reduce, and one more for the count).
    """
    raise Todo("18.4: add up at home, then once over all ranks")


# ----- 18.5 ---------------------------------------------------------------------------------------


def learning_rate(epoch: float, batch: int) -> float:
    """Return the rate of Goyal et al., section 5.1, at a time in epochs (2.5: in the middle of the third).

    The reference is 0.1 * batch / 256. From 0.1 it goes in a straight line to the reference over 5 epochs;
    from epochs 30, 60 and 80 on it is a tenth, a hundredth and a thousandth of it.
    """
    raise Todo("18.5: linear scaling, gradual warm-up, three steps")
