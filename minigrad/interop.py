"""Tensors among other libraries' arrays: NumPy's protocols, DLPack, the array API's namespace.

NumPy's functions on a Tensor run minigrad's functions of the same meaning, so that gradients flow:
`numpy.exp(x)`, `array * x`, `numpy.sum(x, axis=0)`, `numpy.concatenate([x, y])`. A function that minigrad has
not is run by NumPy on the values if no Tensor belongs to a graph, and refused by name if one does.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import minigrad
from minigrad import backend
from minigrad.errors import DeviceError, DTypeError, GraphError, UnsupportedError, UsageError
from minigrad.graph import state

if TYPE_CHECKING:
    from numpy import ndarray

    from minigrad.tensor import Tensor


class Interop:
    """The protocols by which other libraries meet a Tensor."""

    __slots__ = ()

    def __array__(self: Any, dtype: Any = None, copy: bool | None = None) -> ndarray:
        if self.node is not None and state.recording:
            raise GraphError(
                "this tensor is part of a graph; NumPy would lose it: use x.detach() or x.numpy()"
            )
        array = self.numpy() if not copy else self.numpy().copy()
        return array if dtype is None else array.astype(dtype)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **keywords: Any) -> Any:
        name = ufunc.__name__
        out = keywords.pop("out", None)
        if out is not None:
            return _written(name, getattr(ufunc, method)(*inputs, **keywords), out)
        own = getattr(minigrad.ops, UFUNCS.get(name, name), None)
        if own is None or method not in ("__call__", "reduce") or keywords.keys() - _KNOWN[method]:
            what = name if method == "__call__" else f"{name}.{method}"
            return _on_values(what, getattr(ufunc, method), inputs, keywords)
        if method == "__call__":
            return own(*inputs)
        reduction = getattr(minigrad.ops, _REDUCTIONS.get(name, ""), None)
        if reduction is None:
            return _on_values(f"{name}.reduce", ufunc.reduce, inputs, keywords)
        return reduction(*inputs, **{"axis": 0, **keywords})

    def __array_function__(self, function: Any, types: Any, arguments: Any, keywords: Any) -> Any:
        module = function.__module__.partition(".")[2]
        name = f"{module}.{function.__name__}" if module == "linalg" else function.__name__
        own = _adapted().get(name) if module in ("", "linalg") else None
        if own is not None:
            try:
                inspect.signature(own).bind(*arguments, **keywords)
            except TypeError:  # an argument such as out= or dtype=, which only NumPy has
                own = None
        if own is None:
            what = f"{module}.{name}" if module not in ("", "linalg") else name
            return _on_values(what, function, arguments, keywords)
        return own(*arguments, **keywords)

    def __dlpack__(self: Any, **options: Any) -> Any:
        if self.node is not None:
            raise GraphError(
                "a tensor that requires a gradient cannot be handed over by DLPack, since what is done to it "
                "elsewhere would not be recorded; use x.detach()"
            )
        return _exporting(self).__dlpack__(**options)

    def __dlpack_device__(self: Any) -> tuple[int, int]:
        return _exporting(self).__dlpack_device__()

    def __array_namespace__(self, *, api_version: str | None = None) -> Any:
        """The functions of the Python array API standard: `minigrad` itself, which follows 2024.12."""
        if api_version is not None and api_version not in ("2022.12", "2023.12", "2024.12"):
            raise UsageError(f"array API version {api_version!r} is unknown; expected up to 2024.12")
        return minigrad


# ----- NumPy's functions --------------------------------------------------------------------------

UFUNCS = {
    "absolute": "abs",
    "arccos": "acos",
    "arccosh": "acosh",
    "arcsin": "asin",
    "arcsinh": "asinh",
    "arctan": "atan",
    "arctan2": "atan2",
    "arctanh": "atanh",
    "invert": "bitwise_invert",
    "left_shift": "bitwise_left_shift",
    "power": "pow",
    "right_shift": "bitwise_right_shift",
    "rint": "round",
    "true_divide": "divide",
}
"""NumPy's universal functions that the standard calls otherwise."""

_REDUCTIONS = {"add": "sum", "multiply": "prod", "maximum": "max", "minimum": "min"}
_KNOWN: dict[str, set[str]] = {"__call__": set(), "reduce": {"axis", "keepdims"}}


def _on_values(name: str, function: Callable[..., Any], arguments: Any, keywords: Any) -> Any:
    """Run NumPy's function on the values. Raises GraphError if a graph would be lost by it."""
    lost = state.recording and name not in _QUESTIONS.split() and any(_recorded((arguments, keywords)))
    if lost:
        raise GraphError(
            f"numpy.{name} with these arguments has no counterpart in minigrad, and a tensor of a graph "
            "would lose its history in it; use x.detach() or x.numpy(), or compose it of minigrad's functions"
        )
    return function(*_values(arguments), **_values(keywords))


