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

from minigrad.backend import Namespace
from minigrad.backend_linalg import ShapeLinearAlgebra
from minigrad.backend_selecting import ShapeSelecting
from minigrad.backend_windows import Geometry, window_shape
from minigrad.errors import DTypeError, ShapeError
from minigrad.meter import Meter, state


class _Flags:
    c_contiguous = True
    writeable = True


class ShapeArray:
    """An array of which only shape and dtype exist. A view knows the array that would hold its memory
    (`base`); one that was just made, the number that all entries would be (`value`; None: nobody knows).
    """

    __slots__ = ("__weakref__", "_meter", "base", "dtype", "shape", "value")
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
        self._meter: Meter | None = None
        if base is None:
            self._meter = state.meter
            self._meter.hold(self.nbytes)

    def __del__(self) -> None:
        if getattr(self, "_meter", None) is not None:
            self._meter.hold(-self.nbytes)  # type: ignore[union-attr]

    def __repr__(self) -> str:
        return f"ShapeArray({self.shape}, {self.dtype})"

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
        if isinstance(value, ShapeArray) and numpy.broadcast_shapes(value.shape, shape) != shape:
            raise ShapeError(f"cannot write shape {value.shape} into {shape}")
        (self if self.base is None else self.base).value = None
        state.meter.compute("write", 0, value)


def _of(x: Any) -> ShapeArray:
    """Any operand as a shape-only array; one made of numbers or an array holds no memory here."""
    if isinstance(x, ShapeArray):
        return x
    array = numpy.asarray(x)
    found = object.__new__(ShapeArray)
    found.shape, found.dtype = array.shape, array.dtype
    found.base = found.value = found._meter = None
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
    axes = (
        range(x.ndim)
        if axis is None
        else [a % x.ndim for a in (axis if isinstance(axis, tuple) else (axis,))]
    )
    kept = [1 if i in axes else n for i, n in enumerate(x.shape)]
    shape = kept if keepdims else [n for i, n in enumerate(kept) if i not in axes]
    if dtype is None:
        dtype = numpy.int64 if name in ("argmax", "argmin") else x.dtype
        if name in ("sum", "prod"):
            dtype = getattr(numpy, name)(numpy.ones(1, x.dtype)).dtype
        elif name in ("any", "all"):
            dtype = numpy.dtype(bool)
    return _made(name, shape, dtype, x.size, x, out=out)


def reshape(x: ShapeArray, shape: int | Sequence[int]) -> ShapeArray:
    """A view in another shape; one length may be -1."""
    wanted = [shape] if isinstance(shape, int) else list(shape)
    if -1 in wanted:
        rest = -math.prod(wanted)
        if not rest or x.size % rest:
            raise ShapeError(f"cannot reshape {x.shape} into {tuple(wanted)}")
        wanted[wanted.index(-1)] = x.size // rest
    if math.prod(wanted) != x.size:
        raise ShapeError(f"cannot reshape {x.shape} into {tuple(wanted)}: {x.size} elements")
    return ShapeArray(wanted, x.dtype, base=x)


def indexed_shape(shape: tuple[int, ...], index: Any) -> tuple[tuple[int, ...], bool]:
    """The shape of x[index] for x of `shape`, by NumPy's rules, and whether it is a copy (by index arrays).

    Raises DTypeError for boolean masks, whose result has a shape that depends on values.
    """
    parts = list(index) if isinstance(index, tuple) else [index]
    copies = any(_is_array(part) for part in parts)
    if any(_of(part).dtype == bool for part in parts if _is_array(part)):
        raise DTypeError(
            "a boolean mask as index gives a shape that depends on values; use where(...) instead"
        )
    given = sum(part is not None and part is not Ellipsis for part in parts)
    if given > len(shape):
        raise ShapeError(f"{given} indices are too many for shape {shape}")
    chosen = [i for i, part in enumerate(parts) if _is_array(part) or isinstance(part, int)]
    together = numpy.broadcast_shapes(*(_of(parts[i]).shape for i in chosen))
    adjacent = chosen == list(range(chosen[0], chosen[-1] + 1)) if chosen else True
    first = parts[chosen[0]] if chosen else None
    place = next((i for i, part in enumerate(parts) if part is Ellipsis), len(parts))
    parts[place : place + 1] = [slice(None)] * (len(shape) - given)
    result: list[int] = []
    axis = 0
    for part in parts:
        if part is None:
            result.append(1)
            continue
        if isinstance(part, slice):
            result.append(len(range(*part.indices(shape[axis]))))
        elif adjacent and part is first:
            result.extend(together)
            first = None
        axis += 1
    return (tuple(result) if adjacent else (*together, *result)), copies


