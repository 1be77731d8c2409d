"""Ranks that are threads of one process: one runs at a time, so that every run is the same to the last bit.

Nothing has to be installed, mistakes are found at once (a deadlock, ranks that call different collectives),
and reductions combine in the order of ranks.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, Literal, NoReturn

from minigrad.dist.algorithms import LIBRARY
from minigrad.dist.baton import Baton, Event
from minigrad.dist.ledger import Ledger
from minigrad.dist.mail import Mail
from minigrad.dist.request import Poll, done
from minigrad.dist.transfer import Round, Tag, Transfer, put, take
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

    def compare(self, rank: int, call: Call) -> bool:
        """Note what one rank calls; True when all have come.

        Raises CommunicationError when the call does not fit those of the others.
        """
        for other, theirs in self.calls.items():
            if not call.fits(theirs):
                raise CommunicationError(
                    f"{self.group.names[rank]}: collective number {self.number} is {call} here, but {theirs} "
                    f"on {self.group.names[other]}; all ranks must call the same in the same order"
                )
        self.calls[rank] = call
        return len(self.calls) == len(self.group.names)

    def join(self, rank: int, array: Array, out: Array) -> bool:
        """Bring one rank's buffers. The last to come carries the collective out, and gets True.

        Raises CommunicationError when sizes that each rank counts for itself do not fit together.
        """
        self.arrays[rank], self.outs[rank] = array, out
        if len(self.arrays) < len(self.group.names):
            return False
        ranks = range(len(self.group.names))
        calls = [self.calls[rank] for rank in ranks]
        arrays, outs = [self.arrays[rank] for rank in ranks], [self.outs[rank] for rank in ranks]
        wrong = complaint(calls, arrays, outs)
        if wrong:
            name, verb = self.group.names[rank], calls[rank].verb
            raise CommunicationError(f"{name}: {verb}: {wrong} (ranks of this group)")
        carry_out(calls, arrays, outs)
        # Ranks that wait hold the meeting a while longer, and should hold no buffers of the others.
        self.arrays.clear()
        self.outs.clear()
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


class Course(Event):
    """One of minigrad's own algorithms on one rank.

    Whoever brings the last message of a round begins the next, for whatever rank that is: what was started
    goes on while its rank waits for something else.
    """

    def __init__(self, baton: Baton, rounds: Iterator[Round], post: Callable[..., Event]) -> None:
        super().__init__()
        self._baton = baton
        self._rounds = rounds
        self._post = post
        self._messages: list[Event] = []
        self._missing = 0

    def describe(self) -> str:
        return next(message for message in self._messages if not message.happened).describe()

    def go_on(self) -> None:
        """Begin the next round."""
        self._messages = []  # which know this course: a circle would keep all their buffers
        transfers = next(self._rounds, None)
        if transfers is None:
            self._baton.happen(self)
            return
        self._missing = len(transfers)
        for transfer in transfers:
            self._messages.append(self._post(transfer, self._arrived))

    def _arrived(self) -> None:
        self._missing -= 1
        if not self._missing:
            self._baton.go_on(self.go_on)


class ThreadWorld(World):
    """A world of threads, as seen by one of them."""

    kind: ClassVar[Literal["single", "threads", "mpi"]] = "threads"

    def __init__(self, group: Group, rank: int, *, ledger: Ledger | None = None) -> None:
        self._group = group
        self._baton = group.baton
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

    def _start_send(self, buffer: Array, destination: int, tag: Tag) -> Poll:
        return self._poll(self._post(put(buffer, destination), tag))

    def _start_receive(self, buffer: Array, source: int, tag: Tag) -> Poll:
        return self._poll(self._post(take(buffer, source), tag))

    def _post(self, transfer: Transfer, tag: Tag, then: Callable[[], None] | None = None) -> Event:
        """Begin a message; `then` is called when it is delivered, maybe now."""
        sends = transfer.sends
        here, there = (self.rank, transfer.peer) if sends else (transfer.peer, self.rank)
        post, other = self._group.mail.post(transfer.buffer, here, there, tag, sends=sends)
        post.then = then
        if other is not None:
            self._baton.happen(other)
            self._baton.happen(post)
        return post

    def _carry_out(self, rounds: Iterator[Round], label: Tag) -> Poll:
        course = Course(self._baton, rounds, lambda transfer, then: self._post(transfer, label, then))
        self._baton.go_on(course.go_on)
        return self._poll(course)

    def _compare(self, call: Call, number: int, *, block: bool) -> Poll:
        meeting = self._group.meetings.setdefault(number, Meeting(self._group, number))
        if meeting.compare(self.rank, call) and call.algorithm != LIBRARY:
            del self._group.meetings[number]  # those who meet no further
        return done

    def _label(self, call: Call, number: int) -> Tag:
        return f"collective number {number}, {call}"

    def _collective(self, call: Call, array: Array, out: Array) -> Poll:
        meeting = self._group.meetings[self._collectives]
        if meeting.join(self.rank, array, out):
            del self._group.meetings[meeting.number]
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
