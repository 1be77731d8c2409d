"""`minigrad doctor`: what is installed, what works, and the line that mends what does not."""

import argparse
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from minigrad.errors import UsageError

EXPLANATION = """\
Each part is tried, not only looked up: two ranks as threads add up numbers, and so do two ranks that `mpirun`
starts. Exit code 0: what is here works (parts that are only missing do not count). 1: something is broken.
"""

INSTALL_MPI = "pip install mpi4py mpich"
UNEXPECTED = "this is unexpected; please report it"
SECONDS_FOR_MPIRUN = 30.0

# What each rank of the trial run prints, as one JSON object. Lines of several ranks may run into each other.
RANK_PROGRAM = """\
import json
from mpi4py import MPI
world = MPI.COMM_WORLD
library = " ".join(MPI.Get_library_version().splitlines()[0].strip(chr(0)).split())
total = world.allreduce(world.rank + 1)
print(json.dumps({"size": world.size, "total": total, "library": library}))
"""

State = Literal["works", "missing", "note", "broken"]
MARKS: dict[State, str] = {
    "works": "[green]works[/]",
    "missing": "[dim]not here[/]",
    "note": "[yellow]note[/]",
    "broken": "[bold red]broken[/]",
}


@dataclass(frozen=True)
class Finding:
    """One line of the report: a part, its state, what was found, how to mend it ("" for nothing)."""

    part: str
    state: State
    found: str
    mend: str = ""


