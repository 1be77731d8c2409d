"""Message arrows: one for each message, between the lines of its ranks, in the band of its step."""

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigrad.draw_arrows import STEP, TOP, Arrow, message_arrows
from minigrad.errors import UsageError

messages = st.builds(
    Arrow, st.integers(0, 6), st.integers(0, 5), st.integers(0, 5), st.sampled_from(["", "g<0> & g1"])
).filter(lambda message: message.source != message.target)


@given(st.lists(messages, min_size=1, max_size=12))
def test_each_message_leaves_its_source_and_ends_at_its_target(messages) -> None:
    svg = message_arrows(messages, title="t", steps=["first"])
    root = ElementTree.fromstring(svg)
    words = [node.text or "" for node in root.iter("{http://www.w3.org/2000/svg}text")]
    ranks = 1 + max(max(message.source, message.target) for message in messages)
    assert [word for word in words if word.startswith("rank")] == [f"rank {rank}" for rank in range(ranks)]
    axes = [
        float(line.attrib["x1"])
        for line in root.iter("{http://www.w3.org/2000/svg}line")
        if line.get("class") == "axis"
    ]
    assert sorted(axes) == axes
    assert len(axes) == ranks
    paths = re.findall(r'<path class="arrow"[^>]* d="([^"]*)"', svg)
    for message, path in zip(messages, paths, strict=True):
        x1, y1, x2, y2 = map(float, re.findall(r"[\d.]+", path))
        assert (x1, x2) == (axes[message.source], axes[message.target])
        assert TOP + message.step * STEP < y1 < y2 < TOP + (message.step + 1) * STEP
    assert words.count("g<0> & g1") == sum(message.label != "" for message in messages)
    assert "first" in words
    assert svg == message_arrows(messages, title="t", steps=["first"])


@pytest.mark.parametrize("messages", [[], [Arrow(0, 1, 1)], [Arrow(-1, 0, 1)]])
def test_what_is_no_message_is_refused(messages) -> None:
    with pytest.raises(UsageError):
        message_arrows(messages, title="t")
