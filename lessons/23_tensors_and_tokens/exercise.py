"""Exercises of lesson 23: splitting tensors and tokens.

Replace each `raise Todo(...)`; keep the names. `minigrad check 23` checks all, `minigrad check 23.2` one.

A `world` has `rank`, `size` and `all_reduce`. `world.all_reduce(array)` puts the sum over ranks into every
rank's array and returns nothing; with `operation="max"` it puts the largest entries there. All ranks call it,
with C-contiguous arrays of one shape. A `pull` takes the cotangent of what a function returned (the loss's
derivative for it), and returns those of its arguments. Arrays are NumPy's, numbers float64.
"""

from collections.abc import Callable

import numpy as np

from minigrad.dist import World
from minigrad.lessons import Todo

# ----- 23.1 ---------------------------------------------------------------------------------------


def column_parallel(world: World, x: np.ndarray, a: np.ndarray) -> tuple[np.ndarray, Callable]:
    """f. Return y = x a for this rank's columns a (inputs, own outputs), and its pull.

    x (samples, inputs) is the same on all ranks. pull(cotangent of y) returns (cotangent of x, gradient of
    a). The cotangent of x is the whole one: this rank's columns are only a part of what x is used for. No
    message forward, one all-reduce backward. Some ranks may have no columns.
    """
    raise Todo("23.1: f: nothing forward, a sum backward")


def row_parallel(world: World, y: np.ndarray, b: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, Callable]:
    """g. Return z = sum over ranks of y b, plus bias, on every rank, and its pull.

    y (samples, own inputs) and b (own inputs, outputs) are this rank's; bias (outputs,) is on all ranks, and
    counts once. pull(cotangent of z) returns (cotangent of y, gradient of b, gradient of bias). The cotangent
    of z is the same on all ranks. One all-reduce forward, no message backward.
    """
    raise Todo("23.1: g: a sum forward, nothing backward")


# ----- 23.2 ---------------------------------------------------------------------------------------


def own_heads(packed: np.ndarray, heads: int, ranks: int, rank: int) -> np.ndarray:
    """Return this rank's columns of the matrix that makes queries, keys and values.

    The columns of packed (inputs, 3 * width) make all queries, then all keys, then all values, each of them
    head after head: q0 q1 k0 k1 v0 v1 for two heads of one column. Each rank gets heads / ranks of the heads
    (a whole number), rank 0 the first ones. The result (inputs, 3 * width / ranks) makes its queries, then
    its keys, then its values.
    """
    raise Todo("23.2: not one run of columns, but three")


# ----- 23.3 ---------------------------------------------------------------------------------------


def vocabulary_loss(
    world: World, logits: np.ndarray, first: int, targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the cross-entropy of each token, and the gradient of their sum for this rank's logits.

    logits (tokens, own words) are those of words first, first + 1, ...; each rank has at least one. targets
    (tokens,) are words of the whole vocabulary, the same on all ranks. The losses (tokens,) are the same on
    all ranks. Exponentials of large numbers overflow: subtract each token's largest logit, of all ranks. Hand
    3 numbers a token to all-reduces at most.
    """
    raise Todo("23.3: a maximum, a sum of exponentials and a target logit, over all ranks")


# ----- 23.4 ---------------------------------------------------------------------------------------


def best_slices(cost: Callable[[int, int], float], length: int, stages: int) -> list[int]:
    """Return lengths of slices of a sequence that make TeraPipe's forward fastest.

    cost(l, c) is the time that a stage takes for l tokens that come after c others, any number. With slices
    that take times t the pipeline takes sum(t) + (stages - 1) * max(t). For every time m that some slice may
    take, find the least sums S_m(0), S_m(1), ... of the lesson, each from those before it, and the lengths
    that make S_m(length); the least total wins. 30 tokens must not take longer than two seconds.
    """
    raise Todo("23.4: for each limit, the least sum up to each token")


# ----- 23.5 ---------------------------------------------------------------------------------------


class SlicedAttention:
    """Causal attention of one head, a slice of the tokens at a time: softmax(q kT / sqrt(d)) v.

    Token i looks at tokens up to i, those of slices before its own included. Here, too, exponentials of large
    numbers overflow: subtract each row's largest score.
    """

    def __init__(self) -> None:
        raise Todo("23.5: keys and values of all slices so far, what backward needs, and gradients so far")

    def forward(self, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Return the output (tokens, d) of the next slice; q, k and v are (tokens, d)."""
        raise Todo("23.5: look at the kept keys as well")

    def backward(self, cotangent: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the cotangents of q, k and v of the latest slice that was not walked back yet.

        Called for all slices, from the last to the first. Later slices have looked at this one's k and v.
        """
        raise Todo("23.5: add what later slices send, and keep what goes to earlier ones")
