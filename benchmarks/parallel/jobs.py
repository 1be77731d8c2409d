"""The ranks of one contender, started together and asked together."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from benchmarks.rounds import CORETYPE, THREAD_VARIABLES, UNSET, BenchmarkError
from minigrad.dist.launch import mpirun_command, mpirun_environment
from minigrad.errors import UsageError

ROOT = Path(__file__).parent.parent.parent
SECONDS_TO_ANSWER = 300.0


@dataclass(frozen=True)
class Contender:
    """Who trains what on how many ranks.

    launcher  "mpi": processes under mpirun; "plain": processes that find each other through RANK, WORLD_SIZE
              and BENCHMARK_STORE
    numpy     whether its matrix products are NumPy's, so that OPENBLAS_CORETYPE matters
    """

    name: str
    workload: str
    module: str
    function: str
    ranks: int
    launcher: Literal["mpi", "plain"]
    numpy: bool


class Absent(Exception):
    """A contender whose library is not installed."""


class Job:
    """The processes of one contender. Raises Absent, and BenchmarkError if a rank dies."""

    def __init__(self, contender: Contender, coretype: str | None, size: str = "full") -> None:
        self.contender, self.coretype = contender, coretype
        self._folder = tempfile.TemporaryDirectory()
        self._lines: list[Any] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(SECONDS_TO_ANSWER)
        self.processes: list[subprocess.Popen[bytes]] = []
        try:
            self._start(size)
            for _ in range(contender.ranks):
                connection = self._connect()
                connection.settimeout(SECONDS_TO_ANSWER)
                self._lines.append(connection.makefile("rw"))
            first = self._answers()
        except BaseException:
            self.stop()
            raise
        self.description = str(first[0]["description"])
        self.blas = str(first[0]["blas"])
        self.losses = [sum(parts) for parts in zip(*(answer["losses"] for answer in first), strict=True)]
        self.seconds = max(float(answer["seconds"]) for answer in first)

    def _start(self, size: str) -> None:
        contender = self.contender
        port = self._server.getsockname()[1]
        words = [sys.executable, "-m", "benchmarks.parallel.rank", contender.module, contender.function]
        words += [contender.workload, size, str(port)]
        environment = dict(os.environ)
        if contender.launcher == "mpi":
            try:
                words, environment = mpirun_command(contender.ranks, words), mpirun_environment()
            except UsageError as error:
                raise Absent(str(error)) from error
        environment |= dict.fromkeys(THREAD_VARIABLES, "1")
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *environment.get("PYTHONPATH", "").split()])
        if self.coretype == UNSET:
            environment.pop(CORETYPE, None)
        elif self.coretype is not None:
            environment[CORETYPE] = self.coretype
        environment |= {
            "WORLD_SIZE": str(contender.ranks),
            "BENCHMARK_STORE": f"file://{self._folder.name}/store",
        }
        for rank in range(1 if contender.launcher == "mpi" else contender.ranks):
            own = environment if contender.launcher == "mpi" else {**environment, "RANK": str(rank)}
            self.processes.append(
                subprocess.Popen(words, cwd=ROOT, env=own, stdin=subprocess.DEVNULL, stdout=sys.stderr)
            )

    def _connect(self) -> socket.socket:
        """The next rank that calls, unless one dies before."""
        self._server.settimeout(1.0)
        for _ in range(int(SECONDS_TO_ANSWER)):
            try:
                return self._server.accept()[0]
            except TimeoutError:
                if any(process.poll() is not None for process in self.processes):
                    break
        raise BenchmarkError(f"not all ranks of {self.contender.name} came up; their errors are above")

    def _answers(self) -> list[dict[str, Any]]:
        """The next reply of every rank."""
        found = []
        for lines in self._lines:
            line = lines.readline()
            if not line:
                raise BenchmarkError(f"a rank of {self.contender.name} ended; its error is printed above")
            found.append(json.loads(line))
            if "missing" in found[-1]:
                raise Absent(found[-1]["missing"])
        return found

    def measure(self, steps: int) -> float:
        """Wall seconds of a step on the slowest rank."""
        for lines in self._lines:
            lines.write(json.dumps({"steps": steps}) + "\n")
            lines.flush()
        return max(float(answer["seconds"]) for answer in self._answers())

    def stop(self) -> None:
        """End all ranks: they leave when their connection is cut, and are made to if they do not."""
        for lines in self._lines:
            lines.close()
        self._server.close()
        for process in self.processes:
            try:
                process.wait(timeout=5.0 if self._lines else 0.1)
            except subprocess.TimeoutExpired:
                process.terminate()
        for process in self.processes:
            try:
                process.wait(timeout=5.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._folder.cleanup()

    def __enter__(self) -> "Job":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
