"""A line search: how far to go along a direction, so that the strong Wolfe conditions hold.

f(t) ≤ f(0) + c₁·t·f'(0)  (the loss falls enough)  and  |f'(t)| ≤ c₂·|f'(0)|  (the slope is flatter)

First steps grow until two of them hold such a t between them, then that bracket shrinks; each next t is the
minimum of the cubic through two losses and slopes. Source: Nocedal, Wright 2006, Numerical Optimization,
algorithms 3.5 and 3.6, eq. 3.59, with the safeguards of Schmidt's minFunc, which torch follows too. Like
theirs, the search may miss a minimum far before a first step that is a little, but not enough, lower.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from minigrad.backend import Array

SUFFICIENT_DECREASE, CURVATURE = 1e-4, 0.9  # c₁ and c₂


@dataclass(frozen=True)
class Point:
    """A place on the line: `step` from its start, the loss there, its gradient, the slope along the line."""

    step: float
    loss: float
    gradient: Array
    slope: float


def strong_wolfe(
    evaluate: Callable[[float], Point],
    start: Point,
    first_step: float,
    *,
    most: int,
    length: float,
    tolerance: float,
) -> tuple[Point, int]:
    """The place found and how often `evaluate(step)` was called: once, and up to `most` times more.

    `length` is the largest entry of the direction; brackets whose size times it is below `tolerance` are not
    searched further.
    """
    low, high, count = _bracket(evaluate, start, first_step, most)
    if high is None:
        return low, count + 1
    ends, low_end = [low, high], 0 if low.loss <= high.loss else 1
    stuck = False
    while count < most and abs(ends[1].step - ends[0].step) * length >= tolerance:
        step, stuck = _inside(cubic_minimum(ends[0], ends[1]), ends[0].step, ends[1].step, stuck)
        point = evaluate(step)
        count += 1
        if not _low_enough(point, start) or point.loss >= ends[low_end].loss:
            ends[1 - low_end] = point
            low_end = 0 if ends[0].loss <= ends[1].loss else 1
            continue
        good = _flat_enough(point, start)
        if not good and point.slope * (ends[1 - low_end].step - ends[low_end].step) >= 0:
            ends[1 - low_end] = ends[low_end]
        ends[low_end] = point
        if good:
            break
    return ends[low_end], count + 1


def _low_enough(point: Point, start: Point) -> bool:
    return point.loss <= start.loss + SUFFICIENT_DECREASE * point.step * start.slope


def _flat_enough(point: Point, start: Point) -> bool:
    return abs(point.slope) <= -CURVATURE * start.slope


def _bracket(
    evaluate: Callable[[float], Point], start: Point, step: float, most: int
) -> tuple[Point, Point | None, int]:
    """Two places with a good one between them (or a good one alone), and the evaluations after the first."""
    before, point = start, evaluate(step)
    for count in range(most):
        if not _low_enough(point, start) or (count > 1 and point.loss >= before.loss):
            return before, point, count
        if _flat_enough(point, start):
            return point, None, count
        if point.slope >= 0:
            return before, point, count
        bounds = point.step + 0.01 * (point.step - before.step), 10 * point.step
        before, point = point, evaluate(cubic_minimum(before, point, bounds))
    return start, point, most


def _inside(step: float, one: float, other: float, stuck: bool) -> tuple[float, bool]:
    """The step, moved off the ends of the bracket if it came too near to one twice in a row."""
    least, most = min(one, other), max(one, other)
    margin = 0.1 * (most - least)
    if min(most - step, step - least) >= margin:
        return step, False
    if not stuck and least < step < most:
        return step, True
    return (most - margin if abs(step - most) < abs(step - least) else least + margin), False


def cubic_minimum(one: Point, other: Point, bounds: tuple[float, float] | None = None) -> float:
    """Where the cubic through two losses and slopes is least, kept within bounds (or between the two); their
    middle where it has no minimum.
    """
    left, right = (one, other) if one.step <= other.step else (other, one)
    least, most = bounds or (left.step, right.step)
    across = right.step - left.step
    chord = left.slope + right.slope - 3 * (left.loss - right.loss) / (left.step - right.step)
    square = chord * chord - left.slope * right.slope
    if not square >= 0:
        return (least + most) / 2
    root = math.sqrt(square)
    share = (right.slope + root - chord) / (right.slope - left.slope + 2 * root)
    return min(max(right.step - across * share, least), most)
