"""Ranks that are processes, connected by an MPI library through mpi4py.

Only the buffer calls of mpi4py are used (upper case): nothing is pickled. Importing this module starts MPI,
so `minigrad.dist` imports it only where several ranks were started.
"""

import ctypes
import functools
import os
import sys
from collections.abc import Iterator
from typing import Any, ClassVar, Literal, NoReturn

import numpy as np

from minigrad.dist import farewell
from minigrad.dist.debug_mode import CARD_BYTES, card, content_card, debugging, odd_one_out, text_of
from minigrad.dist.ledger import Ledger
from minigrad.dist.prepare import announced, prepare
from minigrad.dist.request import Poll, done
from minigrad.dist.rounds import Progress, Rounds
from minigrad.dist.transfer import Round, Tag, Transfer
from minigrad.dist.verbs import COMBINE, Array, Call, pieces
from minigrad.dist.world import World
from minigrad.errors import CommunicationError

prepare()
try:
    from mpi4py import MPI
except ImportError as error:
    raise CommunicationError(
        f"this process is one of several ranks, but mpi4py cannot be loaded ({error}); "
        'install both parts of MPI with: pip install "minigrad[mpi]"'
    ) from error

OPERATIONS = {"sum": MPI.SUM, "max": MPI.MAX, "min": MPI.MIN}
FLOATS = {np.dtype(kind).itemsize: np.dtype(kind) for kind in (np.longdouble, np.float64, np.float32)}
MOST_ELEMENTS_MPI_4 = 2**62
MOST_ELEMENTS = MOST_ELEMENTS_MPI_4 if MPI.VERSION >= 4 else 2**31 - 1  # counts were 32-bit integers before


def of_floats(operation: str) -> Any:
    """The maximum or minimum as `minigrad.dist.verbs` defines it: of no number and a number, no number. What
    MPI's own gives there depends on which rank has which.
    """
    combine = COMBINE[operation]

    def merge(given: Any, kept: Any, datatype: Any) -> None:
        dtype = FLOATS[datatype.Get_size()]
        own = np.frombuffer(kept, dtype)
        combine(own, np.frombuffer(given, dtype), out=own)

    return MPI.Op.Create(merge, commute=True)


OF_FLOATS = {"sum": MPI.SUM, "max": of_floats("max"), "min": of_floats("min")}


def operation_of(call: Call) -> Any:
    """What MPI is to combine with."""
    whole_numbers = call.dtype is not None and call.dtype.kind in "iu"
    return (OPERATIONS if whole_numbers else OF_FLOATS)[call.operation]