def _written(name: str, result: Any, out: Any) -> Any:
    """Write the result into NumPy's array `out`, where nothing is lost by it."""
    place = out[0]
    if len(out) > 1 or isinstance(place, Interop) or getattr(result, "requires_grad", False):
        raise GraphError(
            f"numpy.{name} was asked to write in place, as in `array += tensor`: a tensor is not written to, "
            "and an array has no graph; write `array = array + tensor`"
        )
    place[...] = backend.numpy.asarray(result)
    return place


def _recorded(nest: Any) -> Iterator[bool]:
    """For each Tensor in a nest, whether it belongs to a graph."""
    if isinstance(nest, Interop):
        yield nest.node is not None  # type: ignore[attr-defined]
    elif isinstance(nest, (list, tuple)):
        for part in nest:
            yield from _recorded(part)
    elif isinstance(nest, dict):
        yield from _recorded(list(nest.values()))


def _values(nest: Any) -> Any:
    """The nest with NumPy's arrays in place of Tensors."""
    if isinstance(nest, Interop):
        return nest.numpy()  # type: ignore[attr-defined]
    if isinstance(nest, dict):
        return {key: _values(part) for key, part in nest.items()}
    return type(nest)(map(_values, nest)) if type(nest) in (list, tuple) else nest


@lru_cache(maxsize=1)
def _adapted() -> dict[str, Callable[..., Any]]:
    """minigrad's functions under the names and with the arguments of NumPy's that mean the same."""
    mg = minigrad.ops

    def reduction(own: Callable[..., Any]) -> Callable[..., Any]:
        return lambda a, axis=None, *, keepdims=False: own(a, axis=axis, keepdims=keepdims)

    def spread(own: Callable[..., Any]) -> Callable[..., Any]:
        return lambda a, axis=None, *, ddof=0, keepdims=False: own(
            a, axis=axis, correction=float(ddof), keepdims=keepdims
        )

    def running(own: Callable[..., Any]) -> Callable[..., Any]:
        return lambda a, axis=None: own(mg.reshape(a, (-1,)) if axis is None else a, axis=axis or 0)

    def first_axes(own: Callable[..., Any]) -> Callable[..., Any]:
        return lambda a, offset=0: own(mg.moveaxis(a, (0, 1), (-2, -1)), offset=offset)

    same = "sum mean prod max min any all argmax argmin count_nonzero"
    table = {name: reduction(getattr(mg, name)) for name in same.split()}
    table |= {"amax": table["max"], "amin": table["min"], "var": spread(mg.var), "std": spread(mg.std)}
    table |= {"cumsum": running(mg.cumulative_sum), "cumprod": running(mg.cumulative_prod)}
    table |= {"diagonal": first_axes(mg.diagonal), "trace": first_axes(mg.trace)}
    table |= {name: getattr(mg, name) for name in ("moveaxis", "broadcast_arrays", "kron", "einsum")}
    table |= {f"linalg.{name}": getattr(mg, name) for name in _LINEAR_ALGEBRA.split()}
    return table | {
        "argsort": lambda a, axis=-1: mg.argsort(a, axis=axis),
        "astype": lambda x, dtype: mg.astype(x, dtype),
        "broadcast_to": lambda array, shape: mg.broadcast_to(
            mg.asarray(array), shape if isinstance(shape, (tuple, list)) else (shape,)
        ),
        "clip": lambda a, a_min=None, a_max=None, *, min=None, max=None: mg.clip(
            a, a_min if min is None else min, a_max if max is None else max
        ),
        "concatenate": lambda arrays, axis=0: mg.concat(list(arrays), axis=axis),
        "copy": lambda a: mg.copy(a),
        "diag": lambda v, k=0: mg.diag(v, diagonal=k),
        "dot": _dot,
        "empty_like": lambda prototype, dtype=None: mg.empty_like(prototype, dtype=dtype),
        "expand_dims": lambda a, axis: mg.expand_dims(a, axis=axis),
        "flip": lambda m, axis=None: mg.flip(m, axis=axis),
        "full_like": lambda a, fill_value, dtype=None: mg.full_like(a, fill_value, dtype=dtype),
        "linalg.norm": _norm,
        "nonzero": lambda a: mg.nonzero(a),
        "ones_like": lambda a, dtype=None: mg.ones_like(a, dtype=dtype),
        "outer": lambda a, b: mg.outer(mg.reshape(a, (-1,)), mg.reshape(b, (-1,))),
        "ravel": lambda a: mg.reshape(a, (-1,)),
        "repeat": lambda a, repeats, axis=None: mg.repeat(a, repeats, axis=axis),
        "reshape": lambda a, shape: mg.reshape(a, shape if isinstance(shape, (tuple, list)) else (shape,)),
        "roll": lambda a, shift, axis=None: mg.roll(a, shift, axis=axis),
        "round": lambda a: mg.round(a),
        "searchsorted": lambda a, v, side="left", sorter=None: mg.searchsorted(
            a, v, side=side, sorter=sorter
        ),
        "sort": lambda a, axis=-1: mg.sort(a, axis=axis),
        "split": lambda ary, sections, axis=0: list(mg.split(ary, sections, axis=axis)),
        "squeeze": lambda a, axis: mg.squeeze(a, axis),
        "stack": lambda arrays, axis=0: mg.stack(list(arrays), axis=axis),
        "swapaxes": lambda a, axis1, axis2: mg.moveaxis(a, (axis1, axis2), (axis2, axis1)),
        "take": lambda a, indices, axis=None: mg.take(
            mg.reshape(a, (-1,)) if axis is None else a, indices, axis=axis or 0
        ),
        "take_along_axis": lambda arr, indices, axis=-1: mg.take_along_axis(arr, indices, axis=axis),
        "tensordot": lambda a, b, axes=2: mg.tensordot(a, b, axes=axes),
        "tile": lambda a, reps: mg.tile(a, (reps,) if isinstance(reps, int) else reps),
        "transpose": lambda a, axes=None: mg.permute_dims(a, range(a.ndim)[::-1] if axes is None else axes),
        "tril": lambda m, k=0: mg.tril(m, k=k),
        "triu": lambda m, k=0: mg.triu(m, k=k),
        "where": lambda condition, x, y: mg.where(condition, x, y),
        "zeros_like": lambda a, dtype=None: mg.zeros_like(a, dtype=dtype),
    }


