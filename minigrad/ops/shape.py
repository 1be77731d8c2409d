"""Moving data without changing it: shapes, joins, casts, transfers. All linear, so only transposes are
written. Names and semantics follow the Python array API standard; `split` follows torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from numbers import Integral
from typing import Any

from minigrad import backend
from minigrad.errors import DTypeError, ShapeError, UsageError
from minigrad.operation import general, linear
from minigrad.tensor import Tensor


@linear(x=lambda xp, v: v)
def alias(xp: Any, x: Any, /) -> Any:
    """The same values as a new node: where a transform starts or stops its walk."""
    return x


@linear(x=lambda xp, v: v)
def copy(xp: Any, x: Any, /) -> Any:
    """A copy of x."""
    return xp.asarray(x, copy=True)


_copy = copy  # (the parameter of `reshape` has the standard's name)


@linear(x=lambda xp, v, x_shape: xp.reshape(v, x_shape))
def _reshape(xp: Any, x: Any, /, *, shape: tuple[int, ...]) -> Any:
    return xp.reshape(x, shape)


def reshape(x: Any, /, shape: Sequence[int], *, copy: bool | None = None) -> Tensor:
    """The same entries in another shape, as a view where memory allows it; one length may be -1.

    With `copy=True` never a view; a view cannot be demanded (`copy=False` is refused).
    """
    if copy is False:
        raise UsageError("reshape: copy=False cannot be promised; leave it out to get a view where possible")
    out = _reshape(x, shape=tuple(shape))
    return _copy(out) if copy else out


@linear(x=lambda xp, v, axes: xp.permute_dims(v, inverse(axes)))
def _permute_dims(xp: Any, x: Any, /, *, axes: tuple[int, ...]) -> Any:
    return xp.permute_dims(x, axes)


def inverse(axes: Sequence[int]) -> tuple[int, ...]:
    """The permutation that undoes `axes`."""
    return tuple(sorted(range(len(axes)), key=lambda i: axes[i] % len(axes)))


def permute_dims(x: Any, /, axes: Sequence[int]) -> Tensor:
    """Reorder the axes: axis i of the result is axis `axes[i]` of x."""
    return _permute_dims(x, axes=tuple(axes))


@linear(x=lambda xp, v: xp.matrix_transpose(v))
def matrix_transpose(xp: Any, x: Any, /) -> Any:
    """Swap the last two axes."""
    return xp.matrix_transpose(x)


@linear(x=lambda xp, v, x_shape: _shrunk(xp, v, x_shape))
def _broadcast_to(xp: Any, x: Any, /, *, shape: tuple[int, ...]) -> Any:
    return xp.broadcast_to(x, shape)


def _shrunk(xp: Any, v: Any, shape: tuple[int, ...]) -> Any:
    from minigrad.walk import unbroadcast

    return v if v.shape == shape else unbroadcast(xp, v, shape)


def broadcast_to(x: Any, /, shape: Sequence[int]) -> Tensor:
    """Repeat x to `shape` by the rules of broadcasting."""
    return _broadcast_to(x, shape=tuple(shape))


def expand_dims(x: Any, /, axis: int | tuple[int, ...] = 0) -> Tensor:
    """Insert an axis of length 1, or several: `axis` is where they are in the result."""
    x = x if isinstance(x, Tensor) else Tensor(x)
    axes = axis if isinstance(axis, tuple) else (axis,)
    ndim = x.ndim + len(axes)
    places = {_place(a, ndim) for a in axes}
    if len(places) < len(axes):
        raise ShapeError(
            f"cannot insert axis {axis} into shape {x.shape}; expected {-ndim} to {ndim - 1}, each once"
        )
    lengths = iter(x.shape)
    return reshape(x, tuple(1 if i in places else next(lengths) for i in range(ndim)))


def squeeze(x: Any, /, axis: int | tuple[int, ...]) -> Tensor:
    """Remove axes of length 1."""
    x = x if isinstance(x, Tensor) else Tensor(x)
    axes = {_place(a, x.ndim) for a in (axis if isinstance(axis, tuple) else (axis,))}
    if any(x.shape[a] != 1 for a in axes):
        raise ShapeError(f"cannot squeeze axis {axis} of shape {x.shape}: its length is not 1")
    return reshape(x, tuple(n for i, n in enumerate(x.shape) if i not in axes))


def _place(axis: int, ndim: int) -> int:
    """The axis counted from the front. Raises ShapeError where there is no such axis, UsageError where it is
    none.
    """
    if not hasattr(axis, "__index__"):
        raise UsageError(f"an axis is a whole number, got {axis!r}; several are a tuple of them")
    if not -ndim <= axis < ndim:
        raise ShapeError(f"there is no axis {axis} in {ndim} dimensions; expected {-ndim} to {ndim - 1}")
    return axis % ndim


def _pull_concat(xp: Any, v: Any, needs: Any, arrays_shape: Any, axis: int) -> list[Any]:
    parts, start = [], 0
    for shape, need in zip(arrays_shape, needs, strict=True):
        stop = start + shape[axis]
        index = (slice(None),) * (axis % v.ndim) + (slice(start, stop),)
        parts.append(v[index] if need else None)
        start = stop
    return parts


def _push_concat(xp: Any, tangents: Any, arrays_shape: Any, axis: int) -> Any:
    zero = _zero(xp, tangents)
    filled = [
        xp.broadcast_to(zero, shape) if t is None else t
        for t, shape in zip(tangents, arrays_shape, strict=True)
    ]
    return xp.concat(filled, axis=axis)


def _zero(xp: Any, parts: Any) -> Any:
    """A 0-d zero in the dtype and at the place of the first part that is there."""
    given = next(part for part in parts if part is not None)
    return xp.sum(xp.reshape(given, (1, *given.shape))[:0])  # a view, however its entries lie


@general(pull=_pull_concat, push=_push_concat)
def _concat(xp: Any, /, *arrays: Any, axis: int = 0) -> Any:
    return xp.concat(arrays, axis=axis)


def concat(arrays: Sequence[Any], /, *, axis: int | None = 0) -> Tensor:
    """Join arrays along an existing axis; with None, all entries in one line."""
    if not len(arrays):
        raise ShapeError("concat joins at least one array, and got none")
    if axis is None:
        arrays, axis = [reshape(x, (-1,)) for x in arrays], 0
    return _concat(*arrays, axis=axis)


def _pull_stack(xp: Any, v: Any, needs: Any, axis: int) -> list[Any]:
    before = (slice(None),) * axis
    return [v[(*before, i, ...)] if need else None for i, need in enumerate(needs)]


def _push_stack(xp: Any, tangents: Any, arrays_shape: Any, axis: int) -> Any:
    zero = _zero(xp, tangents)
    return xp.stack([xp.broadcast_to(zero, arrays_shape[0]) if t is None else t for t in tangents], axis=axis)


@general(pull=_pull_stack, push=_push_stack)
def _stack(xp: Any, /, *arrays: Any, axis: int) -> Any:
    """Arrays along a new axis. Its own rule: with a `reshape` for each it takes three times as long."""
    return xp.stack(arrays, axis=axis)


def stack(arrays: Sequence[Any], /, *, axis: int = 0) -> Tensor:
    """Join arrays of equal shape along a new axis."""
    tensors = [x if isinstance(x, Tensor) else Tensor(x) for x in arrays]
    shapes = list(dict.fromkeys(x.shape for x in tensors))
    if len(shapes) != 1:
        raise ShapeError(f"stack joins arrays of one shape, and at least one of them; got shapes {shapes}")
    return _stack(*tensors, axis=_place(axis, len(shapes[0]) + 1))


def _pull_cut(
    xp: Any, v: Any, needs: Any, x_shape: tuple[int, ...], axis: int, sizes: Any, dropped: bool
) -> Any:
    zero = _zero(xp, v)
    shapes = [(*x_shape[:axis], size, *x_shape[axis + 1 :]) for size in sizes]
    parts = [
        xp.broadcast_to(zero, shape) if part is None else xp.reshape(part, shape)
        for part, shape in zip(v, shapes, strict=True)
    ]
    if isinstance(zero, Tensor):
        return (xp.concat(parts, axis=axis),)
    made = xp.empty(x_shape, dtype=zero.dtype)  # whose entries lie in order, as those of concat need not
    for place, part in zip(_parts(made, axis, sizes, False), parts, strict=True):
        place[...] = part
    return (made,)


def _push_cut(xp: Any, tangents: Any, axis: int, sizes: Any, dropped: bool) -> Any:
    return _parts(tangents[0], axis, sizes, dropped)


def _parts(x: Any, axis: int, sizes: tuple[int, ...], dropped: bool) -> tuple[Any, ...]:
    before = (slice(None),) * axis
    stops = list(accumulate(sizes))
    if dropped:
        return tuple(x[(*before, stop - 1, ...)] for stop in stops)
    return tuple(x[(*before, slice(stop - size, stop), ...)] for stop, size in zip(stops, sizes, strict=True))


@general(pull=_pull_cut, push=_push_cut, several_outputs=True)
def _cut(xp: Any, x: Any, /, *, axis: int, sizes: tuple[int, ...], dropped: bool) -> Any:
    """Views of x, `sizes` long on `axis`; the axis is dropped from parts of length 1 if `dropped`.

    Its own rule: by indexing, each of n parts would make a gradient as large as x.
    """
    return _parts(x, axis, sizes, dropped)


def split(x: Any, /, sizes: int | Sequence[int], *, axis: int = 0) -> tuple[Tensor, ...]:
    """Cut x along `axis` into views of `sizes` entries each, of which the last may be shorter; or of the
    lengths in a list, as torch does. For a number of parts see `chunk`.
    """
    x = x if isinstance(x, Tensor) else Tensor(x)
    place = _place(axis, x.ndim)
    length = x.shape[place]
    if not isinstance(sizes, (Integral, Sequence)):
        raise DTypeError(f"split: sizes is a whole number or a list of them, got {sizes!r}")
    if isinstance(sizes, Integral):
        if sizes < 0 or (not sizes and length):
            raise ShapeError(f"split: parts of {sizes} entries cannot make up an axis of length {length}")
        starts = range(0, length, int(sizes) or 1)
        lengths = tuple(min(int(sizes), length - start) for start in starts) or (0,)
    else:
        lengths = tuple(sizes)
        if min(lengths, default=0) < 0 or sum(lengths) != length:
            raise ShapeError(
                f"split: parts of {lengths} entries do not make up axis {axis} of shape {x.shape}; "
                f"lengths are at least 0 and add up to {length}"
            )
    return tuple(_cut(x, axis=place, sizes=lengths, dropped=False)) if lengths else ()


@linear(x=lambda xp, v, x_dtype: v.astype(x_dtype))
def _astype(xp: Any, x: Any, /, *, dtype: Any) -> Any:
    return x.astype(dtype)


def astype(x: Any, dtype: Any, /, *, copy: bool = True, device: str | None = None) -> Tensor:
    """The same values in another dtype, on another device if one is given. Without `copy`, x itself where it
    has the dtype already.
    """
    x, dtype = x if isinstance(x, Tensor) else Tensor(x), backend.real_dtype(dtype)
    if copy or x.dtype != dtype:
        x = _astype(x, dtype=dtype)
    return x if device is None else to_device(x, device)


@linear(x=lambda xp, v, source: _moved(v, source))
def _to_device(xp: Any, x: Any, /, *, device: str, source: str) -> Any:
    return backend.asarray(x, device=device)


def _moved(v: Any, device: str) -> Any:
    return to_device(v, device) if isinstance(v, Tensor) else backend.asarray(v, device=device)


def to_device(x: Any, /, device: str) -> Tensor:
    """The same values on another device. Its transpose moves the gradient back."""
    device = str(device)  # another library's object is refused by its name
    return x if x.device == device else _to_device(x, device=device, source=x.device)
