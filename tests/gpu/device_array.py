"""Arrays in a memory that NumPy cannot reach: `cupy.ndarray` of the stand-in for CuPy (stand_in.py)."""

from __future__ import annotations

import operator
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np


def words(text: str) -> set[str]:
    return set(text.split())


METHODS = words(
    "all any argmax argmin argpartition argsort astype choose clip compress conj copy cumprod cumsum "
    "diagonal dot fill flatten max mean min nonzero partition prod put ravel repeat reshape round "
    "searchsorted sort squeeze std sum swapaxes take trace transpose var view"
)
OPERATORS = words("add sub mul truediv floordiv mod pow matmul and or xor lshift rshift")
COMPARISONS = words("lt le gt ge eq ne")


class Device:
    """One of the devices, as `cupy.cuda.Device`: current for a thread in a `with` block or after `use`."""

    count = 1
    _current = threading.local()

    def __init__(self, number: int | None = None) -> None:
        self.id = self.current() if number is None else number
        self._before: list[int] = []

    @classmethod
    def current(cls) -> int:
        return getattr(cls._current, "number", 0)

    def use(self) -> None:
        Device._current.number = self.id

    def __enter__(self) -> Device:
        self._before.append(self.current())
        self.use()
        return self

    def __exit__(self, *_: object) -> None:
        Device._current.number = self._before.pop()


class Counts:
    """What happened since the start: kernels that ran, values that were asked for."""

    kernels = 0
    waits = 0
    copies_to_host = 0
    devices: set[int] = set()  # noqa: RUF012  # one for all, on purpose


class DeviceArray:
    """An array on a device: `cupy.ndarray`."""

    __slots__ = ("__weakref__", "base", "device", "memory")
    __array_priority__ = 100
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, memory: np.ndarray, base: DeviceArray | None = None) -> None:
        self.memory, self.base = memory, base
        self.device: Device = Device() if base is None else base.device

    shape = property(lambda self: self.memory.shape)
    ndim = property(lambda self: self.memory.ndim)
    size = property(lambda self: self.memory.size)
    dtype = property(lambda self: self.memory.dtype)
    nbytes = property(lambda self: self.memory.nbytes)
    itemsize = property(lambda self: self.memory.itemsize)
    strides = property(lambda self: self.memory.strides)
    T = property(lambda self: self.transpose())
    data = property(lambda self: types.SimpleNamespace(ptr=self.memory.__array_interface__["data"][0]))
    flags = property(
        lambda self: types.SimpleNamespace(
            c_contiguous=self.memory.flags.c_contiguous,
            f_contiguous=self.memory.flags.f_contiguous,
            owndata=self.memory.flags.owndata,
        )
    )

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed; use .get() (the stand-in)")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **keywords: Any) -> Any:
        from tests.gpu.stand_in import MODULE

        function = getattr(MODULE, ufunc.__name__)
        return (function if method == "__call__" else getattr(function, method))(*inputs, **keywords)

    def __getattr__(self, name: str) -> Any:
        if name not in METHODS:
            raise AttributeError(f"cupy.ndarray has no attribute {name!r} (the stand-in)")
        return lambda *arguments, **keywords: launched(
            getattr(np.ndarray, name), (self, *arguments), keywords
        )

    def __getitem__(self, index: Any) -> Any:
        return launched(operator.getitem, (self, moved(index)), {})

    def __setitem__(self, index: Any, value: Any) -> None:
        index = moved(index)
        if isinstance(value, (np.ndarray, list)):
            parts = index if type(index) is tuple else (index,)
            if isinstance(value, np.ndarray) and value.ndim == 0:
                value = value.item()
            elif any(isinstance(part, DeviceArray) for part in parts):
                value = DeviceArray(np.array(value))
            else:
                raise ValueError("non-scalar numpy.ndarray cannot be used for fill (the stand-in)")
        launched(operator.setitem, (self, index, value), {})

    def __len__(self) -> int:
        return len(self.memory)

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    # ----- What waits for the device -----

    def get(self, *, out: np.ndarray | None = None, **_: Any) -> np.ndarray:
        Counts.copies_to_host += 1
        if out is None:
            return np.array(self.memory)
        assert out.dtype == self.dtype
        assert out.shape == self.shape
        out[...] = self.memory
        return out

    def set(self, host: np.ndarray, **_: Any) -> None:
        assert type(host) is np.ndarray
        assert (host.dtype, host.shape) == (self.dtype, self.shape)
        self.memory[...] = host

    def item(self, *index: Any) -> Any:
        Counts.waits += 1
        return self.memory.item(*index)

    def tolist(self) -> Any:
        Counts.waits += 1
        return self.memory.tolist()

    def _number(self, kind: Callable[[Any], Any]) -> Any:
        Counts.waits += 1
        return kind(self.memory)

    def __bool__(self) -> bool:
        return bool(self._number(bool))

    def __int__(self) -> int:
        return int(self._number(int))

    def __float__(self) -> float:
        return float(self._number(float))

    def __repr__(self) -> str:
        return f"on device {self.device.id}: {self.memory!r}"


