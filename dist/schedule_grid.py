"""A timeline to look at: as a grid of text, or as the boxes of a Gantt chart. And lists with marked cells."""

from collections.abc import Sequence
from fractions import Fraction
from math import gcd, lcm

from minigrad.dist.schedule import Action, Kind, Schedule
from minigrad.dist.timing import Timeline
from minigrad.draw_schedule import Box, draw_schedule

MOST_COLUMNS = 100
CELLS_SHOWN = 9  # on each side of a marked cell
BOX_KINDS = {
    Kind.FORWARD: "forward",
    Kind.BACKWARD: "backward",
    Kind.BACKWARD_INPUTS: "inputs",
    Kind.BACKWARD_WEIGHTS: "weights",
    Kind.UPDATE: "update",
    Kind.GATHER: "waiting",
    Kind.REDUCE: "waiting",
}


def grid(timeline: Timeline) -> str:
    """One line per rank and one column per unit of time, the longest that every action is a multiple of.

    Dots are idle time. Where that takes more than a hundred columns, the lists of actions are given instead.

    >>> from minigrad.dist.schedules import make
    >>> from minigrad.dist.timing import simulate
    >>> print(grid(simulate(make("1f1b", 2, 2))), end="")
    0: F0 F1 .  .  B0----.  B1----
    1: .  F0 B0----F1 B1----.  .
    """
    moments = {Fraction(moment) for span in timeline.spans for moment in (span.start, span.stop)}
    parts = lcm(*(moment.denominator for moment in moments))
    unit = Fraction(gcd(*(int(moment * parts) for moment in moments)), parts)
    columns = int(max(moments) / unit) if unit else 0
    if not 0 < columns <= MOST_COLUMNS:
        return str(timeline.schedule)
    width = 1 + max(len(label(timeline, span.action)) for span in timeline.spans)
    lines = []
    for rank in range(len(timeline.schedule.ranks)):
        text = f"{rank}: "
        start = len(text)
        for span in timeline.of(rank):
            if span.stop == span.start:
                continue
            begin = start + int(span.start / unit) * width
            while len(text) < begin:
                text += ".".ljust(width)
            text += label(timeline, span.action).ljust(width if span.stop - span.start == unit else 0)
            text = text.ljust(start + int(span.stop / unit) * width, "-")
        while len(text) < start + columns * width:
            text += ".".ljust(width)
        lines.append(text.rstrip() + "\n")
    return "".join(lines)


def label(timeline: Timeline, action: Action) -> str:
    """An action without its stage where a rank has only one."""
    several = timeline.schedule.stages > len(timeline.schedule.ranks)
    return str(action) if several else str(action).partition("@")[0]


def boxes(timeline: Timeline) -> list[list[Box]]:
    """A timeline as rows of boxes, with time counted from its start."""
    begin = min((span.start for span in timeline.spans), default=0)
    ranks = len(timeline.schedule.ranks)
    return [
        [
            Box(
                float(span.start - begin),
                float(span.stop - begin),
                label(timeline, span.action),
                BOX_KINDS[span.action.kind],
                pale=bool(span.action.stage // ranks % 2),
            )
            for span in timeline.of(rank)
            if span.action.kind in BOX_KINDS
        ]
        for rank in range(ranks)
    ]


def draw(timeline: Timeline, *, title: str, measured: Timeline | None = None, unit: str = "time") -> str:
    """The Gantt chart of a timeline as SVG; with that of a real run below it."""
    if measured is None:
        return draw_schedule({"": boxes(timeline)}, title=title, unit=unit)
    panels = {"model": boxes(timeline), "measured": boxes(measured)}
    return draw_schedule(panels, title=title, unit=unit)


def marked_grid(schedule: Schedule, cells: Sequence[tuple[int, int]]) -> str:
    """The lists of all ranks around the marked cells, `>F2@0<`; cells of other columns are left out."""
    columns = max((len(row) for row in schedule.ranks), default=0) + 1
    middle = [place for _, place in cells] or [0]
    start, stop = max(0, min(middle) - CELLS_SHOWN), min(columns, max(middle) + CELLS_SHOWN + 1)
    rows = []
    for rank, row in enumerate(schedule.ranks):
        texts = []
        for place in range(start, stop):
            text = str(row[place]) if place < len(row) else ""
            texts.append(f">{text or '?'}<" if (rank, place) in cells else f" {text} ")
        rows.append(texts)
    widths = [max(len(texts[column]) for texts in rows) for column in range(stop - start)]
    return "\n".join(
        f"{rank}: {'… ' if start else ''}"
        + "".join(text.ljust(width) for text, width in zip(texts, widths, strict=True)).rstrip()
        + (" …" if stop < len(schedule.ranks[rank]) else "")
        for rank, texts in enumerate(rows)
    )
