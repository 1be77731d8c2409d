"""Array namespaces: the one place that knows which library holds the numbers.

The engine never names an array library. It asks `namespace(array)` and gets an object whose attributes are
the functions of the Python array API standard, plus the few that the standard lacks (`erf`, `scatter_add`,
...), for the kind of array in hand. NumPy is always there; CuPy arrays bring theirs in with them; other
libraries join through `register`.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy

from minigrad.backend_linalg import HostLinearAlgebra, LinearAlgebra
from minigrad.backend_selecting import HostSelecting, Selecting
from minigrad.backend_special import HOST_SPECIAL, Special
from minigrad.backend_windows import Windows
from minigrad.errors import DeviceError, DTypeError

Array = Any  # a raw array of any registered library

float16, float32, float64 = numpy.dtype("float16"), numpy.dtype("float32"), numpy.dtype("float64")
int8, int16, int32, int64 = (numpy.dtype(name) for name in ("int8", "int16", "int32", "int64"))
uint8, uint16, uint32, uint64 = (numpy.dtype(name) for name in ("uint8", "uint16", "uint32", "uint64"))
boolean = numpy.dtype("bool")


def no_arrays(index: Any) -> bool:
    """Whether an index is of numbers, slices, None and Ellipsis only: whether it names no place twice."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(part is None or part is Ellipsis or isinstance(part, (int, slice)) for part in parts)


class Namespace(Windows, Special, LinearAlgebra, Selecting):
    """The functions of one array library. What a library lacks is added by a subclass; the rest is handed on.

    `blocked` says whether hand-written kernels should work through a large array in pieces that stay in a
    processor's cache (NumPy) or in one go (GPUs); `leaves_out` whether attention takes queries in blocks and
    leaves out the keys that none of a block sees, which decides what is kept; `in_place` whether they can be
    used at all, since they write with `out=`.
    """

    name = "abstract"
    blocked = False
    leaves_out = False
    in_place = True
    kernels: Any = None  # fast paths as one kernel each, where the library can compile them
    array_type: type

    def __init__(self, module: Any) -> None:
        self.module = module

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.module, name)
        setattr(self, name, value)  # the next read finds it without asking again
        return value

    def unindex(self, values: Array, *, index: Any, shape: tuple[int, ...]) -> Array:
        """Add `values` into `zeros(shape)[index]`: the transpose of reading by index, right for repeated
        entries too.
        """
        if no_arrays(index):
            out = self.zeros(shape, dtype=values.dtype)
            out[index] = values
            return out
        size = math.prod(shape)
        places = self.reshape(self.arange(size), shape)[index]
        out = self.add_at(self.reshape(values, (-1, 1)), self.reshape(places, (-1,)), size)
        return self.reshape(out, shape)

    def device(self, array: Array) -> str:
        """The name of the device that an array lies on."""
        return "cpu"

    def on(self, device: str) -> Any:
        """A context in which new arrays are made on `device`, one of this library's."""
        return nullcontext()

    def use(self, device: str) -> None:
        """Make `device` the one on which this thread computes from now on (of several GPUs, which one)."""

    def to_host(self, array: Array) -> numpy.ndarray:
        return numpy.asarray(array)

    def from_host(self, array: numpy.ndarray, *, device: str = "") -> Array:
        return array


class NumpyNamespace(HostLinearAlgebra, HostSelecting, Namespace):
    """NumPy, with SciPy's special functions."""

    name = "numpy"
    blocked = True
    leaves_out = True
    array_type = numpy.ndarray

    def __init__(self) -> None:
        super().__init__(numpy)
        self.take_special(HOST_SPECIAL)

    def matmul(self, x: Array, y: Array, *, out: Array | None = None) -> Array:
        made = numpy.matmul(x, y, out=out)
        if made.dtype is x.dtype or out is not None:
            return made
        return made.astype(numpy.result_type(x, y), copy=False)  # float32, of bfloat16

    def vecdot(self, x: Array, y: Array) -> Array:
        made = numpy.vecdot(x, y)
        return made if made.dtype is x.dtype else made.astype(numpy.result_type(x, y), copy=False)


_namespaces: dict[type, Namespace] = {}
_loaders: dict[str, Callable[[], Namespace]] = {}


def register(namespace: Namespace) -> None:
    """Make the engine accept arrays of `namespace.array_type`."""
    _namespaces[namespace.array_type] = namespace


register(NumpyNamespace())
host: Namespace = _namespaces[numpy.ndarray]
_namespaces[numpy.generic] = host  # what NumPy makes of 0-d results inside a rule


def gpu() -> Namespace:
    """Return the CuPy namespace, importing CuPy on first use. Raises DeviceError where there is no usable
    GPU.
    """
    if "gpu" not in _devices:
        _devices["gpu"] = importlib.import_module("minigrad.backend_cupy").load()
        register(_devices["gpu"])
    return _devices["gpu"]


_devices: dict[str, Namespace] = {"cpu": host}


def namespace(array: Array) -> Namespace:
    """Return the namespace of an array. Raises DTypeError for what is no array of a registered library."""
    found = _namespaces.get(type(array))
    if found is not None:
        return found
    for kind in type(array).__mro__:
        if kind in _namespaces:
            return _namespaces[kind]
    if type(array).__module__.partition(".")[0] == "cupy":
        return gpu()
    raise DTypeError(
        f"expected an array that minigrad knows, got {type(array).__name__}; "
        "make a tensor of it with mg.tensor(...) first"
    )


