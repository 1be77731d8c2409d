"""What each collective means, in plain NumPy: given the buffers of *all* ranks, what ends up where.

Ranks that share one process (threads, or one rank alone) carry their collectives out with these few lines.
Everything that moves data between processes is tested against them. Buffers are flat here: one dimension,
contiguous.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

Array = Any  # a numpy.ndarray, or what behaves like one on another device
COMBINE: dict[str, np.ufunc] = {"sum": np.add, "max": np.maximum, "min": np.minimum}


@dataclass(frozen=True)
class Call:
    """A collective as one rank calls it; `shape` is None where pieces count, `root` -1 for none."""

    verb: str
    dtype: np.dtype | None = None
    shape: tuple[int, ...] | None = None
    operation: str = ""
    root: int = -1
    counts: tuple[int, ...] = ()
    counts_received: tuple[int, ...] = ()
    algorithm: str = "library"

    def __str__(self) -> str:
        parts = [
            self.operation,
            "" if self.algorithm == "library" else self.algorithm,
            "" if self.dtype is None else str(self.dtype),
            f"root {self.root}" if self.root >= 0 else "",
        ]
        if self.counts:
            parts.append(f"counts {self.counts}")
        elif self.shape is not None:
            parts.append(f"shape {self.shape}")
        return f"{self.verb}({', '.join(part for part in parts if part)})"

    def common(self) -> "Call":
        """What all ranks must agree on: where each counts for itself, its counts are its own."""
        if self.verb in ("gather", "scatter", "all_to_all"):
            return replace(self, counts=(), counts_received=())
        return self

    def fits(self, other: "Call") -> bool:
        """Whether two ranks that make these calls mean the same collective."""
        return self.common() == other.common()


def balanced_counts(elements: int, ranks: int) -> tuple[int, ...]:
    """Split `elements` over `ranks` as evenly as can be: the first ranks get one more."""
    share, rest = divmod(elements, ranks)
    return tuple(share + (rank < rest) for rank in range(ranks))


def pieces(buffer: Array, counts: Sequence[int]) -> list[Array]:
    """Views of a flat buffer, one after the other, of `counts[0]`, `counts[1]`, … elements."""
    ends = np.cumsum(counts).tolist()
    return [buffer[end - count : end] for end, count in zip(ends, counts, strict=True)]


def combined(operation: str, arrays: Sequence[Array]) -> Array:
    """The elementwise sum, maximum or minimum of all arrays, taken in the order of ranks."""
    result = arrays[0].copy()
    for array in arrays[1:] if isinstance(result, np.ndarray) else ():  # shape-only arrays have no sum
        COMBINE[operation](result, array, out=result)
    return result


def carry_out(calls: Sequence[Call], arrays: Sequence[Array], outs: Sequence[Array]) -> None:
    """Carry out a collective for all ranks: rank r brought `calls[r]`, `arrays[r]` and `outs[r]`."""
    MEANINGS[calls[0].verb](calls, arrays, outs)


def complaint(calls: Sequence[Call], arrays: Sequence[Array], outs: Sequence[Array]) -> str | None:
    """What is wrong with the sizes of fitting calls where each rank counts for itself, if anything is."""
    verb, root, ranks = calls[0].verb, calls[0].root, range(len(calls))
    if verb == "all_to_all":
        given = {(s, r): calls[s].counts[r] for s in ranks for r in ranks}
        taken = {(s, r): calls[r].counts_received[s] for s in ranks for r in ranks}
    elif verb in ("gather", "scatter"):
        given = {(root, rank): calls[root].counts[rank] for rank in ranks}
        taken = {(root, rank): (arrays if verb == "gather" else outs)[rank].size for rank in ranks}
    else:
        return None
    for (one, other), count in given.items():
        if count != taken[one, other]:
            return f"rank {one} counts {count} elements for rank {other}, which has {taken[one, other]}"
    return None


def _barrier(calls: Sequence[Call], arrays: Sequence[Array], outs: Sequence[Array]) -> None:
    pass  # that all have come is all that it means


def _broadcast(calls: Sequence[Call], arrays: Sequence[Array], outs: Sequence[Array]) -> None:
    root = calls[0].root
    for rank, array in enumerate(arrays):
        if rank != root:
            array[...] = arrays[root]


def _reduce(calls: Sequence[Call], arrays: Sequence[Array], outs: Sequence[Array]) -> None:
    arrays[calls[0].root][...] = combined(calls[0].operation, arrays)


def _all_reduce(calls: Sequence[Call], arrays: Sequence[Array], outs: Sequence[Array]) -> None:
    if len(arrays) > 1:
        result = combined(calls[0].operation, arrays)
        for array in arrays:
            array[...] = result


def _reduce_scatter(calls: Sequence[Call], arrays: Sequence[Array], outs: Sequence[Array]) -> None:
    result = combined(calls[0].operation, arrays)
    for out, piece in zip(outs, pieces(result, calls[0].counts), strict=True):
        out[...] = piece


def _all_gather(calls: Sequence[Call], arrays: Sequence[Array], outs: Sequence[Array]) -> None:
    for out in outs:
        for piece, array in zip(pieces(out, calls[0].counts), arrays, strict=True):
            piece[...] = array


def _gather(calls: Sequence[Call], arrays: Sequence[Array], outs: Sequence[Array]) -> None:
    root = calls[0].root
    for piece, array in zip(pieces(outs[root], calls[root].counts), arrays, strict=True):
        piece[...] = array


def _scatter(calls: Sequence[Call], arrays: Sequence[Array], outs: Sequence[Array]) -> None:
    root = calls[0].root
    for out, piece in zip(outs, pieces(arrays[root], calls[root].counts), strict=True):
        out[...] = piece


def _all_to_all(calls: Sequence[Call], arrays: Sequence[Array], outs: Sequence[Array]) -> None:
    for receiver, out in enumerate(outs):
        for sender, place in enumerate(pieces(out, calls[receiver].counts_received)):
            place[...] = pieces(arrays[sender], calls[sender].counts)[receiver]


MEANINGS: dict[str, Callable[[Sequence[Call], Sequence[Array], Sequence[Array]], None]] = {
    "barrier": _barrier,
    "broadcast": _broadcast,
    "reduce": _reduce,
    "all_reduce": _all_reduce,
    "reduce_scatter": _reduce_scatter,
    "all_gather": _all_gather,
    "gather": _gather,
    "scatter": _scatter,
    "all_to_all": _all_to_all,
}