_LINEAR_ALGEBRA = "cholesky cross det diagonal eigh eigvalsh inv matmul matrix_norm matrix_power"
_LINEAR_ALGEBRA += " matrix_transpose outer pinv slogdet solve svdvals tensordot trace vecdot vector_norm"

_QUESTIONS = "allclose array2string array_equal array_equiv array_repr array_str isclose ndim shape size"


def _dot(a: Any, b: Any) -> Any:
    """NumPy's dot: a product with numbers, otherwise over the last axis of a and the one before b's last."""
    mg = minigrad.ops
    a, b = mg.asarray(a), mg.asarray(b)
    if not a.ndim or not b.ndim:
        return mg.multiply(a, b)
    return mg.tensordot(a, b, axes=((-1,), (-2 if b.ndim > 1 else 0,)))


def _norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    """NumPy's norm: of vectors if one axis is meant, of matrices if two are, of all entries by default."""
    mg = minigrad.ops
    x = mg.asarray(x)
    if ord is None:
        return mg.vector_norm(x, axis=axis, keepdims=keepdims)
    if isinstance(axis, int) or (axis is None and x.ndim == 1):
        return mg.vector_norm(x, axis=axis, ord=ord, keepdims=keepdims)
    if axis is not None or x.ndim != 2:
        raise UsageError(f"numpy.linalg.norm with ord={ord!r} and axis={axis!r}: use mg.matrix_norm")
    return mg.matrix_norm(x, ord=ord, keepdims=keepdims)


# ----- DLPack -------------------------------------------------------------------------------------

_CPU, _CUDA = 1, 2  # kDLCPU and kDLCUDA in dlpack.h


def _exporting(x: Any) -> Any:
    if not hasattr(x.data, "__dlpack__"):
        raise DeviceError(f"an array on {x.device} holds nothing that DLPack could hand over")
    return x.data


def from_dlpack(x: Any, /, *, device: str | None = None, copy: bool | None = None) -> Tensor:
    """A constant that shares the memory of another library's array (anything with `__dlpack__`).

    It stays where it is: with `device` it is moved, with `copy=True` it is copied. What the other library
    writes into shared memory later, no walk can notice. Raises DTypeError for what has no real numbers, and
    DeviceError for other devices than processors and CUDA's.
    """
    if isinstance(x, Interop):
        array: Any = _exporting(x)
    elif not hasattr(x, "__dlpack__"):
        raise DTypeError(f"from_dlpack: {type(x).__name__} has no __dlpack__; use mg.asarray(...)")
    else:
        kind = int(x.__dlpack_device__()[0])
        if kind not in (_CPU, _CUDA):
            raise DeviceError(f"from_dlpack: device type {kind} of DLPack is neither a processor nor CUDA")
        try:
            array = (backend.host if kind == _CPU else backend.gpu()).from_dlpack(x)
        except (BufferError, RuntimeError, TypeError) as error:  # complex, sparse, requires a gradient, ...
            raise DTypeError(f"from_dlpack: {type(x).__name__} cannot be handed over: {error}") from error
    made = minigrad.ops.asarray(array, device=device)
    shared = made.data is array or made.data.base is not None
    return minigrad.ops.asarray(made, copy=True) if copy and shared else made


# ----- What is left out ---------------------------------------------------------------------------

_COMPLEX = {"complex64", "complex128", "fft", "conj", "imag", "real", "angle"}


def refused(name: str) -> Any:
    """What `minigrad.NAME` says where there is no such name: complex numbers and FFT are named."""
    if name in _COMPLEX:
        raise UnsupportedError(
            f"minigrad.{name}: complex numbers and Fourier transforms are left out for now; compute with "
            "real and imaginary parts in tensors of their own"
        )
    raise AttributeError(f"module 'minigrad' has no attribute {name!r}")
