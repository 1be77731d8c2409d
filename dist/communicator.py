"""What the verbs of a World share: who takes part, how arrays are lent, compared and booked.

How bytes get from one rank to another is all that a kind of world has to add: `_start_send`,
`_start_receive`, `_collective`, and `_compare` where the ranks can compare what they call.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np

from minigrad.dist.algorithms import LIBRARY, Place, rounds_of
from minigrad.dist.debug_mode import debugging, guarded
from minigrad.dist.ledger import Account, Ledger, Message
from minigrad.dist.refusals import Purpose, Refusals
from minigrad.dist.request import Poll, Request, both, done
from minigrad.dist.rounds import moving
from minigrad.dist.staging import Loan, copied, half_precision, lend, overlap
from minigrad.dist.transfer import Round, Tag
from minigrad.dist.verbs import Array, Call
from minigrad.errors import CommunicationError


class Communicator(Refusals, ABC):
    """What a World does under its verbs."""

    kind: ClassVar[Literal["single", "threads", "mpi"]]

    def __init__(
        self,
        rank: int,
        members: Sequence[int],
        *,
        local_rank: int,
        local_size: int,
        whole_size: int | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        self.rank = rank
        self.size = len(members)
        self.members = tuple(members)
        self.local_rank = local_rank
        self.local_size = local_size
        self.whole_size = whole_size or self.size
        self.ledger = ledger or Ledger()
        self._collectives = 0
        self._kept: list[Request] = []

    def __repr__(self) -> str:
        return f"<{self.kind} world: rank {self.rank} of {self.size}>"

    @property
    def takes_device_arrays(self) -> bool:
        """Whether device arrays are communicated as they are; otherwise they are staged through the host."""
        return False

    @property
    def name(self) -> str:
        """How this rank is called in messages: its number in the whole world."""
        return f"rank {self.members[self.rank]} of {self.whole_size}"

    @property
    def observer(self) -> Callable[[Message], None] | None:
        """What is called with a Message as often as a verb of this world, or of a part of it, is done."""
        return self.ledger.observer

    @observer.setter
    def observer(self, observer: Callable[[Message], None] | None) -> None:
        self.ledger.observer = observer

    def keep(self, request: Request) -> None:
        """Hold on to a request that nobody waits for, and let go of those that are done."""
        self._kept = [kept for kept in self._kept if not kept.test()]
        self._kept.append(request)

    # ------------------------------------------------------------- what a kind of world adds

    @abstractmethod
    def _start_send(self, buffer: Array, destination: int, tag: Tag) -> Poll:
        """Begin to send a flat buffer."""

    @abstractmethod
    def _start_receive(self, buffer: Array, source: int, tag: Tag) -> Poll:
        """Begin to fill a flat buffer."""

    @abstractmethod
    def _collective(self, call: Call, array: Array, out: Array) -> Poll:
        """Begin a collective on flat buffers."""

    def _compare(self, call: Call, number: int, *, block: bool) -> Poll:
        """Compare a collective with what the other ranks call; raises CommunicationError on a mismatch."""
        return done

    def _label(self, call: Call, number: int) -> Tag:
        """The tag of the messages of a collective of minigrad's own: no other has it, and no program can."""
        return self.tag_limit + 1 + number % self.tag_limit

    def _carry_out(self, rounds: Iterator[Round], label: Tag) -> Poll:
        """Begin an algorithm, all of whose messages go under one tag."""
        raise NotImplementedError

    # ------------------------------------------------------------------- shared by all verbs

    def _open(
        self, verb: str, purpose: str, algorithm: str, peer: int | None = None, tag: int | None = None
    ) -> Account:
        """The books of one verb. A rank alone moves nothing, and nothing is booked for it."""
        ledger = self.ledger if self.size > 1 else None
        return Account(ledger, verb, purpose, algorithm, peer, self.members[self.rank], tag)

    def _message(
        self, verb: str, array: Array, peer: int, tag: int, purpose: Purpose, *, block: bool = True
    ) -> Request:
        """Check, lend and book the array of a message between two, and start it."""
        self._check_message(verb, array, peer, tag, purpose)
        sends = verb == "send"
        account = self._open(verb, purpose, LIBRARY, self.members[peer], tag)
        loan = self._booked(lend(array, read=sends, write=not sends, direct=self.takes_device_arrays))
        if not block:
            loan = self._watched(verb, array, loan, write=not sends)
        sent, received = (loan.buffer.nbytes, 0) if sends else (0, loan.buffer.nbytes)
        account.book(sent=sent, received=received, peers=[(self.members[peer], sent, received)])
        poll = (self._start_send if sends else self._start_receive)(loan.buffer, peer, tag)
        return Request(poll, loan.give_back, account.close)

    def _enter(
        self, call: Call, array: Array | None, out: Array | None, purpose: Purpose, *, block: bool = True
    ) -> Request:
        """Check a collective and start it."""
        return self._checked(call, array, out, purpose, block=block)()

    def _checked(
        self, call: Call, array: Array | None, out: Array | None, purpose: Purpose, *, block: bool = False
    ) -> Callable[[], Request]:
        """Check a collective. What this returns lends the arrays, compares and books the call, and starts it,
        as often as it is called.
        """
        if self.size == 1:
            call = replace(call, algorithm=LIBRARY)
        at_root = call.root in (-1, self.rank)
        reads = at_root or call.verb != "broadcast"
        writes = {"all_reduce": True, "reduce": at_root, "broadcast": not at_root}.get(call.verb, False)
        self._check_purpose(call.verb, purpose)
        for what, given, written in (("array", array, writes), ("out", out, True)):
            if given is not None:
                self._check_array(call.verb, what, given, call.dtype, writes=written)

        def start() -> Request:
            account = self._open(call.verb, purpose, call.algorithm)
            give, take = self._lend(call, array, out, reads=reads, writes=writes)
            if not block:
                give = self._watched(call.verb, array, give, write=writes)
                take = self._watched(call.verb, out, take, write=True)
            number = self._collectives = self._collectives + 1
            compared = self._compare(call, number, block=block)
            if call.algorithm == LIBRARY:
                account.book(
                    sent=give.buffer.nbytes if reads else 0,
                    received=take.buffer.nbytes + (give.buffer.nbytes if writes else 0),
                    counted="payload",
                )
                poll = self._collective(call, give.buffer, take.buffer)
            else:
                poll = self._own(call, number, give.buffer, take.buffer, account)
            return Request(both(compared, poll), give.give_back, take.give_back, account.close)

        return start

    def _own(self, call: Call, number: int, array: Array, out: Array, account: Account) -> Poll:
        """Begin one of minigrad's own algorithms."""

        def book(transfers: Round) -> None:
            shares = [
                (self.members[peer], moved if sends else 0, 0 if sends else moved)
                for peer, moved, sends in ((t.peer, t.buffer.nbytes, t.sends) for t in transfers)
            ]
            account.book(
                sent=sum(sent for _, sent, _ in shares),
                received=sum(received for _, _, received in shares),
                peers=shares,
                messages=sum(transfer.sends for transfer in transfers),
                rounds=1,
            )

        rounds = rounds_of(call, Place(self.rank, self.size, self.ledger.track), array, out)
        return self._carry_out(moving(rounds, book), self._label(call, number))

    def _lend(
        self, call: Call, array: Array | None, out: Array | None, *, reads: bool, writes: bool
    ) -> tuple[Loan, Loan]:
        """Both buffers of a collective, in a precision fit for it and sharing no memory."""
        nobody = Loan(np.empty(0, call.dtype))
        direct = self.takes_device_arrays
        if self.size > 1 and call.operation in ("max", "min"):
            direct = False  # minigrad takes these itself: see `of_floats` in mpi.py
        give = nobody if array is None else lend(array, read=reads, write=writes, direct=direct)
        take = nobody if out is None else lend(out, read=False, write=True, direct=direct)
        give, take = self._booked(give), self._booked(take)
        if call.operation and half_precision(give.buffer.dtype):
            give = self._booked(copied(give, np.float32, write=writes))
            take = take if out is None else self._booked(copied(take, np.float32, write=True))
        elif out is not None and overlap(give.buffer, take.buffer):
            # A shard may be a view of the whole: the smaller one steps aside.
            if give.buffer.size <= take.buffer.size:
                give = self._booked(copied(give, give.buffer.dtype, write=False))
            else:
                take = self._booked(copied(take, take.buffer.dtype, write=True))
        return give, take

    def _booked(self, loan: Loan) -> Loan:
        """A loan, whose memory is booked if it is no caller's."""
        if loan.apart:
            self.ledger.track(loan.buffer)
        return loan

    def _watched(self, verb: str, array: Array | None, loan: Loan, *, write: bool = False) -> Loan:
        """The loan of a request, which debug mode keeps an eye on."""
        if array is None or not debugging() or getattr(array, "device", None) == "shapes":
            return loan
        message = "an array that changed before the request was done; wait() for it first, or give a copy"
        return guarded(loan, array, write=write, error=lambda: self._error(CommunicationError, verb, message))
