"""Bars made of parts, one below the other: what takes how much of the memory, and what fits."""

from collections.abc import Mapping

from minigrad.draw_svg import LETTER, box, bytes_text, legend, page, text, ticks, unit_of
from minigrad.errors import UsageError

WIDTH, RIGHT, BAR, GAP = 860.0, 96.0, 26.0, 14.0


def bar_chart(
    bars: Mapping[str, Mapping[str, float]],
    *,
    title: str,
    caption: str = "",
    levels: Mapping[str, float] | None = None,
) -> str:
    """An SVG picture of stacked bars of bytes, with a legend and dashed levels to compare them with.

    `bars` maps the name of each bar to its parts: bytes by category, drawn in the order of their first
    appearance. The total stands at the end of each bar. Raises UsageError without bars or for a negative
    part.
    """
    names = list(dict.fromkeys(name for parts in bars.values() for name in parts))
    if not names or any(value < 0 for parts in bars.values() for value in parts.values()):
        raise UsageError("a bar chart needs at least one bar, and parts of at least 0 bytes each")
    left = 36 + LETTER * max(map(len, bars))
    levels = levels or {}
    high = max(*(sum(parts.values()) for parts in bars.values()), *levels.values(), 1.0)
    scale = (WIDTH - RIGHT - left) / high
    body, taken = legend(names, 24, 46, WIDTH - 48)
    top = 46 + taken + (22 if levels else 8)
    bottom = top + len(bars) * (BAR + GAP)
    size, unit = unit_of(high)
    for tick in ticks(high / size):
        x = left + tick * size * scale
        body.append(f'<line class="grid" x1="{x:.2f}" y1="{top:.2f}" x2="{x:.2f}" y2="{bottom:.2f}"/>')
        body.append(text(x, bottom + 16, f"{tick:g}", "faint", anchor="middle"))
    body.append(text(WIDTH - 24, bottom + 16, unit, "faint", anchor="end"))
    for name, value in levels.items():
        x = left + value * scale
        body.append(f'<line class="level" x1="{x:.2f}" y1="{top - 6:.2f}" x2="{x:.2f}" y2="{bottom:.2f}"/>')
        anchor = "start" if x < WIDTH / 2 else "end"
        body.append(text(x, top - 10, f"{name}: {bytes_text(value)}", "faint", anchor=anchor))
    for number, (name, parts) in enumerate(bars.items()):
        y = top + GAP / 2 + number * (BAR + GAP)
        body.append(text(left - 10, y + BAR / 2 + 4, name, anchor="end"))
        x = left
        for kind, category in enumerate(names):
            wide = parts.get(category, 0) * scale
            if wide:
                body.append(box(x, y, wide, BAR, kind, words=bytes_text(parts[category])))
            x += wide
        body.append(text(x + 6, y + BAR / 2 + 4, bytes_text(sum(parts.values())), "clear"))
    return page(title, body, width=WIDTH, height=bottom + 24, caption=caption)
