"""What the system tells of a process: its state and its time."""

import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from minigrad.dist.sight import Sight, sight_of

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="the system does not say what a process does"
)


def soon(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def test_a_process_is_seen_at_work_stopped_and_gone() -> None:
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        before = sight_of(process.pid)
        assert before is not None
        assert soon(lambda: at_work(process.pid, before))
        os.kill(process.pid, signal.SIGSTOP)
        assert soon(lambda: seen(process.pid).state == "T")
        stopped = seen(process.pid)
        assert stopped.describe() == "was stopped by a signal"
        assert stopped.cpu_seconds > before.cpu_seconds
        assert not stopped.at_work_since(before)  # it was, and is no more
        os.kill(process.pid, signal.SIGCONT)
        assert soon(lambda: at_work(process.pid, stopped))
    finally:
        process.kill()
        process.wait()
    assert sight_of(process.pid) is None


def seen(process: int) -> Sight:
    found = sight_of(process)
    assert found is not None
    return found


def at_work(process: int, before: Sight) -> bool:
    return seen(process).at_work_since(before)


def test_what_a_process_holds_is_seen() -> None:
    before, size = seen(os.getpid()).memory_bytes, 50_000_000
    with mmap.mmap(-1, size) as held:  # what Python allocates may lie where something was freed
        for start in range(0, size, mmap.PAGESIZE):
            held[start] = 1
        assert seen(os.getpid()).memory_bytes - before > 0.9 * size


def test_a_process_that_only_waits_is_not_at_work() -> None:
    one = Sight("S", 3.0)
    assert not Sight("S", 3.0).at_work_since(one)
    assert not Sight("S", 4.0).at_work_since(None)  # nobody looked before
    assert Sight("S", 3.01).at_work_since(one)
    assert Sight("S", 3.0).describe() == "uses no processor time"
