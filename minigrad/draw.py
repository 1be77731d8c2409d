"""Pictures as SVG text, drawn without any library: the same input gives the same bytes.

The colours follow the reader's light or dark scheme through CSS, so one file serves both.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from minigrad.errors import UsageError

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 76, 56  # margins around the plotting area
COLOURS = ("a", "b", "c", "d", "e", "f")  # CSS classes; a seventh series takes the first again

_STYLE = """
svg { background: #ffffff; font-family: system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
text { fill: #24292f; font-size: 12px; }
.title { font-size: 16px; font-weight: 600; }
.faint { fill: #57606a; }
.grid { stroke: #d8dee4; stroke-width: 1; }
.axis { stroke: #57606a; stroke-width: 1; }
.level { stroke: #57606a; stroke-width: 1.2; stroke-dasharray: 5 4; }
.line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.a { stroke: #0969da; } .b { stroke: #cf5b00; } .c { stroke: #1a7f37; }
.d { stroke: #8250df; } .e { stroke: #bf3989; } .f { stroke: #9a6700; }
@media (prefers-color-scheme: dark) {
svg { background: #0d1117; }
text { fill: #e6edf3; }
.faint { fill: #9198a1; }
.grid { stroke: #30363d; }
.axis, .level { stroke: #9198a1; }
.a { stroke: #58a6ff; } .b { stroke: #f0883e; } .c { stroke: #3fb950; }
.d { stroke: #bc8cff; } .e { stroke: #f778ba; } .f { stroke: #d29922; }
}
""".strip()


@dataclass(frozen=True)
class _Axis:
    """A linear map from values to places in the picture, with round ticks inside its limits."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]

    def place(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def line_chart(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    horizontal_lines: Mapping[str, float] | None = None,
) -> str:
    """An SVG picture of lines over common axes, with a legend and dashed, named levels to compare them with.

    `series` maps each line's name to its x and y values, of one length; points that are not finite break the
    line. Raises UsageError where nothing finite is left to draw or the lengths differ.
    """
    levels = dict(horizontal_lines or {})
    points = {name: _points(name, x, y) for name, (x, y) in series.items()}
    drawn = [point for line in points.values() for point in line if point is not None]
    if not drawn:
        raise UsageError("a line chart needs at least one point that is finite; none of the series has one")
    x_axis = _axis([x for x, _ in drawn], LEFT, WIDTH - RIGHT, count=8, pad=False)
    y_axis = _axis([y for _, y in drawn] + list(levels.values()), HEIGHT - BOTTOM, TOP, count=6, pad=True)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{escape(title)}">',
        f"<style>{_STYLE}</style>",
        _text(LEFT, 28, title, kind="title"),
        *_draw_axes(x_axis, y_axis, x_label, y_label),
        *_draw_levels(levels, y_axis),
    ]
    for index, line in enumerate(points.values()):
        parts += _draw_line(line, x_axis, y_axis, COLOURS[index % len(COLOURS)])
    parts += [*_draw_legend(list(points)), "</svg>", ""]
    return "\n".join(parts)


def _points(name: str, x: Sequence[float], y: Sequence[float]) -> list[tuple[float, float] | None]:
    if len(x) != len(y):
        raise UsageError(
            f"the line {name!r} has {len(x)} x values and {len(y)} y values; it needs as many of both"
        )
    finite = (math.isfinite(a) and math.isfinite(b) for a, b in zip(x, y, strict=True))
    return [(float(a), float(b)) if fine else None for a, b, fine in zip(x, y, finite, strict=True)]


def _axis(values: Sequence[float], start: float, end: float, *, count: int, pad: bool) -> _Axis:
    low, high = min(values), max(values)
    if low == high:
        low, high = low - 0.5, high + 0.5
    step = _round_step((high - low) / count)
    if pad:  # let the limits lie on ticks, so that lines do not touch the frame
        low, high = math.floor(low / step) * step, math.ceil(high / step) * step
    ticks = range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    return _Axis(low, high, start, end, tuple(tick * step for tick in ticks))


def _round_step(rough: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is not below `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= rough * (1 - 1e-9))


def _draw_axes(x_axis: _Axis, y_axis: _Axis, x_label: str, y_label: str) -> Iterable[str]:
    bottom, middle = HEIGHT - BOTTOM, (HEIGHT - BOTTOM + TOP) / 2
    for tick in y_axis.ticks:
        y = y_axis.place(tick)
        yield _segment(LEFT, y, WIDTH - RIGHT, y, "grid")
        yield _text(LEFT - 8, y + 4, f"{tick:.6g}", kind="faint", anchor="end")
    for tick in x_axis.ticks:
        x = x_axis.place(tick)
        yield _segment(x, bottom, x, bottom + 5, "axis")
        yield _text(x, bottom + 19, f"{tick:.6g}", kind="faint", anchor="middle")
    yield _segment(LEFT, bottom, WIDTH - RIGHT, bottom, "axis")
    yield _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, x_label, anchor="middle")
    yield _text(16, middle, y_label, anchor="middle", turn=f'transform="rotate(-90 16 {middle:g})" ')


def _draw_levels(levels: Mapping[str, float], y_axis: _Axis) -> Iterable[str]:
    for name, value in levels.items():
        y = y_axis.place(value)
        yield _segment(LEFT, y, WIDTH - RIGHT, y, "level")
        yield _text(WIDTH - RIGHT - 4, y - 5, f"{name} = {value:.3g}", kind="faint", anchor="end")


def _draw_line(
    line: list[tuple[float, float] | None], x_axis: _Axis, y_axis: _Axis, colour: str
) -> Iterable[str]:
    commands, pen = [], "M"
    for point in line:
        if point is None:
            pen = "M"
            continue
        commands.append(f"{pen}{x_axis.place(point[0]):.2f} {y_axis.place(point[1]):.2f}")
        pen = "L"
    if len(commands) == 1:  # a lone point would be invisible: draw a dot with a round cap
        commands.append("h0.01")
    yield f'<path class="line {colour}" stroke-linecap="round" d="{"".join(commands)}"/>'


def _draw_legend(names: Sequence[str]) -> Iterable[str]:
    x = float(LEFT)
    for index, name in enumerate(names):
        yield _segment(x, 50, x + 22, 50, f"line {COLOURS[index % len(COLOURS)]}")
        yield _text(x + 28, 54, name)
        x += 52 + 7 * len(name)


def _segment(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.2f}" y1="{y1:.2f}" x2="{x2:.2f}" y2="{y2:.2f}"/>'


def _text(x: float, y: float, text: str, *, kind: str = "", anchor: str = "start", turn: str = "") -> str:
    style = f'class="{kind}" ' if kind else ""
    return f'<text {style}x="{x:.2f}" y="{y:.2f}" {turn}text-anchor="{anchor}">{escape(text)}</text>'
