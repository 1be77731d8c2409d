"""What a process under `mpirun` needs before MPI starts: settings, BLAS threads, an end for all upon error.

`import minigrad.dist` calls `prepare()`. In a process that is not one of several ranks it does nothing, and
it never loads MPI.
"""

import atexit
import builtins
import json
import os
import re
import socket
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NoReturn

from minigrad.dist import farewell
from minigrad.errors import UsageError

# How launchers tell a process which rank it is: rank, number of ranks, number of ranks on this host.
ANNOUNCEMENTS = (
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALNRANKS"),  # MPICH, Intel MPI
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE"),  # Open MPI
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE"),  # MVAPICH
    ("PMIX_RANK", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_TASKS_PER_NODE"),  # srun --mpi=pmix
)
BLAS_SETTINGS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
LAUNCH_SOCKET = "MINIGRAD_LAUNCH_SOCKET"
SECONDS_OF_SILENCE = "MINIGRAD_SECONDS_OF_SILENCE"  # after which who says or does nothing is ended; 0: never
DEFAULT_SILENCE = 60.0
BEATS_PER_SILENCE = 8
LONGEST_BETWEEN_BEATS = 5.0
LONGER_THAN_SILENCE = 1.25  # so that a rank that was stopped while it waits is found by its silence
SECONDS_TO_SAY_WHERE = 1.0  # for all ranks
INTERRUPTED = 130


@dataclass(frozen=True)
class Announced:
    """What the launcher said about this process."""

    rank: int
    size: int
    local_size: int

    @property
    def name(self) -> str:
        return f"rank {self.rank} of {self.size}"


def announced() -> Announced | None:
    """The rank that a launcher gave this process, or None where it is not one of several."""
    for rank, size, local_size in ANNOUNCEMENTS:
        if os.environ.get(size, "").isdigit() and int(os.environ[size]) > 1:
            ranks = int(os.environ[size])
            here = re.match(
                r"\d+", os.environ.get(local_size, "")
            )  # Slurm writes 4(x2): 4 on each of 2 hosts
            return Announced(int(os.environ.get(rank, "0")), ranks, int(here.group()) if here else ranks)
    return None


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_prepared = False


def prepare() -> None:
    """Make this process a well-behaved rank, once. Nothing happens where it is not one of several."""
    global _prepared
    here = announced()
    if _prepared or here is None:
        return
    _prepared = True
    yield_the_core(here.local_size)
    if here.local_size == here.size:  # UCX complains where the table of `farewell` needs no network
        os.environ.setdefault("OMPI_MCA_osc", "^ucx")
    share_the_cores(here.local_size)
    end_all_with_this_rank(here)


def yield_the_core(local_size: int) -> None:
    """Keep ranks that wait from stealing the core of ranks that compute. MPI reads this as it starts."""
    os.environ.setdefault("OMPI_MCA_mpi_yield_when_idle", "1")
    if local_size > cores():
        os.environ.setdefault("MPIR_CVAR_ENABLE_HEAVY_YIELD", "1")


def share_the_cores(local_size: int) -> None:
    """Give each rank of this host its part of the cores for BLAS, unless the user has said how many."""
    if any(name in os.environ for name in BLAS_SETTINGS):
        return
    from threadpoolctl import threadpool_limits

    threads = max(1, cores() // local_size)
    os.environ.update(dict.fromkeys(BLAS_SETTINGS, str(threads)))  # for libraries that are not loaded yet
    threadpool_limits(limits=threads)


# ----------------------------------------------------------------------------------- the end


def silence_allowed(environment: Mapping[str, str], seconds: float | None = None) -> float:
    """After how many seconds a rank without a sign of life is given up, and all ranks that do nothing but
    wait for each other; 0: never. Raises UsageError.
    """
    given = environment.get(SECONDS_OF_SILENCE, str(DEFAULT_SILENCE)) if seconds is None else str(seconds)
    try:
        silence = float(given)
    except ValueError:
        silence = -1.0
    if not 0 <= silence < float("inf"):
        raise UsageError(f"{SECONDS_OF_SILENCE} is {given!r}; give a number of seconds, or 0 for no limit")
    return silence


def end_all_with_this_rank(here: Announced) -> None:
    """Let an uncaught exception, or an exit with an error code, on this rank end every rank; and any other
    end, if the others still wait then. And all that wait for each other end.

    MPI alone would leave them waiting for ever. An exit without error stays what it is while they go
    on. `sys.exit`, `exit` and `quit` are watched by wrapping them, since Python tells nobody of a SystemExit:
    after `raise SystemExit(1)`, all end as after a return that was too early (see `farewell`).
    """
    launcher = Launcher.connect(here)
    exit_code, process = 0, os.getpid()
    plain_exit = sys.exit

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        code, text = epitaph(kind, error, trace)
        failed = traceback.format_exception_only(kind, error)[-1].strip()
        end_after(f"{here.name}: {text.rstrip()}\n", failed, code)

    def watched_exit(status: Any = None) -> NoReturn:
        nonlocal exit_code
        exit_code = 0 if status is None else status if isinstance(status, int) else 1
        plain_exit(status)

    def end_after(words: str, failed: str, code: int) -> NoReturn:
        sys.stdout.flush()
        if not launcher.tell(last_words=words, failed=failed, exit_code=code):
            sys.stderr.write(words)  # in one piece: other ranks may be writing theirs
        sys.stderr.flush()
        end_all(code)

    def at_exit() -> None:
        if os.getpid() != process:
            return  # a child of this rank, which is none
        sys.stdout.flush()
        if exit_code:
            end_after("", f"exit code {exit_code}", exit_code)
        launcher.tell(finished=True)
        waiting = farewell.finish(lambda rank: f"rank {rank}") if mpi_at_work() else ""
        if waiting:
            words = (
                f"{here.name} has finished, and others still wait: {waiting}; all must make the same calls"
            )
            end_after(f"{words}\n", "it finished while others wait", 1)

    def watch() -> None:
        waiting = farewell.deadlock(silence * LONGER_THAN_SILENCE, lambda rank: f"rank {rank}")
        frame = sys._current_frames()[threading.main_thread().ident or 0]
        sys.stderr.write(f"{here.name} waits here:\n{''.join(traceback.format_stack(frame))}")
        sys.stderr.flush()
        time.sleep(SECONDS_TO_SAY_WHERE)
        if here.rank == 0:
            failed = f"deadlock: all wait for each other: {waiting}"
            advice = "send what others receive, and call the same collectives in the same order on all ranks"
            end_after(f"{here.name}: {failed}; {advice} (MINIGRAD_DEBUG=1 compares them)\n", failed, 1)

    sys.excepthook = hook
    sys.exit = watched_exit
    vars(builtins).update(exit=watched_exit, quit=watched_exit)
    atexit.register(at_exit)
    silence = silence_allowed(os.environ)
    if silence:
        launcher.beat(silence)
        threading.Thread(target=watch, name="deadlock", daemon=True).start()


def epitaph(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> tuple[int, str]:
    """Exit code and last words of a rank that ends by `error`: misuse and Ctrl-C need no traceback."""
    if isinstance(error, UsageError):
        return 2, str(error)
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "interrupted"
    return 1, "".join(traceback.format_exception(kind, error, trace))


def mpi_at_work() -> Any:
    """The library of mpi4py; None where MPI has not been started, or the program has ended it already."""
    library = sys.modules.get("mpi4py.MPI")
    at_work = library is not None and library.Is_initialized() and not library.Is_finalized()
    return library if at_work else None


def end_all(code: int) -> NoReturn:
    """End every rank, with this exit code."""
    library = mpi_at_work()
    if library is not None:
        library.COMM_WORLD.Abort(code)
    os._exit(code)  # before MPI started: the launcher sees a rank fail, and ends the others


def cut_first(line: socket.socket) -> socket.socket:
    """Give a connection a high descriptor: when a process is killed, Linux ends the highest ones first.

    So the launcher learns of a death before mpirun does, which then kills the other ranks.
    """
    try:
        import fcntl

        high = fcntl.fcntl(line.fileno(), fcntl.F_DUPFD_CLOEXEC, 512)
    except (
        ImportError,
        OSError,
    ):  # no such call here, or fewer descriptors allowed: the order is then a race
        return line
    line.close()
    return socket.socket(fileno=high)


class Launcher:
    """The line to `minigrad.dist.launch`, if that started us: it learns how this rank ends."""

    def __init__(self, line: socket.socket | None) -> None:
        self._line = line
        self._one_at_a_time = threading.Lock()

    @classmethod
    def connect(cls, here: Announced) -> "Launcher":
        """Call the launcher and say who we are. A rank on another host cannot, and goes on without."""
        address = os.environ.get(LAUNCH_SOCKET)
        if not address or not hasattr(socket, "AF_UNIX"):
            return cls(None)
        line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            line.connect(address)
        except OSError:
            line.close()
            return cls(None)
        launcher = cls(cut_first(line))
        launcher.tell(rank=here.rank, size=here.size, process=os.getpid())
        return launcher

    def tell(self, **what: Any) -> bool:
        """Send one line of JSON. Returns whether there is a launcher that listens.

        What a rank says last goes this way too: mpirun may end before it has passed on its ranks' output.
        """
        with self._one_at_a_time:
            if self._line is not None:
                try:
                    self._line.sendall(json.dumps(what).encode() + b"\n")
                except OSError:
                    self._line = None  # the launcher is gone; there is nobody left to tell
            return self._line is not None

    def beat(self, silence: float) -> None:
        """Begin to give signs of life, several in so many seconds, from a thread of its own: it goes on while
        this rank computes or waits for others, and ends when the process is stopped or dies.
        """
        if self._line is not None:
            pause = min(silence / BEATS_PER_SILENCE, LONGEST_BETWEEN_BEATS)
            threading.Thread(target=self._beat, args=(pause,), name="heartbeat", daemon=True).start()

    def _beat(self, pause: float) -> None:
        while self._line is not None:
            time.sleep(pause)
            with self._one_at_a_time:
                try:
                    if self._line is not None:
                        self._line.send(b"{}\n", socket.MSG_DONTWAIT)
                except BlockingIOError:
                    pass  # a launcher that does not listen just now knows enough once it does again
                except OSError:
                    self._line = None
