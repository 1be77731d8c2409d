"""Arguments of layers, checked where they are given: each wrong one is a UsageError that names the layer, the
value and what was expected.

All take the values by the names of their parameters, behind the layer (or the name of a function). NumPy's
numbers count as numbers; truth values do not, for `Linear(3, True)` is never meant.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any, NoReturn

import numpy

from minigrad.errors import UsageError

POSITIVE = math.ulp(0.0)
"""The least number above 0."""


def whole(layer: object, least: int | None = 1, /, **values: Any) -> tuple[int, ...]:
    """The values as ints. Raises UsageError unless all are whole numbers from `least` up."""
    found = tuple([_integer(value) for value in values.values()])
    for (name, value), n in zip(values.items(), found, strict=True):
        if n is None or (least is not None and n < least):
            refuse(layer, name, value, _from(least))
    return found  # type: ignore[return-value]  # (None was refused)


def sizes(layer: object, axes: int | None, least: int = 1, /, **values: Any) -> tuple[tuple[int, ...], ...]:
    """Each value as one int for each of `axes` axes (None: for one or more), of a number or a sequence.

    Raises UsageError for any other number of them, and unless all are whole numbers from `least` up.
    """
    found = []
    for name, value in values.items():
        several = isinstance(value, Sequence) and not isinstance(value, str)
        parts = [_integer(n) for n in (value if several else (value,) * (axes or 1))]
        if len(parts) != (axes or max(len(parts), 1)) or any(n is None or n < least for n in parts):
            many = "one for each axis" if axes is None else f"{axes} of them"
            refuse(layer, name, value, _from(least) + ("" if axes == 1 else f", or {many}"))
        found.append(tuple(parts))
    return tuple(found)  # type: ignore[arg-type]


def real(layer: object, least: float = -math.inf, most: float = math.inf, /, **values: Any) -> None:
    """Raise UsageError unless all values are numbers from `least` to `most`. NaN is never one."""
    for name, value in values.items():
        if not (_is(Real, value) and least <= value <= most):
            limits = f" between {least:g} and {most:g}"
            if most == math.inf:
                limits = " above 0" if least == POSITIVE else f" from {least:g} up"
            refuse(layer, name, value, "a number" + (limits if least > -math.inf else ""))


def flags(layer: object, /, **values: Any) -> None:
    """Raise UsageError unless all values are True or False (or 1 or 0)."""
    for name, value in values.items():
        if not (isinstance(value, Integral | numpy.bool_) and value in (0, 1)):
            refuse(layer, name, value, "True or False")


def one_of(layer: object, allowed: Sequence[str], /, **values: Any) -> None:
    """Raise UsageError unless all values are among the words `allowed`."""
    for name, value in values.items():
        if not isinstance(value, str) or value not in allowed:
            refuse(layer, name, value, " or ".join(f'"{word}"' for word in allowed))


def refuse(layer: object, name: str, value: Any, expected: str) -> NoReturn:
    """Raise the UsageError of a parameter of a layer."""
    who = layer if isinstance(layer, str) else type(layer).__name__
    raise UsageError(f"{who}: {name} is {reprlib.repr(value)}; expected {expected}")


def _integer(value: Any) -> int | None:
    """A whole number as an int; None of anything else."""
    if type(value) is int:
        return value
    return int(value) if _is(Integral, value) else None


def _is(kind: type, value: Any) -> bool:
    """Whether a value is of a kind of numbers. (Python counts truth values as integers.)"""
    return isinstance(value, kind) and type(value) is not bool


def _from(least: int | None) -> str:
    return "a whole number" if least is None else f"a whole number from {least} up"
