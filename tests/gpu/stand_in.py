"""CuPy without a GPU: arrays in a memory that NumPy cannot reach, under CuPy's names, with CuPy's refusals.

The values lie in NumPy arrays, but nobody gets at them except by what CuPy offers. Host arrays in an
operation, arrays of another device than the current one, an implicit conversion to NumPy, and functions or
attributes that CuPy 13 lacks are errors, as there. What asks for a value (and so waits for the device) is
counted, and so is what runs there. `installed()` puts the stand-in where CuPy would be.
"""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import scipy.special

from minigrad import backend
from tests.gpu.device_array import Counts, Device, DeviceArray, launched, moved, words

LACKING = words(
    "acos acosh asin asinh astype atan atan2 atanh bitwise_count bitwise_invert bitwise_left_shift "
    "bitwise_right_shift block concat cumulative_prod cumulative_sum einsum_path frompyfunc geomspace insert "
    "isdtype matrix_transpose matvec nested_iters permute_dims pow put_along_axis spacing trapezoid "
    "unique_all unique_counts unique_inverse unique_values unstack vecdot vecmat"
)
"""Functions of NumPy that CuPy 13 does not have."""

LACKING_LINALG = words(
    "cond cross diagonal eig eigvals matmul matrix_norm matrix_transpose multi_dot outer svdvals tensordot "
    "trace vecdot vector_norm"
)
UFUNC_METHODS = {
    "add": words("accumulate at outer reduce reduceat"),
    "multiply": words("accumulate outer reduce"),
}
"""What CuPy's ufuncs have beside the call, of what this project could want."""
KEYWORDS_LACKING = words("where initial mode like device stable")
"""Keywords that some of NumPy's functions take, and CuPy's do not."""
ATOMIC = words("int32 uint32 uint64 float16 float32 float64")
"""What `cupy.add.at` adds up."""


class Ufunc:
    """A universal function: called, and with the methods that CuPy gives it."""

    def __init__(self, ufunc: np.ufunc) -> None:
        self.ufunc, self.__name__ = ufunc, ufunc.__name__

    def __call__(self, *arrays: Any, out: Any = None, **keywords: Any) -> Any:
        assert set(keywords) <= {"dtype", "casting"}, keywords
        out = out[0] if isinstance(out, tuple) else out
        return launched(self.ufunc, arrays, keywords if out is None else {**keywords, "out": out})

    def _at(self, x: DeviceArray, index: Any, y: Any) -> None:
        if x.dtype.name not in ATOMIC:
            raise TypeError(f"scatter_add only supports {ATOMIC} as data type, not {x.dtype} (the stand-in)")
        launched(self.ufunc.at, (x, moved(index), y), {})

    def __getattr__(self, name: str) -> Any:
        if name not in UFUNC_METHODS.get(self.__name__, ()):
            raise AttributeError(f"cupy.{self.__name__} has no {name} (the stand-in)")
        if name == "at":
            return self._at
        return lambda *a, **k: launched(getattr(self.ufunc, name), a, k)


class ElementwiseKernel:
    """CuPy's compiler, for the C that minigrad writes: its statements are run as NumPy's."""

    FUNCTIONS: dict[str, Any] = {"erf": scipy.special.erf, "exp": np.exp, "tanh": np.tanh}  # noqa: RUF012

    def __init__(self, inputs: str, outputs: str, code: str, name: str) -> None:
        self.inputs, self.outputs = ([p.split() for p in part.split(", ")] for part in (inputs, outputs))
        code = re.sub(r"\b(long long|T) (?=\w+ =)", "", code)
        loop = r"for \((?:long long )?(\w+) = ([^;]+); \1 < ([^;]+); \+\+\1\) "
        code = re.sub(loop, r"for \1 in range(\2, \3): ", code)
        if inputs.startswith("raw"):  # an entry at a time, in whole numbers
            code = code.replace("/", "//")
        self.name = name
        self.code = compile("\n".join(line.strip() for line in code.split(";")), name, "exec")

    def __call__(self, *arrays: Any) -> Any:
        return launched(self._run, arrays, {})

    def _run(self, *arrays: Any) -> Any:
        given, out = arrays[: len(self.inputs)], arrays[len(self.inputs) :]
        kinds = {"T": set[np.dtype]()}
        for (*_, kind, name), array in zip(self.inputs, given, strict=True):
            if isinstance(array, np.ndarray):
                kinds.setdefault(kind, {np.dtype(kind) if kind != "T" else array.dtype}).add(array.dtype)
                assert len(kinds[kind]) == 1, f"{self.name}: {kind} {name} got {kinds[kind]}"
        (dtype,) = kinds["T"]
        known = {
            "T": dtype.type,
            **self.FUNCTIONS,
            **dict(zip([p[-1] for p in self.inputs], given, strict=True)),
        }
        if out:
            return self._entry_by_entry(known, *out)
        exec(self.code, known)  # noqa: S102  # our own kernels
        results = tuple(np.asarray(known[name]).astype(dtype) for _, name in self.outputs)
        return results if len(results) > 1 else results[0]

    def _entry_by_entry(self, known: dict[str, Any], out: np.ndarray) -> np.ndarray:
        known = {name: x.reshape(-1) if isinstance(x, np.ndarray) else x for name, x in known.items()}
        for i in range(out.size):
            place: dict[str, Any] = {}
            exec(self.code, known | {"i": i}, place)  # noqa: S102
            out.reshape(-1)[i] = place["out"]
        return out


