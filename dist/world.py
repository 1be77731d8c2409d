"""The communicator: one interface for ranks that are processes (MPI), threads of one process, or one rank alone.

A program asks `minigrad.dist.world()` for its World and never where that came from. The verbs here check what they are
given, write it into the ledger and lend the arrays as flat buffers; how bytes get from one rank to another is all that
a kind of world has to add (`_start_send`, `_start_receive`, `_collective`, `_split`, `abort`).

Verbs and their meaning follow the MPI standard (MPI: A Message-Passing Interface Standard 4.1, chapters 3 and 6);
`minigrad/dist/verbs.py` states each in plain NumPy. Arrays are contiguous and equal in dtype on all ranks; the verbs
that cut an array into one piece per rank count elements, in C order, whatever its shape.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal, get_args

import numpy as np

from minigrad.dist.ledger import Ledger
from minigrad.dist.request import Poll, Request
from minigrad.dist.staging import HALF_PRECISION, Loan, lend, widen
from minigrad.dist.verbs import COMBINE, Array, Call, balanced_counts
from minigrad.errors import CommunicationError, DTypeError, MinigradError, ShapeError

Purpose = Literal["gradients", "parameters", "activations", "optimizer", "control"]
Operation = Literal["sum", "max", "min"]
PURPOSES = get_args(Purpose)
IN_PLACE = ("broadcast", "reduce", "all_reduce")
REDUCTIONS = ("reduce", "all_reduce", "reduce_scatter")


class World(ABC):
    """A group of ranks that can talk to each other, as seen by one of them.

    rank, size              who this rank is, and how many there are: 0 ≤ rank < size
    local_rank, local_size  the same, among the ranks on this host (what chooses a GPU)
    members                 rank in the whole world of each rank of this group; a world that was not split is 0, 1, 2, …
    ledger                  what was sent and received; groups split off a world write into the same books
    """

    kind: ClassVar[Literal["single", "threads", "mpi"]]
    tag_limit: int = 2**31 - 1
    takes_device_arrays: bool = False

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

    def __repr__(self) -> str:
        return f"<{self.kind} world: rank {self.rank} of {self.size}>"

    @property
    def name(self) -> str:
        """How this rank is called in messages: its number in the whole world."""
        return f"rank {self.members[self.rank]} of {self.whole_size}"

    # ------------------------------------------------------------------------------------ between two ranks

    def send(self, array: Array, destination: int, *, tag: int = 0, purpose: Purpose = "control") -> None:
        """Send `array` to one rank; returns when `array` may be changed again, maybe only after it was received."""
        self.start_send(array, destination, tag=tag, purpose=purpose).wait()

    def receive(self, out: Array, source: int, *, tag: int = 0, purpose: Purpose = "control") -> None:
        """Fill `out` with what rank `source` sends under `tag`. Messages with equal tags arrive in order."""
        self.start_receive(out, source, tag=tag, purpose=purpose).wait()

    def start_send(
        self, array: Array, destination: int, *, tag: int = 0, purpose: Purpose = "control"
    ) -> Request:
        """Begin to send; `array` must stay as it is until the request is done."""
        self._check_message(destination, tag, purpose)
        self._check_array(array, "array")
        loan = self._lend(array, read=True, write=False)
        peer = self.members[destination]
        self._book("send", purpose, bytes_sent=loan.buffer.nbytes, bytes_received=0, peer=peer)
        return Request(self._start_send(loan.buffer, destination, tag), loan.give_back)

    def start_receive(
        self, out: Array, source: int, *, tag: int = 0, purpose: Purpose = "control"
    ) -> Request:
        """Begin to receive; `out` must not be touched until the request is done."""
        self._check_message(source, tag, purpose)
        self._check_array(out, "out", writes=True)
        loan = self._lend(out, read=False, write=True)
        peer = self.members[source]
        self._book("receive", purpose, bytes_sent=0, bytes_received=loan.buffer.nbytes, peer=peer)
        return Request(self._start_receive(loan.buffer, source, tag), loan.give_back)

    # ------------------------------------------------------------------------------------ among all ranks, in place

    def barrier(self, *, purpose: Purpose = "control") -> None:
        """Return when every rank has come here."""
        self._enter(Call("barrier"), None, None, purpose).wait()

    def broadcast(self, array: Array, *, root: int = 0, purpose: Purpose = "control") -> None:
        """Overwrite `array` on every rank by what rank `root` has there."""
        self._enter(self._call("broadcast", array, root=root), array, None, purpose).wait()

    def reduce(
        self, array: Array, *, root: int = 0, operation: Operation = "sum", purpose: Purpose = "control"
    ) -> None:
        """Combine `array` over all ranks, elementwise, into rank `root`'s; the others' stay as they are."""
        call = self._call("reduce", array, root=root, operation=operation)
        self._enter(call, array, None, purpose).wait()

    def all_reduce(
        self, array: Array, *, operation: Operation = "sum", purpose: Purpose = "control"
    ) -> None:
        """Combine `array` over all ranks, elementwise, into every rank's. Half precision is added up in float32."""
        call = self._call("all_reduce", array, operation=operation)
        self._enter(call, array, None, purpose).wait()

    def start_all_reduce(
        self, array: Array, *, operation: Operation = "sum", purpose: Purpose = "control"
    ) -> Request:
        """Begin an all_reduce; `array` must not be touched until the request is done."""
        call = self._call("all_reduce", array, operation=operation)
        return self._enter(call, array, None, purpose, block=False)

    # ------------------------------------------------------------------------------------ one piece per rank

    def reduce_scatter(
        self,
        array: Array,
        out: Array,
        *,
        counts: Sequence[int] | None = None,
        operation: Operation = "sum",
        purpose: Purpose = "control",
    ) -> None:
        """Combine `array` over all ranks; rank r keeps, in `out`, only the r-th piece of `counts[r]` elements."""
        self._check_array(array, "array")
        counts = self._pieces(array, "array", counts, out, "out")
        call = self._call("reduce_scatter", array, operation=operation, counts=counts)
        self._enter(call, array, out, purpose).wait()

    def all_gather(
        self,
        array: Array,
        out: Array,
        *,
        counts: Sequence[int] | None = None,
        purpose: Purpose = "control",
    ) -> None:
        """Every rank gets, in `out`, the arrays of all ranks one after the other; rank r's has `counts[r]` elements."""
        self._check_array(out, "out", writes=True)
        counts = self._pieces(out, "out", counts, array, "array")
        self._enter(self._call("all_gather", array, counts=counts), array, out, purpose).wait()

    def gather(
        self,
        array: Array,
        out: Array | None = None,
        *,
        root: int = 0,
        counts: Sequence[int] | None = None,
        purpose: Purpose = "control",
    ) -> None:
        """Like all_gather, for rank `root` alone. The others leave `out` away and state uneven `counts`."""
        self._check_array(array, "array")
        counts = self._rooted_pieces(out, "out", counts, array, "array", root)
        self._enter(self._call("gather", array, root=root, counts=counts), array, out, purpose).wait()

    def scatter(
        self,
        array: Array | None,
        out: Array,
        *,
        root: int = 0,
        counts: Sequence[int] | None = None,
        purpose: Purpose = "control",
    ) -> None:
        """Rank r gets, in `out`, the r-th piece of `root`'s `array`. The others pass None and state uneven `counts`."""
        self._check_array(out, "out", writes=True)
        counts = self._rooted_pieces(array, "array", counts, out, "out", root)
        self._enter(self._call("scatter", out, root=root, counts=counts), array, out, purpose).wait()

    def all_to_all(
        self,
        array: Array,
        out: Array,
        *,
        counts: Sequence[int] | None = None,
        counts_received: Sequence[int] | None = None,
        purpose: Purpose = "control",
    ) -> None:
        """Rank r sends the s-th piece of `array` to rank s, and finds in `out` what rank s sent, in order of ranks.

        Without counts, all ranks bring arrays of one size, split as evenly as can be.
        """
        self._check_array(array, "array")
        self._check_array(out, "out", writes=True)
        sent = self._counts(array, "array", counts)
        if counts is None and counts_received is None:
            counts_received = [sent[self.rank]] * self.size
        call = self._call(
            "all_to_all", array, counts=sent, counts_received=self._counts(out, "out", counts_received)
        )
        self._enter(call, array, out, purpose).wait()

    # ------------------------------------------------------------------------------------ groups, and the end

    def split(self, color: int, *, key: int | None = None) -> "World":
        """The group of all ranks that gave the same `color`, numbered by `key` and then by rank."""
        if color < 0:
            raise CommunicationError(f"{self.name}: split got color {color}; colors are whole numbers from 0 on")
        wish = np.array([color, self.rank if key is None else key, self.rank], dtype=np.int64)
        wishes = np.empty((self.size, 3), dtype=np.int64)
        self.all_gather(wish, wishes, purpose="control")
        group = sorted((int(k), int(rank)) for c, k, rank in wishes if c == color)
        return self._split(color, [rank for _, rank in group])

    @abstractmethod
    def abort(self, message: str) -> None:
        """End every rank of the program, because of `message`."""

    # ------------------------------------------------------------------------------------ what a kind of world adds

    @abstractmethod
    def _start_send(self, buffer: Array, destination: int, tag: int) -> Poll:
        """Begin to send a flat buffer."""

    @abstractmethod
    def _start_receive(self, buffer: Array, source: int, tag: int) -> Poll:
        """Begin to fill a flat buffer."""

    @abstractmethod
    def _collective(self, call: Call, array: Array, out: Array, block: bool) -> Poll:
        """Begin a collective on flat buffers, or carry it out at once if `block`. `None` where there is no buffer."""

    @abstractmethod
    def _split(self, color: int, ranks: list[int]) -> "World":
        """The group of `ranks` of this world; ranks of one color get the same list, in the group's order."""

    # ------------------------------------------------------------------------------------ shared by all verbs

    def _enter(
        self, call: Call, array: Array, out: Array, purpose: Purpose, *, block: bool = True
    ) -> Request:
        """Check and lend the arrays, book the call, start it."""
        if purpose not in PURPOSES:
            raise CommunicationError(f"{self.name}: purpose {purpose!r} is none of {', '.join(PURPOSES)}")
        at_root = call.root in (-1, self.rank)
        reads = call.verb != "broadcast" or at_root
        writes = call.verb == "all_reduce" or (call.verb in IN_PLACE and at_root == (call.verb == "reduce"))
        self._check_array(array, "array", writes=writes)
        self._check_array(out, "out", writes=True)
        if array is not None and out is not None and array.dtype != out.dtype:
            raise self._error(DTypeError, call.verb, f"array is {array.dtype} and out is {out.dtype}; make them equal")
        given = self._lend(array, read=reads, write=writes)
        taken = self._lend(out, read=False, write=True)
        given, taken = apart(given, taken)
        if call.verb in REDUCTIONS and call.dtype in HALF_PRECISION:
            given, taken = widen(given, write=writes), widen(taken, write=out is not None)
        self._book(
            call.verb,
            purpose,
            bytes_sent=given.buffer.nbytes if reads else 0,
            bytes_received=(given.buffer.nbytes if writes else 0) + taken.buffer.nbytes,
        )
        poll = self._collective(
            call, None if array is None else given.buffer, None if out is None else taken.buffer, block
        )

        def finish() -> None:
            given.give_back()
            taken.give_back()

        return Request(poll, finish)

    def _call(
        self,
        verb: str,
        array: Array,
        *,
        operation: str = "",
        root: int = -1,
        counts: tuple[int, ...] = (),
        counts_received: tuple[int, ...] = (),
    ) -> Call:
        self._check_array(array, "array")
        if operation and (operation not in COMBINE or array.dtype.kind == "b"):
            raise self._error(
                CommunicationError, verb, f"cannot take the {operation!r} of {array.dtype}; "
                f"the operations are {', '.join(COMBINE)}, on numbers"
            )
        if array.dtype.kind == "c" and operation in ("max", "min"):
            raise self._error(DTypeError, verb, f"complex numbers have no {operation}; take that of their parts")
        if root != -1:
            self._check_rank(root, verb)
        shape = () if counts else tuple(array.shape)
        return Call(verb, str(array.dtype), shape, operation, root, counts, counts_received)
