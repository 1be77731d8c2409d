"""Data types and constants: what the array API standard says of them, for real numbers.

Promotion is the standard's: of two dtypes of one kind the one that holds both; a Python number takes the
dtype of the array it stands beside. Where the standard leaves it open (integers with floats, int64 with
uint64) NumPy decides. NumPy's scalars count as arrays, as they do there. bfloat16 (of ml_dtypes) is a float.
"""

from __future__ import annotations

from math import e, inf, nan, pi
from typing import Any

from minigrad import backend
from minigrad.backend import real_dtype
from minigrad.errors import DTypeError, ShapeError, UsageError

__all__ = [
    "broadcast_shapes",
    "can_cast",
    "e",
    "finfo",
    "iinfo",
    "inf",
    "isdtype",
    "nan",
    "newaxis",
    "pi",
    "result_type",
]

newaxis = None


def _dtype(x: Any) -> Any:
    return real_dtype(getattr(x, "dtype", x))


def result_type(*arrays_and_dtypes: Any) -> Any:
    """The dtype that tensors, arrays, dtypes and Python numbers have together. Raises DTypeError."""
    kinds: list[Any] = []
    numbers = []
    for x in arrays_and_dtypes:
        if isinstance(x, (bool, int, float, complex)):
            numbers.append(x)
        else:
            kinds.append(_dtype(x))
    if any(isinstance(x, complex) for x in numbers) or not arrays_and_dtypes:
        raise DTypeError(f"expected real numbers, tensors or dtypes, got {arrays_and_dtypes}")
    try:
        together = backend.numpy.result_type(*kinds) if kinds else None
        if together is None or together.kind != "V":
            together = backend.numpy.result_type(*([] if together is None else [together]), *numbers)
    except TypeError as error:
        raise DTypeError(f"dtypes {' and '.join(map(str, kinds))} have none in common; cast one") from error
    return real_dtype(together)


def can_cast(from_: Any, to: Any, /) -> bool:
    """Whether a cast keeps every value: whether `to` is what both dtypes have in common."""
    try:
        return bool(result_type(_dtype(from_), real_dtype(to)) == real_dtype(to))
    except DTypeError:
        return False


KINDS = {
    "bool": "b",
    "signed integer": "i",
    "unsigned integer": "u",
    "integral": "iu",
    "real floating": "fV",
    "complex floating": "",
    "numeric": "iufV",
}


def isdtype(dtype: Any, kind: Any) -> bool:
    """Whether `dtype` is of a kind: a dtype, a word of the standard such as "real floating", or a tuple."""
    if isinstance(kind, tuple):
        return any(isdtype(dtype, each) for each in kind)
    if isinstance(kind, str) and kind not in KINDS:
        raise UsageError(f"isdtype: unknown kind {kind!r}; expected one of {', '.join(KINDS)}")
    return bool(real_dtype(dtype).kind in KINDS[kind] if isinstance(kind, str) else dtype == kind)


def finfo(type: Any, /) -> Any:
    """The limits of a floating-point dtype: bits, eps, max, min, smallest_normal."""
    dtype = _dtype(type)
    if dtype.kind == "V":
        import ml_dtypes

        return ml_dtypes.finfo(dtype)
    if dtype.kind != "f":
        raise DTypeError(f"finfo is about floating-point dtypes, and got {dtype}; use iinfo")
    return backend.numpy.finfo(dtype)


def iinfo(type: Any, /) -> Any:
    """The limits of an integer dtype: bits, max, min."""
    dtype = _dtype(type)
    if dtype.kind not in "iu":
        raise DTypeError(f"iinfo is about integer dtypes, and got {dtype}; use finfo")
    return backend.numpy.iinfo(dtype)


def broadcast_shapes(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape to which these broadcast together. Raises ShapeError where they do not."""
    try:
        return tuple(backend.numpy.broadcast_shapes(*shapes))
    except ValueError as error:
        text = " and ".join(map(str, shapes))
        raise ShapeError(f"shapes {text} do not broadcast; lengths must be equal, or 1") from error
