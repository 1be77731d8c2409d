"""Exercises of lesson 22: pipelines.

Replace each `raise Todo(...)`; keep the names. `minigrad check 22` checks all, `minigrad check 22.2` one.

A schedule is here a list of lists: for each rank the names of its actions, in order. "F2" is the forward of
microbatch 2, "B2" its backward, both on the rank's own stage; ranks and microbatches count from 0. To see
yours, write it to a file, a line of words for each rank, and run `minigrad schedule FILE -o picture.svg`.
Messages write "F2@1" for F2 on stage 1, and put > < around the action at which a rank is stuck.
"""

from collections.abc import Sequence

from minigrad.lessons import Todo

Rows = list[list[str]]

# ----- 22.1 ---------------------------------------------------------------------------------------


def gpipe(ranks: int, microbatches: int) -> Rows:
    """Return GPipe's schedule: all forwards in order, then all backwards, the last microbatch first."""
    raise Todo("22.1: every rank does the same; who waits for whom follows from it")


# ----- 22.2 ---------------------------------------------------------------------------------------


def one_forward_one_backward(ranks: int, microbatches: int) -> Rows:
    """Return the 1F1B schedule: as fast as GPipe's, with at most ranks - s activations on rank s.

    Rank s begins with min(ranks - s - 1, microbatches) forwards, then takes one forward and one backward in
    turn while forwards are left, and then the backwards that are left. Backwards go in order.
    """
    raise Todo("22.2: warm up, alternate, drain")


# ----- 22.3 ---------------------------------------------------------------------------------------


def finish(rows: Rows, forward: float, backward: float) -> float | None:
    """Return when the last action ends, if all ranks begin at time 0; None if they wait in a circle.

    Every rank does its actions in order, each as soon as the rank is free and what it needs is there. F on
    stage s needs the same microbatch's F on stage s - 1. B needs the same microbatch's B on stage s + 1, or
    on the last stage its own F. Messages take no time.
    """
    raise Todo("22.3: go round the ranks for as long as somebody can go on")


# ----- 22.4 ---------------------------------------------------------------------------------------


def cut(costs: Sequence[float], stages: int) -> list[int]:
    """Return how many layers each stage gets, so that the dearest stage is as cheap as possible.

    Stages are runs of neighbouring layers, at least one each; stages <= len(costs). 24 layers in 12 stages
    must not take a second: there are 1,352,078 ways.
    """
    raise Todo("22.4: the best cut of the first n layers into k stages, from those into k - 1")


# ----- 22.5 ---------------------------------------------------------------------------------------


class Stage:
    """A stage of PipeDream, x to weight * x, which updates after every backward and stashes its weight."""

    def __init__(self, weight: float, rate: float) -> None:
        self.weight, self.rate = weight, rate
        self.stash: dict = {}  # by microbatch: what its backward will need, and nothing else

    def forward(self, microbatch: int, x: float) -> float:
        """Return weight * x with the newest weight, and stash what the backward needs."""
        raise Todo("22.5: other backwards will change the weight before yours comes")

    def backward(self, microbatch: int, cotangent: float) -> float:
        """Take the step, the newest weight less rate * gradient, and return the cotangent of x.

        `cotangent` is that of what forward returned. The gradient and the cotangent of x are those of this
        microbatch's forward, with its weight and its x. Forget what was stashed.
        """
        raise Todo("22.5: compute with the old weight, change the newest")


# ----- 22.6 ---------------------------------------------------------------------------------------


def zero_bubble(ranks: int, microbatches: int) -> Rows:
    """Return a schedule in which backwards are split: "I2" for inputs, "W2" for weights, no "B".

    I needs the same microbatch's I on stage s + 1, or on the last stage its own F; W needs the same rank's I.
    F, I and W take 1 each. There are at least 2 * ranks microbatches. No rank may be idle for more than
    ranks - 1 (1F1B: 3 (ranks - 1)), and none may hold more than `ranks` activations, each from its F to its
    W.
    """
    raise Todo("22.6: 1F1B, and W fills what was idle: rank s does W of microbatch j - s after I of j")
