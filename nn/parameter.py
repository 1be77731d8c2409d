"""Parameter and Buffer: the tensors that belong to a module.

On the device "shapes" they have no values, and note how these begin: `init.materialize` gives them later,
wherever they are needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from minigrad import backend
from minigrad.backend import Array
from minigrad.mutation import mutated
from minigrad.tensor import Tensor


@dataclass(frozen=True, repr=False)
class Start:
    """How a tensor begins: `write(array, *arguments)` writes that into an array of its shape.

    It writes the same each time: of a draw of random numbers the arguments hold the key.
    """

    write: Callable[..., None]
    arguments: tuple[Any, ...]

    def __repr__(self) -> str:
        shown = (str(getattr(argument, "__qualname__", argument)) for argument in self.arguments)
        return f"{self.write.__qualname__}({', '.join(shown)})"

    def fill(self, array: Array) -> None:
        """Write the values into an array."""
        self.write(array, *self.arguments)


def given(array: Array, values: Array) -> None:
    """Write values that are known: an array, or one number for all entries."""
    array[...] = backend.asarray(values, device=backend.namespace(array).device(array))


def converted(array: Array, start: Start, dtype: Any) -> None:
    """Write what begins in another dtype."""
    before = backend.namespace(array).empty(array.shape, dtype=dtype)
    start.fill(before)
    array[...] = before


def with_zero_row(array: Array, start: Start, row: int) -> None:
    """Write what begins otherwise in one row."""
    start.fill(array)
    array[row] = 0.0


class ModuleTensor(Tensor):
    """A tensor that belongs to a module.

    start  how it begins, while it has no values; None where nobody said so
    """

    __slots__ = ("start",)
    start: Start | None

    def _begin(self, values: Any) -> None:
        """Note these values, if this tensor cannot hold any."""
        self.start = None
        if self.device == "shapes":
            array = values.data if isinstance(values, Tensor) else backend.asarray(values)
            array = getattr(array, "value", None) if _without_values(array) else array.copy()
            if array is not None:
                self.start = Start(given, (backend.asarray(array, dtype=self.dtype),))

    def assign(self, values: Any) -> Tensor:
        """Overwrite the values in place; see `Tensor.assign`. A tensor without values begins with these, if
        they are some.
        """
        super().assign(values)
        if self.device == "shapes":
            before = self.start
            self._begin(values)
            self.start = self.start or before
        return self

    def move(self, array: Array) -> None:
        """Lie in another array of this shape, which holds the same values."""
        stays = self.start is not None and _without_values(self.data) and _without_values(array)
        self.start = Start(converted, (self.start, self.dtype)) if stays else None
        self.data = array

    def zero_row(self, row: int) -> None:
        """Fill one row (an index of the first axis) with zeros; the others stay."""
        if self.device != "shapes":
            self.data[row] = 0.0
            mutated(self.data)
        elif self.start is not None:
            self.start = Start(with_zero_row, (self.start, row))

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        twin = super().__deepcopy__(memo)
        twin.start = self.start  # type: ignore[attr-defined]
        return twin


def _without_values(array: Array) -> bool:
    return backend.namespace(array).name == "shapes"


class Parameter(ModuleTensor):
    """A tensor that a module learns: a leaf that requires a gradient."""

    __slots__ = ()

    def __init__(
        self, data: Any, requires_grad: bool = True, *, dtype: Any = None, device: str | None = None
    ) -> None:
        super().__init__(data, dtype=dtype, device=device, requires_grad=requires_grad)
        self._begin(data)


class Buffer(ModuleTensor):
    """A tensor that belongs to a module's state and is not learned; saved with it if `persistent`."""

    __slots__ = ("persistent",)

    def __init__(
        self, data: Any, *, dtype: Any = None, device: str | None = None, persistent: bool = True
    ) -> None:
        super().__init__(data, dtype=dtype, device=device)
        self._begin(data)
        self.persistent = persistent

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        twin = super().__deepcopy__(memo)
        twin.persistent = self.persistent  # type: ignore[attr-defined]
        return twin
