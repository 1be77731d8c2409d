"""Shape-only arrays: shape and dtype without data. Computing with them costs nothing and counts everything.

They run the same declarations, rules and fast paths as arrays with values. What an operation would compute
(FLOPs), move (bytes read and written) and hold (bytes of arrays alive, now and at the peak) is booked in the
meter of this thread. So a model's cost is known before it is built, at sizes that no machine here could hold.

A multiplication, addition, comparison or function call on one element counts as one FLOP; a product of (n, k)
and (k, m) matrices as 2nkm; a reduction as one for each element that enters. Views cost nothing and hold
nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partialmethod
from typing import Any

import numpy

from minigrad import backend_shape_rules as rules
from minigrad.backend import Namespace
from minigrad.backend_linalg import ShapeLinearAlgebra
from minigrad.backend_selecting import ShapeSelecting
from minigrad.backend_shape_rules import indexed_shape
from minigrad.backend_windows import Geometry, window_shape
from minigrad.errors import DTypeError, ShapeError
from minigrad.meter import Meter, state


class _Flags:
    c_contiguous = True
    writeable = True


class ShapeArray:
    """An array of which only shape and dtype exist. A view knows the array that would hold its memory
    (`base`); one that was just made, the number that all entries would be (`value`; None: nobody knows); one
    of whole numbers that came from the host, the smallest and the largest of them (`bounds`).
    """

    __slots__ = ("__weakref__", "_meter", "base", "bounds", "dtype", "shape", "value")
    __array_priority__ = 2000
    __array_ufunc__ = None
    device = "shapes"
    flags = _Flags()
    shape: tuple[int, ...]
    dtype: Any
    base: ShapeArray | None

    def __init__(self, shape: Sequence[int], dtype: Any, *, base: ShapeArray | None = None) -> None:
        self.shape = tuple(int(n) for n in shape)
        self.dtype = numpy.dtype(dtype)
        self.base = base if base is None or base.base is None else base.base
        self.value: float | None = None
        self.bounds: tuple[int, int] | None = None
        self._meter: Meter | None = None
        if base is None:
            self._meter = state.meter
            self._meter.hold(self.nbytes)

    def __del__(self) -> None:
        if getattr(self, "_meter", None) is not None:
            self._meter.hold(-self.nbytes)  # type: ignore[union-attr]

    def __repr__(self) -> str:
        return f"ShapeArray(shape={self.shape}, dtype={self.dtype})"

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    @property
    def T(self) -> ShapeArray:
        return ShapeArray(self.shape[::-1], self.dtype, base=self)

    def astype(self, dtype: Any) -> ShapeArray:
        return _made("astype", self.shape, dtype, 0, self)

    def copy(self) -> ShapeArray:
        return _made("copy", self.shape, self.dtype, 0, self)

    def reshape(self, *shape: Any) -> ShapeArray:
        return reshape(self, shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape)

    def view(self) -> ShapeArray:
        return ShapeArray(self.shape, self.dtype, base=self)

    def sum(self, axis: Any = None, keepdims: bool = False) -> ShapeArray:
        return _reduction("sum", self, axis=axis, keepdims=keepdims)

    def _no_value(self, *_: Any) -> Any:
        raise DTypeError(
            f"a shape-only array of shape {self.shape} has no values; this needs one "
            "(a decision on a value, an index by a mask, or a number for the host)"
        )

    item = tolist = __float__ = __int__ = __bool__ = __index__ = __array__ = _no_value

    __hash__ = object.__hash__

    def __neg__(self) -> ShapeArray:
        return _elementwise("negative", self)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> ShapeArray:
        shape, advanced = indexed_shape(self.shape, index)
        if advanced:
            return _made("take", shape, self.dtype, 0)
        return ShapeArray(shape, self.dtype, base=self)

    def __setitem__(self, index: Any, value: Any) -> None:
        shape, _ = indexed_shape(self.shape, index)
        rules.written(_of(value).shape, shape, index)
        whole = self if self.base is None else self.base
        whole.value = whole.bounds = self.bounds = None
        state.meter.compute("write", 0, value)


def _of(x: Any) -> ShapeArray:
    """Any operand as a shape-only array; one made of numbers or an array holds no memory here."""
    if isinstance(x, ShapeArray):
        return x
    array = numpy.asarray(x)
    found = object.__new__(ShapeArray)
    found.shape, found.dtype = array.shape, array.dtype
    found.base = found.value = found.bounds = found._meter = None
    return found


def _made(
    name: str, shape: Sequence[int], dtype: Any, flops: int, *inputs: Any, out: Any = None
) -> ShapeArray:
    """The result of a function: `out` if given (checked), else a new array; booked either way."""
    if out is None:
        out = ShapeArray(shape, dtype)
    elif out.shape != tuple(shape):
        raise ShapeError(f"{name}: the result has shape {tuple(shape)}, and out has {out.shape}")
    (out if out.base is None else out.base).value = None
    state.meter.compute(name, flops, out, *inputs)
    return out


_BOOLEAN = "less less_equal greater greater_equal equal not_equal isfinite isnan isinf"
_COMPARISONS = set(_BOOLEAN.split())


def _sample(array: ShapeArray) -> numpy.ndarray:
    return numpy.empty(0, array.dtype)


def _elementwise(name: str, *inputs: Any, out: Any = None) -> ShapeArray:
    """A function entry by entry. The dtype is NumPy's: it is asked with empty arrays."""
    arrays = [_of(x) for x in inputs]
    shape = numpy.broadcast_shapes(*(a.shape for a in arrays))
    if name in _COMPARISONS:
        dtype = numpy.dtype(bool)
    else:
        samples: list[Any] = [x if isinstance(x, (int, float)) else _sample(_of(x)) for x in inputs]
        dtype = getattr(numpy, name, numpy.tanh)(*samples).dtype
    if out is not None:
        dtype = out.dtype
    return _made(name, shape, dtype, math.prod(shape), *arrays, out=out)


