"""Who did what when: one band per rank, computing above messages, arrows from each send to its receive."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from minigrad.draw_svg import KINDS, arrow, box, legend, page, text, ticks, unit_of
from minigrad.errors import UsageError

WIDTH, LEFT, RIGHT, ROW, MESSAGE, GAP = 980.0, 76.0, 24.0, 20.0, 14.0, 12.0
ROWS = ("computing", "messages")


@dataclass(frozen=True)
class Bar:
    """Something that a rank did: `row` is "computing" or "messages", `kind` what the legend calls it."""

    rank: int
    row: str
    kind: str
    start_seconds: float
    stop_seconds: float


def timeline(
    bars: Sequence[Bar], *, arrows: Iterable[tuple[int, int]] = (), title: str, caption: str = ""
) -> str:
    """An SVG picture of bars over time; `arrows` are pairs of places in `bars`, from a send to its receive.

    Time starts with the first bar. Bars of one row that overlap lie below each other. Raises UsageError for
    no bars, an unknown row, or a bar that ends before it starts.
    """
    for bar in bars:
        if bar.row not in ROWS or not bar.start_seconds <= bar.stop_seconds:
            raise UsageError(
                f"{bar} cannot be drawn: rows are {' and '.join(ROWS)}, and no bar stops before it starts"
            )
    if not bars:
        raise UsageError("a timeline needs at least one bar; nothing was recorded")
    first = min(bar.start_seconds for bar in bars)
    seconds = max(bar.stop_seconds for bar in bars) - first
    size, unit = unit_of(seconds, seconds=True)
    scale = (WIDTH - LEFT - RIGHT) / (seconds or 1.0)
    names = list(
        dict.fromkeys(bar.kind for bar in sorted(bars, key=lambda bar: (bar.row, bar.start_seconds)))
    )
    body, taken = legend(names, 24, 46, WIDTH - 48)
    top = 46 + taken + 8
    places, heads, bottom = _places(bars, top)
    for tick in ticks(seconds / size, count=8):
        x = LEFT + tick * size * scale
        body.append(f'<line class="grid" x1="{x:.2f}" y1="{top:.2f}" x2="{x:.2f}" y2="{bottom:.2f}"/>')
        body.append(text(x, bottom + 16, f"{tick:g}", "faint", anchor="middle"))
    body.append(text(WIDTH - 24, bottom + 32, unit, "faint", anchor="end"))
    body += [text(LEFT - 10, y + ROW / 2 + 4, f"rank {rank}", anchor="end") for rank, y in heads.items()]
    for bar, y in zip(bars, places, strict=True):
        x, wide = LEFT + (bar.start_seconds - first) * scale, (bar.stop_seconds - bar.start_seconds) * scale
        tall = ROW if bar.row == "computing" else MESSAGE
        body.append(box(x, y, max(wide, 0.6), tall, names.index(bar.kind) % KINDS, words=bar.kind))
    for source, target in arrows:
        start = LEFT + (bars[source].start_seconds - first) * scale
        stop = LEFT + (bars[target].stop_seconds - first) * scale
        body.append(arrow([(start, places[source] + MESSAGE / 2), (stop, places[target] + MESSAGE / 2)]))
    return page(title, body, width=WIDTH, height=bottom + 36, caption=caption)


def lanes(bars: Sequence[Bar]) -> list[int]:
    """For each bar a lane, such that no two bars of one lane overlap and longer ones come first."""
    order = sorted(range(len(bars)), key=lambda i: (bars[i].start_seconds, -bars[i].stop_seconds))
    ends: list[float] = []
    found = [0] * len(bars)
    for index in order:
        bar = bars[index]
        lane = next((lane for lane, end in enumerate(ends) if end <= bar.start_seconds), len(ends))
        ends[lane : lane + 1] = [bar.stop_seconds]
        found[index] = lane
    return found


def _places(bars: Sequence[Bar], top: float) -> tuple[list[float], dict[int, float], float]:
    """The upper edge of each bar, that of each rank's band, and where the last one ends."""
    places = [0.0] * len(bars)
    heads: dict[int, float] = {}
    y = top
    for rank in sorted({bar.rank for bar in bars}):
        y += GAP / 2
        heads[rank] = y
        for row in ROWS:
            mine = [index for index, bar in enumerate(bars) if bar.rank == rank and bar.row == row]
            levels = lanes([bars[index] for index in mine])
            tall = ROW + 2 if row == "computing" else MESSAGE + 2
            for index, level in zip(mine, levels, strict=True):
                places[index] = y + level * tall
            y += tall * (max(levels) + 1 if levels else 0)
        y += GAP / 2
    return places, heads, y
