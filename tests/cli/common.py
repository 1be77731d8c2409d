"""What the tests of the command line share: a small text, a small model, and runs in every kind of world."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TINY = ["--layers", "1", "--width", "16", "--heads", "2", "--context", "16", "--batch", "7"]


def write_text(path: Path) -> Path:
    """A text of a few kilobytes with some structure to learn."""
    path.write_text(
        "".join(f"line {number} of a text: {number * number} is its square\n" for number in range(150))
    )
    return path


def metrics(folder: Path) -> list[dict[str, Any]]:
    """The objects of a run's metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder: Path) -> list[float]:
    """The loss of every step of a run."""
    return [step["loss"] for step in metrics(folder)]


def environment() -> dict[str, str]:
    """An environment in which `python -m minigrad` finds this checkout from any folder."""
    root = Path(__file__).resolve().parents[2]
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "MINIGRAD_PROGRESS": "off"}


def start(words: Sequence[str], *, folder: Path, **options: Any) -> subprocess.Popen[str]:
    """Start `minigrad WORDS` as a process of its own session, so that all it starts can be ended."""
    return subprocess.Popen(
        [sys.executable, "-m", "minigrad", *words],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        **options,
    )