class Module:
    """The module `cupy`, or one of its parts, as far as it exists."""

    def __init__(self, module: Any, lacking: set[str], **own: Any) -> None:
        self.__dict__.update(own)
        self._module, self._lacking = module, lacking

    def __getattr__(self, name: str) -> Any:
        if name in self._lacking or name.startswith("_"):
            raise AttributeError(f"cupy has no {name!r} (the stand-in)")
        found = getattr(self._module, name)
        if isinstance(found, np.ufunc) and self._module is np:
            found = Ufunc(found)
        elif callable(found) and not isinstance(found, type):
            function = found

            def found(*arguments: Any, **keywords: Any) -> Any:
                if KEYWORDS_LACKING & set(keywords) and name != "qr":
                    raise TypeError(f"{name} got an unexpected keyword among {set(keywords)} (the stand-in)")
                return launched(function, arguments, keywords)

        setattr(self, name, found)
        return found


def _array(x: Any, dtype: Any = None, copy: bool = True) -> DeviceArray:
    if isinstance(x, DeviceArray):
        return x.astype(dtype or x.dtype)
    if isinstance(x, (list, tuple)) and any(isinstance(part, DeviceArray) for part in x):
        return MODULE.stack([MODULE.asarray(part) for part in x])
    return DeviceArray(np.array(x, dtype=dtype))  # always a copy: it crosses the bus


def _asarray(x: Any, dtype: Any = None) -> DeviceArray:
    if isinstance(x, DeviceArray) and dtype in (None, x.dtype):
        return x
    return _array(x, dtype)


def _matmul(x: Any, y: Any) -> Any:  # its `out` came late
    return launched(np.matmul, (x, y), {})


def _sign(x: Any) -> Any:  # of NaN it is 0
    return launched(lambda m: np.nan_to_num(np.sign(m)), (x,), {})


def _empty_pinned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    assert np.prod(shape) > 0, "no memory is pinned for nothing"
    return np.full(shape, 99, dtype)


def _as_strided(x: DeviceArray, shape: Any = None, strides: Any = None) -> Any:
    found = launched(lambda m: np.lib.stride_tricks.as_strided(m, shape, strides), (x,), {})
    return DeviceArray(found.memory)  # not known as a view of x


def _synchronize() -> None:
    """What was asked for is done here at once."""


MODULE = Module(
    np,
    LACKING,
    ndarray=DeviceArray,
    ElementwiseKernel=ElementwiseKernel,
    array=_array,
    asarray=_asarray,
    asnumpy=lambda x: x.get(),
    matmul=_matmul,
    sign=_sign,
    linalg=Module(np.linalg, LACKING_LINALG),
    lib=types.SimpleNamespace(stride_tricks=types.SimpleNamespace(as_strided=_as_strided)),
    cuda=types.SimpleNamespace(
        runtime=types.SimpleNamespace(getDeviceCount=lambda: Device.count),
        Device=Device,
        get_current_stream=lambda: types.SimpleNamespace(synchronize=_synchronize),
    ),
)
SPECIAL = Module(scipy.special, set())


def put(modules: dict[str, Any]) -> None:
    """Put the stand-in where `import cupy` finds it."""
    cupyx = types.ModuleType("cupyx")
    cupyx.empty_pinned = _empty_pinned  # type: ignore[attr-defined]
    modules |= {"cupy": MODULE, "cupyx": cupyx, "cupyx.scipy": types.ModuleType("cupyx.scipy")}
    modules["cupyx.scipy.special"] = SPECIAL


@contextmanager
def installed(devices: int = 1) -> Iterator[type[Counts]]:
    """Let `cupy` be the stand-in, with so many devices, for the length of a `with` block."""
    modules: dict[str, Any] = {}
    put(modules)
    kept = {name: place for name, place in backend._devices.items() if name != "gpu"}
    namespaces = {kind: own for kind, own in backend._namespaces.items() if own.name != "cupy"}
    with (
        mock.patch.dict(sys.modules, modules),
        mock.patch.object(backend, "_devices", kept),
        mock.patch.object(backend, "_namespaces", namespaces),
        mock.patch.object(backend, "_constants", {}),
        mock.patch.object(Device, "count", devices),
        mock.patch.multiple(Counts, kernels=0, waits=0, copies_to_host=0, devices=set()),
    ):
        Device(0).use()
        yield Counts
