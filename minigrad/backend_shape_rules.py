"""The shapes that NumPy's functions give, and the arguments that they refuse: pure functions of shapes.

Shape-only arrays refuse exactly what NumPy refuses, so that a computation whose cost was counted can run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import index as whole
from typing import Any

import numpy

from minigrad.errors import DTypeError, IndexRangeError, ShapeError

Shape = tuple[int, ...]
Bounds = tuple[int, int]


def lengths(shape: Any) -> Shape:
    """The shape of a new array. Raises ShapeError for negative lengths, DTypeError for fractions."""
    try:
        found = (whole(shape),) if not isinstance(shape, (tuple, list)) else tuple(map(whole, shape))
    except TypeError as error:
        raise DTypeError(f"the lengths of a shape are whole numbers, got {shape!r}") from error
    if min(found, default=0) < 0:
        raise ShapeError(f"the lengths of a shape are at least 0, got {found}")
    return found


def place(axis: Any, axes: int) -> int:
    """An axis counted from the front. Raises ShapeError where there is no such axis."""
    try:
        found = whole(axis)
    except TypeError as error:
        raise DTypeError(f"an axis is a whole number, got {axis!r}") from error
    if not -axes <= found < axes:
        raise ShapeError(f"there is no axis {axis} in {axes} dimensions; expected {-axes} to {axes - 1}")
    return found % axes


_OF_SOMETHING = ("max", "min", "argmax", "argmin")
"""Reductions that need at least one entry."""


def reduced(name: str, shape: Shape, axis: Any, keepdims: bool) -> Shape:
    """The shape after a reduction over `axis` (an axis, a tuple of them, or None for all)."""
    several = name not in ("argmax", "argmin")
    if axis is None:
        axes = list(range(len(shape)))
    elif not shape and not isinstance(axis, tuple) and axis in (0, -1):
        axes = []  # of a number NumPy takes the first axis, which it has not
    else:
        axes = [place(a, len(shape)) for a in (axis if several and isinstance(axis, tuple) else (axis,))]
    if len(set(axes)) < len(axes):
        raise ShapeError(f"{name}: axis {axis} of shape {shape} names an axis twice; name each once")
    kept = [1 if i in axes else n for i, n in enumerate(shape)]
    result = tuple(kept if keepdims else (n for i, n in enumerate(kept) if i not in axes))
    if name in _OF_SOMETHING and 0 in [shape[i] for i in axes]:
        raise ShapeError(
            f"{name} of shape {shape} over axis {axis}: nothing has no {name}; test the size first"
        )
    return result


def reshaped(shape: Shape, wanted: Any) -> Shape:
    """The new shape of as many entries; one length may be left open, as a negative number."""
    try:
        found = [whole(wanted)] if not isinstance(wanted, (tuple, list)) else [whole(n) for n in wanted]
    except TypeError as error:
        raise DTypeError(f"cannot reshape {shape} into {wanted!r}: lengths are whole numbers") from error
    size, open_places = math.prod(shape), [i for i, n in enumerate(found) if n < 0]
    if len(open_places) == 1:
        rest = math.prod(n for n in found if n >= 0)
        if not rest or size % rest:
            raise ShapeError(f"cannot reshape {shape} into {tuple(found)}: {size} elements")
        found[open_places[0]] = size // rest
    if len(open_places) > 1 or math.prod(found) != size:
        raise ShapeError(f"cannot reshape {shape} into {tuple(found)}: {size} elements")
    return tuple(found)


def permuted(shape: Shape, axes: Sequence[int]) -> Shape:
    """The shape with its axes in another order."""
    if sorted(place(a, len(shape)) for a in axes) != list(range(len(shape))):
        raise ShapeError(f"permute_dims: {tuple(axes)} does not name each axis of shape {shape} once")
    return tuple(shape[a] for a in axes)


def joined(shapes: Sequence[Shape], axis: int) -> Shape:
    """The shape of arrays joined along an axis that they have."""
    if not shapes or not shapes[0]:
        raise ShapeError(
            f"concat joins arrays of at least one axis, and at least one; got shapes {[*shapes]}"
        )
    at = place(axis, len(shapes[0]))
    others = {(*shape[:at], *shape[at + 1 :]) for shape in shapes if len(shape) == len(shapes[0])}
    if len(others) != 1 or any(len(shape) != len(shapes[0]) for shape in shapes):
        raise ShapeError(f"concat: shapes {[*shapes]} differ on another axis than {axis}")
    return (*shapes[0][:at], sum(shape[at] for shape in shapes), *shapes[0][at + 1 :])


def stacked(shapes: Sequence[Shape], axis: int) -> Shape:
    """The shape of arrays of one shape along a new axis."""
    if len(set(shapes)) != 1:
        raise ShapeError(f"stack joins arrays of one shape, and at least one of them; got shapes {[*shapes]}")
    at = place(axis, len(shapes[0]) + 1)
    return (*shapes[0][:at], len(shapes), *shapes[0][at:])


def paired_vectors(x: Shape, y: Shape) -> Shape:
    """The shape of the inner products of vectors in the last axes."""
    if not x or not y or x[-1] != y[-1]:
        raise ShapeError(f"vecdot: the last axes of shapes {x} and {y} are not of one length")
    return numpy.broadcast_shapes(x[:-1], y[:-1])


def written(value: Shape, shape: Shape, index: Any = ...) -> None:
    """Raise ShapeError where an array of shape `value` cannot be written to `index`, a place of `shape`."""
    extra = max(len(value) - len(shape), 0)
    pairs = zip(value[extra:][::-1], shape[::-1], strict=False)
    fits = all(n == 1 for n in value[:extra]) and all(n in (1, m) for n, m in pairs)
    if extra and not shape:  # one entry, named by numbers, takes a number only
        fits = fits and any(getattr(_part(part), "shape", ()) or part is ... for part in _parts(index))
    if not fits:
        raise ShapeError(f"cannot write shape {value} into {shape}")


def within(bounds: Bounds | None, length: int, axis: int, shape: Shape) -> None:
    """Raise IndexRangeError for indices, from `bounds[0]` to `bounds[1]`, that an axis has not."""
    if bounds is not None and not -length <= bounds[0] <= bounds[1] < length:
        text = f"index {bounds[0]}" if bounds[0] == bounds[1] else f"indices from {bounds[0]} to {bounds[1]}"
        raise IndexRangeError(f"{text} on axis {axis} of shape {shape}: its length is {length}")


def extent(array: Any) -> Bounds | None:
    """The smallest and the largest of whole numbers, where they are known: in an array with values."""
    if isinstance(array, numpy.ndarray):
        return (int(array.min()), int(array.max())) if array.size and array.dtype.kind in "iu" else None
    return getattr(array, "bounds", None)


def indexed_shape(shape: Shape, index: Any) -> tuple[Shape, bool]:
    """The shape of x[index] for x of `shape`, by NumPy's rules, and whether it is a copy (by index arrays).

    Raises IndexRangeError for what is no index of such an array, and DTypeError for boolean masks, whose
    result has a shape that depends on values.
    """
    parts = [_part(part) for part in _parts(index)]
    given = sum(part is not None and part is not Ellipsis for part in parts)
    if given > len(shape):
        raise IndexRangeError(f"{given} indices are too many for shape {shape}")
    if sum(part is Ellipsis for part in parts) > 1:
        raise IndexRangeError("an index has at most one ellipsis (...)")
    chosen = [i for i, part in enumerate(parts) if part is not None and not isinstance(part, _FREE)]
    together = _together([parts[i] for i in chosen])
    adjacent = chosen == list(range(chosen[0], chosen[-1] + 1)) if chosen else True
    first = chosen[0] if chosen else -1
    places = _axes_of(parts, len(shape) - given)
    result: list[int] = []
    for i, part in enumerate(parts):
        if part is None:
            result.append(1)
        elif part is Ellipsis:
            result.extend(shape[places[i] : places[i] + len(shape) - given])
        elif isinstance(part, slice):
            result.append(len(range(*part.indices(shape[places[i]]))))
        else:
            if isinstance(part, int) or 0 not in together:
                bounds = (part, part) if isinstance(part, int) else extent(part)
                within(bounds, shape[places[i]], places[i], shape)
            if adjacent and i == first:
                result.extend(together)
    result.extend(shape[len(shape) - _left_out(parts, len(shape) - given) :])
    copies = any(not isinstance(parts[i], int) for i in chosen)
    return (tuple(result) if adjacent else (*together, *result)), copies


_FREE = (slice, type(Ellipsis))


def _parts(index: Any) -> tuple[Any, ...]:
    return index if isinstance(index, tuple) else (index,)


def _part(part: Any) -> Any:
    """One part of an index: None, an ellipsis, a slice, a Python integer, or an array of integers."""
    if part is None or isinstance(part, _FREE) or type(part) is int:
        return part
    if not isinstance(part, numpy.ndarray) and not (hasattr(part, "dtype") and hasattr(part, "base")):
        listed = isinstance(part, (list, tuple, range))
        part = numpy.asarray(part)
        part = part.astype("int64") if listed and not part.size else part
    if part.dtype.kind == "b":
        raise DTypeError(
            "a boolean mask as index gives a shape that depends on values; use where(...) instead"
        )
    if part.dtype.kind not in "iu":
        raise IndexRangeError(
            f"an index is made of integers, slices, None, ... and arrays of integers, not of {part.dtype}"
        )
    return int(part) if isinstance(part, (numpy.ndarray, numpy.generic)) and not part.shape else part


def _together(chosen: Sequence[Any]) -> Shape:
    shapes = [() if isinstance(part, int) else tuple(part.shape) for part in chosen]
    try:
        return numpy.broadcast_shapes(*shapes)
    except ValueError as error:
        raise IndexRangeError(f"index arrays of shapes {shapes} do not broadcast together") from error


def _axes_of(parts: Sequence[Any], left: int) -> list[int]:
    """For each part of an index the axis that it is about; an ellipsis stands for `left` axes."""
    places, axis = [], 0
    for part in parts:
        places.append(axis)
        axis += 0 if part is None else left if part is Ellipsis else 1
    return places


def _left_out(parts: Sequence[Any], left: int) -> int:
    """How many axes at the end no part is about."""
    return 0 if any(part is Ellipsis for part in parts) else left
