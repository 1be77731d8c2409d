"""The operators and methods of a Tensor: the functions of minigrad.ops under their usual spelling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import minigrad
from minigrad.errors import ShapeError, UsageError

if TYPE_CHECKING:
    from minigrad.tensor import Tensor


class Operators:
    """What can be written with a Tensor: x + y, x @ y, x[i], x.sum(axis=0)."""

    __slots__ = ()

    def __add__(self, other: Any) -> Tensor:
        return minigrad.ops.add(self, other)

    def __radd__(self, other: Any) -> Tensor:
        return minigrad.ops.add(other, self)

    def __sub__(self, other: Any) -> Tensor:
        return minigrad.ops.subtract(self, other)

    def __rsub__(self, other: Any) -> Tensor:
        return minigrad.ops.subtract(other, self)

    def __mul__(self, other: Any) -> Tensor:
        return minigrad.ops.multiply(self, other)

    def __rmul__(self, other: Any) -> Tensor:
        return minigrad.ops.multiply(other, self)

    def __truediv__(self, other: Any) -> Tensor:
        return minigrad.ops.divide(self, other)

    def __rtruediv__(self, other: Any) -> Tensor:
        return minigrad.ops.divide(other, self)

    def __pow__(self, other: Any) -> Tensor:
        return minigrad.ops.pow(self, other)

    def __rpow__(self, other: Any) -> Tensor:
        return minigrad.ops.pow(other, self)

    def __matmul__(self, other: Any) -> Tensor:
        return minigrad.ops.matmul(self, other)

    def __rmatmul__(self, other: Any) -> Tensor:
        return minigrad.ops.matmul(other, self)

    def __floordiv__(self, other: Any) -> Tensor:
        return minigrad.ops.floor_divide(self, other)

    def __rfloordiv__(self, other: Any) -> Tensor:
        return minigrad.ops.floor_divide(other, self)

    def __mod__(self, other: Any) -> Tensor:
        return minigrad.ops.remainder(self, other)

    def __rmod__(self, other: Any) -> Tensor:
        return minigrad.ops.remainder(other, self)

    def __and__(self, other: Any) -> Tensor:
        return minigrad.ops.bitwise_and(self, other)

    def __rand__(self, other: Any) -> Tensor:
        return minigrad.ops.bitwise_and(other, self)

    def __or__(self, other: Any) -> Tensor:
        return minigrad.ops.bitwise_or(self, other)

    def __ror__(self, other: Any) -> Tensor:
        return minigrad.ops.bitwise_or(other, self)

    def __xor__(self, other: Any) -> Tensor:
        return minigrad.ops.bitwise_xor(self, other)

    def __rxor__(self, other: Any) -> Tensor:
        return minigrad.ops.bitwise_xor(other, self)

    def __lshift__(self, other: Any) -> Tensor:
        return minigrad.ops.bitwise_left_shift(self, other)

    def __rshift__(self, other: Any) -> Tensor:
        return minigrad.ops.bitwise_right_shift(self, other)

    def __rlshift__(self, other: Any) -> Tensor:
        return minigrad.ops.bitwise_left_shift(other, self)

    def __rrshift__(self, other: Any) -> Tensor:
        return minigrad.ops.bitwise_right_shift(other, self)

    def __divmod__(self, other: Any) -> tuple[Tensor, Tensor]:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> tuple[Tensor, Tensor]:
        return other // self, other % self

    def __invert__(self) -> Tensor:
        return minigrad.ops.bitwise_invert(self)

    def __neg__(self) -> Tensor:
        return minigrad.ops.negative(self)

    def __pos__(self: Any) -> Tensor:
        return self

    def __abs__(self) -> Tensor:
        return minigrad.ops.abs(self)

    def __lt__(self, other: Any) -> Tensor:
        return minigrad.ops.less(self, other)

    def __le__(self, other: Any) -> Tensor:
        return minigrad.ops.less_equal(self, other)

    def __gt__(self, other: Any) -> Tensor:
        return minigrad.ops.greater(self, other)

    def __ge__(self, other: Any) -> Tensor:
        return minigrad.ops.greater_equal(self, other)

    __hash__ = object.__hash__

    def __eq__(self, other: Any) -> Tensor:  # type: ignore[override]
        return _none_equals(self, False) if other is None else minigrad.ops.equal(self, other)

    def __ne__(self, other: Any) -> Tensor:  # type: ignore[override]
        return _none_equals(self, True) if other is None else minigrad.ops.not_equal(self, other)

    def __getitem__(self, index: Any) -> Tensor:
        return minigrad.ops.getitem(self, index)

    @property
    def at(self: Any) -> minigrad.ops.selecting.At:
        """Places to update functionally: `x.at[index].set(values)`, `x.at[index].add(values)`."""
        return minigrad.ops.selecting.At(self)

    @property
    def mT(self) -> Tensor:
        return minigrad.ops.matrix_transpose(self)

    @property
    def T(self: Any) -> Tensor:
        if self.ndim != 2:
            raise ShapeError(
                f".T is for matrices, and this tensor has shape {self.shape}; use .mT or permute_dims"
            )
        return minigrad.ops.matrix_transpose(self)

    def sum(self, *, axis: Any = None, keepdims: bool = False) -> Tensor:
        return minigrad.ops.sum(self, axis=axis, keepdims=keepdims)

    def mean(self, *, axis: Any = None, keepdims: bool = False) -> Tensor:
        return minigrad.ops.mean(self, axis=axis, keepdims=keepdims)

    def max(self, *, axis: Any = None, keepdims: bool = False) -> Tensor:
        return minigrad.ops.max(self, axis=axis, keepdims=keepdims)

    def reshape(self, *shape: Any) -> Tensor:
        return minigrad.ops.reshape(
            self, shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
        )

    def copy(self) -> Tensor:
        return minigrad.ops.copy(self)

    def to_device(self, device: str, /, *, stream: None = None) -> Tensor:
        """The array API's name of `to`. Streams are chosen by CuPy: none can be given."""
        if stream is not None:
            raise UsageError(f"to_device: stream is None, got {stream!r}; set CuPy's current stream instead")
        return minigrad.ops.to_device(self, device)

    def __round__(self: Any, digits: int | None = None) -> Any:
        return round(self.item(), digits)

    def __format__(self: Any, specification: str) -> str:
        if specification and self.ndim:
            raise UsageError(
                f"the format {specification!r} is for one number, and this tensor has shape {self.shape}; "
                "format its entries, as in x[0].item()"
            )
        return format(self.item(), specification) if specification else str(self)


def _none_equals(x: Any, answer: bool) -> Tensor:
    """What a comparison with None gives: the same for every entry."""
    return minigrad.ops.full(x.shape, answer, device=x.device)
