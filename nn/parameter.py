"""Parameter and Buffer: the tensors that belong to a module."""

from __future__ import annotations

from typing import Any

from minigrad.tensor import Tensor


class Parameter(Tensor):
    """A tensor that a module learns: a leaf that requires a gradient."""

    __slots__ = ()

    def __init__(
        self, data: Any, requires_grad: bool = True, *, dtype: Any = None, device: str | None = None
    ) -> None:
        super().__init__(data, dtype=dtype, device=device, requires_grad=requires_grad)


class Buffer(Tensor):
    """A tensor that belongs to a module's state and is not learned; saved with it if `persistent`."""

    __slots__ = ("persistent",)

    def __init__(
        self, data: Any, *, dtype: Any = None, device: str | None = None, persistent: bool = True
    ) -> None:
        super().__init__(data, dtype=dtype, device=device)
        self.persistent = persistent

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        twin = super().__deepcopy__(memo)
        twin.persistent = self.persistent  # type: ignore[attr-defined]
        return twin
