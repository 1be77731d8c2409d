"""Start Python on real MPI ranks, or skip where there is no MPI."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from minigrad.dist.launch import find_mpirun
from minigrad.errors import UsageError

ROOT = Path(__file__).resolve().parent.parent.parent
LAUNCH = """
import sys
from minigrad.dist.launch import run_under_mpirun
sys.exit(run_under_mpirun(sys.argv[2:], ranks=int(sys.argv[1])))
"""
SECONDS = 60.0

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Start]:
    """`launcher(ranks, [python words])`: the launcher in a process of its own, as the command line starts it.

    Keywords are set in its environment. The ranks find `tmp_path` in MINIGRAD_TEST_FOLDER. Nothing is left
    behind.
    """
    try:
        find_mpirun()
    except UsageError as error:
        pytest.skip(str(error))
    started: list[subprocess.Popen[str]] = []

    def start(ranks: int, words: list[str], **settings: str) -> "subprocess.Popen[str]":
        settings = {"PYTHONPATH": str(ROOT), "MINIGRAD_TEST_FOLDER": str(tmp_path)} | settings
        process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, str(ranks), sys.executable, *words],
            cwd=ROOT,
            env=os.environ | settings,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
        process.kill()


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{process}/stat")  # a zombie has ended
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether `condition` became true in time."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()
