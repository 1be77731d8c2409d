"""Runs of flattened boxes are the rectangles they are said to be; what is missing of an array is found."""

from math import prod

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigrad.dist import checkpoint_boxes
from minigrad.dist.checkpoint_boxes import common, entries, missing, rectangles, shape_of, without
from minigrad.errors import UsageError

shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)


@st.composite
def boxes(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """A part of an array of this shape."""
    offsets = [draw(st.integers(0, size)) for size in shape]
    return tuple((low, draw(st.integers(0, size - low))) for low, size in zip(offsets, shape, strict=True))


@st.composite
def runs(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[tuple[tuple[int, int], ...], int, int]:
    """Some of the flattened entries of a box."""
    box = draw(boxes(shape))
    start, stop = sorted(draw(st.tuples(*[st.integers(0, entries(box))] * 2)))
    return box, start, stop


def cut(array: np.ndarray, rectangle: tuple[tuple[int, int], ...]) -> np.ndarray:
    return array[tuple(slice(low, high) for low, high in rectangle)]


def taken(array: np.ndarray, box: tuple[tuple[int, int], ...], start: int, stop: int) -> np.ndarray:
    """The entries of a run, found in the plainest way."""
    return cut(array, tuple((low, low + length) for low, length in box)).reshape(-1)[start:stop]


@given(st.data(), shapes)
def test_a_run_is_its_rectangles_one_after_the_other(data: st.DataObject, shape: tuple[int, ...]) -> None:
    array = np.arange(prod(shape)).reshape(shape)
    box, start, stop = data.draw(runs(shape))
    found = list(rectangles(box, start, stop))
    assert len(found) <= max(1, 2 * len(shape) - 1)
    place = start
    for rectangle, begins in found:
        assert begins == place
        assert all(low < high for low, high in rectangle)
        place += prod(shape_of(rectangle))
    assert place == stop or not found
    joined = [cut(array, rectangle).reshape(-1) for rectangle, _ in found]
    np.testing.assert_array_equal(np.concatenate([[], *joined]), taken(array, box, start, stop))


@given(st.data(), shapes)
def test_rectangles_meet_and_part_as_sets_do(data: st.DataObject, shape: tuple[int, ...]) -> None:
    array = np.arange(prod(shape)).reshape(shape)
    one, other = (tuple((low, low + length) for low, length in data.draw(boxes(shape))) for _ in range(2))
    ours, theirs = (set(cut(array, rectangle).ravel().tolist()) for rectangle in (one, other))
    shared = common(one, other)
    assert (set() if shared is None else set(cut(array, shared).ravel().tolist())) == ours & theirs
    left = [cut(array, rectangle).ravel().tolist() for rectangle in without(one, other)]
    assert sorted(entry for part in left for entry in part) == sorted(ours - theirs)


@given(st.data(), shapes)
def test_exactly_what_no_run_covers_is_missing(data: st.DataObject, shape: tuple[int, ...]) -> None:
    array = np.arange(prod(shape)).reshape(shape)
    found = data.draw(st.lists(runs(shape), max_size=5))
    gaps = missing(shape, found)
    here = {entry for run in found for entry in taken(array, *run).tolist()}
    flat = len(shape) != 1 and any(len(gap) != len(shape) for gap in gaps)
    lost = [cut(array.reshape(-1) if flat else array, gap).ravel().tolist() for gap in gaps]
    assert sorted(entry for gap in lost for entry in gap) == sorted(set(range(prod(shape))) - here)


def test_cutting_an_array_to_dust_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every other entry of a plane: each makes more of what is left, without end for whoever has time."""
    monkeypatch.setattr(checkpoint_boxes, "MOST_PARTS", 100)
    dust = [(((row, 1), (column, 1)), 0, 1) for row in range(0, 40, 2) for column in range(0, 40, 2)]
    with pytest.raises(UsageError, match="cut into too many parts"):
        missing((40, 40), dust)
