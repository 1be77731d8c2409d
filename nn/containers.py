"""Modules that hold others: one after the other, numbered, or named."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from minigrad.errors import UsageError
from minigrad.nn.module import Module
from minigrad.nn.parameter import Parameter


def _module(value: Any) -> Module:
    if not isinstance(value, Module):
        raise UsageError(f"expected a Module, got {value!r}; give a function a Module of its own")
    return value


def _set(parent: Module, name: str, module: Any) -> None:
    if hasattr(type(parent), name) or "." in name or not name:
        kind = type(parent).__name__
        raise UsageError(
            f"{kind}: a module cannot be named {name!r} (taken, empty or dotted); choose another"
        )
    setattr(parent, name, _module(module))


class Numbered(Module):
    """Modules named "0", "1", ... Indexed like a list, slices included."""

    def append(self, module: Module) -> Any:
        setattr(self, str(len(self)), _module(module))
        return self

    def extend(self, modules: Iterable[Module]) -> Any:
        for module in modules:
            self.append(module)
        return self

    def insert(self, index: int, module: Module) -> None:
        """Put a module before the one at `index`; those behind it move on by a number."""
        modules = list(self.children())
        modules.insert(index, _module(module))
        self._replace(modules)

    def pop(self, index: int = -1) -> Any:
        """Take a module out and return it; those behind it move up."""
        module = self[index]
        del self[index]
        return module

    def _replace(self, modules: Sequence[Module]) -> None:
        """Hold these instead, numbered from 0."""
        for name, _ in list(self.named_children()):
            delattr(self, name)
        self.extend(modules)

    def __delitem__(self, index: int | slice) -> None:
        modules = list(self.children())
        del modules[index]
        self._replace(modules)

    def __iadd__(self, modules: Iterable[Module]) -> Any:
        return self.extend(modules)

    def __add__(self, modules: Iterable[Module]) -> Any:
        return self._like([*self, *modules])

    def _like(self, modules: Iterable[Module]) -> Any:
        """A container of these: of the kind from which this one is derived, which is made in its own way."""
        kind = next(kind for kind in type(self).__mro__ if kind.__module__ == __name__)
        return kind().extend(modules)

    def __len__(self) -> int:
        return sum(1 for _ in self.children())

    def __getitem__(self, index: int | slice) -> Any:
        modules = list(self.children())
        return self._like(modules[index]) if isinstance(index, slice) else modules[index]

    def __setitem__(self, index: int, module: Module) -> None:
        names = [name for name, _ in self.named_children()]
        setattr(self, names[index], _module(module))

    def __iter__(self) -> Iterator[Module]:
        return self.children()


class Sequential(Numbered):
    """Modules one after the other, named "0", "1", ..., or by the keys of one mapping."""

    def __init__(self, *modules: Any) -> None:
        if len(modules) == 1 and isinstance(modules[0], Mapping):
            for name, module in modules[0].items():
                _set(self, name, module)
        else:
            self.extend(modules)

    def forward(self, x: Any) -> Any:
        for module in vars(self).values():
            if isinstance(module, Module):
                x = module(x)
        return x


class ModuleList(Numbered):
    """A list of modules, named "0", "1", ... It has no forward of its own."""

    def __init__(self, modules: Iterable[Module] | None = None) -> None:
        self.extend(modules or ())

    def __repr__(self) -> str:
        lines = ["ModuleList("]
        place = 0
        for text, equal in groupby(map(repr, self)):
            count = len(list(equal))
            number = str(place) if count == 1 else f"{place}-{place + count - 1}"
            times = "" if count == 1 else f"{count} x "
            lines += f"({number}): {times}{text}".split("\n")
            place += count
        return "ModuleList()" if place == 0 else "\n  ".join(lines) + "\n)"


class ModuleDict(Module):
    """Modules by name. It has no forward of its own."""

    def __init__(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]] | None = None) -> None:
        self.update(modules or ())

    def update(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]]) -> None:
        for name, module in modules.items() if isinstance(modules, Mapping) else modules:
            self[name] = module

    def __setitem__(self, name: str, module: Module) -> None:
        _set(self, name, module)

    def __getitem__(self, name: str) -> Module:
        found = vars(self).get(name)
        if not isinstance(found, Module):
            raise KeyError(f"ModuleDict has no module {name!r}; it has {', '.join(self.keys()) or 'none'}")
        return found

    def __delitem__(self, name: str) -> None:
        self[name]
        delattr(self, name)

    def __contains__(self, name: str) -> bool:
        return isinstance(vars(self).get(name), Module)

    def __len__(self) -> int:
        return sum(1 for _ in self.children())

    def __iter__(self) -> Iterator[str]:
        return self.keys()

    def pop(self, name: str) -> Module:
        """Take a module out and return it."""
        module = self[name]
        del self[name]
        return module

    def clear(self) -> None:
        """Take all modules out."""
        for name in list(self):
            del self[name]

    def keys(self) -> Iterator[str]:
        return (name for name, _ in self.named_children())

    def values(self) -> Iterator[Module]:
        return self.children()

    def items(self) -> Iterator[tuple[str, Module]]:
        return self.named_children()


class ParameterList(Module):
    """A list of parameters, named "0", "1", ... Tensors and arrays given to it become parameters."""

    def __init__(self, values: Iterable[Any] | None = None) -> None:
        self.extend(values or ())

    def append(self, value: Any) -> Any:
        self._put(len(self), value)
        return self

    def _put(self, place: int, value: Any) -> None:
        setattr(self, str(place), value if isinstance(value, Parameter) else Parameter(value))

    def extend(self, values: Iterable[Any]) -> Any:
        for value in values:
            self.append(value)
        return self

    def __iadd__(self, values: Iterable[Any]) -> Any:
        return self.extend(values)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, index: int | slice) -> Any:
        return type(self)(list(self)[index]) if isinstance(index, slice) else list(self)[index]

    def __setitem__(self, index: int, value: Any) -> None:
        self._put(range(len(self))[index], value)

    def __iter__(self) -> Iterator[Parameter]:
        return (value for value in vars(self).values() if isinstance(value, Parameter))

    def extra_repr(self) -> str:
        return ", ".join(f"({place}): {value.dtype} {value.shape}" for place, value in enumerate(self))
