"""What the tests of the command line share: a small text, a small model, and runs in every kind of world."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from minigrad.cli import report as cli_report
from minigrad.cli import training_run
from minigrad.cli.main import main

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


# ----- Runs on many ranks beside one on a single rank -----

STEPS = 6
TOLERANCE = {"float64": 1e-10, "float32": 1e-6, "mixed-float16": 2e-3}


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    """Show no progress, and waste no time at the end: there are many of these runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINIGRAD_PROGRESS", "off")
        patch.setattr(training_run, "FINAL_VALIDATION_SEQUENCES", 9)
        patch.setattr(cli_report, "SAMPLE_TOKENS", 2)
        yield


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("text") / "text.txt")


def words(text: Path, out: Path, *more: str, precision: str = "float64") -> list[str]:
    sizes = [*TINY, "--layers", "2", "--dropout", "0.1", "--precision", precision, "--text", str(text)]
    return ["train", *sizes, "--steps", str(STEPS), "--save-every", "3", "--out", str(out), *more]


@pytest.fixture(scope="module")
def alone(text: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run on one rank that shares nothing out, by precision."""
    folder = tmp_path_factory.mktemp("alone")
    for precision in TOLERANCE:
        assert main(words(text, folder / precision, precision=precision)) == 0
    return {precision: folder / precision for precision in TOLERANCE}


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


# ----- Processes -----


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


def running(mark: Path | str) -> dict[int, str]:
    """The processes whose command names `mark`: their environment, by process id (Linux)."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(mark).encode() in (entry / "cmdline").read_bytes():
                found[int(entry.name)] = (entry / "environ").read_bytes().decode(errors="replace")
        except OSError:  # it ended while we looked
            continue
    return found


def wait_until(condition: Callable[[], Any], *, seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(0.05)


def stopped(folder: Path, copy: Path) -> Path:
    """A copy of a run as it was after half of its steps."""
    shutil.copytree(folder, copy)
    shutil.rmtree(copy / "checkpoints" / f"step_{STEPS:06d}")
    for name in ("report.json", "loss.svg"):
        (copy / name).unlink()
    return copy
