"""Exercises of lesson 19: recompute.

Replace each `raise Todo(...)`; keep the names. `minigrad check 19` checks all, `minigrad check 19.2` one.

A layer has `forward(x)`, which returns the next state, and `backward(x, cotangent)`, which turns the
cotangent of its output into that of its input x. The check counts the states that are alive, wherever you
keep them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minigrad.lessons import Todo

# ----- 19.1 ---------------------------------------------------------------------------------------


def gradient_in_segments(layers: Sequence[Any], x: Any, cotangent: Any, segments: int) -> Any:
    """Return the cotangent of x, for the cotangent of the last layer's output.

    Cut the layers into `segments` parts of (nearly) equal length; segments <= len(layers). Going forward,
    keep what enters each part. Then, from the last part to the first, run it again from there and walk back
    through it. Alive at one time: at most segments + the longest part's length + 1 states.
    """
    raise Todo("19.1: keep k states, compute the rest again")


# ----- 19.2 ---------------------------------------------------------------------------------------

# A function of x that draws random numbers; it returns its output, and what turns the output's cotangent into
# that of x.
Pull = Callable[[np.ndarray], np.ndarray]
Random = Callable[[np.ndarray, np.random.Generator], tuple[np.ndarray, Pull]]


class Segment:
    """A function that is forgotten and computed again, with the same random numbers."""

    def __init__(self, function: Random) -> None:
        self.function = function

    def forward(self, x: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Return the output.

        Keep x and where `random` stood before (`random.bit_generator.state`), and nothing else.
        """
        raise Todo("19.2: remember where the generator stood")

    def backward(self, cotangent: np.ndarray) -> np.ndarray:
        """Run the function again, with the random numbers of the first run, and return the cotangent of x.

        The generator that the program uses must not notice: make one of your own for this,
        `own = np.random.default_rng()`, and set `own.bit_generator.state`.
        """
        raise Todo("19.2: a generator in the old state, then the function's own way back")


# ----- 19.3 ---------------------------------------------------------------------------------------


def fewest_extra_steps(layers: int, snapshots: int) -> int:
    """Return the least number of forward steps in which a chain can be walked back.

    At most `snapshots` states are kept, the input among them. Walking back through a layer needs its input,
    and is no forward step. One layer: 0. One snapshot: start from the input again for each layer.
    Otherwise: go m steps, keep that state, deal with the layers behind it with one snapshot less, and then
    with the m before it. Take the best m. (100 layers, 10 snapshots must not take longer than a second.)
    """
    raise Todo("19.3: the best m, by recursion with a memory")


# ----- 19.4 ---------------------------------------------------------------------------------------


def gradient_with_snapshots(layers: Sequence[Any], x: Any, cotangent: Any, snapshots: int) -> Any:
    """Return the cotangent of x with exactly fewest_extra_steps(len(layers), snapshots) calls of `forward`.

    Alive at one time: at most snapshots + 2 states (those that enter and leave a running step are not kept).
    """
    raise Todo("19.4: do what the recursion says")
