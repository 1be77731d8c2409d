"""Running a lesson cell by cell, to keep what each one prints and draws.

    python -m minigrad.lessons.stage LESSON.py OUT.json

`OUT.json` is a list with an entry for each code cell: what it printed on rank 0 and its figures. The lesson
is compiled with its own line numbers, so that an error points into its file.
"""

import contextlib
import io
import json
import linecache
import os
import sys
import time
import types
from pathlib import Path
from typing import Any

from minigrad.lessons import kit
from minigrad.lessons.cells import read_cells


def perform(path: Path) -> list[dict[str, Any]]:
    """Run every code cell of the lesson in one namespace. Whatever a cell raises comes out of here."""
    module = types.ModuleType("__main__")
    module.__file__ = str(path)
    sys.modules["__main__"] = module
    sys.path.insert(0, str(path.parent))
    linecache.checkcache(str(path))
    found = []
    for cell in read_cells(path):
        if cell.kind == "text":
            continue
        printed, started = io.StringIO(), time.perf_counter()
        kit.shown = []
        code = compile("\n" * (cell.line - 1) + cell.source, str(path), "exec")
        with contextlib.redirect_stdout(printed):
            exec(code, vars(module))  # noqa: S102  # the lesson is our own file
        found.append(
            {
                "line": cell.line,
                "printed": printed.getvalue(),
                "figures": kit.shown,
                "seconds": time.perf_counter() - started,
            }
        )
    return found


def main() -> None:
    """Perform the lesson named on the command line and write what came of it."""
    found = perform(Path(sys.argv[1]).resolve())
    out = Path(sys.argv[2])
    partial = out.with_name(out.name + ".partial")
    partial.write_text(json.dumps(found), encoding="utf-8")
    os.replace(partial, out)


if __name__ == "__main__":
    main()
