"""Nobody waits for ever: neither for a rank that has finished, nor for one that waits itself.

MPI keeps a rank that ends until the others end, too, and never asks what those are doing. So all ranks of a
host share a small table, in which each notes what it waits in. A rank that has finished stays and looks
there: while another computes, that may go on for as long as it likes; where all others do nothing but wait,
nothing can ever happen again, since whoever has finished sends nothing any more. Before anybody has, it takes
longer to be certain: what they wait for may be a long message on its way. How long one may take, their memory
tells, which holds it.
"""

import time
from collections.abc import Callable, Iterable, Sequence

from minigrad.dist.sight import sight_of

CALLS = (
    *("", "send", "receive", "barrier", "bcast", "reduce", "allreduce", "reduce_scatter"),
    *("allgather", "allgatherv", "gatherv", "scatterv", "alltoallv"),
)
"""What a rank may wait in, by MPI's names; first: in nothing."""
CODES = {call: code for code, call in enumerate(CALLS)}
FINISHED = -1
SECONDS_UNTIL_CERTAIN = 4.0  # nobody waits so long for the next part of a message of this host
SLOWEST_MESSAGE = 2.5e8  # bytes a second, on cores that others use as well
SHORTEST_PAUSE, LONGEST_PAUSE, LONGEST_COUNTED = 0.001, 0.02, 0.5  # seconds between two looks


class Stillness:
    """For how long all who have not finished have done nothing but wait, from one look to the next."""

    def __init__(self) -> None:
        self._before: list[int] = []
        self._looked = time.monotonic()
        self.seconds = 0.0

    def look(self, lines: list[int]) -> dict[int, str]:
        """Go on counting. Returns who has not finished, and what each of them waits in."""
        now = time.monotonic()
        going = {rank: line % len(CALLS) for rank, line in enumerate(lines) if line != FINISHED}
        stuck = all(going.values()) and lines == self._before
        # A very long time between two looks means that this process was stopped: little of it counts.
        self.seconds = self.seconds + min(now - self._looked, LONGEST_COUNTED) if stuck else 0.0
        self._before, self._looked = lines, now
        return {rank: CALLS[code] for rank, code in going.items()}


class Board:
    """The table, as one rank sees it: a number for each, which changes whenever it begins or ends to wait.

    lines       of all ranks that share it; a rank alone has one of its own, and learns nothing from it
    poke        moves messages on that this rank has left under way
    processes   of all ranks that share it, as the system numbers them
    """

    def __init__(
        self, lines: "memoryview", rank: int, poke: Callable[[], object], processes: Sequence[int] = ()
    ) -> None:
        self._lines, self._rank, self._poke, self._processes = lines, rank, poke, processes
        self._waits = 0
        self.shared = len(lines) > 1

    def enter(self, call: str) -> None:
        """From now on, this rank waits in `call`, one of CALLS."""
        self._lines[self._rank] = self._waits + CODES[call]

    def leave(self) -> None:
        """It waits no more."""
        self._waits += len(CALLS)
        self._lines[self._rank] = self._waits

    def finish(self) -> dict[int, str]:
        """Stay until all others have finished, too; or return who waits in what while nobody can go on.

        Of several ranks that have finished, one alone returns so, to speak for all.
        """
        self._lines[self._rank] = FINISHED
        still, pause = Stillness(), SHORTEST_PAUSE
        while True:
            self._poke()
            lines = self._lines.tolist()
            going = still.look(lines)
            speaks = self._rank == lines.index(FINISHED)
            if not going or (speaks and self.certain(still, going, SECONDS_UNTIL_CERTAIN)):
                return going
            pause = SHORTEST_PAUSE if still.seconds else min(1.2 * pause, LONGEST_PAUSE)
            time.sleep(pause)

    def certain(self, still: Stillness, waiting: Iterable[int], seconds: float) -> bool:
        """Whether they have waited for longer than `seconds`, and than the longest message that they hold."""
        if still.seconds <= seconds:
            return False
        seen = [sight_of(self._processes[rank]) for rank in waiting if rank < len(self._processes)]
        held = max((sight.memory_bytes for sight in seen if sight is not None), default=0)
        return still.seconds > seconds + held / SLOWEST_MESSAGE

    def look(self, still: Stillness) -> dict[int, str]:
        """Who waits in what, if nobody has finished; called by a thread of its own."""
        lines = self._lines.tolist()
        if not self.shared or FINISHED in lines:
            still.seconds = 0.0  # who has finished sees to the others
            return {}
        return still.look(lines)


board = Board(memoryview(bytearray(8)).cast("q"), 0, lambda: None)
"""Of this process; `minigrad.dist.mpi` puts the one there that ranks share."""


def share(lines: "memoryview", rank: int, poke: Callable[[], object], processes: Sequence[int]) -> None:
    """From now on, this process is one of several that share a table."""
    global board
    board = Board(lines, rank, poke, processes)


def finish(name: Callable[[int], str]) -> str:
    """Stay until all ranks have finished; or return, in words, who still waits. `name` is that of a rank."""
    return _told(board.finish(), name)


def deadlock(seconds: float, name: Callable[[int], str]) -> str:
    """Return, in words, who waits in what, as soon as all ranks of this host have for so many seconds, and
    for longer than a message takes that they hold.
    """
    still, waiting = Stillness(), dict[int, str]()
    while not board.certain(still, waiting, seconds):
        time.sleep(LONGEST_COUNTED)
        waiting = board.look(still)
    return _told(waiting, name)


def _told(waiting: dict[int, str], name: Callable[[int], str]) -> str:
    return ", ".join(f"{name(rank)} in {call}" for rank, call in waiting.items())
