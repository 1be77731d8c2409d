"""`dist.spawn` runs a function on ranks that are threads; `dist.world()` says in which world one is."""

import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from minigrad.dist.baton import Baton
from minigrad.dist.prepare import announced
from minigrad.dist.single import SingleWorld
from minigrad.dist.threads import Group, ThreadWorld
from minigrad.dist.world import World
from minigrad.errors import CommunicationError, UsageError

Result = TypeVar("Result")
SECONDS_TO_UNWIND = 2.0

_of_this_thread = threading.local()
_of_this_process: World | None = None


def world() -> World:
    """The World of the rank that asks: its thread's in `spawn`, MPI's under `mpirun`, else one rank alone.

    Raises CommunicationError when this process was started as one of several, but MPI does not connect them.
    """
    global _of_this_process
    here: World | None = getattr(_of_this_thread, "world", None)
    if here is not None:
        return here
    if _of_this_process is None:
        if announced() is not None or _mpi_connects_several():
            from minigrad.dist.mpi import MPIWorld

            _of_this_process = MPIWorld.of_all_ranks()
        else:
            _of_this_process = SingleWorld()
    return _of_this_process


def _mpi_connects_several() -> bool:
    """Whether the program loaded MPI itself and it connects ranks: not every launcher announces itself."""
    library = sys.modules.get("mpi4py.MPI")
    return library is not None and library.Is_initialized() and library.COMM_WORLD.Get_size() > 1


def spawn(main: Callable[..., Result], *, ranks: int, arguments: Iterable[Any] = ()) -> list[Result]:
    """Call `main(world, *arguments)` on ranks that are threads of this process; return the results by rank.

    One rank runs at a time, in an order that is always the same. Each thread has its own engine state (grad
    mode, default dtype, …), which begins as in a fresh process. When a rank raises, all others are ended and
    its exception is raised here, with the rank's number as a note. A deadlock raises CommunicationError,
    which says who waits for whom.

    >>> from minigrad import dist
    >>> dist.spawn(lambda world: world.rank * 10, ranks=3)
    [0, 10, 20]
    """
    if ranks < 1:
        raise UsageError(f"spawn got {ranks} ranks; give a number of at least 1")
    baton = Baton(ranks)
    group = Group(baton, range(ranks))
    handed = tuple(arguments)
    results: dict[int, Result] = {}

    def body(rank: int) -> None:
        _of_this_thread.world = ThreadWorld(group, rank)
        try:
            results[rank] = main(_of_this_thread.world, *handed)
        except SystemExit as end:
            if end.code not in (None, 0):  # leaving early without an error is a normal end
                raise

    threads = [
        threading.Thread(
            target=baton.run, args=(rank, lambda rank=rank: body(rank)), name=f"rank {rank}", daemon=True
        )
        for rank in range(ranks)
    ]
    for thread in threads:
        thread.start()
    baton.start()
    try:
        baton.all_ended.wait()
    except BaseException as error:  # Ctrl-C reaches this thread only: the ranks end at their next message
        baton.fail(error)
        baton.all_ended.wait(SECONDS_TO_UNWIND)
        raise
    if baton.failure is not None:
        raise named(baton.failure, baton.failed_rank, ranks)
    left_over = [event.describe() for event in group.unfinished()]
    if left_over:
        raise CommunicationError(f"all {ranks} ranks ended, but something waits {'; '.join(left_over)}")
    return [results.get(rank) for rank in range(ranks)]  # type: ignore[misc]


def named(error: BaseException, rank: int | None, ranks: int) -> BaseException:
    """The error of a rank, with the number of that rank added to what a traceback shows."""
    if rank is not None:
        note = f"rank {rank} of {ranks} raised this, and all ranks were ended"
        if sys.version_info >= (3, 11):
            error.add_note(note)
        elif error.args and isinstance(error.args[0], str):
            error.args = (f"{error.args[0]} ({note})", *error.args[1:])
    return error