class MPIWorld(World):
    """The ranks of an MPI communicator, as seen by one of them."""

    kind: ClassVar[Literal["single", "threads", "mpi"]] = "mpi"

    def __init__(
        self,
        communicator: Any,
        *,
        members: list[int],
        local: tuple[int, int],
        ledger: Ledger | None = None,
        most_elements: int = MOST_ELEMENTS,
        progress: Progress | None = None,
    ) -> None:
        super().__init__(
            communicator.Get_rank(),
            members,
            local_rank=local[0],
            local_size=local[1],
            whole_size=MPI.COMM_WORLD.Get_size(),
            ledger=ledger,
        )
        self._communicator = communicator
        self._local = local
        self._most_elements = most_elements
        self._progress = progress or Progress()
        # Half of the tags are for programs, the others for collectives that are made of messages.
        self.tag_limit = int(MPI.COMM_WORLD.Get_attr(MPI.TAG_UB) or 32767) // 2 - 1

    @classmethod
    def of_all_ranks(cls, *, most_elements: int = MOST_ELEMENTS) -> "MPIWorld":
        """The world of every rank that the launcher started.

        Raises CommunicationError if MPI does not know of the others.
        """
        check_all_are_connected(MPI.COMM_WORLD.Get_size())
        communicator = MPI.COMM_WORLD.Dup()  # messages of the program's own MPI calls do not mix with ours
        host = communicator.Split_type(MPI.COMM_TYPE_SHARED)
        local = host.Get_rank(), host.Get_size()
        if local[1] == communicator.Get_size():
            share_a_board(host)
        host.Free()
        members = list(range(communicator.Get_size()))
        return cls(communicator, members=members, local=local, most_elements=most_elements)

    def abort(self, message: str) -> NoReturn:
        sys.stderr.write(f"{self.name}: {message}\n")
        sys.stderr.flush()
        self._communicator.Abort(1)
        raise SystemExit(1)

    @property
    def takes_device_arrays(self) -> bool:
        """Whether device arrays go to MPI as they are; asked only where a program uses them."""
        return "cupy" in sys.modules and cuda_aware()

    # --------------------------------------------------------------------- between two ranks

    def _start_send(self, buffer: Array, destination: int, tag: Tag) -> Poll:
        parts = self._parts(as_moved(buffer))
        if self._compares(tag):
            parts.insert(0, content_card(buffer))
        return self._poll("send", [self._communicator.Isend(part, destination, tag) for part in parts])

    def _start_receive(self, buffer: Array, source: int, tag: Tag) -> Poll:
        """Begin to receive. MPI tells how many bytes arrive, not of what: in debug mode, the sender does."""
        parts, shown = self._parts(as_moved(buffer)), None
        if self._compares(tag):
            shown = np.zeros_like(content_card(buffer))
            parts.insert(0, shown)
        requests = [self._communicator.Irecv(part, source, tag) for part in parts]
        statuses = [MPI.Status() for _ in parts]
        poll = self._poll("receive", requests, statuses)

        def checked(block: bool) -> bool:
            got, cause = "", None
            try:
                if not poll(block):
                    return False
            except MPI.Exception as error:
                got, cause = f"got more ({error})", error
            if sum(status.Get_count(MPI.BYTE) for status in statuses) != sum(part.nbytes for part in parts):
                got = got or "got another number of bytes"
            if shown is not None and (shown != content_card(buffer)).any():
                got = f"which sends {text_of(shown)}"
            if got:
                sender = f"rank {self.members[source]} of {self.whole_size}"
                expected = f"receive expected {text_of(content_card(buffer))} with tag {tag} from {sender}"
                advice = "make sizes and dtypes equal on both sides"
                raise CommunicationError(f"{self.name}: {expected}, {got}; {advice}") from cause
            return True

        return checked

    def _compares(self, tag: Tag) -> bool:
        """Whether a message says what it is: in debug mode, but for collectives, which compared before."""
        return debugging() and int(tag) <= self.tag_limit

    # ----------------------------------------------------------------------- among all ranks

    def _compare(self, call: Call, number: int, *, block: bool) -> Poll:
        """In debug mode, every rank shows the others what it calls."""
        if not debugging() or self.size == 1:
            return done
        cards = np.empty((self.size, CARD_BYTES), dtype=np.uint8)
        shown = self._run("allgather", [(card(number, call), cards)])

        def poll(block: bool) -> bool:
            if not shown(block):
                return False
            odd = odd_one_out(cards)
            if odd is not None:
                one, other = (f"{text_of(cards[rank])} on rank {self.members[rank]}" for rank in odd)
                message = f"collective {one}, but {other}; all ranks must call the same in the same order"
                raise CommunicationError(f"{self.name}: {message}")
            return True

        return done if block and poll(True) else poll

    def _collective(self, call: Call, array: Array, out: Array) -> Poll:
        poll: Poll = getattr(self, f"_{call.verb}")(call, array, out)
        return poll

    def _run(self, name: str, calls: list[tuple[Any, ...]]) -> Poll:
        """Start a collective of the library, in several calls where it is long.

        Always in its non-blocking form, which MPI does not let meet the blocking one: a rank that waits has
        to move on what else it has under way, and others need not.
        """
        return self._poll(name, [getattr(self._communicator, f"I{name}")(*arguments) for arguments in calls])

    def _poll(self, name: str, requests: list[Any], statuses: list[Any] | None = None) -> Poll:
        """The poll of MPI requests, which hold their buffers; whoever waits is seen to wait in `name`."""

        def poll(block: bool) -> bool:
            if not block:
                return bool(MPI.Request.Testall(requests, statuses))
            farewell.board.enter(name)
            try:
                while self._progress.needed():
                    if MPI.Request.Testall(requests, statuses):
                        return True
                    self._progress.step()
                MPI.Request.Waitall(requests, statuses)
                return True
            finally:
                farewell.board.leave()

        return poll

    def _carry_out(self, rounds: Iterator[Round], label: Tag) -> Poll:
        def start(transfer: Transfer) -> Poll:
            begin = self._start_send if transfer.sends else self._start_receive
            return begin(transfer.buffer, transfer.peer, label)

        poll = Rounds(rounds, start)
        self._progress.add(poll)
        return poll

    def _barrier(self, call: Call, array: Array, out: Array) -> Poll:
        return self._run("barrier", [()])

    def _broadcast(self, call: Call, array: Array, out: Array) -> Poll:
        return self._run("bcast", [(part, call.root) for part in self._parts(as_moved(array))])

    def _reduce(self, call: Call, array: Array, out: Array) -> Poll:
        return self._run("reduce", self._reductions(array, operation_of(call), call.root))

    def _reductions(self, array: Array, operation: Any, root: int) -> list[tuple[Any, ...]]:
        if self.rank == root:
            return [(MPI.IN_PLACE, part, operation, root) for part in self._parts(array)]
        return [(part, None, operation, root) for part in self._parts(array)]

    def _all_reduce(self, call: Call, array: Array, out: Array) -> Poll:
        operation = operation_of(call)
        return self._run("allreduce", [(MPI.IN_PLACE, part, operation) for part in self._parts(array)])

    def _reduce_scatter(self, call: Call, array: Array, out: Array) -> Poll:
        operation = operation_of(call)
        if array.size > self._most_elements:  # one reduction towards each rank
            calls: list[tuple[Any, ...]] = []
            for root, piece in enumerate(pieces(array, call.counts)):
                if root == self.rank:
                    out[...] = piece
                calls += self._reductions(out if root == self.rank else piece, operation, root)
            return self._run("reduce", calls)
        # Where pieces are equal, too: for 1 MB, MPICH 5 takes 5 to 30 times as long to Ireduce_scatter_block.
        return self._run("reduce_scatter", [(array, out, list(call.counts), operation)])

    def _all_gather(self, call: Call, array: Array, out: Array) -> Poll:
        array, out = as_moved(array), as_moved(out)
        if out.size > self._most_elements:  # one broadcast from each rank
            parts = pieces(out, call.counts)
            parts[self.rank][...] = array
            calls = [(part, root) for root, piece in enumerate(parts) for part in self._parts(piece)]
            return self._run("bcast", calls)
        if len(set(call.counts)) == 1:
            return self._run("allgather", [(array, out)])
        return self._run("allgatherv", [(array, [out, list(call.counts)])])

    def _gather(self, call: Call, array: Array, out: Array) -> Poll:
        array, out = as_moved(array), as_moved(out)
        if self._takes_any_count:
            places = [out, list(call.counts)] if self.rank == call.root else None
            return self._run("gatherv", [(array, places, call.root)])
        return self._exchange({call.root: array}, self._by_rank(out, call.counts))

    def _scatter(self, call: Call, array: Array, out: Array) -> Poll:
        array, out = as_moved(array), as_moved(out)
        if self._takes_any_count:
            places = [array, list(call.counts)] if self.rank == call.root else None
            return self._run("scatterv", [(places, out, call.root)])
        return self._exchange(self._by_rank(array, call.counts), {call.root: out})

    def _all_to_all(self, call: Call, array: Array, out: Array) -> Poll:
        array, out = as_moved(array), as_moved(out)
        if self._takes_any_count:
            given, taken = [array, list(call.counts)], [out, list(call.counts_received)]
            return self._run("alltoallv", [(given, taken)])
        return self._exchange(self._by_rank(array, call.counts), self._by_rank(out, call.counts_received))

    # --------------------------------------------------------- more elements than MPI counts

    @property
    def _takes_any_count(self) -> bool:
        return self._most_elements >= MOST_ELEMENTS_MPI_4

    def _parts(self, buffer: Array) -> list[Array]:
        """Views of a buffer, each short enough for one MPI call; at least one, since ranks must meet."""
        starts = range(0, max(buffer.size, 1), self._most_elements)
        return [buffer[start : start + self._most_elements] for start in starts]

    def _by_rank(self, buffer: Array, counts: tuple[int, ...]) -> dict[int, Array]:
        return dict(enumerate(pieces(buffer, counts))) if counts else {}

    def _exchange(self, outgoing: dict[int, Array], incoming: dict[int, Array]) -> Poll:
        """Start to send and receive one buffer each to and from any ranks, under a tag of its own."""
        tag = self._label(Call("exchange"), self._collectives)
        polls = [
            self._start_receive(buffer, source, tag)
            for source, buffer in incoming.items()
            if source != self.rank
        ]
        polls += [
            self._start_send(buffer, destination, tag)
            for destination, buffer in outgoing.items()
            if destination != self.rank
        ]
        if self.rank in incoming:
            incoming[self.rank][...] = outgoing[self.rank]
        return lambda block: all(poll(block) for poll in polls)

    # -------------------------------------------------------------------------------- groups

    def _split(self, color: int, ranks: list[int]) -> World:
        communicator = self._communicator.Split(color, ranks.index(self.rank))
        members = [self.members[rank] for rank in ranks]
        return MPIWorld(
            communicator,
            members=members,
            local=self._local,
            ledger=self.ledger,
            most_elements=self._most_elements,
            progress=self._progress,
        )


