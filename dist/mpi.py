"""Ranks that are processes, connected by an MPI library through mpi4py.

Only the buffer calls of mpi4py are used (upper case): nothing is pickled. Importing this module starts MPI,
so `minigrad.dist` imports it only where several ranks were started.
"""

import ctypes
import functools
import sys
from typing import Any, ClassVar, Literal, NoReturn

import numpy as np

from minigrad.dist.ledger import Ledger
from minigrad.dist.prepare import announced, prepare
from minigrad.dist.request import Poll, done
from minigrad.dist.verbs import Array, Call, pieces
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
MOST_ELEMENTS_MPI_4 = 2**62
MOST_ELEMENTS = MOST_ELEMENTS_MPI_4 if MPI.VERSION >= 4 else 2**31 - 1  # counts were 32-bit integers before


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
        self.tag_limit = int(MPI.COMM_WORLD.Get_attr(MPI.TAG_UB) or 32767) - 1  # the last is for `_exchange`

    @classmethod
    def of_all_ranks(cls, *, most_elements: int = MOST_ELEMENTS) -> "MPIWorld":
        """The world of every rank that the launcher started.

        Raises CommunicationError if MPI does not know of the others.
        """
        check_all_are_connected(MPI.COMM_WORLD.Get_size())
        communicator = MPI.COMM_WORLD.Dup()  # messages of the program's own MPI calls do not mix with ours
        host = communicator.Split_type(MPI.COMM_TYPE_SHARED)
        local = host.Get_rank(), host.Get_size()
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

    def _start_send(self, buffer: Array, destination: int, tag: int) -> Poll:
        parts = self._parts(as_moved(buffer))
        return poll_of([self._communicator.Isend(part, destination, tag) for part in parts])

    def _start_receive(self, buffer: Array, source: int, tag: int) -> Poll:
        parts = self._parts(as_moved(buffer))
        requests = [self._communicator.Irecv(part, source, tag) for part in parts]
        statuses = [MPI.Status() for _ in parts]
        poll = poll_of(requests, statuses)

        def checked(block: bool) -> bool:
            expected = (
                f"{self.name}: receive expected {buffer.nbytes} bytes from rank {source} with tag {tag}"
            )
            advice = "make sizes and dtypes equal on both sides"
            try:
                arrived = poll(block)
            except MPI.Exception as error:
                raise CommunicationError(f"{expected}, and got more ({error}); {advice}") from error
            if arrived and sum(status.Get_count(MPI.BYTE) for status in statuses) != buffer.nbytes:
                raise CommunicationError(f"{expected}, and got another number; {advice}")
            return arrived

        return checked

    # ----------------------------------------------------------------------- among all ranks

    def _collective(self, call: Call, array: Array, out: Array, *, block: bool) -> Poll:
        if call.verb == "all_reduce" and not block:
            return self._start_all_reduce(call, array)
        getattr(self, f"_{call.verb}")(call, array, out)
        return done

    def _barrier(self, call: Call, array: Array, out: Array) -> None:
        self._communicator.Barrier()

    def _broadcast(self, call: Call, array: Array, out: Array) -> None:
        for part in self._parts(as_moved(array)):
            self._communicator.Bcast(part, call.root)

    def _reduce(self, call: Call, array: Array, out: Array) -> None:
        for part in self._parts(array):
            if self.rank == call.root:
                self._communicator.Reduce(MPI.IN_PLACE, part, OPERATIONS[call.operation], call.root)
            else:
                self._communicator.Reduce(part, None, OPERATIONS[call.operation], call.root)

    def _all_reduce(self, call: Call, array: Array, out: Array) -> None:
        for part in self._parts(array):
            self._communicator.Allreduce(MPI.IN_PLACE, part, OPERATIONS[call.operation])

    def _start_all_reduce(self, call: Call, array: Array) -> Poll:
        operation = OPERATIONS[call.operation]
        parts = self._parts(array)
        return poll_of([self._communicator.Iallreduce(MPI.IN_PLACE, part, operation) for part in parts])

    def _reduce_scatter(self, call: Call, array: Array, out: Array) -> None:
        operation = OPERATIONS[call.operation]
        if array.size > self._most_elements:  # one reduction towards each rank
            for root, piece in enumerate(pieces(array, call.counts)):
                if root == self.rank:
                    out[...] = piece
                part = out if root == self.rank else piece
                self._reduce(Call("reduce", operation=call.operation, root=root), part, out)
        elif len(set(call.counts)) == 1:
            self._communicator.Reduce_scatter_block(array, out, operation)
        else:
            self._communicator.Reduce_scatter(array, out, list(call.counts), operation)

    def _all_gather(self, call: Call, array: Array, out: Array) -> None:
        array, out = as_moved(array), as_moved(out)
        if out.size > self._most_elements:  # one broadcast from each rank
            for root, piece in enumerate(pieces(out, call.counts)):
                if root == self.rank:
                    piece[...] = array
                self._broadcast(Call("broadcast", root=root), piece, piece)
        elif len(set(call.counts)) == 1:
            self._communicator.Allgather(array, out)
        else:
            self._communicator.Allgatherv(array, [out, list(call.counts)])

    def _gather(self, call: Call, array: Array, out: Array) -> None:
        array, out = as_moved(array), as_moved(out)
        if self._takes_any_count:
            self._communicator.Gatherv(
                array, [out, list(call.counts)] if self.rank == call.root else None, call.root
            )
        else:
            self._exchange({call.root: array}, self._by_rank(out, call.counts))

    def _scatter(self, call: Call, array: Array, out: Array) -> None:
        array, out = as_moved(array), as_moved(out)
        if self._takes_any_count:
            self._communicator.Scatterv(
                [array, list(call.counts)] if self.rank == call.root else None, out, call.root
            )
        else:
            self._exchange(self._by_rank(array, call.counts), {call.root: out})

    def _all_to_all(self, call: Call, array: Array, out: Array) -> None:
        array, out = as_moved(array), as_moved(out)
        if self._takes_any_count:
            self._communicator.Alltoallv([array, list(call.counts)], [out, list(call.counts_received)])
        else:
            self._exchange(self._by_rank(array, call.counts), self._by_rank(out, call.counts_received))

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

    def _exchange(self, outgoing: dict[int, Array], incoming: dict[int, Array]) -> None:
        """Send and receive one buffer each to and from any ranks, however large, under a tag of its own."""
        polls = [
            self._start_receive(buffer, source, self.tag_limit + 1)
            for source, buffer in incoming.items()
            if source != self.rank
        ]
        polls += [
            self._start_send(buffer, destination, self.tag_limit + 1)
            for destination, buffer in outgoing.items()
            if destination != self.rank
        ]
        if self.rank in incoming:
            incoming[self.rank][...] = outgoing[self.rank]
        for poll in polls:
            poll(True)

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
        )


def poll_of(requests: list[Any], statuses: list[Any] | None = None) -> Poll:
    """The poll of MPI requests, which hold their buffers."""

    def poll(block: bool) -> bool:
        if block:
            MPI.Request.Waitall(requests, statuses)
            return True
        return bool(MPI.Request.Testall(requests, statuses))

    return poll


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
