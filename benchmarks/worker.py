"""One peer in one process: `python -m benchmarks.worker MODULE WORKLOAD`, asked by lines of JSON.

It builds the peer, runs the first steps, and answers with their losses and with the memory they took above
what the process held before (peak resident set). Then each line `{"seconds": s}` runs steps for s seconds
of CPU time and answers with the mean CPU and wall time of one. The end of the input ends the process.
"""

import contextlib
import gc
import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import IO, Any

from benchmarks.peers.step import NotWritten
from benchmarks.workloads import GPT, WORKLOADS

FIRST_STEPS = 5
WARM_UP = GPT(layers=1, width=32, heads=2, context=16, batch=2, vocabulary=16, batches=1)


def resident(field: str) -> int | None:
    """`VmRSS` (now) or `VmHWM` (peak) in bytes, None where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    kibibytes = next((int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), None)
    return None if kibibytes is None else 1024 * kibibytes


def forget_peak() -> None:
    """Let the peak start again from what is held now, where the system allows it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def blas_kernels() -> str:
    """Who multiplies: MKL, if minigrad was told so, or NumPy's BLAS: its name, or the kernels that OpenBLAS
    chose, such as SkylakeX or Haswell.
    """
    chosen = sys.modules.get("minigrad.backend_mkl")
    if chosen is not None and chosen.in_use():
        return "MKL"
    try:
        import numpy
        from threadpoolctl import threadpool_info
    except ImportError:
        return "unknown"
    found = {str(entry.get("architecture", entry["internal_api"])) for entry in blas_of(threadpool_info())}
    built_with = numpy.show_config(mode="dicts")["Build Dependencies"]["blas"]["name"]
    return "/".join(sorted(found)) or str(built_with)


def blas_of(libraries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """NumPy's own BLAS among the loaded libraries (SciPy brings a second one)."""
    return [entry for entry in libraries if entry["user_api"] == "blas" and "numpy" in entry["filepath"]]


def serve(module: str, workload: str, replies: IO[str]) -> None:
    """Build, answer for the first steps, then measure as often as asked."""

    def reply(answer: dict[str, Any]) -> None:
        replies.write(json.dumps(answer) + "\n")
        replies.flush()

    try:
        peer = importlib.import_module(module)
    except ImportError as error:
        if (error.name or "").split(".")[0] in ("benchmarks", "minigrad"):
            raise  # a mistake of ours, not a library that is not there
        reply({"missing": str(error)})
        return
    # Libraries load code and set up work space on first use. A small model does that before the start.
    peer.build(WARM_UP).run()
    gc.collect()
    forget_peak()
    before = resident("VmRSS")
    try:
        step = peer.build(WORKLOADS[workload])
    except NotWritten as error:
        reply({"missing": str(error)})
        return
    losses = [step.run() for _ in range(FIRST_STEPS)]
    peak = resident("VmHWM")
    above = None if before is None or peak is None else peak - before
    reply(
        {
            "description": peer.DESCRIPTION,
            "blas": blas_kernels(),
            "losses": losses,
            "peak_bytes_above_start": above,
        }
    )
    for line in sys.stdin:
        seconds = float(json.loads(line)["seconds"])
        steps, wall, start = 0, time.perf_counter(), time.process_time()
        while True:
            step.run()
            steps += 1
            spent = time.process_time() - start
            if spent >= seconds:
                break
        reply({"cpu_seconds": spent / steps, "wall_seconds": (time.perf_counter() - wall) / steps})


def main() -> None:
    """Keep the real standard output for replies, so that nothing a library prints gets among them."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with os.fdopen(os.dup(1), "w") as replies:
        os.dup2(2, 1)
        serve(sys.argv[1], sys.argv[2], replies)


if __name__ == "__main__":
    main()
