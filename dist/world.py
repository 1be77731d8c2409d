"""The communicator: one interface for ranks that are MPI processes, threads of a process, or one alone.

A program asks `minigrad.dist.world()` for its World and never where that came from. The verbs here check
what they are given, write it into the ledger and lend the arrays as flat buffers; how bytes get from one rank
to another is all that a kind of world has to add (`_start_send`, `_start_receive`, `_collective`, `_split`,
`abort`).

Verbs and their meaning follow the MPI standard (MPI: A Message-Passing Interface Standard 4.1, chapters 3
and 6); `minigrad/dist/verbs.py` states each in plain NumPy. Arrays are contiguous and equal in dtype on all
ranks; the verbs that cut an array into one piece per rank count elements, in C order, whatever its shape.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal, NoReturn, get_args

import numpy as np

from minigrad.dist.ledger import Ledger
from minigrad.dist.request import Poll, Request
from minigrad.dist.staging import Loan, copied, half_precision, lend, overlap
from minigrad.dist.verbs import COMBINE, Array, Call, balanced_counts
from minigrad.errors import CommunicationError, DTypeError, MinigradError, ShapeError

Purpose = Literal["gradients", "parameters", "activations", "optimizer", "control"]
Operation = Literal["sum", "max", "min"]
PURPOSES = get_args(Purpose)


class World(ABC):
    """A group of ranks that can talk to each other, as seen by one of them.

    rank, size              who this rank is, and how many there are: 0 ≤ rank < size
    local_rank, local_size  the same, among the ranks on this host (what chooses a GPU)
    members                 each rank's number in the whole world; where nothing was split: 0, 1, 2, …
    ledger                  what was sent and received; groups split off a world write into the same books
    """

    kind: ClassVar[Literal["single", "threads", "mpi"]]
    tag_limit: int = 2**31 - 1

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
    def takes_device_arrays(self) -> bool:
        """Whether device arrays are communicated as they are; otherwise they are staged through the host."""
        return False

    @property
    def name(self) -> str:
        """How this rank is called in messages: its number in the whole world."""
        return f"rank {self.members[self.rank]} of {self.whole_size}"

    # --------------------------------------------------------------------- between two ranks

    def send(self, array: Array, destination: int, *, tag: int = 0, purpose: Purpose = "control") -> None:
        """Send `array` to one rank; returns when it may be changed again, maybe not before it arrived."""
        self.start_send(array, destination, tag=tag, purpose=purpose).wait()

    def receive(self, out: Array, source: int, *, tag: int = 0, purpose: Purpose = "control") -> None:
        """Fill `out` with what rank `source` sends under `tag`. Messages with equal tags arrive in order."""
        self.start_receive(out, source, tag=tag, purpose=purpose).wait()

    def start_send(
        self, array: Array, destination: int, *, tag: int = 0, purpose: Purpose = "control"
    ) -> Request:
        """Begin to send; `array` must stay as it is until the request is done."""
        self._check_message("send", array, destination, tag, purpose)
        loan = lend(array, read=True, write=False, direct=self.takes_device_arrays)
        self._book("send", purpose, sent=loan.buffer.nbytes, peer=destination)
        return Request(self._start_send(loan.buffer, destination, tag), loan.give_back)

    def start_receive(
        self, out: Array, source: int, *, tag: int = 0, purpose: Purpose = "control"
    ) -> Request:
        """Begin to receive; `out` must not be touched until the request is done."""
        self._check_message("receive", out, source, tag, purpose)
        loan = lend(out, read=False, write=True, direct=self.takes_device_arrays)
        self._book("receive", purpose, received=loan.buffer.nbytes, peer=source)
        return Request(self._start_receive(loan.buffer, source, tag), loan.give_back)

    # ------------------------------------------------------------- among all ranks, in place

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

    def all_reduce(self, array: Array, *, operation: Operation = "sum", purpose: Purpose = "control") -> None:
        """Combine `array` over all ranks, elementwise, into every rank's; float16 is added up in float32."""
        call = self._call("all_reduce", array, operation=operation)
        self._enter(call, array, None, purpose).wait()

    def start_all_reduce(
        self, array: Array, *, operation: Operation = "sum", purpose: Purpose = "control"
    ) -> Request:
        """Begin an all_reduce; `array` must not be touched until the request is done."""
        call = self._call("all_reduce", array, operation=operation)
        return self._enter(call, array, None, purpose, block=False)

    # -------------------------------------------------------------------- one piece per rank

    def reduce_scatter(
        self,
        array: Array,
        out: Array,
        *,
        counts: Sequence[int] | None = None,
        operation: Operation = "sum",
        purpose: Purpose = "control",
    ) -> None:
        """Combine `array` over all ranks; rank r keeps, in `out`, the r-th piece, of `counts[r]` elements."""
        counts = self._counts("reduce_scatter", "array", array, counts, piece=out)
        call = self._call("reduce_scatter", array, operation=operation, counts=counts)
        self._enter(call, array, out, purpose).wait()

    def all_gather(
        self, array: Array, out: Array, *, counts: Sequence[int] | None = None, purpose: Purpose = "control"
    ) -> None:
        """Every rank gets, in `out`, the arrays of all ranks in turn; rank r's has `counts[r]` elements."""
        counts = self._counts("all_gather", "out", out, counts, piece=array)
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
        """Rank `root` gets, in `out`, the arrays of all ranks. Only `root` needs `out` and `counts`."""
        if self.rank == root:
            counts = self._counts("gather", "out", out, counts, piece=array)
        call = self._call("gather", array, root=root, counts=counts if self.rank == root else ())
        self._enter(call, array, out if self.rank == root else None, purpose).wait()

    def scatter(
        self,
        array: Array | None,
        out: Array,
        *,
        root: int = 0,
        counts: Sequence[int] | None = None,
        purpose: Purpose = "control",
    ) -> None:
        """Rank r gets, in `out`, the r-th piece of `array`. Only `root` needs `array` and `counts`."""
        if self.rank == root:
            counts = self._counts("scatter", "array", array, counts, piece=out)
        call = self._call("scatter", out, root=root, counts=counts if self.rank == root else ())
        self._enter(call, array if self.rank == root else None, out, purpose).wait()

    def all_to_all(
        self,
        array: Array,
        out: Array,
        *,
        counts: Sequence[int] | None = None,
        counts_received: Sequence[int] | None = None,
        purpose: Purpose = "control",
    ) -> None:
        """Rank r sends piece s of `array` to rank s, and finds in `out` what each rank sent it, in turn.

        Piece s has `counts[s]` elements, and rank s sends `counts_received[s]`. Without either, all ranks
        bring arrays of one size, split as evenly as can be.
        """
        given = self._counts("all_to_all", "array", array, counts)
        if counts is None and counts_received is None:
            counts_received = [given[self.rank]] * self.size
        taken = self._counts("all_to_all", "out", out, counts_received)
        self._enter(
            self._call("all_to_all", array, counts=given, counts_received=taken), array, out, purpose
        ).wait()

    # ------------------------------------------------------------------- groups, and the end

    def split(self, color: int, *, key: int | None = None) -> "World":
        """All ranks that give the same `color`, as a world, numbered by `key` (default: rank), then rank."""
        if color < 0:
            raise self._error(
                CommunicationError, "split", f"color {color}; colors are whole numbers from 0 on"
            )
        wish = np.array([color, self.rank if key is None else key], dtype=np.int64)
        wishes = np.empty((self.size, 2), dtype=np.int64)
        self.all_gather(wish, wishes, purpose="control")
        group = sorted((int(key), rank) for rank, (other, key) in enumerate(wishes) if other == color)
        return self._split(color, [rank for _, rank in group])

    @abstractmethod
    def abort(self, message: str) -> NoReturn:
        """End every rank of the program, because of `message`."""

    # ------------------------------------------------------------- what a kind of world adds

    @abstractmethod
    def _start_send(self, buffer: Array, destination: int, tag: int) -> Poll:
        """Begin to send a flat buffer."""

    @abstractmethod
    def _start_receive(self, buffer: Array, source: int, tag: int) -> Poll:
        """Begin to fill a flat buffer."""

    @abstractmethod
    def _collective(self, call: Call, array: Array, out: Array, *, block: bool) -> Poll:
        """Begin a collective on flat buffers; if `block`, it may be carried out before this returns."""

    @abstractmethod
    def _split(self, color: int, ranks: list[int]) -> "World":
        """The group of these ranks of this world; all ranks of one color call this with the same list."""

    # ------------------------------------------------------------------- shared by all verbs

    def _enter(
        self, call: Call, array: Array | None, out: Array | None, purpose: Purpose, *, block: bool = True
    ) -> Request:
        """Check and lend the arrays, book the call, start it."""
        at_root = call.root in (-1, self.rank)
        reads = at_root or call.verb != "broadcast"
        writes = {"all_reduce": True, "reduce": at_root, "broadcast": not at_root}.get(call.verb, False)
        self._check_purpose(call.verb, purpose)
        for what, given, written in (("array", array, writes), ("out", out, True)):
            if given is not None:
                self._check_array(call.verb, what, given, call.dtype, writes=written)
        give, take = self._lend(call, array, out, reads=reads, writes=writes)
        self._book(
            call.verb,
            purpose,
            sent=give.buffer.nbytes if reads else 0,
            received=take.buffer.nbytes + (give.buffer.nbytes if writes else 0),
        )
        poll = self._collective(call, give.buffer, take.buffer, block=block)

        def finish() -> None:
            give.give_back()
            take.give_back()

        return Request(poll, finish)

    def _lend(
        self, call: Call, array: Array | None, out: Array | None, *, reads: bool, writes: bool
    ) -> tuple[Loan, Loan]:
        """Both buffers of a collective, in a precision fit for it and sharing no memory."""
        direct = self.takes_device_arrays
        nobody = Loan(np.empty(0, call.dtype))
        give = nobody if array is None else lend(array, read=reads, write=writes, direct=direct)
        take = nobody if out is None else lend(out, read=False, write=True, direct=direct)
        if call.operation and half_precision(give.buffer.dtype):
            give = copied(give, np.float32, write=writes)
            take = take if out is None else copied(take, np.float32, write=True)
        elif out is not None and overlap(give.buffer, take.buffer):
            # A shard may be a view of the whole: the smaller one steps aside.
            if give.buffer.size <= take.buffer.size:
                give = copied(give, give.buffer.dtype, write=False)
            else:
                take = copied(take, take.buffer.dtype, write=True)
        return give, take

    def _book(
        self, verb: str, purpose: str, *, sent: int = 0, received: int = 0, peer: int | None = None
    ) -> None:
        if self.size > 1:
            other = None if peer is None else self.members[peer]
            self.ledger.book(verb, purpose, bytes_sent=sent, bytes_received=received, peer=other)

    # ---------------------------------------------------------------- misuse is refused here

    def _error(self, kind: type[MinigradError], verb: str, message: str) -> MinigradError:
        return kind(f"{self.name}: {verb} got {message}")

    def _check_purpose(self, verb: str, purpose: str) -> None:
        if purpose not in PURPOSES:
            message = f"purpose {purpose!r}; the ledger knows {', '.join(PURPOSES)}"
            raise self._error(CommunicationError, verb, message)

    def _check_rank(self, verb: str, rank: int) -> None:
        if not 0 <= rank < self.size:
            raise self._error(
                CommunicationError, verb, f"rank {rank}; this world has ranks 0 to {self.size - 1}"
            )

    def _check_message(self, verb: str, array: Array, peer: int, tag: int, purpose: str) -> None:
        self._check_rank(verb, peer)
        self._check_purpose(verb, purpose)
        self._check_array(verb, "array" if verb == "send" else "out", array, writes=verb == "receive")
        if not 0 <= tag <= self.tag_limit:
            raise self._error(CommunicationError, verb, f"tag {tag}; tags are 0 to {self.tag_limit}")

    def _check_array(
        self, verb: str, what: str, array: Array, dtype: np.dtype | None = None, *, writes: bool = False
    ) -> None:
        if not (hasattr(array, "dtype") and hasattr(array, "flags")):
            message = f"a {type(array).__name__} as {what}; give an array (a Tensor's is its .data)"
            raise self._error(DTypeError, verb, message)
        if not (array.dtype.kind in "biufc" or half_precision(array.dtype)) or not array.dtype.isnative:
            raise self._error(DTypeError, verb, f"{what} of {array.dtype}; give native numbers or booleans")
        if dtype is not None and array.dtype != dtype:
            raise self._error(DTypeError, verb, f"{what} of {array.dtype} beside {dtype}; make both equal")
        if not array.flags.c_contiguous:
            message = f"{what} of shape {array.shape} that is not C-contiguous; give a contiguous copy"
            raise self._error(ShapeError, verb, message)
        if writes and not getattr(array.flags, "writeable", True):
            raise self._error(CommunicationError, verb, f"a read-only {what}; the result is written there")

    def _counts(
        self, verb: str, what: str, whole: Array | None, counts: Sequence[int] | None, *, piece: Array = None
    ) -> tuple[int, ...]:
        """The sizes of the pieces of `whole`, checked; `piece` is what must have this rank's."""
        self._check_array(verb, what, whole)
        elements = whole.size  # type: ignore[union-attr]
        sizes = (
            balanced_counts(elements, self.size) if counts is None else tuple(int(count) for count in counts)
        )
        if len(sizes) != self.size or min(sizes) < 0 or sum(sizes) != elements:
            message = f"counts {sizes} for {what} of {elements} elements"
            expected = f"give {self.size} counts, one per rank, that add up to its size"
            raise self._error(ShapeError, verb, f"{message}; {expected}")
        if piece is not None and piece.size != sizes[self.rank]:
            message = (
                f"{piece.size} elements for this rank's piece of {what}; its count is {sizes[self.rank]}"
            )
            raise self._error(ShapeError, verb, f"{message} of {sizes}")
        return sizes

    def _call(
        self,
        verb: str,
        array: Array,
        *,
        operation: str = "",
        root: int = -1,
        counts: Sequence[int] | None = None,
        counts_received: Sequence[int] = (),
    ) -> Call:
        self._check_array(verb, "array", array)
        if root != -1:
            self._check_rank(verb, root)
        if operation:
            if operation not in COMBINE:
                message = f"operation {operation!r}; there are {', '.join(COMBINE)}"
                raise self._error(CommunicationError, verb, message)
            if array.dtype.kind == "b" or (array.dtype.kind == "c" and operation != "sum"):
                message = f"{array.dtype} to take the {operation} of; give integers or floating-point numbers"
                raise self._error(DTypeError, verb, message)
        shape = tuple(array.shape) if counts is None else None
        return Call(verb, array.dtype, shape, operation, root, tuple(counts or ()), tuple(counts_received))
