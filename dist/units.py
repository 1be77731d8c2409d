"""Units: the modules whose parameters are gathered together at stage 3, and what stands in for these between.

By default every element of a model's lists of modules is a unit, and so is every part of a Sequential; the
rest of the model is the root unit. A parameter that several units share belongs to the root. Of a pipeline's
layers, which nobody calls as one model, those that share parameters are one unit, and there is no root.

Zhao et al. 2023, PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel, §3.2 and §4.2 (its units).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NoReturn

from minigrad import backend
from minigrad.apply import apply
from minigrad.backend import Namespace
from minigrad.dist.partition import Bucket
from minigrad.dist.pipeline_stages import Stage
from minigrad.dist.request import Request
from minigrad.dist.verbs import Array
from minigrad.dist.world import World
from minigrad.errors import UsageError
from minigrad.nn.module import Module, Parameter
from minigrad.rules import OPERATIONS, Operation
from minigrad.tensor import Tensor
from minigrad.tree import flatten, rebuild

ROOT = "the root unit"


class Part:
    """Parameters of a unit that are gathered into one flat array: trained ones, or frozen ones of a dtype.

    shard    this rank's piece, always here
    flat     where the whole lies while it is gathered: a fixed place, so that what a graph saved of it is
             right again as soon as it is gathered again
    """

    def __init__(self, unit: str, parameters: Sequence[Parameter], world: World) -> None:
        self.bucket = Bucket(parameters, world)
        self.trained = parameters[0].requires_grad
        self.shard: Array = None
        self.flat: Array = None
        self._absent = [Absent(p.shape, p.dtype, p.device, unit) for p in parameters]
        self._views: list[Array] = []

    def lie(self, flat: Array) -> None:
        """Take a place; None: leave it."""
        self.flat, self._views = flat, [] if flat is None else self.bucket.views(flat)

    def attach(self, views: Sequence[Array] | None = None) -> None:
        """Let the parameters have their values."""
        for parameter, view in zip(self.bucket.parameters, views or self._views, strict=True):
            parameter.data = view

    def detach(self) -> None:
        """Let the use of the parameters be refused."""
        for parameter, absent in zip(self.bucket.parameters, self._absent, strict=True):
            parameter.data = absent


class Unit:
    """Parameters that are gathered together, and where they are just now.

    parts    one flat array each
    bucket   of those parameters that have gradients, if there are any
    whole    whether their values are here now
    """

    def __init__(
        self, name: str, modules: Sequence[Module], parameters: Sequence[Parameter], world: World
    ) -> None:
        self.name, self.modules = name, list(modules)
        kinds: dict[Any, list[Parameter]] = {}
        for parameter in parameters:
            kinds.setdefault((parameter.requires_grad, parameter.dtype), []).append(parameter)
        self.parts = [Part(name, members, world) for members in kinds.values()]
        self.bucket = next((part.bucket for part in self.parts if part.trained), None)
        self.number = -1  # in the order of use; the root has none
        self.requests: list[Request] = []
        self.whole = False
        self._places: dict[Any, tuple[int, int]] = {}

    def size(self, dtype: Any) -> int:
        """Entries of one dtype."""
        return sum(part.bucket.size for part in self.parts if part.bucket.dtype == dtype)

    def lie(self, memory: Array, start: int) -> None:
        """Take a place in memory of one dtype that units share, from entry `start` on."""
        stop = start
        for part in (part for part in self.parts if part.bucket.dtype == memory.dtype):
            part.lie(memory[stop : stop + part.bucket.size])
            stop += part.bucket.size
        self._places[memory.dtype] = (start, stop)

    def overlaps(self, other: Unit) -> bool:
        """Whether both cannot be whole at once."""
        pairs = ((place, other._places.get(dtype, (0, 0))) for dtype, place in self._places.items())
        return any(mine[0] < theirs[1] and theirs[0] < mine[1] for mine, theirs in pairs)

    def attach(self) -> None:
        """Let the parameters have their values."""
        for part in self.parts:
            part.attach()

    def detach(self) -> None:
        """Let the use of the parameters be refused."""
        for part in self.parts:
            part.detach()


# ----- Which modules are units -----


Chosen = Sequence[Module | Sequence[Module]]


def find_units(
    module: Module, chosen: Chosen | None, world: World, *, beside: Sequence[Parameter] = ()
) -> tuple[list[Unit], Unit | None]:
    """The units of a model in the order of declaration, and the root (None if nothing is left for it): of all
    parameters, trained or not, and in the root those `beside` the module's.

    Of chosen ones, several modules together make one unit. Raises UsageError for modules that are not the
    model's, or lie inside one another.
    """
    if chosen is None and isinstance(module, Stage):
        groups = _with_common_parameters(module.children())
    elif chosen is None:
        groups = [[one] for one in dict.fromkeys(_repeated(module))]
    else:
        groups = [[one] if isinstance(one, Module) else list(one) for one in chosen]
        _check_chosen(module, [one for group in groups for one in group])
    names = {id(inner): name for name, inner in module.named_modules()}
    holders: dict[int, set[int]] = {}  # of each parameter: which groups, -1 for none of them
    for number, group in enumerate(groups):
        for parameter in (parameter for one in group for parameter in one.parameters()):
            holders.setdefault(id(parameter), set()).add(number)
    for parameter in _outside(module, {id(one) for group in groups for one in group}):
        holders.setdefault(id(parameter), set()).add(-1)
    held: dict[int, list[Parameter]] = {-1: list(beside)} if beside else {}
    for parameter in module.parameters():
        only, *others = holders[id(parameter)]
        held.setdefault(-1 if others else only, []).append(parameter)
    units = [
        Unit(" and ".join(names[id(one)] for one in group), group, held[number], world)
        for number, group in enumerate(groups)
        if number in held
    ]
    return units, Unit(ROOT, [module], held[-1], world) if -1 in held else None


def _check_chosen(module: Module, chosen: Sequence[Module]) -> None:
    names = {id(inner): name for name, inner in module.named_modules()}
    for one in chosen:
        if id(one) not in names or one is module:
            raise UsageError(f"units got a {type(one).__name__} that is no module inside the model")
        if sum(other is one for other in chosen) > 1:
            raise UsageError(f"units got {names[id(one)]} twice; each module belongs to one unit")
        inside = {id(inner) for inner in one.modules() if inner is not one}
        for other in chosen:
            if id(other) in inside:
                raise UsageError(
                    f"the unit {names[id(other)]} lies inside the unit {names[id(one)]}; choose one"
                )


def _repeated(module: Module) -> Iterator[Module]:
    """The outermost elements of lists of modules."""
    from minigrad.nn.containers import ModuleList, Sequential

    for child in module.children():
        if isinstance(module, (ModuleList, Sequential)):
            yield child
        else:
            yield from _repeated(child)


def _with_common_parameters(modules: Iterable[Module]) -> list[list[Module]]:
    """Each by itself; those that share parameters together."""
    groups: list[list[Module]] = []
    for module in modules:
        own = set(map(id, module.parameters()))
        meeting = [g for g in groups if any(id(p) in own for other in g for p in other.parameters())]
        groups = [group for group in groups if group not in meeting]
        groups.append([*(other for group in meeting for other in group), module])
    return groups


def _outside(module: Module, units: set[int]) -> Iterator[Parameter]:
    """The parameters that can be reached without entering a unit."""
    yield from (value for value in vars(module).values() if isinstance(value, Parameter))
    for child in module.children():
        if id(child) not in units:
            yield from _outside(child, units)


# ----- What stands in for parameters that are not here -----


class Absent:
    """Knows the shape, dtype and device of a parameter whose values lie on other ranks; refuses its use."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, device: str, unit: str) -> None:
        self.shape, self.dtype, self.place, self.unit = tuple(shape), dtype, device, unit
        self.ndim = len(self.shape)
        self.size = 1
        for length in self.shape:
            self.size *= length
        self.nbytes = self.size * dtype.itemsize

    def __repr__(self) -> str:
        return f"array(shared out with {self.unit}, shape={self.shape})"

    def refuse(self, *_: Any, **__: Any) -> NoReturn:
        """Say why there are no values."""
        raise UsageError(
            f"a parameter of shape {self.shape} was used while {self.unit} is not gathered (ZeRO stage 3): "
            "its values lie in pieces on all ranks; call the wrapped model, or read them in "
            "`with zero.gathered():`"
        )

    __array__ = __array_ufunc__ = __array_function__ = __len__ = __iter__ = refuse
    __getitem__ = __setitem__ = __float__ = refuse

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        self.refuse()


