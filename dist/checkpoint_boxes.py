"""The geometry of checkpoints: a run of the flattened entries of a box, as rectangles of the whole array.

A *box* is a part of an array that a slice of each axis cuts out: one (offset, length) per axis. A rank holds
the entries `start` to `stop` of a box, flattened in C order. Such a run is made of at most 2n - 1
*rectangles* (n axes), each of which is contiguous in the run. Rectangles have a (low, high) per axis, in the
whole array's indices: there they meet rectangles of any other box.
"""

from collections.abc import Iterator, Sequence
from math import prod

from minigrad.errors import UsageError

MOST_PARTS = 100_000
Box = tuple[tuple[int, int], ...]
Rectangle = tuple[tuple[int, int], ...]


def whole(shape: Sequence[int]) -> Box:
    """The box that is all of an array."""
    return tuple((0, length) for length in shape)


def entries(box: Box) -> int:
    """How many entries a box has."""
    return prod(length for _, length in box)


def shape_of(rectangle: Rectangle) -> tuple[int, ...]:
    """Its length along each axis."""
    return tuple(high - low for low, high in rectangle)


def rectangles(box: Box, start: int, stop: int) -> Iterator[tuple[Rectangle, int]]:
    """The rectangles that entries `start` to `stop` of the flattened box are made of, in order.

    With each comes where it begins in the flattened box.

    >>> list(rectangles(((0, 3), (0, 4)), 2, 12))
    [(((0, 1), (2, 4)), 2), (((1, 3), (0, 4)), 4)]
    """
    if start >= stop:
        return
    if not box:
        yield (), start
        return
    (offset, _), rest = box[0], box[1:]
    row = entries(rest)
    first, skipped = divmod(start, row)
    last, taken = divmod(stop, row)
    if skipped:  # the first row is entered in its middle
        for inner, place in rectangles(rest, skipped, min(stop - first * row, row)):
            yield ((offset + first, offset + first + 1), *inner), first * row + place
        first += 1
    if first < last:
        complete = tuple((low, low + length) for low, length in rest)
        yield ((offset + first, offset + last), *complete), first * row
    if taken and first <= last:
        for inner, place in rectangles(rest, 0, taken):
            yield ((offset + last, offset + last + 1), *inner), last * row + place


def common(one: Rectangle, other: Rectangle) -> Rectangle | None:
    """What two rectangles share, or None."""
    shared = tuple(
        (max(low, other_low), min(high, other_high))
        for (low, high), (other_low, other_high) in zip(one, other, strict=True)
    )
    return shared if all(low < high for low, high in shared) else None


def without(rectangle: Rectangle, removed: Rectangle) -> list[Rectangle]:
    """What is left of a rectangle, as rectangles that share nothing."""
    hole = common(rectangle, removed)
    if hole is None:
        return [rectangle]
    left = []
    for axis, ((low, high), (hole_low, hole_high)) in enumerate(zip(rectangle, hole, strict=True)):
        for side in ((low, hole_low), (hole_high, high)):
            if side[0] < side[1]:
                left.append((*hole[:axis], side, *rectangle[axis + 1 :]))
    return left


def missing(shape: Sequence[int], runs: Sequence[tuple[Box, int, int]]) -> list[Rectangle]:
    """What none of the runs (box, start, stop) covers of an array of this shape; runs may overlap.

    Raises UsageError for runs that are cut in a way that no program cuts.
    """
    if all(box == whole(shape) for box, _, _ in runs):
        size = prod(shape)  # flattened, a run is one rectangle
        shape, runs = (size,), [(((0, size),), start, stop) for _, start, stop in runs]
    left: list[Rectangle] = [tuple((0, length) for length in shape)] if prod(shape) else []
    for box, start, stop in runs:
        for rectangle, _ in rectangles(box, start, stop):
            left = [part for old in left for part in without(old, rectangle)]
            if len(left) > MOST_PARTS:
                raise UsageError(
                    f"an array of shape {tuple(shape)} is cut into too many parts to be looked at"
                )
    return left
