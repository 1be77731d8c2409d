"""A timeline to look at: as a grid of text, or as the boxes of a Gantt chart."""

from fractions import Fraction
from math import gcd, lcm

from minigrad.dist.schedule import Action, Kind
from minigrad.dist.timing import Timeline
from minigrad.draw_schedule import Box, draw_schedule

MOST_COLUMNS = 100
BOX_KINDS = {
    Kind.FORWARD: "forward",
    Kind.BACKWARD: "backward",
    Kind.BACKWARD_INPUTS: "inputs",
    Kind.BACKWARD_WEIGHTS: "weights",
    Kind.UPDATE: "update",
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
