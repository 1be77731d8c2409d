"""The communicator: one interface for ranks that are MPI processes, threads of a process, or one alone.

A program asks `minigrad.dist.world()` for its World and never where that came from. The verbs here check
what they are given, write it into the ledger and lend the arrays as flat buffers; how bytes get from one rank
to another is all that a kind of world has to add (`_start_send`, `_start_receive`, `_collective`, `_split`,
`abort`).

Verbs and their meaning follow the MPI standard (MPI: A Message-Passing Interface Standard 4.1, chapters 3
and 6); `minigrad/dist/verbs.py` states each in plain NumPy. Arrays are contiguous and equal in dtype on all
ranks; the verbs that cut an array into one piece per rank count elements, in C order, whatever its shape.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import NoReturn

import numpy as np

from minigrad.dist.algorithms import LIBRARY
from minigrad.dist.communicator import Communicator
from minigrad.dist.refusals import Operation, Purpose
from minigrad.dist.request import Request
from minigrad.dist.verbs import Array, Call
from minigrad.errors import CommunicationError


class World(Communicator):
    """A group of ranks that can talk to each other, as seen by one of them.

    rank, size              who this rank is, and how many there are: 0 ≤ rank < size
    local_rank, local_size  the same, among the ranks on this host (what chooses a GPU)
    members                 each rank's number in the whole world; where nothing was split: 0, 1, 2, …
    ledger                  what was sent and received; groups split off a world write into the same books

    Where a verb takes `algorithm`, "library" is the MPI library's own (thread ranks combine in the order of
    ranks), and the others are minigrad's, from `minigrad/dist/algorithms.py`: "ring", "halving", "tree",
    "ordered". A request of one of those moves on only while `test` or `wait` is called.
    """

    # --------------------------------------------------------------------- between two ranks

    def send(self, array: Array, destination: int, *, tag: int = 0, purpose: Purpose = "control") -> None:
        """Send `array` to one rank; returns when it may be changed again, maybe not before it arrived."""
        self._message("send", array, destination, tag, purpose).wait()

    def receive(self, out: Array, source: int, *, tag: int = 0, purpose: Purpose = "control") -> None:
        """Fill `out` with what rank `source` sends under `tag`. Messages with equal tags arrive in order.

        Raises CommunicationError where the sender's array has another size or dtype; processes see only the
        bytes, and dtypes of equal width only in debug mode.
        """
        self._message("receive", out, source, tag, purpose).wait()

    def start_send(
        self, array: Array, destination: int, *, tag: int = 0, purpose: Purpose = "control"
    ) -> Request:
        """Begin to send; `array` must stay as it is until the request is done."""
        return self._message("send", array, destination, tag, purpose, block=False)

    def start_receive(
        self, out: Array, source: int, *, tag: int = 0, purpose: Purpose = "control"
    ) -> Request:
        """Begin to receive; `out` must not be touched until the request is done."""
        return self._message("receive", out, source, tag, purpose, block=False)

    # ------------------------------------------------------------- among all ranks, in place

    def barrier(self, *, purpose: Purpose = "control") -> None:
        """Return when every rank has come here."""
        self._enter(Call("barrier"), None, None, purpose).wait()

    def broadcast(
        self, array: Array, *, root: int = 0, purpose: Purpose = "control", algorithm: str = LIBRARY
    ) -> None:
        """Overwrite `array` on every rank by what rank `root` has there."""
        call = self._call("broadcast", array, root=root, algorithm=algorithm)
        self._enter(call, array, None, purpose).wait()

    def start_broadcast(
        self, array: Array, *, root: int = 0, purpose: Purpose = "control", algorithm: str = LIBRARY
    ) -> Request:
        """Begin a broadcast; `array` must not be touched until the request is done."""
        call = self._call("broadcast", array, root=root, algorithm=algorithm)
        return self._enter(call, array, None, purpose, block=False)

    def reduce(
        self,
        array: Array,
        *,
        root: int = 0,
        operation: Operation = "sum",
        purpose: Purpose = "control",
        algorithm: str = LIBRARY,
    ) -> None:
        """Combine `array` over all ranks, elementwise, into rank `root`'s; the others' stay as they are."""
        call = self._call("reduce", array, root=root, operation=operation, algorithm=algorithm)
        self._enter(call, array, None, purpose).wait()

    def all_reduce(
        self,
        array: Array,
        *,
        operation: Operation = "sum",
        purpose: Purpose = "control",
        algorithm: str = LIBRARY,
    ) -> None:
        """Combine `array` over all ranks, elementwise, into every rank's; float16 is added up in float32."""
        call = self._call("all_reduce", array, operation=operation, algorithm=algorithm)
        self._enter(call, array, None, purpose).wait()

    def start_all_reduce(
        self,
        array: Array,
        *,
        operation: Operation = "sum",
        purpose: Purpose = "control",
        algorithm: str = LIBRARY,
    ) -> Request:
        """Begin an all_reduce; `array` must not be touched until the request is done."""
        return self.persistent_all_reduce(array, operation=operation, purpose=purpose, algorithm=algorithm)()

    def persistent_all_reduce(
        self,
        array: Array,
        *,
        operation: Operation = "sum",
        purpose: Purpose = "control",
        algorithm: str = LIBRARY,
    ) -> Callable[[], Request]:
        """Check an all_reduce that will be done more than once; each call of what this returns begins it."""
        call = self._call("all_reduce", array, operation=operation, algorithm=algorithm)
        return self._checked(call, array, None, purpose)

    # -------------------------------------------------------------------- one piece per rank

    def reduce_scatter(
        self,
        array: Array,
        out: Array,
        *,
        counts: Sequence[int] | None = None,
        operation: Operation = "sum",
        purpose: Purpose = "control",
        algorithm: str = LIBRARY,
    ) -> None:
        """Combine `array` over all ranks; rank r keeps, in `out`, the r-th piece, of `counts[r]` elements."""
        counts = self._counts("reduce_scatter", "array", array, counts, piece=out)
        call = self._call("reduce_scatter", array, operation=operation, counts=counts, algorithm=algorithm)
        self._enter(call, array, out, purpose).wait()

    def start_reduce_scatter(
        self,
        array: Array,
        out: Array,
        *,
        counts: Sequence[int] | None = None,
        operation: Operation = "sum",
        purpose: Purpose = "control",
        algorithm: str = LIBRARY,
    ) -> Request:
        """Begin a reduce_scatter; both arrays must not be touched until the request is done."""
        counts = self._counts("reduce_scatter", "array", array, counts, piece=out)
        call = self._call("reduce_scatter", array, operation=operation, counts=counts, algorithm=algorithm)
        return self._enter(call, array, out, purpose, block=False)

    def all_gather(
        self,
        array: Array,
        out: Array,
        *,
        counts: Sequence[int] | None = None,
        purpose: Purpose = "control",
        algorithm: str = LIBRARY,
    ) -> None:
        """Every rank gets, in `out`, the arrays of all ranks in turn; rank r's has `counts[r]` elements."""
        counts = self._counts("all_gather", "out", out, counts, piece=array)
        call = self._call("all_gather", array, counts=counts, algorithm=algorithm)
        self._enter(call, array, out, purpose).wait()

    def start_all_gather(
        self,
        array: Array,
        out: Array,
        *,
        counts: Sequence[int] | None = None,
        purpose: Purpose = "control",
        algorithm: str = LIBRARY,
    ) -> Request:
        """Begin an all_gather; both arrays must not be touched until the request is done."""
        counts = self._counts("all_gather", "out", out, counts, piece=array)
        call = self._call("all_gather", array, counts=counts, algorithm=algorithm)
        return self._enter(call, array, out, purpose, block=False)

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

    @abstractmethod
    def _split(self, color: int, ranks: list[int]) -> "World":
        """The group of these ranks of this world; all ranks of one color call this with the same list."""
