"""Workers started, asked in turn, round after round; medians and ratios of what they answer."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any

THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
CORETYPE = "OPENBLAS_CORETYPE"
UNSET = "unset"
LOSS_TOLERANCE = 1e-5  # relative; float32 losses of equal models agree to about 1e-7

# Peer -> (module, whether its matrix products are NumPy's, so that OPENBLAS_CORETYPE matters).
PEERS: dict[str, tuple[str, bool]] = {
    "floor": ("benchmarks.peers.floor", True),
    "minigrad": ("benchmarks.peers.minigrad_fused", True),
    "minigrad primitives": ("benchmarks.peers.minigrad_primitives", True),
    "torch": ("benchmarks.peers.torch_eager", False),
    "jax": ("benchmarks.peers.jax_jit", False),
    "autograd": ("benchmarks.peers.autograd_numpy", True),
    "mygrad": ("benchmarks.peers.mygrad_numpy", True),
}


class BenchmarkError(RuntimeError):
    """A worker died, or a peer does not compute what the floor computes."""


@dataclass
class Result:
    """What one peer did on one workload with one setting of OPENBLAS_CORETYPE."""

    workload: str
    peer: str
    coretype: str | None  # None where NumPy's products are not used
    description: str
    blas: str
    losses: list[float]
    peak_bytes_above_start: int | None
    cpu_rounds: list[float] = field(default_factory=list)
    wall_rounds: list[float] = field(default_factory=list)
    loss_difference: float = 0.0  # largest relative difference to the floor's losses
    ratio_to_floor: float | None = None  # median over rounds of the ratios of CPU time
    ratio_to_torch: float | None = None

    @property
    def cpu_seconds(self) -> float:
        """Process CPU time of a step, median over rounds."""
        return median(self.cpu_rounds)

    @property
    def wall_seconds(self) -> float:
        """Wall time of a step, median over rounds."""
        return median(self.wall_rounds)


class Worker:
    """A process that runs one peer on one workload."""

    def __init__(self, workload: str, peer: str, coretype: str | None) -> None:
        self.workload, self.peer, self.coretype = workload, peer, coretype
        environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1")}
        if coretype == UNSET:
            environment.pop(CORETYPE, None)
        elif coretype is not None:
            environment[CORETYPE] = coretype
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", PEERS[peer][0], workload],
            cwd=Path(__file__).parent.parent,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate()

    def answer(self) -> dict[str, Any]:
        """The next reply. Raises BenchmarkError if the worker died; its traceback is on standard error."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise BenchmarkError(
                f"the {self.peer} worker for {self.workload} ended with exit code {self.process.wait()}; "
                "its error is printed above"
            )
        reply: dict[str, Any] = json.loads(line)
        return reply

    def measure(self, seconds: float) -> tuple[float, float]:
        """CPU and wall seconds of a step, over `seconds` of CPU time."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"seconds": seconds}) + "\n")
        self.process.stdin.flush()
        reply = self.answer()
        return reply["cpu_seconds"], reply["wall_seconds"]


def compare(
    workload: str,
    peers: Sequence[str],
    coretypes: Sequence[str],
    *,
    rounds: int,
    seconds: float,
    say: Callable[[str], None],
) -> list[Result]:
    """Time one workload for all peers, in interleaved rounds.

    Peers that are not installed are left out, and `say` is told why. Raises BenchmarkError if losses
    disagree.
    """
    pairs: list[tuple[str, str | None]] = []
    for peer in peers:
        pairs += [(peer, coretype) for coretype in coretypes] if PEERS[peer][1] else [(peer, None)]
    workers: list[Worker] = []
    results: list[Result] = []
    absent: set[str] = set()
    try:
        for peer, coretype in pairs:
            if peer in absent:
                continue
            worker = Worker(workload, peer, coretype)
            workers.append(worker)
            first = worker.answer()
            if "missing" in first:
                workers.remove(worker)
                worker.__exit__(None, None, None)
                absent.add(peer)
                say(f"{workload}: {peer} left out: {first['missing']}")
            else:
                results.append(Result(workload, peer, coretype, **first))
        check_losses(results)
        for number in range(rounds):
            for worker, result in zip(workers, results, strict=True):
                cpu, wall = worker.measure(seconds)
                result.cpu_rounds.append(cpu)
                result.wall_rounds.append(wall)
            say(f"{workload}: round {number + 1} of {rounds} done")
    finally:
        for worker in workers:
            worker.__exit__(None, None, None)
    set_ratios(results)
    return results


def check_losses(results: Sequence[Result]) -> None:
    """Hold every peer's first losses to those of the first result (the floor's, where it takes part)."""
    reference = results[0].losses if results else []
    for result in results:
        pairs = zip(result.losses, reference, strict=True)
        differences = [abs(loss - expected) / abs(expected) for loss, expected in pairs]
        result.loss_difference = max(differences)
        if not all(difference <= LOSS_TOLERANCE for difference in differences):  # so that NaN is refused
            raise BenchmarkError(
                f"{result.workload}: losses of {result.peer} {result.losses} differ from {reference} by "
                f"up to {result.loss_difference:.1e}; more than {LOSS_TOLERANCE:.0e} is not rounding"
            )


def set_ratios(results: Sequence[Result]) -> None:
    """Medians over rounds of each peer's CPU time over the floor's (same setting) and over torch's."""

    def ratio(result: Result, other: Result | None) -> float | None:
        if other is None:
            return None
        return median(a / b for a, b in zip(result.cpu_rounds, other.cpu_rounds, strict=True))

    floors = {result.coretype: result for result in results if result.peer == "floor"}
    first_floor = next(iter(floors.values()), None)
    torch = next((result for result in results if result.peer == "torch"), None)
    for result in results:
        floor = first_floor if result.coretype is None else floors.get(result.coretype)
        result.ratio_to_floor, result.ratio_to_torch = ratio(result, floor), ratio(result, torch)
