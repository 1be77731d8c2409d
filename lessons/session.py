"""The judge's other end: starts its process, listens, and waits for nothing that an answer leaves behind."""

import contextlib
import itertools
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

import minigrad
from minigrad.lessons.judge import Finding, Task
from minigrad.lessons.mutants import Control

PACKAGE_HOME = str(Path(minigrad.__file__).parents[1])  # where this very minigrad is found, installed or not
LINE_BYTES = 1 << 16
LINES = 2_000  # many more than any judge says
GRACE = 1.0  # seconds for what an ended judge has said to arrive


@dataclass
class Session:
    """What a judge said by task, what else it printed, and whether it came to its end."""

    findings: list[list[Finding]]
    printed: str = ""
    over: bool = False
    lines: "queue.Queue[bytes]" = field(default_factory=queue.Queue)

    def listen(self, stream: IO[bytes]) -> None:
        """Pass lines on; runs on a thread of its own, for a child of the answer may keep the pipe open."""
        with stream:
            for line in itertools.islice(iter(lambda: stream.readline(LINE_BYTES), b""), LINES):
                self.lines.put(line)
            self.lines.put(b"")

    def hear(self, line: bytes) -> Finding | None:
        """Keep what makes sense as a finding (an answer may write there, too)."""
        try:
            words = json.loads(line)
            own, finding = self.findings[words.pop("task")], Finding(**words)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            return None
        own.append(finding)
        return finding


def hold(
    tasks: Sequence[Task], scratch: Path, *, command: Sequence[str] = (), controls: Sequence[Control] = ()
) -> Session:
    """Run a judge over some tasks, and over the controls as further ones.

    Its own command line comes after `command`, and what it writes lies in the folder `scratch`.
    """
    environment = os.environ | {
        "MINIGRAD_QUICK": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "MINIGRAD_PROGRESS": "off",
    }
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [PACKAGE_HOME, os.environ.get("PYTHONPATH")]))
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        environment.setdefault(name, "1")
    # Each check has its own limit; this one is for a judge that cannot keep it.
    checks = sum(len(task.checks) + 1 for task in tasks) + sum(len(control.checks) for control in controls)
    limit = (max(task.seconds for task in tasks) + 20) * checks
    session = Session([[] for _ in (*tasks, *controls)])
    with tempfile.TemporaryFile() as printed:
        process = subprocess.Popen(
            [
                *command,
                sys.executable,
                "-m",
                "minigrad.lessons.judge",
                json.dumps([asdict(t) for t in tasks]),
            ],
            env=environment | {"TMPDIR": str(scratch)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=printed,
            start_new_session=True,
        )
        try:
            _follow(session, process, controls, limit)
        finally:
            _end(process)
        printed.seek(max(0, printed.seek(0, os.SEEK_END) - 2000))
        session.printed = printed.read().decode(errors="replace").strip()
    return session


def _follow(
    session: Session, process: subprocess.Popen[bytes], controls: Sequence[Control], limit: float
) -> None:
    """Hear the judge to its end, whatever that is, and tell it the controls once it is ready for them."""
    assert process.stdout is not None
    assert process.stdin is not None
    threading.Thread(target=session.listen, args=[process.stdout], daemon=True).start()
    end, told = time.monotonic() + limit, False
    while time.monotonic() < end:
        gone = process.poll() is not None
        try:
            line = session.lines.get(timeout=GRACE)
        except queue.Empty:
            if gone:  # and a child of the answer holds the pipe
                return
            continue
        finding = session.hear(line)
        session.over = finding is not None and finding.state == "over"
        if session.over or not line:
            return
        if finding is not None and finding.state == "ready" and not told:
            told = True
            words = [{"source": control.source, "checks": control.checks} for control in controls]
            with contextlib.suppress(OSError):
                process.stdin.write((json.dumps(words) + "\n").encode())
                process.stdin.flush()


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the judge, and what the answer started in its process group."""
    if sys.platform == "win32":
        process.kill()
    else:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
