"""The percent format: a Python script whose `# %%` lines cut it into cells of text and code."""

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cell:
    """One cell: text in Markdown, or code. `line` is where it begins in the file, from 1."""

    kind: str  # "text" or "code"
    source: str
    line: int


def read_cells(path: Path) -> list[Cell]:
    """The cells of a script. What stands before the first mark (the docstring) is no cell."""
    cells: list[Cell] = []
    kind, first, lines = "", 0, list[str]()

    def close() -> None:
        if kind == "text":
            text = "\n".join(re.sub(r"^# ?", "", line) for line in lines).strip("\n")
            cells.append(Cell("text", text, first))
        elif kind == "code" and any(line.strip() for line in lines):
            leading = next(i for i, line in enumerate(lines) if line.strip())
            cells.append(Cell("code", "\n".join(lines[leading:]).rstrip(), first + leading))

    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        mark = re.fullmatch(r"# %%(?: \[(markdown)\])?.*", line)
        if mark is None:
            lines.append(line)
            continue
        close()
        kind, first, lines = "text" if mark[1] else "code", number + 1, []
    close()
    return cells
