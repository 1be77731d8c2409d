"""Bars and what all fills share: right lengths, names that stay, and fills that differ without colours."""

import re
from itertools import combinations
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigrad.draw_bars import RIGHT, WIDTH, bar_chart
from minigrad.draw_svg import FILLS, KINDS, WORDS_ON_FILLS, bytes_text, seconds_text, ticks
from minigrad.errors import UsageError

names = st.sampled_from(["parameters", "gradients", "optimizer", "activations", "<buffers> & more"])
charts = st.dictionaries(
    st.text("abc <&", min_size=1, max_size=12),
    st.dictionaries(names, st.integers(0, 10**13), min_size=1),
    min_size=1,
    max_size=6,
)


def rectangles(svg: str) -> list[tuple[str, float, float]]:
    """Fill, place and length of each bar's parts, without the swatches of the legend."""
    root = ElementTree.fromstring(svg)
    found = [box for box in root.iter("{http://www.w3.org/2000/svg}rect") if box.get("height") != "12.00"]
    return [(box.attrib["class"], float(box.attrib["x"]), float(box.attrib["width"])) for box in found]


@given(charts, st.lists(st.integers(1, 10**13), max_size=2))
def test_lengths_are_in_proportion_and_parts_adjoin(bars, levels) -> None:
    svg = bar_chart(bars, title="t", levels={f"level {number}": value for number, value in enumerate(levels)})
    parts = [value for chart in bars.values() for value in chart.values() if value]
    order = list(dict.fromkeys(name for chart in bars.values() for name in chart))
    drawn = rectangles(svg)
    assert len(drawn) == len(parts)
    expected = [chart[name] for chart in bars.values() for name in order if chart.get(name)]
    high = max(*(sum(chart.values()) for chart in bars.values()), *levels, 1)
    scale = (WIDTH - RIGHT - min((x for _, x, _ in drawn), default=0)) / high
    for (_, _, width), value in zip(drawn, expected, strict=True):
        assert width == pytest.approx(value * scale, abs=0.011)
    left = min((x for _, x, _ in drawn), default=0)
    ends = iter(drawn)
    for chart in bars.values():
        place = left
        for _ in filter(None, chart.values()):
            _, x, width = next(ends)
            assert x == pytest.approx(place, abs=0.05)
            place = x + width
    assert all(x + width <= WIDTH - RIGHT + 0.02 for _, x, width in drawn)
    for chart in bars.values():
        assert bytes_text(sum(chart.values())) in svg


def test_equal_input_gives_equal_bytes_and_the_caption_is_kept() -> None:
    bars = {"stage 0": {"parameters": 3, "gradients": 0}}
    svg = bar_chart(bars, title="A & B", caption="word " * 60, levels={"limit": 5})
    assert svg == bar_chart(bars, title="A & B", caption="word " * 60, levels={"limit": 5})
    assert svg.count("word") == 60
    assert "A &amp; B" in svg
    assert "limit: 5 B" in svg
    assert "prefers-color-scheme: dark" in svg


@pytest.mark.parametrize("bars", [{}, {"a": {}}, {"a": {"b": -1}}])
def test_nothing_to_draw_is_refused(bars) -> None:
    with pytest.raises(UsageError):
        bar_chart(bars, title="t")


# --------------------------------------------------------------------------------------- all pictures


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def lightness(colour: str) -> float:
    """CIE L* of a colour, 0 to 100: what is left of it in a grey print."""
    return 116 * luminance(colour) ** (1 / 3) - 16


@pytest.mark.parametrize("scheme", FILLS)
def test_fills_can_be_told_apart_in_grey(scheme) -> None:
    assert len(FILLS[scheme]) == len(WORDS_ON_FILLS[scheme]) == KINDS
    for one, other in combinations(FILLS[scheme], 2):
        assert abs(lightness(one) - lightness(other)) >= 8, (one, other)


@pytest.mark.parametrize("scheme", FILLS)
def test_words_on_fills_can_be_read(scheme) -> None:
    for fill, words in zip(FILLS[scheme], WORDS_ON_FILLS[scheme], strict=True):
        low, high = sorted((luminance(fill), luminance(words)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (fill, words)  # WCAG 2, success criterion 1.4.3


@given(st.floats(1e-3, 1e16))
def test_ticks_are_round_begin_at_zero_and_stay_inside(high) -> None:
    found = ticks(high)
    assert found[0] == 0
    assert found[-1] <= high * (1 + 1e-9)
    assert 2 <= len(found) <= 16
    step = found[1]
    assert re.fullmatch(r"[125](\.0*)?e[+-]\d+", f"{step:.6e}")
    assert found == pytest.approx([step * number for number in range(len(found))])


@given(st.integers(0, 10**17))
def test_bytes_in_words_are_right_to_three_digits(count) -> None:
    number, unit = bytes_text(count).split()
    size = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "PB": 1e15}[unit]
    assert float(number) * size == pytest.approx(count, rel=0.005001)
    assert float(number) < 1000


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.0, "0.00 ns"), (1.2e-5, "12.0 µs"), (0.9996, "1.00 s"), (75, "75.0 s")]
)
def test_seconds_in_words(seconds, words) -> None:
    assert seconds_text(seconds) == words
