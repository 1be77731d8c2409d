"""A foreign array library: the array API standard's own strict arrays, which do nothing that it leaves open.

What minigrad asks of an array beside operators and indexing is added here, and nothing else: dtypes that are
NumPy's, `astype`, `copy`, `base`, and rows taken by index. NumPy functions refuse these arrays.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import array_api_strict
import numpy as np
import scipy.special

from minigrad import backend


class StrictArray:
    __slots__ = ("inner",)
    __array_ufunc__ = None  # NumPy must not take these for its own

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    shape = property(lambda self: self.inner.shape)
    ndim = property(lambda self: self.inner.ndim)
    size = property(lambda self: self.inner.size)
    dtype = property(lambda self: np.dtype(str(self.inner.dtype).rpartition(".")[2]))
    base = property(lambda self: self)  # every array may be a view: nobody knows

    def astype(self, dtype: Any) -> StrictArray:
        return StrictArray(array_api_strict.astype(self.inner, own_dtype(dtype)))

    def __array__(self, *arguments: Any, **keywords: Any) -> np.ndarray:
        raise TypeError("these arrays do not become NumPy's by themselves")

    def copy(self) -> StrictArray:
        return StrictArray(array_api_strict.asarray(self.inner, copy=True))

    def __getitem__(self, index: Any) -> StrictArray:
        if isinstance(index, StrictArray) and index.dtype.kind in "iu":  # the standard spells it `take`
            rows = array_api_strict.take(self.inner, array_api_strict.reshape(index.inner, (-1,)), axis=0)
            return StrictArray(array_api_strict.reshape(rows, (*index.shape, *self.shape[1:])))
        return StrictArray(self.inner[whole(index)])

    def __setitem__(self, index: Any, value: Any) -> None:
        self.inner[whole(index)] = unwrapped(value)

    def __neg__(self) -> StrictArray:
        return StrictArray(-self.inner)

    def item(self) -> Any:
        return self.inner.__float__()


def whole(index: Any) -> Any:
    """Axes that an index leaves out are taken whole: everybody does, and the standard is silent."""
    parts = index if isinstance(index, tuple) else (index,)
    return parts if any(part is Ellipsis for part in parts) else (*parts, ...)


def own_dtype(dtype: Any) -> Any:
    return getattr(array_api_strict, np.dtype(dtype).name)


def unwrapped(value: Any) -> Any:
    if isinstance(value, StrictArray):
        return value.inner
    if isinstance(value, (list, tuple)):
        return type(value)(map(unwrapped, value))
    if isinstance(value, (np.ndarray, np.generic)):
        raise TypeError("a NumPy array reached the strict namespace")
    return value


def _operators() -> None:
    for name in ("add", "sub", "mul", "truediv", "matmul", "pow", "lt", "le", "gt", "ge", "eq", "ne"):
        function = getattr(operator, name)

        def forwards(self: Any, other: Any, f: Any = function) -> Any:
            return StrictArray(f(self.inner, unwrapped(other)))

        def backwards(self: Any, other: Any, f: Any = function) -> Any:
            return StrictArray(f(unwrapped(other), self.inner))

        setattr(StrictArray, f"__{name}__", forwards)
        setattr(StrictArray, f"__r{name}__", backwards)


_operators()
StrictArray.__hash__ = object.__hash__  # type: ignore[method-assign]


class StrictSpecial:
    """The module of special functions: SciPy's, computed on the host."""

    def __getattr__(self, name: str) -> Any:
        function = getattr(scipy.special, name)

        def computed(*arguments: Any) -> StrictArray:
            values = [np.asarray(x.inner) if isinstance(x, StrictArray) else x for x in arguments]
            return StrictArray(array_api_strict.asarray(np.asarray(function(*values))))

        return computed


class StrictNamespace(backend.Namespace):
    name = "strict"
    in_place = False
    array_type = StrictArray

    def __init__(self) -> None:
        super().__init__(array_api_strict)
        self.take_special(StrictSpecial())

    def __getattr__(self, name: str) -> Any:
        function = getattr(array_api_strict, name)

        def wrapped(*arguments: Any, **keywords: Any) -> Any:
            if "dtype" in keywords and keywords["dtype"] is not None:
                keywords["dtype"] = own_dtype(keywords["dtype"])
            result = function(*map(unwrapped, arguments), **keywords)
            return StrictArray(result) if isinstance(result, type(array_api_strict.ones(()))) else result

        return wrapped

    def linalg(self, name: str, *arrays: Any, **keywords: Any) -> Any:
        result = getattr(array_api_strict.linalg, name)(*map(unwrapped, arrays), **keywords)
        return tuple(map(StrictArray, result)) if isinstance(result, tuple) else StrictArray(result)

    def scatter_add(self, values: Any, indices: Any, rows: int) -> Any:
        wrapped = self.where(indices < 0, indices + rows, indices)
        hot = self.expand_dims(self.arange(rows), axis=1) == self.expand_dims(wrapped, axis=0)
        return self.matmul(hot.astype(values.dtype), values)

    def device(self, array: Any) -> str:
        return "strict"

    def to_host(self, array: StrictArray) -> np.ndarray:
        return np.asarray(array.inner)

    def from_host(self, array: np.ndarray, *, device: str = "") -> StrictArray:
        return StrictArray(array_api_strict.asarray(np.ascontiguousarray(array).reshape(array.shape)))


@contextmanager
def registered() -> Iterator[StrictNamespace]:
    """Let the engine know the library, as device "strict", for the length of a `with` block."""
    namespace = StrictNamespace()
    backend.register(namespace)
    backend._devices["strict"] = namespace
    try:
        yield namespace
    finally:
        del backend._devices["strict"], backend._namespaces[StrictArray]
        for key in [k for k, made in backend._constants.items() if isinstance(made, StrictArray)]:
            del backend._constants[key]