def _reduction(
    name: str, x: Any, *, axis: Any = None, keepdims: bool = False, dtype: Any = None, out: Any = None
) -> ShapeArray:
    shape = rules.reduced(name, x.shape, axis, keepdims)
    if dtype is None:
        dtype = numpy.int64 if name in ("argmax", "argmin") else x.dtype
        if name in ("sum", "prod"):
            dtype = getattr(numpy, name)(numpy.ones(1, x.dtype)).dtype
        elif name in ("any", "all"):
            dtype = numpy.dtype(bool)
    return _made(name, shape, dtype, x.size, x, out=out)


def reshape(x: ShapeArray, shape: int | Sequence[int]) -> ShapeArray:
    """A view in another shape; one length may be -1."""
    view = ShapeArray(rules.reshaped(x.shape, shape), x.dtype, base=x)
    view.bounds = x.bounds
    return view


_UNARY = """negative positive abs sign square sqrt reciprocal exp expm1 log log1p log2 log10 sin cos tan sinh
    cosh tanh asin acos atan asinh acosh atanh floor ceil round trunc isfinite isnan isinf logical_not
    bitwise_invert signbit erf erfc erfinv lgamma digamma sigmoid"""
_BINARY = """add subtract multiply divide pow floor_divide remainder maximum minimum fmax fmin hypot atan2
    logaddexp copysign nextafter less less_equal greater greater_equal equal not_equal logical_and logical_or
    logical_xor bitwise_and bitwise_or bitwise_xor bitwise_left_shift bitwise_right_shift clip"""
_REDUCTIONS = "sum max min prod any all argmax argmin"


