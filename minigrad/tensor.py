"""Tensor: an array, and the node of the graph that made it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import minigrad
from minigrad import backend
from minigrad.backend import Array
from minigrad.errors import DTypeError, GraphError, MinigradError, ShapeError
from minigrad.graph import Leaf, Node, state
from minigrad.interop import Interop
from minigrad.operators import Operators

if TYPE_CHECKING:
    from numpy import ndarray

_new = object.__new__


class Tensor(Operators, Interop):
    """An n-dimensional array whose history is recorded, so that derivatives can be taken through it.

    `data` is the raw array (never a bare scalar); `node` is where it came from, or None for a constant. Make
    one with `mg.tensor(data, requires_grad=True)`; operators and functions of `minigrad` then follow the
    Python array API.
    """

    __slots__ = ("__weakref__", "data", "node")
    data: Array
    node: Node | None

    def __init__(
        self, data: Any, *, dtype: Any = None, device: str | None = None, requires_grad: bool = False
    ) -> None:
        if isinstance(data, Tensor):
            data = data.data
        if dtype is None and backend.holds_python_floats(data):
            dtype = state.default_dtype
        try:
            self.data = backend.asarray(data, dtype=dtype, device=device)
        except ValueError as error:
            raise ShapeError(f"no array can be made of this: {error}; lists nest alike everywhere") from error
        self.node = None
        if requires_grad:
            self.requires_grad_()

    @staticmethod
    def of(data: Array, node: Node | None = None) -> Tensor:
        """Wrap a raw array without looking at it."""
        result = _new(Tensor)
        result.data = data
        result.node = node
        return result

    # ----- What it is -----

    @property
    def shape(self) -> tuple[int, ...]:
        return self.data.shape

    @property
    def dtype(self) -> Any:
        return self.data.dtype

    @property
    def ndim(self) -> int:
        return self.data.ndim

    @property
    def size(self) -> int:
        return self.data.size

    @property
    def device(self) -> str:
        return backend.namespace(self.data).device(self.data)

    @property
    def requires_grad(self) -> bool:
        """Whether derivatives can be taken with respect to what this was made of."""
        return self.node is not None

    @property
    def is_leaf(self) -> bool:
        return self.node is None or isinstance(self.node, Leaf)

    def __repr__(self) -> str:
        text = repr(self.data).partition("(")[2].removesuffix(")").partition(", dtype=")[0]
        text = text.partition(", shape=")[0].replace("\n ", "\n  ")  # "tensor(" is longer than "array("
        if (not self.data.size or "..." in text) and not text.startswith("shape="):
            text += f", shape={self.shape}"
        parts = [f"tensor({text}", f"dtype={self.dtype}"]
        if self.device != "cpu":
            parts.append(f"device={self.device!r}")
        if isinstance(self.node, Leaf):
            parts.append("requires_grad=True")
        elif self.node is not None and self.node.operation is not None:
            parts.append(f"made by {self.node.operation.name}")
        return ", ".join(parts) + ")"

    # ----- Out of the graph -----

    def numpy(self) -> ndarray:
        """The values as a read-only NumPy array: a view where the data is on the host, a copy from a GPU."""
        view = backend.namespace(self.data).to_host(self.data).view()
        view.flags.writeable = False
        return view

    def item(self) -> Any:
        """The value of a one-element tensor as a Python number."""
        if self.data.size != 1:
            raise ShapeError(f"item() needs exactly one element, and this tensor has shape {self.shape}")
        return self.data.item()

    def tolist(self) -> Any:
        return self.data.tolist()

    def detach(self) -> Tensor:
        """The same values as a constant, sharing memory."""
        return Tensor.of(self.data)

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __bool__(self) -> bool:
        if self.data.size != 1:
            raise ShapeError(
                f"the truth of a tensor of shape {self.shape} is ambiguous; use any(x) or all(x)"
            )
        return bool(self.data.item())

    def __index__(self) -> int:
        if self.dtype.kind not in "iub":
            raise DTypeError(f"only integer tensors can be an index, and this one is {self.dtype}")
        return int(self.item())

    def __len__(self) -> int:
        if not self.shape:
            raise ShapeError("a 0-d tensor has no length")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        len(self)  # a 0-d tensor is refused
        return iter(minigrad.ops.unstack(self))

    def __copy__(self) -> Tensor:
        return type(self).of(self.data, self.node) if type(self) is Tensor else self.__deepcopy__({})

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if not self.is_leaf:
            raise GraphError("only tensors without history can be deep-copied; use x.detach() first")
        twin = _new(type(self))
        twin.data, twin.node = self.data.copy(), None
        memo[id(self)] = twin
        if self.node is not None:
            twin.requires_grad_()
            if type(self) is Tensor and self.grad is not None:  # a module's begins anew, as in torch
                twin.grad = deepcopy(self.grad.detach(), memo)
        return twin

    # ----- Gradients -----

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Make this tensor a leaf whose gradient is wanted (or a constant), in place. Returns itself."""
        if not self.is_leaf:
            raise GraphError(
                "only a tensor without history can be made a leaf; use x.detach().requires_grad_()"
            )
        if not requires_grad:
            self.node = None
        elif self.node is None:
            if self.dtype.kind not in "fV":
                raise DTypeError(f"only floating-point tensors have gradients, and this one is {self.dtype}")
            self.node = Leaf(self.shape, self.dtype)
        return self

    def _leaf(self) -> Leaf:
        if not isinstance(self.node, Leaf):
            raise GraphError(
                "this tensor is not a leaf that requires a gradient; make it with requires_grad=True"
            )
        return self.node

    @property
    def grad(self) -> Tensor | None:
        """What backward walks have added up so far; None before the first and after `zero_grad()`."""
        if not isinstance(self.node, Leaf):
            return None
        if self.node.buffer is None or not self.node.filled:
            return self.node.gradient
        self.node.shown = True
        return Tensor.of(self.node.buffer)

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        leaf = self._leaf()
        if value is None:
            leaf.forget()
        elif not isinstance(value, Tensor):
            raise DTypeError(
                f"a gradient is a tensor, or None, not {type(value).__name__}; use mg.tensor(...)"
            )
        elif value.shape != self.shape:
            raise ShapeError(f"the gradient has shape {value.shape}, and the tensor {self.shape}")
        elif value.device != self.device:
            raise backend.mixed(value.data, self.data)
        elif value.dtype != self.dtype:
            raise DTypeError(f"the gradient is {value.dtype}, and the tensor {self.dtype}; use .astype(...)")
        elif leaf.buffer is not None:
            leaf.buffer[...], leaf.filled = value.data, True
            minigrad.mutation.overwritten(leaf)
        else:
            leaf.gradient = value

    def zero_grad(self) -> None:
        """Forget the gradient; the next backward walk starts anew (and overwrites a given buffer)."""
        self.grad = None

    @property
    def grad_buffer(self) -> Array | None:
        """A raw array of this tensor's shape and dtype into which gradients are written, if given."""
        return self._leaf().buffer

    @grad_buffer.setter
    def grad_buffer(self, buffer: Array | None) -> None:
        leaf = self._leaf()
        if buffer is not None and not backend.is_array(buffer):
            raise DTypeError(f"a gradient buffer is a raw array, as x.data is, not {type(buffer).__name__}")
        if buffer is not None and not getattr(buffer.flags, "writeable", True):
            raise GraphError("a gradient buffer is written to, and this one is read-only; give a copy of it")
        if buffer is not None and (buffer.shape != self.shape or buffer.dtype != self.dtype):
            raise ShapeError(
                f"a gradient buffer for {self.shape} {self.dtype} cannot be {buffer.shape} {buffer.dtype}"
            )
        present = self.grad
        leaf.buffer, leaf.gradient, leaf.filled = buffer, None, False
        if present is not None:
            self.grad = present

    def register_post_accumulate_grad_hook(self, hook: Callable[[Tensor], None]) -> Callable[[], None]:
        """Call `hook(x)` whenever a backward walk has finished this leaf's gradient. Returns a function that
        removes it, and may be called again.
        """
        leaf, tensor = self._leaf(), weakref.ref(self)

        def run() -> None:
            found = tensor()
            if found is not None:
                hook(found)

        leaf.hooks.append(run)
        return lambda: leaf.hooks.remove(run) if run in leaf.hooks else None

    def backward(
        self, cotangent: Any = None, *, retain_graph: bool = False, create_graph: bool = False
    ) -> None:
        """Add the gradient of this tensor with respect to every leaf it was computed from into the leaf's
        `.grad`.

        `cotangent` (this tensor's shape) is what the walk starts with; a single number starts with 1. The
        graph is released as it is used, unless `retain_graph`. With `create_graph` the gradients have a graph
        of their own: leaf, `.grad` and graph then hold each other until `zero_grad()` or the collector parts
        them, which `mg.gradients(..., create_graph=True)` avoids. Raises GraphError if there is no graph, or
        it was used up.
        """
        if self.node is None:
            raise GraphError(
                "this tensor has no graph to walk: nothing it was computed from requires a gradient"
            )
        start: Any = minigrad.walk.seed(self, cotangent)
        if create_graph:
            start = cotangent if isinstance(cotangent, Tensor) else Tensor.of(start)
        minigrad.walk.pull([self.node], [start], lifted=create_graph, retain=retain_graph)

    # ----- Values in place -----

    def assign(self, values: Any) -> Tensor:
        """Overwrite the values in place (same shape), from whichever device they lie on. A graph that still
        needs the old ones will say so. Returns itself.
        """
        if not self.is_leaf:
            raise GraphError("a tensor with history cannot be overwritten; compute a new one instead")
        given = values.data if isinstance(values, Tensor) else values
        array = backend.asarray(given, device=self.device)
        if array.shape not in ((), self.shape):
            raise ShapeError(f"cannot assign values of shape {array.shape} to a tensor of shape {self.shape}")
        self.data[...] = array
        minigrad.mutation.mutated(self.data)
        return self

    def __setitem__(self, index: Any, value: Any) -> None:
        raise MinigradError(
            "tensors are not written to by index, because the graph may need the old values; "
            "use x.at[index].set(values), mg.where(...), or x.assign(...) for a leaf"
        )

    # ----- Moving -----

    def astype(self, dtype: Any) -> Tensor:
        """The same values in another dtype; a cast between floating-point types is part of the graph."""
        return self if backend.real_dtype(dtype) == self.dtype else minigrad.ops.astype(self, dtype)

    def to(self, device: str) -> Tensor:
        """The same values on another device: "cpu", "gpu" or "gpu:N". Part of the graph."""
        return minigrad.ops.to_device(self, device)
