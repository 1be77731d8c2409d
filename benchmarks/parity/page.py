"""The tables of docs/parity.md, from a run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.parity.compare import Parity

HEAD = "| class | comparisons | largest difference | class | comparisons | largest difference |"


def table(parity: Parity, names: Sequence[str]) -> str:
    """Two columns of classes, in Markdown."""
    cells = [f"| {n} | {parity.trials[n]} | {parity.errors[n]:.1e} " for n in sorted(names)]
    half = (len(cells) + 1) // 2
    left, right = cells[:half], [*cells[half:], *["|  |  |  "] * (len(cells) % 2)]
    rows = [f"{a}{b}|" for a, b in zip(left, right, strict=True)]
    return "\n".join([HEAD, "|---|---:|---:|---|---:|---:|", *rows])


def write(path: Path, tables: Mapping[str, str], torch: str, trials: int) -> None:
    """Put each table in its place, between comments of its name, and say what was run."""
    text = path.read_text(encoding="utf-8")
    for name, rows in tables.items():
        place = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not place.search(text):
            raise SystemExit(f"{path} has no place <!-- {name} --> ... <!-- end -->")
        text = place.sub(lambda found, rows=rows: f"{found[1]}\n{rows}\n\n{found[2]}", text)  # type: ignore[misc]
    said = f"Results with torch {torch} on a processor, {trials} random instances of each case."
    text = re.sub(r"Results with torch \S+ on a processor, \d+ random\s+instances of each case\.", said, text)
    path.write_text(text, encoding="utf-8")
