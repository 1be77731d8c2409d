"""Sequences of unequal lengths: padded to the longest, or packed step after step without padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy
from numpy.typing import NDArray

from minigrad import ops
from minigrad.errors import ShapeError, UsageError
from minigrad.tensor import Tensor

Numbers = NDArray[numpy.int64]


class PackedSequence(NamedTuple):
    """Sequences sorted by length, longest first, step after step: `batch_sizes[t]` rows of `data` are step t.

    Row i of a step belongs to sequence `sorted_indices[i]`; `unsorted_indices` is the inverse.
    """

    data: Tensor  # (sum of the lengths, ...)
    batch_sizes: Numbers
    sorted_indices: Numbers
    unsorted_indices: Numbers

    @property
    def lengths(self) -> Numbers:
        """The sequences' lengths, in the order of the batch."""
        longest_first = (self.batch_sizes[:, None] > numpy.arange(len(self.sorted_indices))).sum(axis=0)
        return longest_first[self.unsorted_indices]


def _host(values: Any) -> Numbers:
    return numpy.asarray(values.numpy() if isinstance(values, Tensor) else values, dtype=numpy.int64)


def places(batch_sizes: Numbers, sorted_indices: Numbers) -> Numbers:
    """Where each row of packed data lies in the padded (time, batch), flattened."""
    batch = len(sorted_indices)
    return numpy.concatenate([step * batch + sorted_indices[:n] for step, n in enumerate(batch_sizes)])


def pack_padded_sequence(
    input: Tensor, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True
) -> PackedSequence:
    """Pack sequences (time, batch, ...), or (batch, time, ...) with `batch_first`, padded at their ends.

    Raises UsageError for lengths outside 1 ... time, and, with `enforce_sorted`, for any order but longest
    first.
    """
    lengths = _host(lengths)
    time, batch = input.shape[:2] if not batch_first else input.shape[1::-1]
    if lengths.shape != (batch,) or batch == 0 or lengths.min() < 1 or lengths.max() > time:
        raise UsageError(
            f"pack_padded_sequence: {batch} sequences of at most {time} steps cannot have lengths "
            f"{lengths.tolist()}; expected a number from 1 to {time} for each"
        )
    if enforce_sorted and (numpy.diff(lengths) > 0).any():
        raise UsageError(
            f"pack_padded_sequence: lengths {lengths.tolist()} are not sorted, longest first; sort the "
            "batch, or give enforce_sorted=False"
        )
    order = numpy.argsort(-lengths, kind="stable")
    batch_sizes = (lengths > numpy.arange(lengths.max())[:, None]).sum(axis=1)
    if batch_first:
        input = ops.permute_dims(input, (1, 0, *range(2, input.ndim)))
    rows = input.reshape(time * batch, *input.shape[2:])
    data = ops.take(rows, Tensor(places(batch_sizes, order), device=input.device))
    return PackedSequence(data, batch_sizes, order, numpy.argsort(order))


def pad_packed_sequence(
    sequence: PackedSequence,
    batch_first: bool = False,
    padding_value: float = 0.0,
    total_length: int | None = None,
) -> tuple[Tensor, Tensor]:
    """The inverse of `pack_padded_sequence`: padded sequences and their lengths.

    The padded axis is as long as the longest sequence, or `total_length`, if that is not shorter.
    """
    data, batch_sizes, order, _ = sequence
    time, batch, count = len(batch_sizes), len(order), data.shape[0]
    total = time if total_length is None else total_length
    if total < time:
        raise UsageError(f"pad_packed_sequence: total_length {total} is shorter than the longest, {time}")
    padding = ops.full((1, *data.shape[1:]), padding_value, dtype=data.dtype, device=data.device)
    source = numpy.full(total * batch, count)
    source[places(batch_sizes, order)] = numpy.arange(count)
    index = source.reshape(total, batch)
    index = index.T if batch_first else index
    padded = ops.take(ops.concat([data, padding]), Tensor(index, device=data.device))
    return padded, Tensor(sequence.lengths)


def pad_sequence(
    sequences: Sequence[Tensor], batch_first: bool = False, padding_value: float = 0.0
) -> Tensor:
    """Sequences (time, ...) of any lengths as one tensor (longest, batch, ...), or (batch, longest, ...)."""
    if not sequences or len({x.shape[1:] for x in sequences}) > 1:
        raise ShapeError(
            f"pad_sequence: expected sequences alike but for length, got {[x.shape for x in sequences]}"
        )
    longest = max(len(x) for x in sequences)
    padded = []
    for x in sequences:
        more = ops.full((longest - len(x), *x.shape[1:]), padding_value, dtype=x.dtype, device=x.device)
        padded.append(ops.concat([x, more]))
    return ops.stack(padded, axis=0 if batch_first else 1)
