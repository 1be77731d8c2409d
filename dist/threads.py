"""Ranks that are threads of one process: one runs at a time, so that every run is the same to the last bit.

Nothing has to be installed, mistakes are found at once (a deadlock, ranks that call different collectives),
and reductions combine in the order of ranks.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal, NoReturn

from minigrad.dist.baton import Baton, Event
from minigrad.dist.ledger import Ledger
from minigrad.dist.mail import Mail
from minigrad.dist.request import Poll
from minigrad.dist.verbs import Array, Call, carry_out, complaint
from minigrad.dist.world import World
from minigrad.errors import CommunicationError


class Meeting(Event):
    """One collective of one group, from the first rank that comes to the last."""

    def __init__(self, group: "Group", number: int) -> None:
        super().__init__()
        self.group = group
        self.number = number
        self.calls: dict[int, Call] = {}
        self.arrays: dict[int, Array] = {}
        self.outs: dict[int, Array] = {}

    def describe(self) -> str:
        call = next(iter(self.calls.values()))
        absent = [name for rank, name in enumerate(self.group.names) if rank not in self.calls]
        return f"in {call}, its collective number {self.number}, for {', '.join(absent)}"

    def join(self, rank: int, call: Call, array: Array, out: Array) -> bool:
        """Bring one rank's buffers. The last to come carries the collective out, and gets True.

        Raises CommunicationError when the calls, or their sizes, do not fit together.
        """
        for other, theirs in self.calls.items():
            if not call.fits(theirs):
                raise CommunicationError(
                    f"{self.group.names[rank]}: collective number {self.number} is {call} here, but {theirs} "
                    f"on {self.group.names[other]}; all ranks must call the same in the same order"
                )
        self.calls[rank], self.arrays[rank], self.outs[rank] = call, array, out
        if len(self.calls) < len(self.group.names):
            return False
        ranks = range(len(self.group.names))
        calls = [self.calls[rank] for rank in ranks]
        arrays, outs = [self.arrays[rank] for rank in ranks], [self.outs[rank] for rank in ranks]
        wrong = complaint(calls, arrays, outs)
        if wrong:
            raise CommunicationError(f"{self.group.names[rank]}: {call.verb}: {wrong} (ranks of this group)")
        carry_out(calls, arrays, outs)
        return True


class Group:
    """What the ranks of one world, or of one part of a split world, share."""

    def __init__(self, baton: Baton, members: Sequence[int]) -> None:
        self.baton = baton
        self.members = list(members)
        self.names = [f"rank {member} of {baton.size}" for member in members]
        self.mail = Mail(self.names)
        self.meetings: dict[int, Meeting] = {}
        self.parts: dict[tuple[int, int], Group] = {}

    def unfinished(self) -> list[Event]:
        """What was started and never met its other side."""
        own: list[Event] = [*self.meetings.values(), *self.mail.unfinished()]
        return own + [event for part in self.parts.values() for event in part.unfinished()]


class ThreadWorld(World):
    """A world of threads, as seen by one of them."""

    kind: ClassVar[Literal["single", "threads", "mpi"]] = "threads"

    def __init__(self, group: Group, rank: int, *, ledger: Ledger | None = None) -> None:
        self._group = group
        self._baton = group.baton
        self._collectives = 0
        size = self._baton.size
        super().__init__(
            rank,
            group.members,
            local_rank=group.members[rank],
            local_size=size,
            whole_size=size,
            ledger=ledger,
        )

    def abort(self, message: str) -> NoReturn:
        raise CommunicationError(f"{self.name}: {message}")

    def _start_send(self, buffer: Array, destination: int, tag: int) -> Poll:
        return self._post(buffer, self.rank, destination, tag, sends=True)

    def _start_receive(self, buffer: Array, source: int, tag: int) -> Poll:
        return self._post(buffer, source, self.rank, tag, sends=False)

    def _post(self, buffer: Array, source: int, destination: int, tag: int, *, sends: bool) -> Poll:
        post, other = self._group.mail.post(buffer, source, destination, tag, sends=sends)
        if other is not None:
            self._baton.happen(other)
        return self._poll(post)

    def _collective(self, call: Call, array: Array, out: Array, *, block: bool) -> Poll:
        number = self._collectives = self._collectives + 1
        meeting = self._group.meetings.setdefault(number, Meeting(self._group, number))
        if meeting.join(self.rank, call, array, out):
            del self._group.meetings[number]
            self._baton.happen(meeting)
        return self._poll(meeting)

    def _poll(self, event: Event) -> Poll:
        def poll(block: bool) -> bool:
            if not block:
                return self._baton.look(self._member, event)
            self._baton.wait(self._member, event)
            return True

        return poll

    @property
    def _member(self) -> int:
        return self._group.members[self.rank]

    def _split(self, color: int, ranks: list[int]) -> World:
        members = [self._group.members[rank] for rank in ranks]
        part = self._group.parts.setdefault((self._collectives, color), Group(self._baton, members))
        return ThreadWorld(part, ranks.index(self.rank), ledger=self.ledger)