def add_parser(subparsers: Any) -> None:
    """Add `doctor` to the command line."""
    subparsers.add_parser(
        "doctor",
        help="what is installed, what works, how to mend the rest",
        description="Examine this machine: what is installed, what works, and how to mend what does not.",
        epilog=EXPLANATION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def main(args: argparse.Namespace) -> int:
    """Print the report; return 1 if something is broken, else 0. Raises UsageError under mpirun."""
    from rich.console import Console
    from rich.table import Table

    from minigrad.dist.prepare import announced

    if announced() is not None:
        raise UsageError("it was started by mpirun, and starts mpirun itself; run `minigrad doctor` alone")
    findings = [examine(part, check) for part, check in CHECKS.items()]
    table = Table("part", "state", "found", title="minigrad doctor", title_justify="left")
    for finding in findings:
        table.add_row(finding.part, MARKS[finding.state], finding.found)
    console = Console()
    console.print(table)
    for finding in findings:
        if finding.mend:
            console.print(f"{finding.part}: {finding.mend}", markup=False, highlight=False, soft_wrap=True)
    return int(any(finding.state == "broken" for finding in findings))


def examine(part: str, check: Callable[[], tuple[State, str, str]]) -> Finding:
    """Run one check; a part that fails in an unforeseen way is broken, and the other checks go on."""
    try:
        return Finding(part, *check())
    except Exception as error:
        return Finding(part, "broken", f"{type(error).__name__}: {error}", UNEXPECTED)


def check_python() -> tuple[State, str, str]:
    """The interpreter."""
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {sys.executable}"
    return "works", found, ""


def check_minigrad() -> tuple[State, str, str]:
    """The three packages, and where they lie."""
    import minigrad
    from minigrad import dist, nn

    places = {Path(str(module.__file__)).resolve().parent for module in (minigrad, nn, dist)}
    return "works", f"{minigrad.__version__} from {', '.join(sorted(map(str, places)))}", ""


def check_numpy() -> tuple[State, str, str]:
    """NumPy, and the BLAS kernel that does the matrix products."""
    import numpy
    import threadpoolctl

    from minigrad import backend_mkl

    kernels = {
        f"{pool['internal_api']} {pool['version']} ({pool.get('architecture') or 'one kernel'})"
        for pool in threadpoolctl.threadpool_info()
        if pool["user_api"] == "blas"
    }
    found = (
        f"{numpy.__version__}, BLAS: {', '.join(sorted(kernels)) or 'one that threadpoolctl does not know'}"
    )
    if numpy.lib.NumpyVersion(numpy.__version__) < "2.1.3":
        return "broken", found, 'pip install "numpy>=2.1.3"'
    if backend_mkl.where() is not None:
        found += "; MKL, by which `minigrad train` multiplies, and your programs after mg.use_mkl()"
    chosen = os.environ.get("OPENBLAS_CORETYPE")
    if chosen:
        mend = (
            "`unset OPENBLAS_CORETYPE` lets OpenBLAS choose the kernel for this processor; it may be faster"
        )
        return "note", f"{found}, as OPENBLAS_CORETYPE={chosen} says", mend
    return "works", found, ""


def check_libraries() -> tuple[State, str, str]:
    """The other packages that minigrad cannot do without."""
    import safetensors.numpy  # noqa: F401 (each is really imported: a broken binary shows only then)
    import scipy.special  # noqa: F401

    names = ("scipy", "safetensors", "threadpoolctl", "rich")
    return "works", ", ".join(f"{name} {version(name)}" for name in names), ""


def check_cores() -> tuple[State, str, str]:
    """How many cores this process may use."""
    from minigrad.dist.prepare import cores

    return "works", f"{cores()} usable of {os.cpu_count()}", ""


def add_up(world: Any) -> float:
    """One rank's part of the trial: the sum of rank + 1 over all ranks, by all-reduce."""
    import numpy

    total = numpy.array([world.rank + 1.0])
    world.all_reduce(total)
    return float(total[0])


def check_threads() -> tuple[State, str, str]:
    """Ranks as threads of this process."""
    from minigrad import dist

    sums = dist.spawn(add_up, ranks=2)
    if sums != [3.0, 3.0]:
        return "broken", f"two ranks summed 1 + 2 to {sums}", UNEXPECTED
    return "works", "two ranks added up 1 + 2", ""


def check_mpi() -> tuple[State, str, str]:
    """mpi4py, the launcher that belongs to it, and two ranks that must find each other."""
    try:
        found = f"mpi4py {version('mpi4py')}"
    except PackageNotFoundError:
        return "missing", "mpi4py is not installed; ranks as threads need no MPI", INSTALL_MPI
    from minigrad.dist import launch

    try:
        command = launch.mpirun_command(2, [sys.executable, "-c", RANK_PROGRAM])
    except UsageError as error:
        return "missing", f"{found}, but {error}", INSTALL_MPI
    code, output, errors = run_with_limit(
        command, SECONDS_FOR_MPIRUN, environment=launch.mpirun_environment()
    )
    found += f", {command[0]}"
    if code is None:
        return "broken", f"{found}: two ranks did not end within {SECONDS_FOR_MPIRUN:g} s", INSTALL_MPI
    ranks = [json.loads(text) for text in re.findall(r"\{[^{}]*\}", output)]
    if code != 0 or len(ranks) != 2:
        last = (errors.strip() or output.strip() or "no output").splitlines()[-1]
        return "broken", f"{found}: the trial run ended with code {code}: {last}", INSTALL_MPI
    if any(rank["size"] != 2 for rank in ranks):
        mend = f"mpirun and the MPI library come from different MPIs; install one pair: {INSTALL_MPI}"
        return "broken", f"{found}: two ranks each think that they are alone ({ranks[0]['library']})", mend
    sums = [rank["total"] for rank in ranks]
    if sums != [3, 3]:
        return "broken", f"{found}: two ranks summed 1 + 2 to {sums}", INSTALL_MPI
    return "works", f"{found}, {ranks[0]['library']}: two ranks added up 1 + 2", ""


def run_with_limit(
    command: list[str], seconds: float, *, environment: dict[str, str] | None = None
) -> tuple[int | None, str, str]:
    """Run a command and all it starts for at most `seconds`; the exit code is None if time ran out."""
    with subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, errors = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, errors = process.communicate()
            return None, output, errors
    return process.returncode, output, errors


def check_gpu() -> tuple[State, str, str]:
    """CuPy and the GPUs that it can compute on."""
    driver = shutil.which("nvidia-smi")
    try:
        import cupy
    except ImportError as error:
        if driver is None:
            return "missing", "no NVIDIA driver and no CuPy; everything runs on the CPU", ""
        mend = "pip install cupy-cuda12x, or cupy-cuda13x where `nvidia-smi` shows CUDA 13"
        return "missing", f"an NVIDIA driver is here, but CuPy is not ({error})", mend
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return "missing", f"CuPy {cupy.__version__} sees no GPU ({error})", ""
    names = []
    for index in range(count):
        with cupy.cuda.Device(index):
            total = float((cupy.arange(4.0) @ cupy.ones(4)).item())
            names.append(cupy.cuda.runtime.getDeviceProperties(index)["name"].decode())
        if total != 6.0:
            return "broken", f"GPU {index} ({names[-1]}) computed {total} instead of 6", "check its driver"
    return "works", f"CuPy {cupy.__version__}, {count} GPUs: {', '.join(names)}", ""


CHECKS: dict[str, Callable[[], tuple[State, str, str]]] = {
    "Python": check_python,
    "minigrad": check_minigrad,
    "NumPy": check_numpy,
    "libraries": check_libraries,
    "cores": check_cores,
    "thread ranks": check_threads,
    "MPI ranks": check_mpi,
    "GPU": check_gpu,
}
