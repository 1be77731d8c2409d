"""What pictures of bars, timelines and messages share: the page, its fills, its words, numbers with units.

Six fills stand for six kinds of thing. They differ in lightness as well as in colour, in the light scheme and
in the dark one, so that a picture can be read in print without colours.
"""

import math
import textwrap
from collections.abc import Iterable, Sequence
from html import escape

from minigrad.draw import _round_step, _text

KINDS = 6
LETTER = 6.7  # how wide a letter of ordinary text is, about
FILLS = {
    "light": ("#0a3069", "#bc4c00", "#2da44e", "#e3b341", "#ffd8eb", "#ffffff"),
    "dark": ("#cae8ff", "#f0a35e", "#2ea043", "#8957e5", "#6e2049", "#0d1117"),
}
WORDS_ON_FILLS = {
    "light": ("#ffffff", "#ffffff", "#0d1117", "#0d1117", "#0d1117", "#0d1117"),
    "dark": ("#0d1117", "#0d1117", "#0d1117", "#ffffff", "#ffffff", "#e6edf3"),
}
_FONT = 'system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif'
_SCHEMES = {
    "light": {"page": "#ffffff", "words": "#24292f", "faint": "#57606a", "grid": "#d8dee4"},
    "dark": {"page": "#0d1117", "words": "#e6edf3", "faint": "#9198a1", "grid": "#30363d"},
}


def _style(scheme: str) -> str:
    colours = _SCHEMES[scheme]
    rules = [
        f"svg {{ background: {colours['page']}; }}",
        f"text {{ fill: {colours['words']}; }}",
        f".faint {{ fill: {colours['faint']}; }}",
        f".grid {{ stroke: {colours['grid']}; }}",
        f".axis, .level, rect {{ stroke: {colours['faint']}; }}",
        f".arrow {{ stroke: {colours['words']}; }} .head {{ fill: {colours['words']}; }}",
        f".clear {{ stroke: {colours['page']}; }}",
    ]
    for kind, (fill, words) in enumerate(zip(FILLS[scheme], WORDS_ON_FILLS[scheme], strict=True)):
        rules.append(f".k{kind} {{ fill: {fill}; }} .on{kind} {{ fill: {words}; }}")
    return "\n".join(rules)


_STYLE = f"""
svg {{ font-family: {_FONT}; }}
text {{ font-size: 12px; }} .small {{ font-size: 10px; }} .title {{ font-size: 16px; font-weight: 600; }}
rect {{ stroke-width: 0.8; }} .arrow {{ fill: none; stroke-width: 1.1; }}
.level {{ stroke-width: 1.2; stroke-dasharray: 5 4; }}
.clear {{ stroke-width: 3; stroke-linejoin: round; paint-order: stroke; }}
{_style("light")}
@media (prefers-color-scheme: dark) {{
{_style("dark")}
}}
""".strip()

_HEAD = (
    '<marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<path class="head" d="M0,0 L8,4 L0,8 z"/></marker>'
)


def page(title: str, body: Iterable[str], *, width: float, height: float, caption: str) -> str:
    """A whole picture: the title above, `body` as drawn, the caption in lines below `height`."""
    lines = textwrap.wrap(caption, int((width - 48) / LETTER))
    full = height + 18 * len(lines) + (14 if lines else 0)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {full:g}" '
        f'width="{width:g}" height="{full:g}" role="img" aria-label="{escape(title)}">',
        f"<style>{_STYLE}</style>",
        _HEAD,
        text(24, 30, title, "title"),
        *body,
        *(text(24, height + 14 + 18 * number, line, "faint") for number, line in enumerate(lines)),
    ]
    return "\n".join([*parts, "</svg>", ""])


def text(x: float, y: float, words: str, kind: str = "", *, anchor: str = "start") -> str:
    """Words at a place."""
    return _text(x, y, words, kind=kind, anchor=anchor)


def box(x: float, y: float, width: float, height: float, kind: int, *, words: str = "") -> str:
    """A filled bar; its words show in its middle where they fit in, and to a pointer that rests on it."""
    fill = kind % KINDS
    drawn = f'<rect class="k{fill}" x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}">'
    drawn += f"<title>{escape(words)}</title></rect>" if words else "</rect>"
    if words and len(words) * LETTER + 6 <= width:
        size, below = ("", 4.0) if height >= 18 else (" small", 3.5)
        drawn += text(x + width / 2, y + height / 2 + below, words, f"on{fill}{size}", anchor="middle")
    return drawn


def arrow(points: Sequence[tuple[float, float]]) -> str:
    """A line along some points with a head at its end."""
    path = " ".join(f"{'L' if number else 'M'}{x:.2f} {y:.2f}" for number, (x, y) in enumerate(points))
    return f'<path class="arrow" marker-end="url(#head)" d="{path}"/>'


def legend(names: Sequence[str], x: float, y: float, width: float) -> tuple[list[str], float]:
    """A swatch and a name for each kind, in rows no wider than `width`; and the height that they take."""
    parts, left, top = [], x, y
    for kind, name in enumerate(names):
        needed = 34 + LETTER * len(name)
        if left > x and left + needed > x + width:
            left, top = x, top + 20
        parts += [box(left, top, 12, 12, kind), text(left + 18, top + 10.5, name)]
        left += needed
    return parts, top + 20 - y


def ticks(high: float, *, count: int = 6) -> list[float]:
    """Round numbers from 0 up to `high`, about `count` of them."""
    if high <= 0:
        return [0.0]
    step = _round_step(high / count)
    return [step * number for number in range(math.floor(high / step + 1e-9) + 1)]


_BYTES = ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))
_SECONDS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))


def unit_of(high: float, *, seconds: bool = False) -> tuple[float, str]:
    """The largest decimal unit of bytes (or seconds) that `high` is at least one of."""
    units = _SECONDS if seconds else _BYTES
    return next((unit for unit in units if high >= unit[0]), units[-1])


def bytes_text(count: float) -> str:
    """Bytes to three digits, in decimal units, as papers print them.

    >>> bytes_text(31.40625e9), bytes_text(1.875e9), bytes_text(999_960), bytes_text(512)
    ('31.4 GB', '1.88 GB', '1.00 MB', '512 B')
    """
    return _three_digits(count, *unit_of(count))


def seconds_text(seconds: float) -> str:
    """Seconds to three digits.

    >>> seconds_text(0.01234), seconds_text(2.0)
    ('12.3 ms', '2.00 s')
    """
    return _three_digits(seconds, *unit_of(seconds, seconds=True), seconds=True)


def _three_digits(value: float, size: float, name: str, *, seconds: bool = False) -> str:
    number = value / size
    if round(number, 0 if number >= 99.95 else 1 if number >= 9.995 else 2) >= 1000:  # 999.9 kB is 1.00 MB
        size, name = unit_of(size * 1000, seconds=seconds)
        number = value / size
    if name == "B":
        return f"{number:.0f} B"
    return f"{number:.{0 if number >= 99.95 else 1 if number >= 9.995 else 2}f} {name}"
