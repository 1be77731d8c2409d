"""New tensors from shapes: the array API's creation functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minigrad import backend
from minigrad.graph import state
from minigrad.tensor import Tensor


def _make(name: str, *arguments: Any, dtype: Any, device: str | None) -> Tensor:
    xp = backend.of_device(device or "cpu")
    with xp.on(device or "cpu"):
        return Tensor.of(getattr(xp, name)(*arguments, dtype=dtype or state.default_dtype))


def tensor(data: Any, *, dtype: Any = None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """Make a Tensor of numbers, nested lists or an array.

    Python floats become the default dtype (float32); arrays keep theirs and share their memory where they
    can.

    >>> import minigrad as mg
    >>> x = mg.tensor([1.0, 2.0], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> x.grad
    tensor([2., 4.], dtype=float32)
    """
    return Tensor(data, dtype=dtype, device=device, requires_grad=requires_grad)


def zeros(shape: int | Sequence[int], *, dtype: Any = None, device: str | None = None) -> Tensor:
    """A tensor of zeros."""
    return _make("zeros", shape, dtype=dtype, device=device)


def ones(shape: int | Sequence[int], *, dtype: Any = None, device: str | None = None) -> Tensor:
    """A tensor of ones."""
    return _make("ones", shape, dtype=dtype, device=device)


def full(shape: int | Sequence[int], value: float, *, dtype: Any = None, device: str | None = None) -> Tensor:
    """A tensor filled with one value."""
    return _make("full", shape, value, dtype=dtype, device=device)


def arange(
    start: int, stop: int | None = None, step: int = 1, *, dtype: Any = "int64", device: str | None = None
) -> Tensor:
    """Evenly spaced numbers: start, start + step, ... below stop; from 0 if only one bound is given."""
    bounds = (0, start) if stop is None else (start, stop)
    return _make("arange", *bounds, step, dtype=dtype, device=device)


def asarray(data: Any, *, dtype: Any = None, device: str | None = None, copy: bool | None = None) -> Tensor:
    """Make a Tensor of `data` (a Tensor stays in its graph)."""
    if isinstance(data, Tensor) and dtype is None and device is None and not copy:
        return data
    result = Tensor(data, dtype=dtype, device=device)
    return Tensor.of(backend.namespace(result.data).asarray(result.data, copy=True)) if copy else result


def zeros_like(x: Any, /, *, dtype: Any = None) -> Tensor:
    """Zeros in the shape, dtype and place of x."""
    array = x.data if isinstance(x, Tensor) else backend.asarray(x)
    return Tensor.of(backend.namespace(array).zeros_like(array, dtype=dtype))


def ones_like(x: Any, /, *, dtype: Any = None) -> Tensor:
    """Ones in the shape, dtype and place of x."""
    array = x.data if isinstance(x, Tensor) else backend.asarray(x)
    return Tensor.of(backend.namespace(array).ones_like(array, dtype=dtype))
