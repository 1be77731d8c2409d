"""Timelines: bars where their times say, none over another, arrows from sends to receives."""

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigrad.draw_timeline import LEFT, RIGHT, WIDTH, Bar, lanes, timeline
from minigrad.errors import UsageError

moments = st.integers(500, 1000).map(lambda milliseconds: milliseconds / 1000)


@st.composite
def bars(draw) -> list[Bar]:
    found = []
    for _ in range(draw(st.integers(1, 25))):
        start, stop = sorted((draw(moments), draw(moments)))
        row = draw(st.sampled_from(["computing", "messages"]))
        found.append(Bar(draw(st.integers(0, 3)), row, draw(st.sampled_from("abc")), start, stop))
    return found


def boxes(svg: str) -> list[list[float]]:
    """Left, top, width, height of each bar, without the swatches of the legend."""
    root = ElementTree.fromstring(svg)
    places = [
        [float(box.attrib[name]) for name in ("x", "y", "width", "height")]
        for box in root.iter("{http://www.w3.org/2000/svg}rect")
    ]
    return [place for place in places if place[3] != 12]


@given(bars())
def test_bars_stand_where_their_times_say_and_do_not_overlap(bars) -> None:
    drawn = boxes(timeline(bars, title="t"))
    first = min(bar.start_seconds for bar in bars)
    seconds = max(bar.stop_seconds for bar in bars) - first or 1.0
    scale = (WIDTH - LEFT - RIGHT) / seconds
    for bar, (x, _, width, _) in zip(bars, drawn, strict=True):
        assert x == pytest.approx(LEFT + (bar.start_seconds - first) * scale, abs=0.01)
        assert width == pytest.approx(max((bar.stop_seconds - bar.start_seconds) * scale, 0.6), abs=0.01)
    for index, (x, y, width, height) in enumerate(drawn):
        for other_x, other_y, other_width, other_height in drawn[:index]:
            beside = x >= other_x + other_width - 0.7 or other_x >= x + width - 0.7
            assert beside or y >= other_y + other_height or other_y >= y + height
    for bar, (_, y, _, _) in zip(bars, drawn, strict=True):  # ranks from top to bottom
        assert all(
            y < other_y
            for other, (_, other_y, _, _) in zip(bars, drawn, strict=True)
            if other.rank > bar.rank
        )


@given(bars())
def test_lanes_hold_no_two_bars_at_once_and_are_as_few_as_can_be(bars) -> None:
    found = lanes(bars)
    for index, bar in enumerate(bars):
        for other, lane in zip(bars[:index], found[:index], strict=True):
            if lane == found[index]:
                assert bar.start_seconds >= other.stop_seconds or other.start_seconds >= bar.stop_seconds
    most = max(
        sum(other.start_seconds <= bar.start_seconds < other.stop_seconds for other in bars) for bar in bars
    )
    assert max(found) + 1 <= max(1, most) + sum(bar.start_seconds == bar.stop_seconds for bar in bars)


def test_arrows_run_from_the_start_of_a_send_to_the_end_of_its_receive() -> None:
    bars = [Bar(0, "messages", "send", 0.0, 1.0), Bar(1, "messages", "receive", 0.5, 2.0)]
    svg = timeline(bars, arrows=[(0, 1)], title="t", caption="what it shows")
    (path,) = re.findall(r'<path class="arrow"[^>]* d="([^"]*)"', svg)
    x1, y1, x2, y2 = map(float, re.findall(r"[\d.]+", path))
    assert (x1, x2) == (LEFT, WIDTH - RIGHT)
    assert y1 < y2
    assert "what it shows" in svg
    assert ">ms<" not in svg
    assert ">s<" in svg
    assert svg == timeline(bars, arrows=[(0, 1)], title="t", caption="what it shows")


@pytest.mark.parametrize("bars", [[], [Bar(0, "computing", "a", 2.0, 1.0)], [Bar(0, "other", "a", 0.0, 1.0)]])
def test_what_cannot_be_drawn_is_refused(bars) -> None:
    with pytest.raises(UsageError):
        timeline(bars, title="t")
