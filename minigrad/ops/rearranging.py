"""Joining, repeating, padding and cutting arrays, beyond the everyday shape operations.

Names and semantics follow the Python array API standard; `chunk`, `pad`, `unfold`, `diag` and `flatten`
follow torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any

from minigrad import backend
from minigrad.errors import DTypeError, ShapeError, UsageError
from minigrad.operation import linear
from minigrad.ops.creation import full
from minigrad.ops.indexing import getitem, take, unindex
from minigrad.ops.shape import _cut, _place, broadcast_to, concat, expand_dims, permute_dims, reshape
from minigrad.ops.types import broadcast_shapes
from minigrad.ops.windows import cut_windows
from minigrad.tensor import Tensor

__all__ = [
    "broadcast_arrays",
    "chunk",
    "diag",
    "diagonal",
    "flatten",
    "flip",
    "meshgrid",
    "moveaxis",
    "pad",
    "repeat",
    "roll",
    "tile",
    "tril",
    "triu",
    "unfold",
    "unstack",
]

Axes = int | tuple[int, ...]


def _tensor(x: Any) -> Tensor:
    return x if isinstance(x, Tensor) else Tensor(x)


def _places(axis: Axes, ndim: int) -> list[int]:
    """Axes counted from the front. Raises ShapeError where one does not exist or comes twice."""
    places = [_place(a, ndim) for a in (axis if isinstance(axis, tuple) else (axis,))]
    if len(set(places)) < len(places):
        raise ShapeError(f"axis {axis} names an axis of {ndim} dimensions twice; name each once")
    return places


# ----- Order of axes, shapes ----------------------------------------------------------------------


def moveaxis(x: Any, source: Axes, destination: Axes, /) -> Tensor:
    """Move axes to other places; the others keep their order."""
    x = _tensor(x)
    sources, destinations = _places(source, x.ndim), _places(destination, x.ndim)
    if len(sources) != len(destinations):
        raise ShapeError(f"moveaxis: {len(sources)} axes {source} cannot go to {destination}")
    axes = [axis for axis in range(x.ndim) if axis not in sources]
    for place, axis in sorted(zip(destinations, sources, strict=True)):
        axes.insert(place, axis)
    return x if axes == list(range(x.ndim)) else permute_dims(x, axes)


def flatten(x: Any, /, *, start_axis: int = 0, end_axis: int = -1) -> Tensor:
    """Join the axes from `start_axis` to `end_axis` (both included) into one; a number becomes one entry."""
    x = _tensor(x)
    if not x.ndim:
        return reshape(x, (1,))
    start, end = _place(start_axis, x.ndim), _place(end_axis, x.ndim)
    if start > end:
        raise ShapeError(f"flatten: start_axis {start_axis} lies behind end_axis {end_axis} in {x.ndim} axes")
    return reshape(x, (*x.shape[:start], math.prod(x.shape[start : end + 1]), *x.shape[end + 1 :]))


def broadcast_arrays(*arrays: Any) -> tuple[Tensor, ...]:
    """All arrays in the shape to which they broadcast together. Raises ShapeError where they do not."""
    tensors = [_tensor(x) for x in arrays]
    shape = broadcast_shapes(*(x.shape for x in tensors))
    return tuple(x if x.shape == shape else broadcast_to(x, shape) for x in tensors)


def meshgrid(*arrays: Any, indexing: str = "xy") -> tuple[Tensor, ...]:
    """Coordinates on a grid from one-dimensional arrays: output i varies along axis i as input i does.

    With "xy" (Cartesian) the first two axes are swapped; with "ij" (matrix) none are. The outputs are views.
    """
    if indexing not in ("xy", "ij"):
        raise UsageError(f'meshgrid: indexing is "xy" or "ij", got {indexing!r}')
    tensors = [_tensor(x) for x in arrays]
    if any(x.ndim > 1 for x in tensors):
        raise ShapeError(f"meshgrid takes one-dimensional arrays, got {[x.shape for x in tensors]}")
    axes = list(range(len(tensors)))
    if indexing == "xy":
        axes[:2] = axes[:2][::-1]
    apart = [
        reshape(x, tuple(x.size if k == axis else 1 for k in range(len(axes))))
        for x, axis in zip(tensors, axes, strict=True)
    ]
    return broadcast_arrays(*apart)


# ----- Cutting ------------------------------------------------------------------------------------


def unstack(x: Any, /, *, axis: int = 0) -> tuple[Tensor, ...]:
    """The entries of x along `axis`, each a view without that axis."""
    x = _tensor(x)
    place = _place(axis, x.ndim)
    ones = (1,) * x.shape[place]
    return tuple(_cut(x, axis=place, sizes=ones, dropped=True)) if ones else ()


def chunk(x: Any, chunks: int, /, *, axis: int = 0) -> tuple[Tensor, ...]:
    """Cut x along `axis` into at most `chunks` views of one length; the last may be shorter, as in torch."""
    x = _tensor(x)
    place = _place(axis, x.ndim)
    if chunks < 1:
        raise UsageError(f"chunk: the number of chunks is {chunks}; expected at least 1")
    length = x.shape[place]
    size = -(-length // chunks)
    sizes = tuple(min(size, length - start) for start in range(0, length, size)) if size else (0,) * chunks
    return tuple(_cut(x, axis=place, sizes=sizes, dropped=False))


def unfold(x: Any, /, *, axis: int, size: int, step: int = 1) -> Tensor:
    """Windows of `size` entries, one every `step`, as a view: their number takes the place of `axis`, and
    their entries are a new last axis.
    """
    x = _tensor(x)
    place = _place(axis, x.ndim)
    if size < 1 or step < 1:
        raise UsageError(f"unfold: size and step are at least 1, got {size} and {step}")
    if size > x.shape[place]:
        raise ShapeError(f"unfold: a window of {size} does not fit on an axis of length {x.shape[place]}")
    windows = cut_windows(moveaxis(x, place, -1), ((size,), (step,), (1,)))  # (..., size, count)
    return moveaxis(windows, -1, place)


# ----- Repeating and moving entries ---------------------------------------------------------------


def tile(x: Any, repetitions: int | Sequence[int], /) -> Tensor:
    """Copies of x side by side, `repetitions` of them along each axis (a number: along the last); missing
    axes are put in front.
    """
    x = _tensor(x)
    if not isinstance(repetitions, Sequence):
        repetitions = (repetitions,)
    if not all(isinstance(count, Integral) for count in repetitions):
        raise DTypeError(f"tile: repetitions are whole numbers, got {repetitions}")
    axes = max(x.ndim, len(repetitions))
    shape = (1,) * (axes - x.ndim) + x.shape
    counts = (1,) * (axes - len(repetitions)) + tuple(repetitions)
    if min(counts, default=0) < 0:
        raise UsageError(f"tile: repetitions are at least 0, got {tuple(repetitions)}")
    pairs = list(zip(counts, shape, strict=True))
    apart = reshape(x, [n for _, length in pairs for n in (1, length)])
    copies = broadcast_to(apart, [n for pair in pairs for n in pair])
    return reshape(copies, [count * length for count, length in pairs])


def repeat(x: Any, repeats: Any, /, *, axis: int | None = None) -> Tensor:
    """Repeat each entry `repeats` times along `axis`, or each its own number of times; without an axis, of x
    in one line. Numbers of times in a shape-only array are refused: the shape would depend on them.
    """
    x = _tensor(x)
    x, place = (reshape(x, (-1,)), 0) if axis is None else (x, _place(axis, x.ndim))
    length = x.shape[place]
    if not isinstance(repeats, int):
        counts = backend.asarray(repeats.data if isinstance(repeats, Tensor) else repeats)
        if counts.shape not in ((), (1,), (length,)):
            raise ShapeError(f"repeat: {length} entries cannot be repeated {counts.shape} numbers of times")
        xp = backend.namespace(counts)
        if counts.dtype.kind not in "iub" or (xp is backend.host and counts.size and counts.min() < 0):
            raise UsageError(f"repeat: numbers of times are whole and at least 0, got {repeats}")
        places = xp.repeat(xp.arange(length), xp.broadcast_to(counts, (length,)))
        rows = take(moveaxis(x, place, 0), backend.asarray(places, device=x.device))
        return moveaxis(rows, 0, place)
    if repeats < 0:
        raise UsageError(f"repeat: the number of times is at least 0, got {repeats}")
    apart = expand_dims(x, axis=place + 1)
    copies = broadcast_to(apart, (*x.shape[: place + 1], repeats, *x.shape[place + 1 :]))
    return reshape(copies, (*x.shape[:place], length * repeats, *x.shape[place + 1 :]))


@linear(x=lambda xp, v, shift, axis: xp.roll(v, tuple(-n for n in shift), axis=axis))
def _roll(xp: Any, x: Any, /, *, shift: tuple[int, ...], axis: tuple[int, ...]) -> Any:
    """x with its entries shifted along axes."""
    return xp.roll(x, shift, axis=axis)


def roll(x: Any, /, shift: Axes, *, axis: Axes | None = None) -> Tensor:
    """Shift the entries along axes; those that leave at one end come in at the other. Without an axis, in
    one line.
    """
    x = _tensor(x)
    if axis is None:
        return reshape(roll(reshape(x, (-1,)), shift, axis=0), x.shape)
    places = tuple(_place(a, x.ndim) for a in (axis if isinstance(axis, tuple) else (axis,)))
    shifts = shift if isinstance(shift, tuple) else (shift,) * len(places)
    if len(shifts) != len(places):
        raise ShapeError(f"roll: {len(shifts)} shifts {shift} for {len(places)} axes {axis}")
    return _roll(x, shift=shifts, axis=places) if places else x


@linear(x=lambda xp, v, index: v[index])
def _flip(xp: Any, x: Any, /, *, index: tuple[Any, ...]) -> Any:
    """x with the order of its entries reversed: `index` is of slices."""
    return x[index]


def flip(x: Any, /, *, axis: Axes | None = None) -> Tensor:
    """Reverse the order of entries along axes (all of them if None), as a view."""
    x = _tensor(x)
    places = range(x.ndim) if axis is None else _places(axis, x.ndim)
    return _flip(x, index=(*(slice(None, None, -1 if k in places else 1) for k in range(x.ndim)), ...))


# ----- Padding ------------------------------------------------------------------------------------


def pad(x: Any, widths: Sequence[int], /, *, mode: str = "constant", value: float = 0.0) -> Tensor:
    """Lengthen x at both ends of its last axes; negative widths cut off.

    `widths` are pairs (before, after), the last axis first, as in torch. Modes: "constant" (`value`),
    "reflect" (mirrored at the outermost entry, which is not repeated), "replicate" or "edge" (the outermost
    entry again), "circular" (from the other end). Raises ShapeError where there is not enough to copy.
    """
    x = _tensor(x)
    if len(widths) % 2 or len(widths) > 2 * x.ndim:
        raise ShapeError(f"pad: {tuple(widths)} is not a (before, after) for each of at most {x.ndim} axes")
    if mode not in ("constant", *_BORDERS):
        raise UsageError(f"pad: unknown mode {mode!r}; expected constant, {', '.join(_BORDERS)}")
    pairs = [(0, 0)] * (x.ndim - len(widths) // 2)
    pairs += list(zip(widths[-2::-2], widths[-1::-2], strict=True))
    kept = tuple(slice(max(-a, 0), n - max(-b, 0)) for n, (a, b) in zip(x.shape, pairs, strict=True))
    if any(s.stop < s.start for s in kept):
        raise ShapeError(f"pad: {tuple(widths)} cuts more off shape {x.shape} than there is")
    if any(width < 0 for width in widths):
        x = getitem(x, kept)
    pairs = [(max(a, 0), max(b, 0)) for a, b in pairs]
    if mode == "constant" and value == 0:
        shape = tuple(a + n + b for n, (a, b) in zip(x.shape, pairs, strict=True))
        index = tuple(slice(a, a + n) for n, (a, _) in zip(x.shape, pairs, strict=True))
        return unindex(x, index=index, shape=shape) if shape != x.shape else x
    for axis, pair in enumerate(pairs):
        if pair != (0, 0):
            x = _bordered(x, axis, pair, mode, value)
    return x


_BORDERS = {"reflect": 1, "replicate": 0, "edge": 0, "circular": 0}
"""Modes of padding that copy entries, and how many fewer than all of an axis they can copy."""


def _bordered(x: Tensor, axis: int, pair: tuple[int, int], mode: str, value: float) -> Tensor:
    """x with `pair` (before, after) more entries on one axis."""
    (a, b), n = pair, x.shape[axis]

    def shape(length: int) -> tuple[int, ...]:
        return (*x.shape[:axis], length, *x.shape[axis + 1 :])

    def at(start: int | None, stop: int | None, step: int = 1) -> Tensor:
        return getitem(x, (*(slice(None),) * axis, slice(start, stop, step)))

    if mode == "constant":
        sides = [full(shape(width), value, dtype=x.dtype, device=x.device) for width in pair]
    elif mode in ("replicate", "edge"):
        if not n:
            raise ShapeError(f"pad: axis {axis} of shape {x.shape} has no entry to repeat")
        sides = [broadcast_to(at(0, 1), shape(a)), broadcast_to(at(n - 1, n), shape(b))]
    elif max(a, b) > n - _BORDERS[mode]:
        raise ShapeError(
            f"pad: mode {mode!r} can add at most {max(n - _BORDERS[mode], 0)} entries at each end of axis "
            f"{axis} of shape {x.shape}, not {pair}"
        )
    elif mode == "circular":
        sides = [at(n - a, n), at(0, b)]
    else:
        sides = [at(a, 0, -1), at(n - 2, n - 2 - b if n - 2 - b >= 0 else None, -1) if b else at(0, 0)]
    return concat([sides[0], x, sides[1]], axis=axis)


# ----- Triangles and diagonals --------------------------------------------------------------------


@linear(x=lambda xp, v, k: xp.tril(v, k=k))
def tril(xp: Any, x: Any, /, *, k: int = 0) -> Any:
    """The lower triangle of the matrices in the last two axes, up to diagonal k; zeros above it."""
    _matrices("tril", x)
    return xp.tril(x, k=k)


@linear(x=lambda xp, v, k: xp.triu(v, k=k))
def triu(xp: Any, x: Any, /, *, k: int = 0) -> Any:
    """The upper triangle of the matrices in the last two axes, from diagonal k up; zeros below it."""
    _matrices("triu", x)
    return xp.triu(x, k=k)


def _matrices(name: str, x: Any) -> None:
    if len(x.shape) < 2:
        raise ShapeError(f"{name} needs matrices in the last two axes, and got shape {x.shape}")


def _along_diagonal(rows: int, columns: int, k: int) -> slice:
    """Where diagonal k of a matrix lies among its entries in one line."""
    count = max(0, min(rows, columns - k) if k >= 0 else min(rows + k, columns))
    start = k if k >= 0 else -k * columns
    return slice(start, start + (count - 1) * (columns + 1) + 1, columns + 1) if count else slice(0, 0)


def diagonal(x: Any, /, *, offset: int = 0) -> Tensor:
    """Diagonal `offset` of the matrices in the last two axes (above the main one if positive)."""
    x = _tensor(x)
    _matrices("diagonal", x)
    *lead, rows, columns = x.shape
    return reshape(x, (*lead, rows * columns))[..., _along_diagonal(rows, columns, offset)]


def diag(x: Any, /, *, diagonal: int = 0) -> Tensor:
    """The matrix with a vector x on that diagonal and zeros elsewhere; of a matrix x, that diagonal."""
    x = _tensor(x)
    if x.ndim == 2:
        return _diagonal(x, offset=diagonal)
    if x.ndim != 1:
        raise ShapeError(
            f"diag takes a vector or a matrix, got shape {x.shape}; for stacks use diagonal(...)"
        )
    n = x.size + abs(diagonal)
    return reshape(unindex(x, index=_along_diagonal(n, n, diagonal), shape=(n * n,)), (n, n))


_diagonal = diagonal  # (the parameter of `diag` has torch's name)
