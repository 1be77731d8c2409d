"""Bitwise operations on integers and truth values. They have no derivative, and refuse other numbers."""

from __future__ import annotations

from typing import Any

from minigrad import operation
from minigrad.errors import DTypeError

__all__ = [
    "bitwise_and",
    "bitwise_invert",
    "bitwise_left_shift",
    "bitwise_or",
    "bitwise_right_shift",
    "bitwise_xor",
]


def _whole(name: str, *arrays: Any, kinds: str = "iub") -> None:
    for array in arrays:
        if array.dtype.kind not in kinds:
            expected = "integers or booleans" if "b" in kinds else "integers"
            raise DTypeError(f"{name} works on {expected}, got {array.dtype}; compare or cast it first")


@operation.constant
def bitwise_and(xp: Any, x: Any, y: Any, /) -> Any:
    """x & y: the bits that both have; of truth values, whether both hold."""
    _whole("bitwise_and", x, y)
    return xp.bitwise_and(x, y)


@operation.constant
def bitwise_or(xp: Any, x: Any, y: Any, /) -> Any:
    """x | y: the bits that at least one has; of truth values, whether at least one holds."""
    _whole("bitwise_or", x, y)
    return xp.bitwise_or(x, y)


@operation.constant
def bitwise_xor(xp: Any, x: Any, y: Any, /) -> Any:
    """x ^ y: the bits that exactly one has; of truth values, whether exactly one holds."""
    _whole("bitwise_xor", x, y)
    return xp.bitwise_xor(x, y)


@operation.constant
def bitwise_invert(xp: Any, x: Any, /) -> Any:
    """~x: all other bits; of a truth value, the other one."""
    _whole("bitwise_invert", x)
    return xp.bitwise_invert(x)


@operation.constant
def bitwise_left_shift(xp: Any, x: Any, y: Any, /) -> Any:
    """x << y: the bits moved up by y places, x · 2ʸ where nothing is lost."""
    _whole("bitwise_left_shift", x, y, kinds="iu")
    return xp.bitwise_left_shift(x, y)


@operation.constant
def bitwise_right_shift(xp: Any, x: Any, y: Any, /) -> Any:
    """x >> y: the bits moved down by y places, ⌊x / 2ʸ⌋."""
    _whole("bitwise_right_shift", x, y, kinds="iu")
    return xp.bitwise_right_shift(x, y)
