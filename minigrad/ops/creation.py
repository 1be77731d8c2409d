"""New tensors from shapes: the array API's creation functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minigrad import backend
from minigrad.errors import DTypeError, UsageError
from minigrad.graph import state
from minigrad.tensor import Tensor


def _make(name: str, *arguments: Any, dtype: Any, device: str | None) -> Tensor:
    xp = backend.of_device(device or "cpu")
    with xp.on(device or "cpu"):
        return Tensor.of(
            getattr(xp, name)(*arguments, dtype=backend.real_dtype(dtype or state.default_dtype))
        )


def _natural(*values: Any) -> Any:
    """The dtype of Python numbers: integers and truth values have their own, others the default."""
    if any(isinstance(value, complex) for value in values):
        raise DTypeError(f"expected real numbers, got {values}; complex numbers are left out for now")
    kinds = {type(value) for value in values}
    return backend.boolean if kinds == {bool} else backend.int64 if kinds <= {bool, int} else None


def tensor(data: Any, *, dtype: Any = None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """Make a Tensor of numbers, nested lists or an array.

    Python floats become the default dtype (float32). An array keeps its dtype and, where that and the device
    stay, its memory: unlike torch.tensor this makes no copy. Whoever writes into such an array after a graph
    has read it changes the gradients, and no walk can notice, for an array knows no versions: write with
    `x.assign(...)`, which walks do notice, or give away a copy, `mg.asarray(array, copy=True)`.

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


def empty(shape: int | Sequence[int], *, dtype: Any = None, device: str | None = None) -> Tensor:
    """A tensor whose entries are whatever was in memory: to be overwritten."""
    return _make("empty", shape, dtype=dtype, device=device)


def full(
    shape: int | Sequence[int], fill_value: float, *, dtype: Any = None, device: str | None = None
) -> Tensor:
    """A tensor filled with one value. Whole numbers and truth values keep their type unless `dtype` is
    given.
    """
    natural = _natural(fill_value)
    return _make("full", shape, fill_value, dtype=dtype or natural, device=device)


def arange(
    start: float, stop: float | None = None, step: float = 1, *, dtype: Any = None, device: str | None = None
) -> Tensor:
    """Evenly spaced numbers: start, start + step, ... below stop; from 0 if only one bound is given.

    Of integers they are integers.
    """
    if not step:
        raise UsageError("arange: a step of 0 arrives nowhere")
    bounds = (0, start) if stop is None else (start, stop)
    return _make("arange", *bounds, step, dtype=dtype or _natural(*bounds, step), device=device)


def linspace(
    start: float,
    stop: float,
    /,
    num: int,
    *,
    dtype: Any = None,
    device: str | None = None,
    endpoint: bool = True,
) -> Tensor:
    """`num` evenly spaced numbers from start to stop, which is the last one unless `endpoint` is False."""
    _natural(start, stop)
    if num < 0:
        raise UsageError(f"linspace: num is at least 0, got {num}")
    made = backend.host.linspace(start, stop, num, endpoint=endpoint)
    return Tensor(made, dtype=dtype or state.default_dtype, device=device)


def eye(
    n_rows: int, n_cols: int | None = None, /, *, k: int = 0, dtype: Any = None, device: str | None = None
) -> Tensor:
    """Ones on diagonal k (above the main one if positive) of a matrix, zeros elsewhere."""
    columns = n_rows if n_cols is None else n_cols
    if k == 0 and columns == n_rows:
        return _make("eye", n_rows, dtype=dtype, device=device)
    return Tensor(
        backend.host.eye(n_rows, columns, k=k, dtype=backend.real_dtype(dtype or state.default_dtype)),
        device=device,
    )


def asarray(data: Any, *, dtype: Any = None, device: str | None = None, copy: bool | None = None) -> Tensor:
    """Make a Tensor of `data` (a Tensor stays in its graph)."""
    if isinstance(data, Tensor) and dtype is None and device is None and not copy:
        return data
    result = Tensor(data, dtype=dtype, device=device)
    return Tensor.of(backend.namespace(result.data).asarray(result.data, copy=True)) if copy else result


def _like(name: str, x: Any, dtype: Any, device: str | None) -> Tensor:
    array = x.data if isinstance(x, Tensor) else backend.asarray(x)
    if device is not None:
        return _make(name.removesuffix("_like"), array.shape, dtype=dtype or array.dtype, device=device)
    dtype = None if dtype is None else backend.real_dtype(dtype)
    return Tensor.of(getattr(backend.namespace(array), name)(array, dtype=dtype))


def zeros_like(x: Any, /, *, dtype: Any = None, device: str | None = None) -> Tensor:
    """Zeros in the shape, dtype and place of x."""
    return _like("zeros_like", x, dtype, device)


def ones_like(x: Any, /, *, dtype: Any = None, device: str | None = None) -> Tensor:
    """Ones in the shape, dtype and place of x."""
    return _like("ones_like", x, dtype, device)


def empty_like(x: Any, /, *, dtype: Any = None, device: str | None = None) -> Tensor:
    """A tensor in the shape, dtype and place of x whose entries are to be overwritten."""
    return _like("empty_like", x, dtype, device)


def full_like(x: Any, /, fill_value: float, *, dtype: Any = None, device: str | None = None) -> Tensor:
    """A tensor filled with one value, in the shape, dtype and place of x."""
    x = x if isinstance(x, Tensor) else Tensor(x)
    place = x.device if device is None else device
    return full(x.shape, fill_value, dtype=x.dtype if dtype is None else dtype, device=place)
