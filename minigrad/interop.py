"""Tensors among other libraries' arrays: NumPy's protocols, DLPack, the array API's namespace.

NumPy's functions on a Tensor run minigrad's functions of the same meaning, so that gradients flow:
`numpy.exp(x)`, `array * x`, `numpy.sum(x, axis=0)`, `numpy.concatenate([x, y])`. A function that minigrad has
not is run by NumPy on the values if no Tensor belongs to a graph, and refused by name if one does.
"""

from __future__ import annotations

import inspect
import string
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import minigrad
from minigrad import backend
from minigrad.errors import DeviceError, DTypeError, GraphError, ShapeError, UnsupportedError, UsageError
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
        result = NotImplemented if own is None else own(*arguments, **keywords)
        if result is NotImplemented:
            what = f"{module}.{name}" if module not in ("", "linalg") else name
            return _on_values(what, function, arguments, keywords)
        return result

    def __dlpack__(self: Any, **options: Any) -> Any:
        if self.node is not None:
            raise GraphError(
                "a tensor that requires a gradient cannot be handed over by DLPack, since what is done to it "
                "elsewhere would not be recorded; use x.detach()"
            )
        return _exporting(self).__dlpack__(**options)

    def __dlpack_device__(self: Any) -> tuple[int, int]:
        return _exporting(self).__dlpack_device__()

    def __reduce_ex__(self: Any, protocol: Any) -> Any:
        if not self.is_leaf:
            raise GraphError("a tensor with a graph cannot be pickled, its history least; use x.detach()")
        return object.__reduce_ex__(self, protocol)

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

    def flat_too(own: Callable[..., Any]) -> Callable[..., Any]:
        return lambda a, axis=-1: own(
            mg.reshape(a, (-1,)) if axis is None else a, axis=-1 if axis is None else axis
        )

    def of_floats(own: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arrays, **keywords: own(*map(_floating, arrays), **keywords)

    def first_axes(own: Callable[..., Any]) -> Callable[..., Any]:
        return lambda a, offset=0: own(mg.moveaxis(a, (0, 1), (-2, -1)), offset=offset)

    same = "sum mean prod max min any all argmax argmin count_nonzero"
    table = {name: reduction(getattr(mg, name)) for name in same.split()}
    table |= {"amax": table["max"], "amin": table["min"], "var": spread(mg.var), "std": spread(mg.std)}
    table |= {"cumsum": running(mg.cumulative_sum), "cumprod": running(mg.cumulative_prod)}
    table |= {"diagonal": first_axes(mg.diagonal), "trace": first_axes(mg.trace)}
    table |= {name: getattr(mg, name) for name in ("moveaxis", "broadcast_arrays", "kron")}
    table |= {f"linalg.{name}": getattr(mg, name) for name in _LINEAR_ALGEBRA.split()}
    table |= {f"linalg.{name}": of_floats(getattr(mg, name)) for name in _OF_FLOATS.split()}
    return table | {
        "argsort": flat_too(mg.argsort),
        "array_split": lambda ary, indices_or_sections, axis=0: _split(ary, indices_or_sections, axis, True),
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
        "diff": lambda a, n=1, axis=-1: mg.diff(a, n=n, axis=axis),
        "dot": _dot,
        "einsum": _einsum,
        "empty_like": lambda prototype, dtype=None: mg.empty_like(prototype, dtype=dtype),
        "expand_dims": lambda a, axis: mg.expand_dims(a, axis=axis),
        "flip": lambda m, axis=None: mg.flip(m, axis=axis),
        "full_like": lambda a, fill_value, dtype=None: mg.full_like(a, fill_value, dtype=dtype),
        "linalg.cholesky": lambda a, /, *, upper=False: mg.cholesky(_one_triangle(a, upper), upper=upper),
        "linalg.eigh": lambda a, UPLO="L": mg.eigh(_one_triangle(a, UPLO.upper() == "U")),
        "linalg.eigvalsh": lambda a, UPLO="L": mg.eigvalsh(_one_triangle(a, UPLO.upper() == "U")),
        "linalg.norm": _norm,
        "linalg.svd": _svd,
        "nonzero": lambda a: mg.nonzero(a),
        "ones_like": lambda a, dtype=None: mg.ones_like(a, dtype=dtype),
        "outer": lambda a, b: mg.outer(mg.reshape(a, (-1,)), mg.reshape(b, (-1,))),
        "ravel": lambda a: mg.reshape(a, (-1,)),
        "repeat": lambda a, repeats, axis=None: mg.repeat(a, repeats, axis=axis),
        "reshape": lambda a, shape: mg.reshape(a, shape if isinstance(shape, (tuple, list)) else (shape,)),
        "roll": _roll,
        "round": lambda a: mg.round(a),
        "searchsorted": lambda a, v, side="left", sorter=None: mg.searchsorted(
            a, v, side=side, sorter=sorter
        ),
        "sort": flat_too(mg.sort),
        "split": lambda ary, indices_or_sections, axis=0: _split(ary, indices_or_sections, axis, False),
        "squeeze": lambda a, axis=None: mg.squeeze(
            a, tuple(i for i, n in enumerate(a.shape) if n == 1) if axis is None else axis
        ),
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


_LINEAR_ALGEBRA = "cross diagonal matmul matrix_power matrix_transpose outer tensordot trace vecdot"
_OF_FLOATS = "det inv matrix_norm pinv slogdet solve svdvals vector_norm"

_QUESTIONS = "allclose array2string array_equal array_equiv array_repr array_str isclose ndim shape size"


def _dot(a: Any, b: Any) -> Any:
    """NumPy's dot: a product with numbers, otherwise over the last axis of a and the one before b's last."""
    mg = minigrad.ops
    a, b = mg.asarray(a), mg.asarray(b)
    if not a.ndim or not b.ndim:
        return mg.multiply(a, b)
    return mg.tensordot(a, b, axes=((-1,), (-2 if b.ndim > 1 else 0,)))


def _floating(x: Any) -> Any:
    """x as a Tensor of floats: of whole numbers NumPy's linear algebra makes float64."""
    x = minigrad.ops.asarray(x)
    return x if x.dtype.kind in "fV" else x.astype("float64")


def _one_triangle(a: Any, upper: bool) -> Tensor:
    """The symmetric matrix of which NumPy, like LAPACK, reads one triangle only."""
    mg, a = minigrad.ops, _floating(a)
    half, rest = (mg.triu(a), mg.triu(a, k=1)) if upper else (mg.tril(a), mg.tril(a, k=-1))
    return half + mg.matrix_transpose(rest)


def _svd(a: Any, full_matrices: bool = True, compute_uv: bool = True, hermitian: bool = False) -> Any:
    if hermitian:
        return NotImplemented
    a = _floating(a)
    return minigrad.ops.svd(a, full_matrices=full_matrices) if compute_uv else minigrad.ops.svdvals(a)


def _norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    """NumPy's norm: of vectors if one axis is meant, of matrices if two are, of all entries by default."""
    mg, x = minigrad.ops, _floating(x)
    if ord is None:
        return mg.vector_norm(x, axis=axis, keepdims=keepdims)
    axes = tuple(range(x.ndim)) if axis is None else axis if isinstance(axis, (tuple, list)) else (axis,)
    if len(axes) == 1:
        return mg.vector_norm(x, axis=axes[0], ord=ord, keepdims=keepdims)
    if len(axes) != 2:
        raise UsageError(
            f"numpy.linalg.norm with ord={ord!r} is of vectors or matrices: name one axis or two, not {axes}"
        )
    norm = mg.matrix_norm(mg.moveaxis(x, tuple(axes), (-2, -1)), ord=ord, keepdims=keepdims)
    return mg.moveaxis(norm, (-2, -1), tuple(axes)) if keepdims else norm


def _split(a: Any, sections: Any, axis: int, uneven: bool) -> Any:
    """NumPy's split: into a number of parts, or at places."""
    n = a.shape[axis]
    if not hasattr(sections, "__len__"):
        size, longer = divmod(n, sections) if sections > 0 else (0, n)
        if sections < 1 or (longer and not uneven):
            raise ShapeError(f"numpy.split: an axis of length {n} cannot be cut into {sections} equal parts")
        return list(minigrad.ops.split(a, [size + (i < longer) for i in range(sections)], axis=axis))
    places = [min(max(int(i) + (n if i < 0 else 0), 0), n) for i in sections]
    sizes = [stop - start for start, stop in zip([0, *places], [*places, n], strict=True)]
    return list(minigrad.ops.split(a, sizes, axis=axis)) if min(sizes) >= 0 else NotImplemented


def _roll(a: Any, shift: Any, axis: Any = None) -> Any:
    """NumPy's roll, where shifts and axes broadcast; those of one axis add up."""
    for by, along in backend.numpy.broadcast(shift, axis):
        a = minigrad.ops.roll(a, int(by), axis=along if along is None else int(along))
    return a


def _einsum(*operands: Any, optimize: Any = False) -> Any:
    """NumPy's einsum; labels may also be lists of numbers, one behind each operand and one for the output."""
    if isinstance(operands[0], str):
        return minigrad.ops.einsum(*operands)

    def letters(labels: Any) -> str:
        return "".join("..." if label is Ellipsis else string.ascii_letters[label] for label in labels)

    count = len(operands) // 2
    terms = ",".join(letters(operands[2 * i + 1]) for i in range(count))
    output = "->" + letters(operands[-1]) if len(operands) % 2 else ""
    return minigrad.ops.einsum(terms + output, *operands[: 2 * count : 2])


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
