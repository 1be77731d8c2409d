"""Which states of a sequence to keep, so that it can be gone through backwards with little work in little
memory.

A sequence of `length` steps leads from state 0 to state `length`. Its derivative needs the states in
opposite order, and only `snapshots` of them can be kept at a time, state 0 among them; the others are
computed again from the nearest one kept. Of all such schedules those below take the fewest steps.

Paper: Griewank, Walther 2000, Algorithm 799: Revolve, §2: Theorem 1 and its proof.
"""

from __future__ import annotations

from math import comb
from typing import NamedTuple

from minigrad.errors import UsageError


def most_steps(snapshots: int, repetitions: int) -> int:
    """The longest sequence that can be reversed if no step is advanced more than `repetitions` times: the
    binomial coefficient β(s, r) = (s + r)! / (s! r!).
    """
    return comb(snapshots + repetitions, snapshots) if repetitions >= 0 else 0


def _repetitions(length: int, snapshots: int) -> int:
    """The r with β(s, r - 1) < length ≤ β(s, r): how often the steps advanced most are advanced."""
    r = 0
    while most_steps(snapshots, r) < length:
        r += 1
    return r


def fewest_steps(length: int, snapshots: int) -> int:
    """How many steps have to be advanced at least, besides the one evaluation of each step for its
    derivative: r · length - β(s + 1, r - 1). Raises UsageError for fewer than one step or snapshot.
    """
    _check(length, snapshots)
    r = _repetitions(length, snapshots)
    return r * length - most_steps(snapshots + 1, r - 1)


def distance(length: int, snapshots: int) -> int:
    """How far to advance from a kept state before the next one is kept, with `length` steps to reverse.

    `snapshots` counts the kept state. After m steps a sequence of length - m is reversed with one snapshot
    less, and then the first m with all of them. That is optimal if both parts need as many repetitions as
    the whole allows: m ≤ β(s, r - 1) and length - m ≤ β(s - 1, r), and neither is shorter than it may be.
    """
    if snapshots == 1 or length == 1:
        return length - 1
    r = _repetitions(length, snapshots)
    return max(1, most_steps(snapshots, r - 2), length - most_steps(snapshots - 1, r))


class Action(NamedTuple):
    """One line of a schedule: `advance` from a state to another, `keep` a state, `reverse` the step that
    starts at a state, or `drop` a state.
    """

    verb: str
    state: int
    to: int | None = None

    def __str__(self) -> str:
        return f"{self.verb} {self.state}" + ("" if self.to is None else f" to {self.to}")


def revolve(length: int, snapshots: int) -> list[Action]:
    """The whole schedule as a list, from the first step to the last derivative.

    >>> print(*revolve(3, 2), sep="; ")
    keep 0; advance 0 to 1; keep 1; advance 1 to 2; reverse 2; reverse 1; drop 1; reverse 0
    """
    _check(length, snapshots)
    kept, actions = [0], [Action("keep", 0)]
    for step in range(length - 1, -1, -1):
        while kept[-1] > step:
            actions.append(Action("drop", kept.pop()))
        at = kept[-1]
        for state in stops(at, step, snapshots - len(kept) + 1):
            actions += [Action("advance", at, state), Action("keep", state)]
            kept.append(state)
            at = state
        if at < step:
            actions.append(Action("advance", at, step))
        actions.append(Action("reverse", step))
    return actions


def stops(at: int, step: int, snapshots: int) -> list[int]:
    """The states to keep on the way from the kept state `at` to the step that is reversed first.

    `snapshots` of them may be kept from `at` on, `at` included.
    """
    kept: list[int] = []
    while snapshots > 1:
        at += distance(step + 1 - at, snapshots)
        if at >= step:
            break
        kept.append(at)
        snapshots -= 1
    return kept


def _check(length: int, snapshots: int) -> None:
    if length < 1 or snapshots < 1:
        raise UsageError(f"a schedule needs at least one step and one snapshot, got {length} and {snapshots}")
