"""Misuse of a verb is refused at the rank that commits it, before anything moves."""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from minigrad.dist.algorithms import ALGORITHMS, LIBRARY
from minigrad.dist.staging import half_precision
from minigrad.dist.verbs import COMBINE, Array, Call, balanced_counts
from minigrad.errors import CommunicationError, DTypeError, MinigradError, ShapeError

Purpose = Literal["gradients", "parameters", "activations", "optimizer", "control"]
Operation = Literal["sum", "max", "min"]
PURPOSES = get_args(Purpose)


class Refusals:
    """What a World checks of what it is given. Every message begins with the rank's name."""

    rank: int
    size: int
    tag_limit: int = 2**31 - 1

    @property
    def name(self) -> str:
        """How this rank is called in messages."""
        raise NotImplementedError

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
            message = f"{what} of type {type(array).__name__}; give an array (a Tensor's is its .data)"
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
        algorithm: str = LIBRARY,
    ) -> Call:
        self._check_array(verb, "array", array)
        if algorithm != LIBRARY and algorithm not in ALGORITHMS.get(verb, ()):
            message = f"algorithm {algorithm!r}; it has {', '.join([LIBRARY, *ALGORITHMS.get(verb, ())])}"
            raise self._error(CommunicationError, verb, message)
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
        pieces = tuple(counts or ()), tuple(counts_received)
        return Call(verb, array.dtype, shape, operation, root, *pieces, algorithm)
