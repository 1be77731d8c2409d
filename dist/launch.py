"""Starting ranks: find the right `mpirun`, give it what it needs, watch over the ranks until none is left.

Which rank ended first is more than mpirun can say reliably: when one dies, it ends the others, and it may
well name one of those. So every rank holds a connection to the launcher (see `minigrad.dist.prepare`). The
operating system cuts it at the moment at which the rank dies, however it dies, before anybody else can react.
A thread in each rank also gives signs of life there, however long a step takes: a rank whose process is
stopped is found by its silence. One that computes without letting that thread run is left alone: the system
sees it at work.
"""

import ctypes
import functools
import importlib.util
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from minigrad.dist.prepare import LAUNCH_SOCKET, SECONDS_OF_SILENCE, silence_allowed
from minigrad.dist.sight import Sight, sight_of
from minigrad.errors import UsageError

Family = Literal["mpich", "openmpi", "intel", "unknown"]
SECONDS_TO_OBEY = 2.0  # between asking ranks to end, demanding it, and ending them
SECONDS_BETWEEN_LOOKS = 0.1
LONGEST_FOLDER = 70  # letters
ADVICE = 'install both with: pip install "minigrad[mpi]", or use ranks that are threads: --threads'


# ----------------------------------------------------------------------------- which command


def find_mpirun() -> Path:
    """The mpirun of the MPI that mpi4py loads: the one beside this Python, else the first on the PATH.

    Raises UsageError when mpi4py or mpirun is missing.
    """
    if importlib.util.find_spec("mpi4py") is None:
        raise UsageError(
            f"ranks as processes need mpi4py and an MPI library, and mpi4py is missing; {ADVICE}"
        )
    beside = str(Path(sys.executable).parent)
    for name in ("mpirun", "mpiexec"):
        found = shutil.which(name, path=beside) or shutil.which(name)
        if found:
            return Path(found)
    raise UsageError(f"ranks as processes need an MPI library, and there is no mpirun; {ADVICE}")


@functools.cache
def family(mpirun: Path) -> Family:
    """Which MPI an mpirun belongs to, as it says itself."""
    answer = subprocess.run(
        [str(mpirun), "--version"], capture_output=True, text=True, check=False, timeout=30
    )
    text = answer.stdout + answer.stderr
    signs: dict[str, Family] = {
        "Intel": "intel",
        "HYDRA": "mpich",
        "Open MPI": "openmpi",
        "OpenRTE": "openmpi",
    }
    return next((name for sign, name in signs.items() if sign in text), "unknown")


def mpirun_command(ranks: int, command: list[str]) -> list[str]:
    """The line that runs `command` on `ranks` processes of this machine, more ranks than cores or not.

    Raises UsageError when there is no MPI, or `ranks` is below 1.
    """
    if ranks < 1:
        raise UsageError(f"{ranks} ranks were asked for; give a number of at least 1")
    mpirun = find_mpirun()
    flags = []
    if (
        family(mpirun) == "openmpi"
    ):  # it binds ranks to single cores, and refuses more ranks than it counts cores
        flags = ["--oversubscribe", "--bind-to", "none"]
    return [str(mpirun), *flags, "-n", str(ranks), *command]


