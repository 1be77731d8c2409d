"""Messages between ranks, step by step: ranks are lines that run down, each message an arrow across."""

from collections.abc import Sequence
from dataclasses import dataclass

from minigrad.draw_svg import LETTER, arrow, page, text
from minigrad.errors import UsageError

COLUMN, STEP, TOP, LEFT = 150.0, 54.0, 76.0, 110.0


@dataclass(frozen=True)
class Arrow:
    """A message: in which step (from 0 on), from which rank to which, and what stands at its tail."""

    step: int
    source: int
    target: int
    label: str = ""


def message_arrows(
    messages: Sequence[Arrow], *, title: str, caption: str = "", steps: Sequence[str] = ()
) -> str:
    """An SVG picture of messages; `steps` may name the steps, in order (default: "step 1", …).

    Raises UsageError without messages, or for one that stays on its rank.
    """
    if not messages or any(m.source == m.target or min(m.step, m.source, m.target) < 0 for m in messages):
        raise UsageError(
            "message arrows need at least one message, each between two ranks, all counted from 0"
        )
    ranks = 1 + max(max(message.source, message.target) for message in messages)
    count = 1 + max(message.step for message in messages)
    names = [steps[number] if number < len(steps) else f"step {number + 1}" for number in range(count)]
    left = max(LEFT, 44 + LETTER * max(map(len, names)) + COLUMN / 4)
    width = max(left + COLUMN * (ranks - 1) + LEFT, 48 + 9.5 * len(title))
    bottom = TOP + count * STEP
    body = []
    for rank in range(ranks):
        x = left + rank * COLUMN
        body.append(text(x, TOP - 14, f"rank {rank}", anchor="middle"))
        body.append(f'<line class="axis" x1="{x:.2f}" y1="{TOP:.2f}" x2="{x:.2f}" y2="{bottom:.2f}"/>')
    for number, name in enumerate(names):
        y = TOP + number * STEP
        body.append(f'<line class="grid" x1="24" y1="{y:.2f}" x2="{width - 24:.2f}" y2="{y:.2f}"/>')
        body.append(text(24, y + STEP / 2 + 4, name, "faint"))
    for message in messages:
        x, y = left + message.source * COLUMN, TOP + message.step * STEP
        end = left + message.target * COLUMN
        body.append(arrow([(x, y + 10), (end, y + STEP - 10)]))
        side = 1 if end > x else -1
        anchor = "start" if side > 0 else "end"
        if message.label:
            body.append(text(x + 8 * side, y + 8, message.label, "small", anchor=anchor))
    return page(title, body, width=width, height=bottom + 8, caption=caption)
