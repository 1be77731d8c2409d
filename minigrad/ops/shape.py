"""Moving data without changing it: shapes, joins, casts, transfers. All linear, so only transposes are
written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minigrad import backend
from minigrad.errors import ShapeError
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


@linear(x=lambda xp, v, x_shape: xp.reshape(v, x_shape))
def _reshape(xp: Any, x: Any, /, *, shape: tuple[int, ...]) -> Any:
    return xp.reshape(x, shape)


def reshape(x: Any, /, shape: Sequence[int]) -> Tensor:
    """The same entries in another shape; one length may be -1."""
    return _reshape(x, shape=tuple(shape))


@linear(x=lambda xp, v, axes: xp.permute_dims(v, _inverse(axes)))
def _permute_dims(xp: Any, x: Any, /, *, axes: tuple[int, ...]) -> Any:
    return xp.permute_dims(x, axes)


def _inverse(axes: tuple[int, ...]) -> tuple[int, ...]:
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


def expand_dims(x: Any, /, *, axis: int = 0) -> Tensor:
    """Insert an axis of length 1."""
    x = x if isinstance(x, Tensor) else Tensor(x)
    place = axis + x.ndim + 1 if axis < 0 else axis
    if not 0 <= place <= x.ndim:
        raise ShapeError(
            f"cannot insert axis {axis} into shape {x.shape}; expected {-x.ndim - 1} to {x.ndim}"
        )
    return reshape(x, (*x.shape[:place], 1, *x.shape[place:]))


def squeeze(x: Any, /, axis: int | tuple[int, ...]) -> Tensor:
    """Remove axes of length 1."""
    x = x if isinstance(x, Tensor) else Tensor(x)
    axes = {_place(a, x.ndim) for a in (axis if isinstance(axis, tuple) else (axis,))}
    if any(x.shape[a] != 1 for a in axes):
        raise ShapeError(f"cannot squeeze axis {axis} of shape {x.shape}: its length is not 1")
    return reshape(x, tuple(n for i, n in enumerate(x.shape) if i not in axes))


def _place(axis: int, ndim: int) -> int:
    """The axis counted from the front. Raises ShapeError where there is no such axis."""
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


def _push_concat(xp: Any, tangents: Any, arrays_shape: Any, arrays_dtype: Any, axis: int) -> Any:
    filled = [
        xp.zeros(shape, dtype=dtype) if t is None else t
        for t, shape, dtype in zip(tangents, arrays_shape, arrays_dtype, strict=True)
    ]
    return xp.concat(filled, axis=axis)


@general(pull=_pull_concat, push=_push_concat)
def _concat(xp: Any, /, *arrays: Any, axis: int = 0) -> Any:
    return xp.concat(arrays, axis=axis)


def concat(arrays: Sequence[Any], /, *, axis: int = 0) -> Tensor:
    """Join arrays along an existing axis."""
    return _concat(*arrays, axis=axis)


def stack(arrays: Sequence[Any], /, *, axis: int = 0) -> Tensor:
    """Join arrays of equal shape along a new axis."""
    return _concat(*(expand_dims(array, axis=axis) for array in arrays), axis=axis)


def split(x: Any, /, sections: int, *, axis: int = 0) -> tuple[Tensor, ...]:
    """Cut x into `sections` equal parts along `axis`, each a view."""
    x = x if isinstance(x, Tensor) else Tensor(x)
    place = _place(axis, x.ndim)
    length = x.shape[place]
    if sections < 1 or length % sections:
        raise ShapeError(f"cannot split an axis of length {length} into {sections} equal parts")
    step, before = length // sections, (slice(None),) * place
    return tuple(x[(*before, slice(start, start + step))] for start in range(0, length, step))


@linear(x=lambda xp, v, x_dtype: v.astype(x_dtype))
def _astype(xp: Any, x: Any, /, *, dtype: Any) -> Any:
    return x.astype(dtype)


def astype(x: Any, /, dtype: Any) -> Tensor:
    """The same values in another dtype."""
    return _astype(x, dtype=backend.numpy.dtype(dtype))


@linear(x=lambda xp, v, source: _moved(v, source))
def _to_device(xp: Any, x: Any, /, *, device: str, source: str) -> Any:
    return backend.asarray(x, device=device)


def _moved(v: Any, device: str) -> Any:
    return to_device(v, device) if isinstance(v, Tensor) else backend.asarray(v, device=device)


def to_device(x: Any, /, device: str) -> Tensor:
    """The same values on another device. Its transpose moves the gradient back."""
    return x if x.device == device else _to_device(x, device=device, source=x.device)
