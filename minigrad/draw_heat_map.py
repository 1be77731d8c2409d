"""A matrix as a picture: darker where the numbers are larger."""

from collections.abc import Sequence

from minigrad.draw_svg import LETTER, page, text
from minigrad.errors import UsageError

CELL, MARGIN = 26.0, 24.0


def heat_map(
    values: Sequence[Sequence[float]],
    *,
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    row_label: str = "",
    column_label: str = "",
    caption: str = "",
) -> str:
    """An SVG picture of a matrix of numbers of at least 0; a pointer that rests on a cell shows its number.

    `rows` and `columns` name them; the largest number is drawn full, zero empty. Raises UsageError where the
    names do not fit the matrix, or for a negative number.
    """
    if len(values) != len(rows) or any(len(row) != len(columns) for row in values) or not len(values):
        raise UsageError(f"a heat map of {len(rows)} rows and {len(columns)} columns needs as many numbers")
    high = max((float(value) for row in values for value in row), default=0.0) or 1.0
    if min((float(value) for row in values for value in row), default=0.0) < 0:
        raise UsageError("a heat map shows numbers of at least 0, and there is a negative one")
    left = MARGIN + 16 + LETTER * max(map(len, rows)) + (18 if row_label else 0)
    top = 70.0 + (18 if column_label else 0)
    body = []
    if column_label:
        body.append(text(left, 58, column_label, "faint"))
    for number, name in enumerate(columns):
        body.append(text(left + (number + 0.5) * CELL, top - 6, name, "small", anchor="middle"))
    for number, (name, row) in enumerate(zip(rows, values, strict=True)):
        y = top + number * CELL
        body.append(text(left - 8, y + CELL / 2 + 4, name, "small", anchor="end"))
        for place, value in enumerate(row):
            share = float(value) / high
            cell = f'x="{left + place * CELL:.2f}" y="{y:.2f}" width="{CELL:g}" height="{CELL:g}"'
            body.append(
                f'<rect class="k0" fill-opacity="{share:.3f}" {cell}><title>{value:.3g}</title></rect>'
            )
    if row_label:
        body.append(text(MARGIN, top - 6, row_label, "faint"))
    width = max(left + len(columns) * CELL + MARGIN, 48 + 9.5 * len(title), 460)
    return page(title, body, width=width, height=top + len(values) * CELL + 10, caption=caption)
