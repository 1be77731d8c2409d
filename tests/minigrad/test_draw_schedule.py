"""Gantt charts hold what they are given, are well-formed, and refuse nonsense."""

import re
from xml.etree import ElementTree

import pytest

from minigrad.draw_schedule import LEFT, RIGHT, WIDTH, Box, draw_schedule
from minigrad.errors import UsageError

ROWS = [
    [Box(0, 1, "F0", "forward"), Box(3, 5, "B0", "backward", pale=True)],
    [Box(1, 2, "F0", "forward"), Box(2, 3, "I0", "inputs"), Box(3, 3, "U0", "update")],
]
BOX = re.compile(r'<rect class="k(\d)" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="26.00">')


def test_boxes_lie_where_they_belong():
    picture = draw_schedule({"": ROWS}, title="a & b", unit="units")
    ElementTree.fromstring(picture)
    assert 'aria-label="a &amp; b"' in picture
    found = BOX.findall(picture)
    scale = (WIDTH - LEFT - RIGHT) / 5
    assert [kind for kind, *_ in found] == ["0", "2", "0", "1"]
    assert float(found[1][1]) == pytest.approx(LEFT + 3 * scale, abs=0.01)
    assert float(found[1][3]) == pytest.approx(2 * scale, abs=0.01)
    assert found[0][2] == found[1][2] != found[2][2]
    assert picture.count('<g opacity="0.72">') == 1
    assert "backward for inputs" in picture
    assert "backward for weights" not in picture


def test_panels_stand_below_each_other_over_one_axis():
    picture = draw_schedule({"model": ROWS, "measured": ROWS}, title="both")
    assert len(BOX.findall(picture)) == 8
    assert picture.index(">model<") < picture.index(">measured<")
    assert draw_schedule({"model": ROWS, "measured": ROWS}, title="both") == picture


def test_what_cannot_be_drawn():
    with pytest.raises(UsageError, match="these are 0"):
        draw_schedule({"": [[]]}, title="nothing")
    with pytest.raises(UsageError, match="no colour for tea"):
        draw_schedule({"": [[Box(0, 1, "x", "tea")]]}, title="tea")