def mpirun_environment() -> dict[str, str]:
    """The environment for that line: this process's, and what the MPI found needs besides."""
    mpirun = find_mpirun()
    environment = dict(os.environ)
    environment["PATH"] = os.pathsep.join([str(mpirun.parent), environment.get("PATH", os.defpath)])
    if family(mpirun) == "openmpi" and hasattr(os, "geteuid") and os.geteuid() == 0:
        environment["OMPI_ALLOW_RUN_AS_ROOT"] = environment["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] = "1"
    return environment


# ------------------------------------------------------------------------- what ranks report


@dataclass
class Rank:
    """What the launcher knows of one rank."""

    rank: int = -1
    size: int = 0
    process: int = 0
    finished: bool = False
    failed: str | None = None
    last_words: str = ""
    exit_code: int = 0
    silent: bool = False
    heard_seconds: float = field(default_factory=time.monotonic)
    seconds_quiet: float = 0.0
    seen: Sight | None = None  # while it is quiet
    unread: bytes = b""

    def learn(self, data: bytes) -> None:
        """Take in what came over the rank's connection: lines of JSON; nothing means that it was cut."""
        self.silent = not data
        self.heard_seconds, self.seen = time.monotonic(), None
        *lines, self.unread = (self.unread + data).split(b"\n")
        for line in lines:
            for name, value in json.loads(line).items():
                setattr(self, name, value)
        if self.last_words:
            sys.stderr.write(self.last_words)
            sys.stderr.flush()
            self.last_words = ""

    def describe(self) -> str:
        if self.failed is not None:
            return f"rank {self.rank} of {self.size} failed first: {self.failed}"
        if self.seconds_quiet:
            return (
                f"rank {self.rank} of {self.size} (process {self.process}) stopped answering: no sign of "
                f"life for {self.seconds_quiet:.3g} s; "
                + (f"it {self.seen.describe()}" if self.seen else "it was stopped, or its system hangs")
            )
        return (
            f"rank {self.rank} of {self.size} (process {self.process}) died without a word: "
            "it was killed (by the system, if memory ran out) or it crashed"
        )


class Watch:
    """Listens to all ranks; keeps the first that ended badly, or was silent for too long (0: never is)."""

    def __init__(self, folder: Path, silence: float) -> None:
        self._silence = silence
        self._listened = time.monotonic()
        self.ranks: list[Rank] = []
        self.first_dead: Rank | None = None
        self.address = str(folder / "launcher")
        self._selector = selectors.DefaultSelector()
        self._door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._door.bind(self.address)
        self._door.listen(1024)
        self._selector.register(self._door, selectors.EVENT_READ, None)

    def listen(self, seconds: float) -> None:
        """Wait that long at most, and take in what came; ends come in the order in which they happened."""
        for key, _ in self._selector.select(seconds):
            if key.data is None:
                line, _ = self._door.accept()
                self.ranks.append(Rank())
                self._selector.register(line, selectors.EVENT_READ, self.ranks[-1])
                continue
            try:
                data = key.fileobj.recv(65536)  # type: ignore[union-attr]
            except OSError:
                data = b""
            rank: Rank = key.data
            rank.learn(data)
            if self.first_dead is None and (rank.failed is not None or (rank.silent and not rank.finished)):
                self.first_dead = rank
            if not data:
                self._selector.unregister(key.fileobj)
                key.fileobj.close()  # type: ignore[union-attr]

    def look_for_silence(self) -> None:
        """Find a rank that has given no sign of life for too long, and is not at work either."""
        now, before = time.monotonic(), self._listened
        self._listened = now
        if now - before > self._silence / 2:  # this process was stopped itself, and has not listened
            for rank in self.ranks:
                rank.heard_seconds = now
        if not self._silence or self.first_dead is not None:
            return
        for rank in self.ranks:
            quiet = now - rank.heard_seconds
            if quiet < self._silence / 2 or rank.silent or rank.finished or not rank.process:
                continue
            if rank.seen is None:
                rank.seen = sight_of(rank.process)
            if quiet < self._silence:
                continue
            seen = sight_of(rank.process)
            if seen and seen.at_work_since(rank.seen):  # on something that lets no other thread of it run
                rank.heard_seconds, rank.seen = now, None
            else:
                rank.seconds_quiet, rank.seen, self.first_dead = quiet, seen, rank
                return

    def alive(self) -> list[int]:
        """Processes of ranks whose connection still stands."""
        return [rank.process for rank in self.ranks if rank.process and not rank.silent]

    def close(self) -> None:
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()


# ------------------------------------------------------------------------------- run and end


def folder_of_sockets() -> str:
    """The folder for temporary files; the system's, where that of the user has too long a name.

    The whole name of a socket has about a hundred letters at most (sun_path in unix(7)).
    """
    usual = tempfile.gettempdir()
    return usual if len(os.fsencode(usual)) <= LONGEST_FOLDER else os.path.join(os.sep, "tmp")


def run_under_mpirun(command: list[str], *, ranks: int, seconds_of_silence: float | None = None) -> int:
    """Run `command` on `ranks` processes and return the exit code; output goes where this process's goes.

    Ctrl-C and SIGTERM are passed on. When a rank dies, all end, and a line on standard error says which was
    the first. So they do when a rank gave no sign of life for `seconds_of_silence` (default: what the
    environment has as MINIGRAD_SECONDS_OF_SILENCE, or 60; 0: never), but not while it computes, however long.
    No process is left behind, whatever happens. Raises UsageError when there is no MPI.
    """
    words, environment = mpirun_command(ranks, command), mpirun_environment()
    silence = silence_allowed(environment, seconds_of_silence)
    environment[SECONDS_OF_SILENCE] = str(silence)
    with tempfile.TemporaryDirectory(prefix="minigrad-", dir=folder_of_sockets()) as folder:
        watch = Watch(Path(folder), silence)
        environment[LAUNCH_SOCKET] = watch.address
        mpirun = subprocess.Popen(
            words,
            env=environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches the launcher alone, which passes it on once
            preexec_fn=_end_with_parent(),  # noqa: PLW1509 - one C call, safe between fork and exec
        )
        ending = Ending(mpirun, watch)
        try:
            with ending.on_signals():
                while mpirun.poll() is None:
                    watch.listen(SECONDS_BETWEEN_LOOKS)
                    watch.look_for_silence()
                    ending.advance()
                watch.listen(0)
        finally:
            ending.sweep()
            watch.close()
    if ending.signal is not None:
        _say(f"ended by {signal.Signals(ending.signal).name}")
        return 128 + ending.signal
    if watch.first_dead is not None:
        _say(watch.first_dead.describe())
        return watch.first_dead.exit_code or max(mpirun.returncode, 1)
    return mpirun.returncode if mpirun.returncode >= 0 else 128 - mpirun.returncode


class Ending:
    """Brings all ranks to an end: asks, then demands, then ends them."""

    def __init__(self, mpirun: "subprocess.Popen[bytes]", watch: Watch) -> None:
        self.signal: int | None = None
        self._mpirun = mpirun
        self._watch = watch
        self._steps: list[int] = []
        self._next = 0.0

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM as the wish to end everything, if this is the thread that gets them."""

        def note(number: int, frame: Any) -> None:
            if self.signal is None:
                self.signal = number
                self._begin([number, signal.SIGTERM, signal.SIGKILL])
            else:
                self._begin([signal.SIGKILL])  # asked twice: no more patience

        before: dict[int, Any] = {}
        with suppress(ValueError):  # not in the main thread
            before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def advance(self) -> None:
        """Do what is due. A rank that died begins the end of all others, should mpirun not bring it about."""
        if not self._steps and self._next == 0.0 and self._watch.first_dead is not None:
            self._begin([signal.SIGTERM, signal.SIGKILL], delay=SECONDS_TO_OBEY)
        if self._steps and time.monotonic() >= self._next:
            self._send(self._steps.pop(0))
            self._next = time.monotonic() + SECONDS_TO_OBEY

    def sweep(self) -> None:
        """End whatever is left."""
        if self._mpirun.poll() is None:
            self._send(signal.SIGKILL)
            self._mpirun.wait()
        deadline = time.monotonic() + SECONDS_TO_OBEY
        while self._watch.alive() and time.monotonic() < deadline:
            self._watch.listen(SECONDS_BETWEEN_LOOKS)
        self._each(self._watch.alive(), signal.SIGKILL)

    def _begin(self, steps: list[int], *, delay: float = 0.0) -> None:
        self._steps = steps
        self._next = time.monotonic() + delay

    def _send(self, number: int) -> None:
        """Tell mpirun, which tells its ranks; force it cannot pass on, so then all are told."""
        if number == signal.SIGKILL:
            self._each(self._watch.alive(), number)
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._mpirun.pid, number)
        else:
            self._each([self._mpirun.pid], number)

    @staticmethod
    def _each(processes: list[int], number: int) -> None:
        for process in processes:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process, number)


def _end_with_parent() -> Callable[[], None] | None:
    """What makes mpirun end when the launcher is killed by force: Linux can promise that, others cannot."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return functools.partial(prctl, 1, int(signal.SIGTERM))  # PR_SET_PDEATHSIG


def _say(message: str) -> None:
    sys.stdout.flush()
    print(f"minigrad: {message}", file=sys.stderr, flush=True)