DeviceArray.__module__ = "cupy"


def _operators() -> None:
    for name in OPERATORS | COMPARISONS:
        function = getattr(operator, f"{name}_" if name in ("and", "or") else name)
        setattr(DeviceArray, f"__{name}__", lambda x, y, f=function: launched(f, (x, y), {}))
        if name in OPERATORS:
            setattr(DeviceArray, f"__r{name}__", lambda x, y, f=function: launched(f, (y, x), {}))
        if name in OPERATORS - {"matmul"}:
            place = getattr(operator, f"i{name}")
            setattr(DeviceArray, f"__i{name}__", lambda x, y, f=place: launched(f, (x, y), {}))
    for name in ("neg", "pos", "abs", "invert"):
        function = getattr(operator, name)
        setattr(DeviceArray, f"__{name}__", lambda x, f=function: launched(f, (x,), {}))


_operators()


def moved(index: Any) -> Any:
    """An index whose host arrays were copied to the device: of all operations, only indexing does that."""
    parts = [
        DeviceArray(i) if isinstance(i, np.ndarray) else i
        for i in (index if type(index) is tuple else (index,))
    ]
    return tuple(parts) if type(index) is tuple else parts[0]


def launched(function: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
    """Run a function of NumPy's on the arrays' memories, as a kernel on the current device."""
    used: list[DeviceArray] = []
    arguments = tuple([_memory(x, used) for x in arguments])
    keywords = {name: _memory(x, used) for name, x in keywords.items()}
    here = Device.current()
    for array in used:
        if array.device.id != here:
            raise ValueError(
                f"an array of device {array.device.id} on the current device {here} (the stand-in)"
            )
    Counts.kernels += 1
    Counts.devices.add(here)
    return _dressed(function(*arguments, **keywords), used)


def _memory(x: Any, used: list[DeviceArray]) -> Any:
    if isinstance(x, DeviceArray):
        used.append(x)
        return x.memory
    if isinstance(x, (tuple, list)):
        return type(x)([_memory(part, used) for part in x])
    if isinstance(x, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'> (the stand-in)")
    return x


def _dressed(result: Any, used: list[DeviceArray]) -> Any:
    """The result as arrays of the device; a view knows whose memory it shows."""
    if isinstance(result, tuple):
        return tuple(_dressed(part, used) for part in result)
    if not isinstance(result, (np.ndarray, np.generic)):
        return result
    memory = np.asarray(result)
    for array in used:
        if memory is array.memory:
            return array
        if memory.base is not None and (np.may_share_memory(memory, array.memory) or not memory.size):
            return DeviceArray(memory, array if array.base is None else array.base)
    return DeviceArray(memory)
