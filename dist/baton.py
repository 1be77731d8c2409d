"""The baton: threads that take turns, one at a time, in an order that never changes from run to run.

A rank runs until it has to wait for another; then the rank that has been able to run for longest goes on.
Whoever has the baton may touch everything that ranks share, so nothing else here needs a lock. When every
rank waits, nothing can ever happen again: that is a deadlock, and it is reported at once, with who waits for
what.
"""

import sys
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from minigrad.errors import CommunicationError

FRUITLESS_LOOKS = 100_000  # so many polls in a row, by all ranks, without any message: they poll for ever
HERE = str(Path(__file__).parent)


class Event:
    """Something that ranks wait for. `describe` says what it is, for the report of a deadlock.

    then   what goes on as soon as it happened, in the thread of whoever made it happen
    """

    def __init__(self) -> None:
        self.happened = False
        self.then: Callable[[], None] | None = None
        self.waiting: list[int] = []

    def describe(self) -> str:
        raise NotImplementedError


class OtherRankFailed(BaseException):
    """Unwinds a rank because another failed. Not an Exception: `except Exception` lets it through."""


class Baton:
    """Lets `size` threads run one at a time."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.failure: BaseException | None = None
        self.failed_rank: int | None = None
        self.all_ended = threading.Event()
        self._turn = [threading.Lock() for _ in range(size)]
        for turn in self._turn:
            turn.acquire()  # nobody's turn yet
        self._ready = deque(range(size))
        self._waits_for: dict[int, Event] = {}
        self._thread: dict[int, int] = {}
        self._running = size
        self._fruitless_looks = 0
        self._to_go_on: deque[Callable[[], None]] = deque()
        self._going_on = False

    def start(self) -> None:
        """Hand the baton to rank 0. Every rank's thread must be in `run`, or get there."""
        self._pass_on()

    def run(self, rank: int, body: Callable[[], None]) -> None:
        """The life of one rank, in its own thread."""
        self._turn[rank].acquire()
        self._thread[rank] = threading.get_ident()
        try:
            if self.failure is None:
                body()
        except OtherRankFailed:
            pass
        except BaseException as error:
            self.fail(error, rank)
        self._running -= 1
        self._pass_on()

    def fail(self, error: BaseException, rank: int | None = None) -> None:
        """Let every rank end as soon as it has the baton; the first failure is the one that counts."""
        if self.failure is None:
            self.failure, self.failed_rank = error, rank

    def wait(self, rank: int, event: Event) -> None:
        """Give the baton away until `event` happened."""
        self._end_if_failed()
        if event.happened:
            return
        event.waiting.append(rank)
        self._waits_for[rank] = event
        self._give_away(rank)

    def look(self, rank: int, event: Event) -> bool:
        """Let the others run for a while, then say whether `event` happened."""
        self._end_if_failed()
        if not event.happened:
            self._fruitless_looks += 1
            if self._fruitless_looks > FRUITLESS_LOOKS:
                self._waits_for[rank] = event
                self.fail(CommunicationError(self._deadlock()))
            self._ready.append(rank)
            self._give_away(rank)
        return event.happened

    def happen(self, event: Event) -> None:
        """Let all who wait for `event` go on, after those who can already."""
        event.happened = True
        self._fruitless_looks = 0
        for rank in event.waiting:
            del self._waits_for[rank]
            self._ready.append(rank)
        if event.then is not None:
            self.go_on(event.then)

    def go_on(self, action: Callable[[], None]) -> None:
        """Do it now, or where others are at it already, after them.

        An action may make the next thing happen, and that the next: so this is a loop and not a recursion.
        """
        self._to_go_on.append(action)
        if not self._going_on:
            self._going_on = True
            try:
                while self._to_go_on:
                    self._to_go_on.popleft()()
            finally:
                self._going_on = False

    def _give_away(self, rank: int) -> None:
        self._pass_on()
        self._turn[rank].acquire()
        self._end_if_failed()

    def _pass_on(self) -> None:
        if not self._ready and self._waits_for and self.failure is None:
            self.fail(CommunicationError(self._deadlock()))
        if self.failure is not None:
            self._ready.extend(rank for rank in self._waits_for if rank not in self._ready)
            self._waits_for.clear()
        if self._ready:
            self._turn[self._ready.popleft()].release()
        elif self._running == 0:
            self.all_ended.set()

    def _end_if_failed(self) -> None:
        if self.failure is not None:
            raise OtherRankFailed

    def _deadlock(self) -> str:
        lines = ["deadlock: no rank can go on"]
        for rank in range(self.size):
            event = self._waits_for.get(rank)
            if event is None:
                lines.append(
                    f"rank {rank} of {self.size}: has finished"
                    if rank not in self._ready
                    else f"rank {rank} of {self.size}: only looks for messages"
                )
            else:
                lines.append(f"rank {rank} of {self.size}: waits {event.describe()}{self._place(rank)}")
        return "\n  ".join(lines)

    def _place(self, rank: int) -> str:
        """File and line, outside minigrad.dist, at which a rank waits."""
        frame: FrameType | None = sys._current_frames().get(self._thread[rank])
        while frame is not None and frame.f_code.co_filename.startswith(HERE):
            frame = frame.f_back
        return "" if frame is None else f" ({Path(frame.f_code.co_filename).name}:{frame.f_lineno})"
