"""Module: parameters, buffers and other modules as plain attributes, found by looking at them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from minigrad import backend
from minigrad.errors import DTypeError, ShapeError, UsageError
from minigrad.tensor import Tensor


class Parameter(Tensor):
    """A tensor that a module learns: a leaf that requires a gradient."""

    __slots__ = ()

    def __init__(
        self, data: Any, *, dtype: Any = None, device: str | None = None, requires_grad: bool = True
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


class Module:
    """Something with parameters and a `forward`. Assign parameters, buffers and modules to attributes; names
    follow.

    >>> from minigrad import nn
    >>> model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    >>> [name for name, _ in model.named_parameters()]
    ['0.weight', '0.bias', '1.weight', '1.bias']
    """

    training = True

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no forward method; write one")

    def __call__(self, *inputs: Any, **keywords: Any) -> Any:
        return self.forward(*inputs, **keywords)

    # ----- What is inside -----

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The modules directly inside, with their names."""
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value

    def children(self) -> Iterator[Module]:
        return (module for _, module in self.named_children())

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module and all below it, each once, with dotted names."""
        return self._named_modules(prefix, set())

    def _named_modules(self, prefix: str, seen: set[int]) -> Iterator[tuple[str, Module]]:
        if id(self) in seen:
            return
        seen.add(id(self))
        yield prefix, self
        for name, child in self.named_children():
            yield from child._named_modules(f"{prefix}.{name}" if prefix else name, seen)

    def modules(self) -> Iterator[Module]:
        return (module for _, module in self.named_modules())

    def _named_tensors(self, kind: type) -> Iterator[tuple[str, Any]]:
        seen: set[int] = set()
        for prefix, module in self.named_modules():
            for name, value in vars(module).items():
                if isinstance(value, kind) and id(value) not in seen:
                    seen.add(id(value))
                    yield f"{prefix}.{name}" if prefix else name, value

    def _every_module(self, prefix: str) -> Iterator[tuple[str, Module]]:
        """As `named_modules`, but a module that is shared comes under each of its names."""
        yield prefix, self
        for name, child in self.named_children():
            yield from child._every_module(f"{prefix}.{name}" if prefix else name)

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """All parameters with dotted names in order of declaration; one that is shared comes once, under its
        first name.
        """
        return self._named_tensors(Parameter)

    def parameters(self) -> Iterator[Parameter]:
        return (parameter for _, parameter in self.named_parameters())

    def named_buffers(self) -> Iterator[tuple[str, Buffer]]:
        """All buffers with dotted names."""
        return self._named_tensors(Buffer)

    def buffers(self) -> Iterator[Buffer]:
        return (buffer for _, buffer in self.named_buffers())

    # ----- Modes -----

    def train(self, mode: bool = True) -> Any:
        """Switch to training (or, with False, evaluation) behaviour: dropout, batch statistics. Returns
        itself.
        """
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Any:
        return self.train(False)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters():
            if parameter.requires_grad:
                parameter.zero_grad()

    def apply(self, function: Callable[[Module], None]) -> Any:
        """Call `function` on every module below and then on this one. Returns itself."""
        for child in self.children():
            child.apply(function)
        function(self)
        return self

    def to(self, device: str | None = None, dtype: Any = None) -> Any:
        """Move parameters and buffers to a device, and floating-point ones to a dtype, in place. Returns
        itself.
        """
        if dtype is not None and backend.numpy.dtype(dtype).kind not in "fV":
            raise DTypeError(f"a module is moved to a floating-point dtype, and not to {dtype}")
        tensors: Iterable[Tensor] = [*self.parameters(), *self.buffers()]
        for tensor in tensors:
            wanted = dtype if dtype is not None and tensor.dtype.kind in "fV" else None
            moved = backend.asarray(tensor.data, device=device, dtype=wanted)
            if moved is not tensor.data:
                tensor.data = moved
                if tensor.requires_grad:
                    tensor.requires_grad_(False).requires_grad_()
        return self

    # ----- State -----

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters and persistent buffers by dotted name, sharing memory; tied ones under each name."""
        return {name: tensor.detach() for name, tensor in self._state().items()}

    def _state(self) -> dict[str, Tensor]:
        return {
            f"{prefix}.{name}" if prefix else name: value
            for prefix, module in self._every_module("")
            for kind in (Parameter, Buffer)
            for name, value in vars(module).items()
            if isinstance(value, kind) and getattr(value, "persistent", True)
        }

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Copy values by name into parameters and buffers.

        Raises UsageError or ShapeError, before anything is changed, listing every key that is missing or
        unexpected (with `strict`) and every one whose shape differs.
        """
        own = self._state()
        given = {
            name: backend.asarray(v.data if isinstance(v, Tensor) else v)
            for name, v in state.items()
            if name in own
        }
        missing = [name for name in own if name not in state] if strict else []
        unexpected = [name for name in state if name not in own] if strict else []
        shapes = [
            f"{name} is {given[name].shape}, expected {own[name].shape}"
            for name in own
            if name in given and given[name].shape != own[name].shape
        ]
        found = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
        if any(found.values()):
            text = "; ".join(f"{what}: {', '.join(names)}" for what, names in found.items() if names)
            kind = ShapeError if shapes else UsageError
            raise kind(f"the state does not fit {type(self).__name__}: {text}")
        for name, array in given.items():  # what cannot be converted is refused before the first is assigned
            given[name] = backend.asarray(array, device=own[name].device, dtype=own[name].dtype)
        for name, array in given.items():
            own[name].assign(array)


def _module(value: Any) -> Module:
    if not isinstance(value, Module):
        raise UsageError(f"expected a Module, got {value!r}; give a function a Module of its own")
    return value


class Sequential(Module):
    """Modules one after the other, named "0", "1", ..."""

    def __init__(self, *modules: Module) -> None:
        for index, module in enumerate(modules):
            setattr(self, str(index), _module(module))

    def __len__(self) -> int:
        return len(list(self.children()))

    def __getitem__(self, index: int) -> Module:
        return list(self.children())[index]

    def __iter__(self) -> Iterator[Module]:
        return self.children()

    def forward(self, x: Any) -> Any:
        for module in self.children():
            x = module(x)
        return x


class ModuleList(Module):
    """A list of modules, named "0", "1", ... It has no forward of its own."""

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        for module in modules:
            self.append(module)

    def append(self, module: Module) -> None:
        setattr(self, str(len(self)), _module(module))

    def __len__(self) -> int:
        return sum(1 for _ in self.children())

    def __getitem__(self, index: int) -> Module:
        return list(self.children())[index]

    def __iter__(self) -> Iterator[Module]:
        return self.children()
