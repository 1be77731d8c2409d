"""Pictures: well-formed, deterministic, with every point at its place."""

import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigrad.draw import line_chart
from minigrad.errors import UsageError

finite = st.floats(-1e6, 1e6).filter(lambda value: value == 0 or abs(value) > 1e-6)


def draw(series, **levels: float) -> str:
    return line_chart(series, title="A & B", x_label="step", y_label="loss", horizontal_lines=levels)


def paths(svg: str) -> list[list[tuple[float, float]]]:
    """The points of each line, in the picture's units."""
    found = re.findall(r'<path [^>]* d="([^"]*)"', svg)
    return [[(float(x), float(y)) for x, y in re.findall(r"[ML]([-\d.]+) ([-\d.]+)", line)] for line in found]


@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=30), st.lists(finite, max_size=3))
def test_any_series_makes_a_picture_with_all_its_points_inside(points, levels) -> None:
    x, y = [x for x, _ in points], [y for _, y in points]
    named = {f"level <{index}>": value for index, value in enumerate(levels)}
    svg = line_chart({"loss": (x, y)}, title="t", x_label="x", y_label="y", horizontal_lines=named)
    ElementTree.fromstring(svg)
    (line,) = paths(svg)
    assert len(line) == len(points)
    assert all(0 <= a <= 760 and 0 <= b <= 440 for a, b in line)


def test_more_to_the_right_is_later_and_higher_is_more() -> None:
    (line,) = paths(draw({"loss": ([0, 1, 2, 3], [4, 3, 2, 1])}))
    assert all(first[0] < second[0] and first[1] < second[1] for first, second in pairwise(line))


def test_equal_input_gives_equal_bytes_and_titles_are_escaped() -> None:
    svg = draw({"loss": ([1, 2], [3, 4])}, uniform=5.545)
    assert svg == draw({"loss": ([1, 2], [3, 4])}, uniform=5.545)
    assert "A &amp; B" in svg
    assert "uniform = 5.54" in svg or "uniform = 5.55" in svg
    assert "prefers-color-scheme: dark" in svg


def test_points_that_are_not_finite_break_the_line() -> None:
    svg = draw({"loss": ([1, 2, 3, 4], [1, math.nan, 3, 4])})
    assert re.search(r'd="M[^ML"]*M[^ML"]*L[^ML"]*"', svg)


@pytest.mark.parametrize("series", [{}, {"a": ([], [])}, {"a": ([1], [math.inf])}, {"a": ([1, 2], [1])}])
def test_nothing_to_draw_is_refused(series) -> None:
    with pytest.raises(UsageError):
        draw(series)
