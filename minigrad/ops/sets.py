"""Arrays as sets: their different values, and membership; and the differences of neighbours.

Names and semantics follow the Python array API standard. Everything is composed of sorting and indexing, so
that every library can run it. What `unique_...` and `isin` give are constants.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from minigrad.errors import DTypeError, ShapeError, UsageError
from minigrad.ops.creation import full, ones, zeros
from minigrad.ops.elementwise import equal, not_equal, subtract
from minigrad.ops.functions import clip, logical_not
from minigrad.ops.indexing import getitem, take
from minigrad.ops.selecting import argsort, cumulative_sum, nonzero, searchsorted, sort
from minigrad.ops.shape import _place, astype, broadcast_to, concat, reshape
from minigrad.tensor import Tensor

__all__ = ["diff", "isin", "unique_all", "unique_counts", "unique_inverse", "unique_values"]


class UniqueAllResult(NamedTuple):
    """The values in ascending order, where each is first, which of them each entry is, how often each is."""

    values: Tensor
    indices: Tensor
    inverse_indices: Tensor
    counts: Tensor


class UniqueCountsResult(NamedTuple):
    """The values in ascending order, and how often each is there."""

    values: Tensor
    counts: Tensor


class UniqueInverseResult(NamedTuple):
    """The values in ascending order, and for each entry which of them it is, in the shape of the array."""

    values: Tensor
    inverse_indices: Tensor


def _line(name: str, x: Any) -> Tensor:
    """The entries of x as one line of constants. Raises DTypeError for an array without values."""
    x = (x if isinstance(x, Tensor) else Tensor(x)).detach()
    if x.device == "shapes":
        raise DTypeError(
            f"{name} is not available on shape-only arrays: the shape of its result depends on values"
        )
    return reshape(x, (-1,))


def _firsts(line: Tensor) -> Tensor:
    """Which entries of a sorted line differ from that before: of equal ones the first; a NaN equals none."""
    first = ones(min(line.size, 1), dtype="bool", device=line.device)
    return concat([first, not_equal(line[1:], line[:-1])])


def unique_all(x: Any, /) -> UniqueAllResult:
    """The different values of x in ascending order (each NaN is one), where each is first among the entries
    of x in one line, which of them each entry is, in x's shape, and how often each is there.

    Refused by shape-only arrays: how many values there are depends on values.
    """
    x = x if isinstance(x, Tensor) else Tensor(x)
    line = _line("unique_all", x)
    order = argsort(line)
    ordered = take(line, order)
    starts = _firsts(ordered)
    (places,) = nonzero(starts)
    ranks = cumulative_sum(astype(starts, "int64")) - 1
    inverse = take(ranks, argsort(order))
    ends = concat([places, full(1, line.size, device=line.device)])[1:]
    return UniqueAllResult(
        take(ordered, places), take(order, places), reshape(inverse, x.shape), ends - places
    )


def unique_counts(x: Any, /) -> UniqueCountsResult:
    """The different values of x in ascending order, and how often each is there; see `unique_all`."""
    _line("unique_counts", x)
    found = unique_all(x)
    return UniqueCountsResult(found.values, found.counts)


def unique_inverse(x: Any, /) -> UniqueInverseResult:
    """The different values of x in ascending order, and which of them each entry is; see `unique_all`."""
    _line("unique_inverse", x)
    found = unique_all(x)
    return UniqueInverseResult(found.values, found.inverse_indices)


def unique_values(x: Any, /) -> Tensor:
    """The different values of x in ascending order; each NaN is one. Refused by shape-only arrays."""
    ordered = sort(_line("unique_values", x))
    (places,) = nonzero(_firsts(ordered))
    return take(ordered, places)


def isin(x1: Any, x2: Any, /, *, invert: bool = False) -> Tensor:
    """For each entry of x1, whether it equals an entry of x2 (or, with `invert`, whether it equals none)."""
    x1, x2 = ((x if isinstance(x, Tensor) else Tensor(x)).detach() for x in (x1, x2))
    if not x2.size:
        return (ones if invert else zeros)(x1.shape, dtype="bool", device=x1.device)
    members = sort(reshape(x2, (-1,)))
    places = clip(searchsorted(members, x1), 0, members.size - 1)
    found = equal(take(members, places), x1)
    return logical_not(found) if invert else found


def diff(x: Any, /, *, axis: int = -1, n: int = 1, prepend: Any = None, append: Any = None) -> Tensor:
    """The n-th differences of neighbours along `axis`, of x joined with `prepend` before and `append` after.

    Of truth values, whether neighbours differ. Raises UsageError for a negative n.
    """
    x = x if isinstance(x, Tensor) else Tensor(x)
    if not x.ndim:
        raise ShapeError("diff: a 0-d tensor has no axis along which there are neighbours")
    place = _place(axis, x.ndim)
    if n < 0:
        raise UsageError(f"diff: n is at least 0, got {n}")
    if n and (prepend is not None or append is not None):
        x = concat([_beside(e, x, place) for e in (prepend, x, append) if e is not None], axis=place)
    before = (slice(None),) * place
    for _ in range(n):
        later, earlier = getitem(x, (*before, slice(1, None))), getitem(x, (*before, slice(None, -1)))
        x = (not_equal if x.dtype.kind == "b" else subtract)(later, earlier)
    return x


def _beside(e: Any, x: Tensor, place: int) -> Tensor:
    """What is joined to x: an array, or a number that becomes one entry of each line."""
    e = e if isinstance(e, Tensor) else Tensor(e, device=x.device)
    return e if e.ndim else broadcast_to(e, (*x.shape[:place], 1, *x.shape[place + 1 :]))