class ShapeNamespace(ShapeLinearAlgebra, ShapeSelecting, Namespace):
    """The functions of the array API over shape-only arrays. What would need a value is refused by name."""

    name = "shapes"
    leaves_out = True  # what a processor would hold is counted
    array_type = ShapeArray

    def __init__(self) -> None:
        super().__init__(None)
        for function in f"{_UNARY} {_BINARY}".split():
            setattr(self, function, self._bound(_elementwise, function))
        for function in _REDUCTIONS.split():
            setattr(self, function, self._bound(_reduction, function))
        self.reshape = reshape
        self.uint64 = numpy.uint64

    @staticmethod
    def _bound(kind: Callable[..., ShapeArray], name: str) -> Callable[..., ShapeArray]:
        return lambda *inputs, **keywords: kind(name, *inputs, **keywords)

    def __getattr__(self, name: str) -> Any:
        raise DTypeError(
            f"{name} is not available on shape-only arrays: what it returns may depend on values"
        )

    def polygamma(self, n: int, x: ShapeArray) -> ShapeArray:
        return _elementwise("polygamma", x)

    # ----- Creation -----

    def empty(self, shape: Any, *, dtype: Any = "float64") -> ShapeArray:
        return ShapeArray(rules.lengths(shape), dtype)

    def full(self, shape: Any, value: Any, *, dtype: Any = None) -> ShapeArray:
        made = self.empty(shape, dtype=dtype or numpy.asarray(value).dtype)
        made.value = value
        return made

    zeros, ones = partialmethod(full, value=0.0), partialmethod(full, value=1.0)

    def zeros_like(self, x: ShapeArray, *, dtype: Any = None) -> ShapeArray:
        return ShapeArray(x.shape, dtype or x.dtype)

    ones_like = empty_like = zeros_like

    def arange(
        self, start: float, stop: float | None = None, step: float = 1, *, dtype: Any = "int64"
    ) -> ShapeArray:
        first, last = (0, start) if stop is None else (start, stop)
        return ShapeArray((max(0, math.ceil((last - first) / step)),), dtype)

    def eye(self, n: int, *, dtype: Any = "float64") -> ShapeArray:
        return ShapeArray(rules.lengths((n, n)), dtype)

    def asarray(self, x: Any, *, dtype: Any = None, copy: bool | None = None) -> ShapeArray:
        found = _of(x)
        if copy or (dtype is not None and found.dtype != numpy.dtype(dtype)):
            return _made("copy", found.shape, dtype or found.dtype, 0, found)
        return found

    # ----- Shapes -----

    def permute_dims(self, x: ShapeArray, axes: Sequence[int]) -> ShapeArray:
        return ShapeArray(rules.permuted(x.shape, axes), x.dtype, base=x)

    def matrix_transpose(self, x: ShapeArray) -> ShapeArray:
        if x.ndim < 2:
            raise ShapeError(f"matrix_transpose needs matrices in the last two axes, and got shape {x.shape}")
        return ShapeArray((*x.shape[:-2], x.shape[-1], x.shape[-2]), x.dtype, base=x)

    def broadcast_to(self, x: Any, shape: Sequence[int]) -> ShapeArray:
        found = _of(x)
        if numpy.broadcast_shapes(found.shape, tuple(shape)) != tuple(shape):
            raise ShapeError(f"cannot broadcast {found.shape} to {tuple(shape)}")
        view = ShapeArray(shape, found.dtype, base=found)
        view.bounds = found.bounds
        return view

    def concat(self, arrays: Sequence[ShapeArray], axis: int = 0) -> ShapeArray:
        shape = rules.joined([a.shape for a in arrays], axis)
        return _made("concat", shape, numpy.result_type(*(a.dtype for a in arrays)), 0, *arrays)

    def stack(self, arrays: Sequence[ShapeArray], axis: int = 0) -> ShapeArray:
        shape = rules.stacked([a.shape for a in arrays], axis)
        return _made("stack", shape, numpy.result_type(*(a.dtype for a in arrays)), 0, *arrays)

    # ----- Products, choices, indices -----

    def matmul(self, x: ShapeArray, y: ShapeArray, *, out: Any = None) -> ShapeArray:
        if x.ndim < 2 or not y.ndim or x.shape[-1] != y.shape[max(y.ndim - 2, 0)]:
            raise ShapeError(f"matmul: {x.shape} @ {y.shape} do not fit")
        lead = numpy.broadcast_shapes(x.shape[:-2], y.shape[:-2])
        shape = (*lead, x.shape[-2], *y.shape[1:][-1:])
        flops = 2 * math.prod(shape) * x.shape[-1]
        return _made("matmul", shape, numpy.result_type(x.dtype, y.dtype), flops, x, y, out=out)

    def vecdot(self, x: ShapeArray, y: ShapeArray) -> ShapeArray:
        shape = rules.paired_vectors(x.shape, y.shape)
        flops = 2 * math.prod(shape) * x.shape[-1]
        return _made("vecdot", shape, numpy.result_type(x.dtype, y.dtype), flops, x, y)

    def where(self, condition: Any, x: Any, y: Any) -> ShapeArray:
        arrays = [_of(a) for a in (condition, x, y)]
        shape = numpy.broadcast_shapes(*(a.shape for a in arrays))
        dtype = numpy.result_type(*(a if isinstance(a, (int, float)) else _of(a).dtype for a in (x, y)))
        return _made("where", shape, dtype, math.prod(shape), *arrays)

    def take(self, x: ShapeArray, indices: Any, *, axis: int = 0) -> ShapeArray:
        at = rules.place(axis, x.ndim)
        if 0 not in x.shape[:at]:
            rules.within(rules.extent(indices), x.shape[at], at, x.shape)
        return _made("take", (*x.shape[:at], *_of(indices).shape, *x.shape[at + 1 :]), x.dtype, 0)

    def take_along_axis(self, x: ShapeArray, indices: Any, *, axis: int) -> Any:
        if 0 not in indices.shape:
            rules.within(rules.extent(indices), x.shape[axis], axis, x.shape)
        return super().take_along_axis(x, indices, axis=axis)

    def scatter_along_axis(self, values: Any, indices: Any, *, axis: int, length: int) -> Any:
        result = super().scatter_along_axis(values, indices, axis=axis, length=length)
        rules.within(rules.extent(indices), length, axis, result.shape)
        return result

    def scatter_add(self, values: Any, indices: Any, rows: int) -> Any:
        result = super().scatter_add(values, indices, rows)
        rules.within(rules.extent(indices), rows, 0, result.shape)
        return result

    def unindex(self, values: ShapeArray, *, index: Any, shape: tuple[int, ...]) -> ShapeArray:
        rules.written(values.shape, indexed_shape(shape, index)[0])
        return _made("unindex", shape, values.dtype, values.size, values)

    def cut_windows(self, x: ShapeArray, geometry: Geometry) -> ShapeArray:
        return ShapeArray(window_shape(x.shape, geometry), x.dtype, base=x)

    # ----- Places -----

    def device(self, array: Any) -> str:
        return "shapes"

    def to_host(self, array: ShapeArray) -> numpy.ndarray:
        return array._no_value()

    def from_host(self, array: numpy.ndarray, *, device: str = "") -> ShapeArray:
        found = ShapeArray(array.shape, array.dtype) if array.ndim else _of(array)
        found.bounds = rules.extent(array)
        return found


def _operator(name: str, *, reflected: bool = False) -> Any:
    def apply(self: ShapeArray, other: Any) -> ShapeArray:
        return _elementwise(name, other, self) if reflected else _elementwise(name, self, other)

    return apply


def _in_place(name: str) -> Any:
    def apply(self: ShapeArray, other: Any) -> ShapeArray:
        return _elementwise(name, self, other, out=self)

    return apply


_SYMBOLS = {"add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide", "pow": "pow"}
for _symbol, _name in _SYMBOLS.items():
    setattr(ShapeArray, f"__{_symbol}__", _operator(_name))
    setattr(ShapeArray, f"__r{_symbol}__", _operator(_name, reflected=True))
    setattr(ShapeArray, f"__i{_symbol}__", _in_place(_name))
for _symbol, _name in zip(["lt", "le", "gt", "ge", "eq", "ne"], _BOOLEAN.split(), strict=False):
    setattr(ShapeArray, f"__{_symbol}__", _operator(_name))
