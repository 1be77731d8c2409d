"""Gantt charts of who does what when, as SVG text: one row per rank, one box per action, gaps are idle time.

Several charts over one time axis stand below each other, such as what was predicted and what was measured.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from minigrad.draw_svg import LETTER, box, page, text, ticks
from minigrad.errors import UsageError

WIDTH, LEFT, RIGHT, TOP = 960.0, 72.0, 20.0, 84.0
ROW, GAP, PANEL_GAP = 26.0, 4.0, 34.0
MOST_BOXES = 20_000

KINDS = {
    "forward": "forward",
    "inputs": "backward for inputs",
    "backward": "backward",
    "weights": "backward for weights",
    "update": "update",
    "waiting": "waiting",
}


@dataclass(frozen=True)
class Box:
    """What one rank does from `start` to `stop`; `pale` boxes tell parts of a rank apart."""

    start: float
    stop: float
    text: str
    kind: str
    pale: bool = False


Rows = Sequence[Sequence[Box]]


def draw_schedule(panels: Mapping[str, Rows], *, title: str, unit: str = "time", caption: str = "") -> str:
    """An SVG picture of charts over one time axis that begins at 0; each maps to one row of boxes per rank.

    Raises UsageError where there is nothing to draw, too much, or a kind of box that has no colour.
    """
    boxes = [box for rows in panels.values() for row in rows for box in row]
    if not boxes or len(boxes) > MOST_BOXES:
        raise UsageError(f"a chart shows 1 to {MOST_BOXES:,} actions, and these are {len(boxes):,}")
    unknown = sorted({box.kind for box in boxes} - set(KINDS))
    if unknown:
        raise UsageError(f"a chart has no colour for {', '.join(unknown)}; there are {', '.join(KINDS)}")
    end = max(box.stop for box in boxes) or 1.0
    scale = (WIDTH - LEFT - RIGHT) / end
    body: list[str] = []
    y = TOP
    for name, rows in panels.items():
        if len(panels) > 1:
            body.append(text(LEFT, y + 14, name))
            y += 22
        for rank, row in enumerate(rows):
            body += [text(LEFT - 10, y + 17, f"rank {rank}", "faint", anchor="end")]
            body += _draw_row(row, y, scale)
            y += ROW + GAP
        y += PANEL_GAP
    bottom = y - PANEL_GAP
    shown = [kind for kind in KINDS if any(box.kind == kind for box in boxes)]
    parts = [*_draw_legend(shown), *_draw_axis(end, scale, bottom, unit), *body]
    return page(title, parts, width=WIDTH, height=bottom + 46, caption=caption)


def _draw_row(row: Sequence[Box], y: float, scale: float) -> Iterable[str]:
    numbers = {kind: number for number, kind in enumerate(KINDS)}
    for item in row:
        width = (item.stop - item.start) * scale
        if width > 0:
            drawn = box(LEFT + item.start * scale, y, width, ROW, numbers[item.kind], words=item.text)
            yield f'<g opacity="0.72">{drawn}</g>' if item.pale else drawn


def _draw_axis(end: float, scale: float, bottom: float, unit: str) -> Iterable[str]:
    for tick in ticks(end, count=12):
        x = LEFT + tick * scale
        yield f'<line class="grid" x1="{x:.2f}" y1="{TOP - 6:g}" x2="{x:.2f}" y2="{bottom + 4:g}"/>'
        yield text(x, bottom + 18, f"{tick:.6g}", "faint", anchor="middle")
    yield text((LEFT + WIDTH - RIGHT) / 2, bottom + 36, unit, anchor="middle")


def _draw_legend(kinds: Sequence[str]) -> Iterable[str]:
    x = LEFT
    for kind in kinds:
        yield box(x, 46, 12, 12, list(KINDS).index(kind))
        yield text(x + 18, 56, KINDS[kind])
        x += 40 + LETTER * len(KINDS[kind])