def is_array(value: Any) -> bool:
    """Whether `value` is an array of a registered library (and not one of NumPy's scalars)."""
    return type(value) in _namespaces and not isinstance(value, numpy.generic)


def of_device(device: str) -> Namespace:
    """Return the namespace that makes arrays on `device`: "cpu", "gpu", "gpu:3", or "shapes" (no values)."""
    kind = device.partition(":")[0]
    if kind == "gpu":
        return gpu()
    if kind == "shapes" and kind not in _devices:
        _devices[kind] = importlib.import_module("minigrad.backend_shapes").ShapeNamespace()
        register(_devices[kind])
    if kind in _devices:
        return _devices[kind]
    raise DeviceError(f'unknown device {device!r}; expected "cpu", "gpu", "gpu:N" or "shapes"')


def asarray(data: Any, *, dtype: Any = None, device: str | None = None) -> Array:
    """Make a raw array of `data` (numbers, nested lists, any array), on `device` or where the data is now."""
    kind = type(data)
    if kind is numpy.ndarray or (kind not in _namespaces and kind.__module__.partition(".")[0] != "cupy"):
        data = numpy.asarray(data)
        if not data.dtype.isnative:
            data = data.astype(data.dtype.newbyteorder("="))
    source = namespace(data)
    real_dtype(data.dtype)
    dtype = dtype if dtype is None else real_dtype(dtype)
    target = source if device is None else of_device(device)
    if target is not source or (device is not None and source.device(data) != device and ":" in device):
        data = target.from_host(source.to_host(data), device=device or "")
    return data if dtype is None else target.asarray(data, dtype=dtype)


def real_dtype(dtype: Any) -> Any:
    """`dtype` as an object. Raises DTypeError for all but real numbers and booleans."""
    if isinstance(dtype, str) and dtype == "bfloat16":
        return bfloat16()
    try:
        found = numpy.dtype(dtype)
    except TypeError as error:
        raise DTypeError(f"there is no dtype {dtype!r}; expected a name such as 'float32'") from error
    if found.kind not in "fiub" and found.name != "bfloat16":
        hint = "; complex numbers are left out for now" if found.kind == "c" else ""
        raise DTypeError(f"expected real numbers or booleans, got data of type {found}{hint}")
    return found if found.isnative else found.newbyteorder("=")


def bfloat16() -> Any:
    """The dtype of that name, which ml_dtypes brings. Raises DTypeError where that is not installed."""
    try:
        return numpy.dtype(importlib.import_module("ml_dtypes").bfloat16)
    except ImportError as error:
        raise DTypeError("bfloat16 comes with ml_dtypes, which is missing: pip install ml_dtypes") from error


def holds_python_floats(data: Any) -> bool:
    """Whether `data` is a Python float, or nested lists with one among them, or with nothing in them. NumPy's
    keep their dtype.
    """
    if type(data) is float:
        return True
    return isinstance(data, (list, tuple)) and (not data or any(map(holds_python_floats, data)))


deterministic = False


def use_deterministic(enabled: bool = True) -> None:
    """Ask every GPU of this process for the same bits in every run, at some cost in time.

    What it changes is the scatter-add of large tables (the gradient of an embedding, or of reading by index
    arrays): CuPy adds atomically, in any order. Everything else, and the host, is deterministic anyway.
    """
    global deterministic
    deterministic = enabled


def mixed(*arrays: Array) -> DeviceError:
    """The error for arrays of different libraries in one operation."""
    places = " and ".join(dict.fromkeys(namespace(array).device(array) for array in arrays))
    return DeviceError(f"one operation got arrays on {places}; move them together first, as in x.to('cpu')")


_constants: dict[tuple[Any, ...], Array] = {}


def constant(value: float, like: Array) -> Array:
    """A 0-d array of a Python number, in the dtype it takes beside the array `like` (NEP 50's weak
    promotion).

    NumPy computes with a 0-d array twice as fast as with a Python float, so the usual ones are kept. Never
    0.0, which hashes like -0.0.
    """
    dtype = like.dtype
    if type(value) is float and value != 0.0:
        key = (value, dtype) if type(like) is numpy.ndarray else (value, dtype, namespace(like).device(like))
        found = _constants.get(key)
        if found is not None:
            return found
        made = _constant(value, like)
        if len(_constants) < 1024:
            _constants[key] = made
        return made
    return _constant(value, like)


def _constant(value: float, like: Array) -> Array:
    # NumPy's promotion does not know bfloat16 beside a number; a truth value stays one.
    dtype = like.dtype if like.dtype.kind == "V" else numpy.result_type(like.dtype, value)
    try:
        made = numpy.asarray(value, "bool" if type(value) is bool else dtype)
    except OverflowError:  # beyond the array's integers, where a comparison still has its answer
        made = numpy.asarray(value)
    made.flags.writeable = False
    return (
        made
        if type(like) is numpy.ndarray
        else namespace(like).from_host(made, device=namespace(like).device(like))
    )
