"""Module: parameters, buffers and other modules as plain attributes, found by looking at them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from minigrad import backend
from minigrad.errors import DTypeError, ShapeError, UsageError
from minigrad.nn.hooks import AfterForward, BeforeForward, Handle, Hooks
from minigrad.nn.location import MISFITS, locate
from minigrad.nn.materialize import materialize
from minigrad.nn.parameter import Buffer as Buffer
from minigrad.nn.parameter import Parameter as Parameter
from minigrad.tensor import Tensor


class IncompatibleKeys(NamedTuple):
    """What a load that is not strict left out: keys that the state lacks, and keys that the module lacks."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Module:
    """Something with parameters and a `forward`. Assign parameters, buffers and modules to attributes; names
    follow.

    >>> from minigrad import nn
    >>> model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    >>> [name for name, _ in model.named_parameters()]
    ['0.weight', '0.bias', '1.weight', '1.bias']
    """

    training = True
    _hooks: Hooks | None = None

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no forward method; write one")

    def __call__(self, *inputs: Any, **keywords: Any) -> Any:
        try:
            if self._hooks is None:
                return self.forward(*inputs, **keywords)
            return self._hooks.run(self, inputs, keywords)
        except MISFITS as error:
            locate(self, error)
            raise

    def register_forward_pre_hook(self, hook: BeforeForward) -> Handle:
        """Call `hook(module, inputs)` before every forward; what it returns, unless None, are the inputs
        instead.

        Inputs are positional ones; keywords pass by. Hooks run in the order of registration. The handle's
        `remove()` takes the hook away.
        """
        self._hooks = self._hooks or Hooks()
        return Handle(self._hooks.before, hook)

    def register_forward_hook(self, hook: AfterForward) -> Handle:
        """Call `hook(module, inputs, output)` after every forward; what it returns, unless None, is the
        output instead. The handle's `remove()` takes the hook away.
        """
        self._hooks = self._hooks or Hooks()
        return Handle(self._hooks.after, hook)

    # ----- What is inside -----

    def __setattr__(self, name: str, value: Any) -> None:
        before = self.__dict__.get(name)
        if isinstance(before, Parameter | Buffer) and not isinstance(
            value, Parameter | Buffer | Module | None
        ):
            kind = type(before).__name__
            raise UsageError(
                f"{type(self).__name__}.{name} is a {kind}, and a {type(value).__name__} would silently take "
                f"its place; assign an nn.{kind}, or write into it: module.{name}.assign(...)"
            )
        object.__setattr__(self, name, value)

    def register_parameter(self, name: str, parameter: Parameter | None) -> None:
        """The same as assigning it to an attribute."""
        setattr(self, name, parameter)

    def register_buffer(self, name: str, tensor: Any, persistent: bool = True) -> None:
        """The same as assigning `nn.Buffer(tensor, persistent=persistent)` to an attribute."""
        setattr(self, name, None if tensor is None else Buffer(tensor, persistent=persistent))

    def add_module(self, name: str, module: Module | None) -> None:
        """The same as assigning it to an attribute."""
        setattr(self, name, module)

    def get_submodule(self, target: str) -> Module:
        """The module of a dotted name, "" being this one. Raises UsageError where there is none."""
        found: Any = self
        for name in target.split(".") if target else ():
            found = vars(found).get(name)
            if not isinstance(found, Module):
                raise UsageError(f"{type(self).__name__} has no module {target!r} (nothing at {name!r})")
        return found

    def get_parameter(self, target: str) -> Parameter:
        """The parameter of a dotted name. Raises UsageError where there is none."""
        found: Parameter = self._get(target, Parameter)
        return found

    def get_buffer(self, target: str) -> Buffer:
        """The buffer of a dotted name. Raises UsageError where there is none."""
        found: Buffer = self._get(target, Buffer)
        return found

    def _get(self, target: str, kind: type) -> Any:
        path, _, name = target.rpartition(".")
        found = vars(self.get_submodule(path)).get(name)
        if not isinstance(found, kind):
            raise UsageError(f"{type(self).__name__} has no {kind.__name__.lower()} {target!r}")
        return found

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
            yield from child._named_modules(_dotted(prefix, name), seen)

    def modules(self) -> Iterator[Module]:
        return (module for _, module in self.named_modules())

    def _named_tensors(self, kind: type, prefix: str, recurse: bool, once: bool) -> Iterator[tuple[str, Any]]:
        seen: set[int] = set()
        below = self.named_modules(prefix) if once else self._every_module(prefix)
        for path, module in below if recurse else [(prefix, self)]:
            for name, value in vars(module).items():
                if isinstance(value, kind) and not (once and id(value) in seen):
                    seen.add(id(value))
                    yield _dotted(path, name), value

    def _every_module(self, prefix: str) -> Iterator[tuple[str, Module]]:
        """As `named_modules`, but a module that is shared comes under each of its names."""
        yield prefix, self
        for name, child in self.named_children():
            yield from child._every_module(_dotted(prefix, name))

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """All parameters with dotted names in order of declaration; one that is shared comes once, under its
        first name, or under each without `remove_duplicate`. Without `recurse` only this module's own.
        """
        return self._named_tensors(Parameter, prefix, recurse, remove_duplicate)

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        return (parameter for _, parameter in self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Buffer]]:
        """All buffers with dotted names; see `named_parameters`."""
        return self._named_tensors(Buffer, prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Buffer]:
        return (buffer for _, buffer in self.named_buffers(recurse=recurse))

    def extra_repr(self) -> str:
        """What stands between the brackets when this module is printed: its arguments."""
        return ""

    def __repr__(self) -> str:
        lines = [line for name, child in self.named_children() for line in f"({name}): {child}".split("\n")]
        name, extra = type(self).__name__, self.extra_repr()
        if not lines:
            return f"{name}({extra})"
        return "\n  ".join([f"{name}(", *([extra] if extra else []), *lines]) + "\n)"

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

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        """Whether the parameters are learned; without, they are frozen. Returns itself."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients, or, without `set_to_none`, fill those that there are with zeros."""
        for parameter in self.parameters():
            if set_to_none and parameter.requires_grad:
                parameter.zero_grad()
            elif parameter.grad is not None:
                parameter.grad.data[...] = 0

    def apply(self, function: Callable[[Module], None]) -> Any:
        """Call `function` on every module below and then on this one. Returns itself."""
        for child in self.children():
            child.apply(function)
        function(self)
        return self

    def to(self, device: Any = None, dtype: Any = None) -> Any:
        """Move parameters and buffers to a device, and floating-point ones to a dtype, in place. A dtype may
        stand alone. What has shapes only gets its values there: see `init.materialize`. Returns itself.
        """
        if dtype is None and device is not None and _is_dtype(device):  # module.to("float64"), as in torch
            device, dtype = None, device
        if dtype is not None and backend.numpy.dtype(dtype).kind not in "fV":
            raise DTypeError(f"a module is moved to a floating-point dtype, and not to {dtype}")
        if device is not None:
            materialize(self, device=device)
        tensors: Iterable[Parameter | Buffer] = [*self.parameters(), *self.buffers()]
        for tensor in tensors:
            wanted = dtype if dtype is not None and tensor.dtype.kind in "fV" else None
            moved = backend.asarray(tensor.data, device=device, dtype=wanted)
            if moved is not tensor.data:
                tensor.move(moved)
                if tensor.requires_grad:
                    tensor.requires_grad_(False).requires_grad_()
        return self

    def cpu(self) -> Any:
        return self.to("cpu")

    def half(self) -> Any:
        return self.to(dtype="float16")

    def float(self) -> Any:
        return self.to(dtype="float32")

    def double(self) -> Any:
        return self.to(dtype="float64")

    # ----- State -----

    def state_dict(self, *, prefix: str = "") -> dict[str, Tensor]:
        """Parameters and persistent buffers by dotted name (behind `prefix`), sharing memory; tied ones under
        each name.
        """
        return {prefix + name: tensor.detach() for name, tensor in self._state().items()}

    def _state(self) -> dict[str, Tensor]:
        return {
            _dotted(prefix, name): value
            for prefix, module in self._every_module("")
            for kind in (Parameter, Buffer)
            for name, value in vars(module).items()
            if isinstance(value, kind) and getattr(value, "persistent", True)
        }

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> IncompatibleKeys:
        """Copy values by name into parameters and buffers. Returns the keys that were missing and unexpected.

        Raises UsageError or ShapeError, before anything is changed, listing every key that is missing or
        unexpected (with `strict`) and every one whose shape differs.
        """
        if not isinstance(state, Mapping):
            raise UsageError(
                f"a state is a dict of arrays by name, and this is a {type(state).__name__}; give what "
                "state_dict() returned"
            )
        own = self._state()
        given = {
            name: backend.asarray(v.data if isinstance(v, Tensor) else v)
            for name, v in state.items()
            if name in own
        }
        missing = [name for name in own if name not in state]
        unexpected = [name for name in state if name not in own]
        shapes = [
            f"{name} is {given[name].shape}, expected {own[name].shape}"
            for name in own
            if name in given and given[name].shape != own[name].shape
        ]
        if shapes or (strict and (missing or unexpected)):
            found = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
            text = "; ".join(f"{what}: {', '.join(names)}" for what, names in found.items() if names)
            kind = ShapeError if shapes else UsageError
            raise kind(f"the state does not fit {type(self).__name__}: {text}")
        for name, array in given.items():  # what cannot be converted is refused before the first is assigned
            place = None if own[name].device == "shapes" else own[name].device
            given[name] = backend.asarray(array, device=place, dtype=own[name].dtype)
        for name, array in given.items():
            own[name].assign(array)
        return IncompatibleKeys(missing, unexpected)


def _is_dtype(value: Any) -> bool:
    try:
        return backend.numpy.dtype(value).kind in "biufcV"
    except TypeError:
        return False


def _dotted(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name
