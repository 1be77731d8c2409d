"""Norms of many arrays together, one of them the same to the bit however the entries are shared out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from minigrad import backend
from minigrad.backend import Array
from minigrad.errors import UsageError

Combine = Callable[[Array, Literal["max", "sum"]], None]

BLOCK = 1 << 15
UNIT_BITS = 31  # of the two words that squares are counted in: 2⁻³¹, and 2⁻⁶² for what is left
CHUNK = 1 << 20  # at most this many counts of 31 bits are summed in float64, which stays exact up to 53


def joint_norm(arrays: Sequence[Array], norm_type: float = 2.0) -> Array:
    """The norm of all entries of all arrays together, a 0-d float64 array: (Σ|x|ᵖ)^(1/p), or the largest |x|.

    Each array's entries are summed in its own dtype (half precision in float32), arrays in float64 in their
    order. Raises UsageError for a `norm_type` that is not positive.
    """
    if not norm_type > 0:
        raise UsageError(f"the type of a norm is a positive number or infinity, got {norm_type}")
    if not arrays:
        return backend.host.zeros((), dtype="float64")
    xp = backend.namespace(arrays[0])
    parts = xp.zeros(len(arrays), dtype="float64")
    for place, array in enumerate(arrays):
        if array.size:
            parts[place] = _power_sum(xp, _wide(array.reshape(-1)), norm_type)
    if math.isinf(norm_type):
        return xp.asarray(xp.max(parts))
    total = xp.sum(parts)
    return xp.asarray(xp.sqrt(total) if norm_type == 2 else total ** (1.0 / norm_type))


def _power_sum(xp: Any, flat: Array, norm_type: float) -> Array:
    if math.isinf(norm_type):
        return xp.max(xp.abs(flat))
    if norm_type == 2:
        return xp.vecdot(flat, flat)
    sizes = xp.abs(flat)
    return xp.sum(sizes if norm_type == 1 else sizes**norm_type)


def _wide(array: Array) -> Array:
    return array.astype("float32") if array.dtype.itemsize < 4 else array


def reproducible_norm(
    arrays: Sequence[Array], *, combine: Combine | None = None, like: Array | None = None
) -> Array:
    """The 2-norm of all entries, a 0-d float64 array: the same to the bit however they are split over arrays
    and ranks, and in whichever order they come.

    `combine(array, operation)` replaces `array` by its "max" or "sum" over ranks, in place; every rank calls
    it once with each (a rank without arrays says by `like` where it computes). Entries that are not finite
    give infinity.

    How: divided by a power of two just above the largest |x| of all ranks, squares are at most 1. Each is
    counted in units of 2⁻³¹, and what that leaves in units of 2⁻⁶²; sums of integers do not depend on their
    order. Up to n = 2³² entries fit the two 64-bit words. The sum of squares is off by at most n·2⁻⁶¹ of
    itself, besides a few roundings of float64 (and entries below 1e-310, where its numbers end). Demmel,
    Nguyen 2013, Fast Reproducible Floating-Point Summation, cut sums at fixed places in the same way.
    """
    xp = backend.namespace(arrays[0] if arrays else backend.host.zeros(0) if like is None else like)
    largest = xp.zeros(1, dtype="float64")
    for block in _blocks(xp, arrays):
        largest = xp.maximum(largest, xp.max(xp.abs(block)))
    largest = xp.where(xp.isfinite(largest), largest, math.inf)  # also for NaN, which no maximum would keep
    if combine is not None:
        combine(largest, "max")
    if xp is backend.host and not 0 < float(largest[0]) < math.inf:
        return largest.reshape(())
    usable = xp.logical_and(largest > 0, largest < math.inf)
    exponent = xp.ceil(xp.log2(xp.where(usable, largest, 1.0)))  # (1,)
    scale = 2.0 ** -xp.maximum(exponent, -1000.0)  # beyond, the power of two would be infinite
    words = _count(xp, arrays, scale)
    if combine is not None:
        combine(words, "sum")
    total = words[0:1].astype("float64") * 2.0**-UNIT_BITS + words[1:2].astype("float64") * 4.0**-UNIT_BITS
    return xp.where(usable, xp.sqrt(total) / scale, largest).reshape(())


def _count(xp: Any, arrays: Sequence[Array], scale: Array) -> Array:
    """Two integers: the squares of all scaled entries in units of 2⁻³¹, and the rest in units of 2⁻⁶²."""
    words = xp.zeros(2, dtype="int64")
    for block in _blocks(xp, arrays):
        square = block * scale
        square *= square
        for place in (0, 1):
            unit = 2.0 ** (-UNIT_BITS * (place + 1))
            # A number of this size has its last place at `unit`: adding it and taking it off rounds to that.
            rounder = 1.5 * 2.0**52 * unit
            rounded = square + rounder
            rounded -= rounder
            if place == 0:
                square -= rounded
            words[place] += (xp.sum(rounded) * (1.0 / unit)).astype("int64")
    return words


def _blocks(xp: Any, arrays: Sequence[Array]) -> Iterator[Array]:
    """The entries in float64, a cache's worth at a time on a processor."""
    length = BLOCK if xp.blocked else CHUNK
    for array in arrays:
        flat = array.reshape(-1)
        for start in range(0, flat.size, length):
            yield flat[start : start + length].astype("float64")