class _NoValues(Namespace):
    """The functions of arrays that are not here: each refuses."""

    name = "absent"
    in_place = False
    array_type = Absent

    def __init__(self) -> None:
        super().__init__(None)

    def __getattr__(self, name: str) -> Any:
        def refuse(*arguments: Any, **_: Any) -> NoReturn:
            for absent in arguments:
                if isinstance(absent, Absent):
                    absent.refuse()
            raise UsageError(f"{name} met a parameter that is not gathered (ZeRO stage 3)")

        return refuse

    def device(self, array: Any) -> str:
        return array.place

    def to_host(self, array: Any) -> Any:
        array.refuse()


backend.register(_NoValues())


# ----- Knowing when the pull walk comes by -----


def _arrival(xp: Any, x: Any, /, *, call: Callable[[], Any]) -> Any:
    """The same values; a pull walk that comes by calls `call` first. What that returns, if anything, another
    walk calls that goes through the first one.
    """
    return x


def _called(xp: Any, v: Any, call: Callable[[], Any]) -> Any:
    again = call()
    recorded = again is not None and isinstance(v, Tensor) and v.node is not None
    return apply(_ARRIVAL, (v,), {"call": again}) if recorded else v


_ARRIVAL = Operation(_arrival, {"x": _called})
_ARRIVAL.linear, _ARRIVAL.public = True, lambda x, *, call: x
del OPERATIONS[_ARRIVAL.name]  # it computes nothing, and is not part of the catalogue


def when_walked(outputs: Any, call: Callable[[], Any]) -> Any:
    """`outputs`, such that `call()` runs when a pull walk arrives there; nothing where none can arrive."""
    leaves = flatten(outputs)
    if not any(isinstance(leaf, Tensor) and leaf.node is not None for leaf in leaves):
        return outputs

    def watched(leaf: Any) -> Any:
        walked = isinstance(leaf, Tensor) and leaf.node is not None
        return apply(_ARRIVAL, (leaf,), {"call": call}) if walked else leaf

    return rebuild(outputs, [watched(leaf) for leaf in leaves])


def once(call: Callable[[], None]) -> Callable[[], None]:
    """`call`, which does nothing when it is called again."""
    left = [call]
    return partial(_pop, left)


def _pop(left: list[Callable[[], None]]) -> None:
    if left:
        left.pop()()
