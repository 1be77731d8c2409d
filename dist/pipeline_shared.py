"""Parameters that several layers share, such as an embedding that is also the output layer.

On one rank they are one parameter, whichever stages it is in. Each rank that uses one has a copy of its own.
The copies begin alike, their gradients are summed over these ranks, and so they stay alike; in norms they
count once. The first of the names of one parameter is that in the first layer: it begins as it does there.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

from minigrad import backend
from minigrad.dist.agreement import anywhere, gathered
from minigrad.dist.pipeline_stages import Cut, Stage
from minigrad.dist.world import World
from minigrad.errors import UsageError
from minigrad.graph import Leaf
from minigrad.nn.module import Module, Parameter
from minigrad.tensor import Tensor
from minigrad.walk import deliver


@dataclass
class Group:
    """Copies of parameters on the same ranks: this rank's, and the world of those ranks."""

    parameters: list[Parameter]
    world: World
    owned: bool


def across(cut: Cut, tied: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """The groups whose parameter stands in several stages."""
    return [names for names in tied if len({cut.stage_of(name) for name in names}) > 1]


def buffers_across(cut: Cut, layers: Mapping[str, Any]) -> set[int]:
    """The ids of the buffers that Modules of several stages share."""
    stages_of: dict[int, set[int]] = {}
    for prefix, layer in layers.items():
        if isinstance(layer, Module):
            for name, buffer in layer.named_buffers(prefix):
                stages_of.setdefault(id(buffer), set()).add(cut.stage_of(name))
    return {number for number, stages in stages_of.items() if len(stages) > 1}


class Shared:
    """What the stages of one rank share with stages elsewhere."""

    def __init__(
        self,
        world: World,
        tied: Sequence[Sequence[str]],
        stages: Mapping[int, Stage],
        cut: Cut,
        rank_of: Sequence[int],
    ) -> None:
        self.groups: list[Group] = []
        self._names = {name: names for names in tied for name in names}
        own = _every_name(stages.values())
        by_ranks: dict[tuple[int, ...], list[Sequence[str]]] = {}
        for names in across(cut, tied):
            ranks = tuple(sorted({rank_of[cut.stage_of(name)] for name in names}))
            if len(ranks) > 1:
                by_ranks.setdefault(ranks, []).append(names)
        if by_ranks:
            _check_copies(world, tied, own)
        for ranks, lists in sorted(by_ranks.items()):
            part = world.split(ranks[0] + 1 if world.rank in ranks else 0)
            if world.rank not in ranks:
                continue
            copies = [next(own[name] for name in names if name in own) for names in lists]
            self.groups.append(Group(copies, part, owned=world.rank == ranks[0]))
            for parameter, names in zip(copies, lists, strict=True):
                if parameter.device == "shapes":  # its values come later, and by one note on all ranks
                    continue
                values = parameter.data.reshape(-1).copy()
                first = ranks.index(rank_of[cut.stage_of(names[0])])
                part.broadcast(values, root=first, purpose="parameters")
                parameter.assign(Tensor.of(values.reshape(parameter.shape)))
        self._foreign = {id(p) for group in self.groups if not group.owned for p in group.parameters}
        self._arrived: dict[int, Tensor | None] = {}

    @staticmethod
    def find(cut: Cut, layers: Mapping[str, Any], said: Any) -> list[list[str]]:
        """Groups of names that are one parameter each, in the order of layers: as said, and as found in
        Modules. Raises UsageError for names that no layer has.
        """
        names_of: dict[int, list[str]] = {}
        for prefix, layer in layers.items():
            if isinstance(layer, Module):
                for name, parameter in layer.named_parameters(prefix, remove_duplicate=False):
                    names_of.setdefault(id(parameter), []).append(name)
        tied: list[list[str]] = []
        given = list(said) if isinstance(said, Iterable) else [said]
        for names in [*given, *(names for names in names_of.values() if len(names) > 1)]:
            listed = isinstance(names, Iterable) and not isinstance(names, str)
            if not listed or not all(isinstance(name, str) for name in names):
                raise UsageError(
                    f"shared has {names!r} where a group of names is expected; give lists of names that are "
                    'one parameter: shared=[["0.weight", "2.weight"]]'
                )
            meeting = [other for other in tied if set(other) & set(names)]
            tied = [other for other in tied if other not in meeting]
            tied.append(list(dict.fromkeys(chain(*meeting, names))))
        return [sorted(names, key=cut.place_of) for names in tied]

    def name_in_model(self, name: str) -> str:
        """Of the names of one parameter the first."""
        return self._names.get(name, [name])[0]

    def taken_from(self, state: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
        """What a state has under these names; a parameter with several comes by the first that is there."""
        found = ((name, next((n for n in self._names.get(name, [name]) if n in state), "")) for name in names)
        return {name: state[there] for name, there in found if there}

    def owned(self, parameter: Parameter) -> bool:
        """Whether this rank is the one that counts the parameter."""
        return id(parameter) not in self._foreign

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Inside the block gradients of shared parameters arrive at places of their own.

        They become gradients of the parameters by `deliver`, complete, and once: what watches a parameter's
        gradient (buckets of data parallelism, ZeRO) never sees a part of it.
        """
        parameters = [p for group in self.groups for p in group.parameters if isinstance(p.node, Leaf)]
        held = [p.node for p in parameters]
        for parameter in parameters:
            parameter.node = Leaf(parameter.shape, parameter.dtype)
        try:
            yield
        finally:
            for parameter, node in zip(parameters, held, strict=True):
                self._arrived[id(parameter)] = parameter.grad
                parameter.node = node

    def deliver(self) -> None:
        """Sum what arrived over the ranks that share, and let it be the parameters' gradients."""
        arrived, self._arrived = self._arrived, {}
        for group in self.groups:
            learned = [p for p in group.parameters if isinstance(p.node, Leaf)]
            for dtype in dict.fromkeys(p.dtype for p in learned):
                alike = [p for p in learned if p.dtype == dtype]
                _sum(group.world, alike, [arrived[id(p)] for p in alike])


def _sum(world: World, parameters: Sequence[Parameter], parts: Sequence[Tensor | None]) -> None:
    """Let parameters of one dtype have the sums of gradients over ranks, in one message; those that no rank
    used have none.
    """
    used = anywhere(world, [part is not None for part in parts])
    xp = backend.of_device(parameters[0].device)
    flat = xp.concat(
        [
            xp.zeros(p.size, dtype=p.dtype) if part is None else part.data.reshape(-1)
            for p, part in zip(parameters, parts, strict=True)
        ]
    )
    world.all_reduce(flat, purpose="gradients")
    start = 0
    for parameter, found in zip(parameters, used, strict=True):
        assert isinstance(parameter.node, Leaf)
        piece = flat[start : start + parameter.size].reshape(parameter.shape)
        if found:
            deliver(parameter.node, piece.copy())
        start += parameter.size


def tie(world: World, cut: Cut, tied: Sequence[Sequence[str]], stages: Mapping[int, Stage]) -> None:
    """Let parameters of this rank that are one be one object, the first, in all modules that have them.

    Raises UsageError for names that are no parameters, and for parameters that differ.
    """
    own = _every_name(stages.values())
    instead: dict[int, Parameter] = {}
    for names in tied:
        here = [name for name in names if cut.stage_of(name) in stages]
        for name in here:
            if name not in own:
                raise UsageError(
                    f"{world.name}: shared names {name!r}, and that layer has no such parameter; names are "
                    "those of pipeline.named_parameters()"
                )
            if _kind(own[name]) != _kind(own[here[0]]):
                raise _differ(world, here[0], _kind(own[here[0]]), name, _kind(own[name]))
            if own[name] is not own[here[0]]:
                instead[id(own[name])] = own[here[0]]
    for module in chain(*(stage.modules() for stage in stages.values() if instead)):
        for name, value in list(vars(module).items()):
            if id(value) in instead:
                setattr(module, name, instead[id(value)])


def _kind(parameter: Parameter) -> list[Any]:
    """What copies of a parameter have in common."""
    return [list(parameter.shape), str(parameter.dtype), parameter.requires_grad]


def _differ(world: World, one: str, kind: list[Any], other: str, other_kind: list[Any]) -> UsageError:
    described = [
        f"{name} ({dtype} {tuple(shape)}, {'learned' if learned else 'frozen'})"
        for name, (shape, dtype, learned) in ((one, kind), (other, other_kind))
    ]
    return UsageError(f"{world.name}: {' and '.join(described)} cannot be one parameter; make them alike")


def _check_copies(world: World, tied: Sequence[Sequence[str]], own: Mapping[str, Parameter]) -> None:
    """Raise UsageError, on all ranks, where copies of one parameter differ in more than their values."""
    mine = {name: _kind(own[name]) for names in tied for name in names if name in own}
    kinds = {name: kind for part in gathered(world, mine) for name, kind in part.items()}
    for first, *others in tied:
        for other in others:
            if kinds[other] != kinds[first]:
                raise _differ(world, first, kinds[first], other, kinds[other])


def _every_name(stages: Iterable[Stage]) -> dict[str, Parameter]:
    """All parameters, shared ones under each of their names."""
    return {name: p for stage in stages for name, p in stage.named_parameters(remove_duplicate=False)}