def share_a_board(host: Any) -> None:
    """Give the ranks of this host, who are all there are, a table in memory that they share; once."""
    if farewell.board.shared:
        return
    ranks, rank, item = host.Get_size(), host.Get_rank(), np.dtype(np.int64).itemsize
    own = MPI.Win.Allocate_shared(2 * item * ranks if rank == 0 else 0, item, comm=host)
    memory: Any = own.Shared_query(0)[0]
    table = memoryview(memory).cast("B").cast("q")
    lines, processes = table[:ranks], table[ranks : 2 * ranks]
    lines[rank], processes[rank] = 0, os.getpid()
    host.Barrier()
    farewell.share(lines, rank, MPI.COMM_SELF.Iprobe, processes)


def as_moved(buffer: Array) -> Array:
    """A buffer as MPI may move it: half precision, which MPI has no type for, as integers of that width."""
    return buffer.view(np.uint16) if buffer.dtype.itemsize == 2 else buffer


def check_all_are_connected(size: int) -> None:
    """Refuse the silent trap of `mpirun` from one MPI with the library of another: every rank is alone.

    Raises CommunicationError.
    """
    here = announced()
    if here is None or size == here.size:
        return
    library = MPI.Get_library_version().split("\n")[0].strip("\0 ")
    raise CommunicationError(
        f"{here.name}: {here.size} ranks were started, but MPI connects {size}. mpirun and the library "
        f"that mpi4py loads ({library}) belong to different MPIs; start with the mpirun of that library "
        "(`minigrad run -n 4 script.py` looks for it), or install both in one environment: "
        'pip install "minigrad[mpi]"'
    )


@functools.cache
def cuda_aware() -> bool:
    """Whether this MPI takes device memory: it says so, and a message from device to device arrives."""
    answer = ctypes.c_int(0)
    library = ctypes.CDLL(None)
    if hasattr(library, "MPIX_Query_cuda_support"):  # Open MPI
        answer.value = library.MPIX_Query_cuda_support()
    elif hasattr(library, "MPIX_GPU_query_support"):  # MPICH; 0 asks for CUDA
        library.MPIX_GPU_query_support(0, ctypes.byref(answer))
    if not answer.value:
        return False
    cupy = sys.modules["cupy"]
    sent = cupy.arange(1024, dtype=np.float32)
    received = cupy.zeros_like(sent)
    cupy.cuda.get_current_stream().synchronize()
    try:
        MPI.COMM_SELF.Sendrecv(sent, 0, 0, received, 0, 0)
    except (MPI.Exception, TypeError, ValueError):
        return False
    return bool((sent == received).all())