def _is_array(part: Any) -> bool:
    return isinstance(part, (ShapeArray, numpy.ndarray, list))


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
        return ShapeArray((shape,) if isinstance(shape, int) else shape, dtype)

    def full(self, shape: Any, value: Any, *, dtype: Any = None) -> ShapeArray:
        made = self.empty(shape, dtype=dtype or numpy.asarray(value).dtype)
        made.value = value
        return made

    zeros, ones = partialmethod(full, value=0.0), partialmethod(full, value=1.0)

    def zeros_like(self, x: ShapeArray, *, dtype: Any = None) -> ShapeArray:
        return ShapeArray(x.shape, dtype or x.dtype)

    ones_like = empty_like = zeros_like

    def arange(
        self, start: int, stop: int | None = None, step: int = 1, *, dtype: Any = "int64"
    ) -> ShapeArray:
        bounds = range(start) if stop is None else range(start, stop, step)
        return ShapeArray((len(bounds),), dtype)

    def eye(self, n: int, *, dtype: Any = "float64") -> ShapeArray:
        return ShapeArray((n, n), dtype)

    def asarray(self, x: Any, *, dtype: Any = None, copy: bool | None = None) -> ShapeArray:
        found = _of(x)
        if copy or (dtype is not None and found.dtype != numpy.dtype(dtype)):
            return _made("copy", found.shape, dtype or found.dtype, 0, found)
        return found

    # ----- Shapes -----

    def permute_dims(self, x: ShapeArray, axes: Sequence[int]) -> ShapeArray:
        return ShapeArray([x.shape[a] for a in axes], x.dtype, base=x)

    def matrix_transpose(self, x: ShapeArray) -> ShapeArray:
        return ShapeArray((*x.shape[:-2], x.shape[-1], x.shape[-2]), x.dtype, base=x)

    def broadcast_to(self, x: Any, shape: Sequence[int]) -> ShapeArray:
        found = _of(x)
        if numpy.broadcast_shapes(found.shape, tuple(shape)) != tuple(shape):
            raise ShapeError(f"cannot broadcast {found.shape} to {tuple(shape)}")
        return ShapeArray(shape, found.dtype, base=found)

    def concat(self, arrays: Sequence[ShapeArray], axis: int = 0) -> ShapeArray:
        shape = list(arrays[0].shape)
        shape[axis] = sum(a.shape[axis] for a in arrays)
        return _made("concat", shape, numpy.result_type(*(a.dtype for a in arrays)), 0, *arrays)

    def stack(self, arrays: Sequence[ShapeArray], axis: int = 0) -> ShapeArray:
        shape = list(arrays[0].shape)
        shape.insert(axis % (len(shape) + 1), len(arrays))
        return _made("stack", shape, numpy.result_type(*(a.dtype for a in arrays)), 0, *arrays)

    # ----- Products, choices, indices -----

    def matmul(self, x: ShapeArray, y: ShapeArray, *, out: Any = None) -> ShapeArray:
        if x.ndim < 2 or y.ndim < 2 or x.shape[-1] != y.shape[-2]:
            raise ShapeError(f"matmul: {x.shape} @ {y.shape} do not fit")
        lead = numpy.broadcast_shapes(x.shape[:-2], y.shape[:-2])
        shape = (*lead, x.shape[-2], y.shape[-1])
        flops = 2 * math.prod(shape) * x.shape[-1]
        return _made("matmul", shape, numpy.result_type(x.dtype, y.dtype), flops, x, y, out=out)

    def vecdot(self, x: ShapeArray, y: ShapeArray) -> ShapeArray:
        shape = numpy.broadcast_shapes(x.shape, y.shape)
        return _made("vecdot", shape[:-1], numpy.result_type(x.dtype, y.dtype), 2 * math.prod(shape), x, y)

    def where(self, condition: Any, x: Any, y: Any) -> ShapeArray:
        arrays = [_of(a) for a in (condition, x, y)]
        shape = numpy.broadcast_shapes(*(a.shape for a in arrays))
        dtype = numpy.result_type(*(a if isinstance(a, (int, float)) else _of(a).dtype for a in (x, y)))
        return _made("where", shape, dtype, math.prod(shape), *arrays)

    def take(self, x: ShapeArray, indices: Any, *, axis: int = 0) -> ShapeArray:
        return _made("take", (*x.shape[:axis], *_of(indices).shape, *x.shape[axis + 1 :]), x.dtype, 0)

    def unindex(self, values: ShapeArray, *, index: Any, shape: tuple[int, ...]) -> ShapeArray:
        return _made("unindex", shape, values.dtype, values.size, values)

    def cut_windows(self, x: ShapeArray, geometry: Geometry) -> ShapeArray:
        return ShapeArray(window_shape(x.shape, geometry), x.dtype, base=x)

    # ----- Places -----

    def device(self, array: Any) -> str:
        return "shapes"

    def to_host(self, array: ShapeArray) -> numpy.ndarray:
        return array._no_value()

    def from_host(self, array: numpy.ndarray, *, device: str = "") -> ShapeArray:
        return ShapeArray(array.shape, array.dtype) if array.ndim else _of(array)


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
