"""Parameters that several stages share, such as an embedding that is also the output layer.

Each rank that uses one has a copy of its own. The copies begin alike, their gradients are summed over these
ranks, and so they stay alike; in norms they count once.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from minigrad import backend
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
        self.first_name = {name: names[0] for names in tied for name in names}
        own = {name: p for stage in stages.values() for name, p in _every_name(stage)}
        by_ranks: dict[tuple[int, ...], list[Sequence[str]]] = {}
        for names in across(cut, tied):
            ranks = tuple(sorted({rank_of[cut.stage_of(name)] for name in names}))
            by_ranks.setdefault(ranks, []).append(names)
        for ranks, lists in sorted(by_ranks.items()):
            mine = [[own[name] for name in names if name in own] for names in lists]
            for names, parameters in zip(lists, mine, strict=True):
                if len({id(parameter) for parameter in parameters}) > 1:
                    raise UsageError(
                        f"{world.name}: {' and '.join(names)} are one parameter, and two here; let both "
                        "layers of a rank use the same Parameter"
                    )
            if len(ranks) == 1:
                continue
            part = world.split(ranks[0] + 1 if world.rank in ranks else 0)
            if world.rank in ranks:
                self.groups.append(Group([p for p, *_ in mine], part, owned=world.rank == ranks[0]))
        self._foreign = {id(p) for group in self.groups if not group.owned for p in group.parameters}
        self._arrived: dict[int, Tensor | None] = {}
        for group in self.groups:
            for parameter in group.parameters:
                if parameter.device == "shapes":  # its values come later, and by one note on all ranks
                    continue
                values = parameter.data.reshape(-1).copy()
                group.world.broadcast(values, root=0, purpose="parameters")
                parameter.assign(Tensor.of(values.reshape(parameter.shape)))

    @staticmethod
    def find(cut: Cut, layers: Mapping[str, Any], named: Iterable[Sequence[str]]) -> list[list[str]]:
        """Groups of names that are one parameter each: as said, and as found in Modules."""
        tied = [list(names) for names in named]
        names_of: dict[int, list[str]] = {}
        for prefix, layer in layers.items():
            if isinstance(layer, Module):
                for name, parameter in _every_name(layer):
                    names_of.setdefault(id(parameter), []).append(f"{prefix}.{name}")
        tied += [names for names in names_of.values() if len(names) > 1]
        for names in tied:
            for name in names:
                cut.stage_of(name)  # refuses names that nobody has
        return tied

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
            if not learned:
                continue
            xp = backend.of_device(learned[0].device)
            parts = [arrived[id(p)] for p in learned]
            flat = xp.concat(
                [
                    xp.zeros(p.size, dtype=p.dtype) if part is None else part.data.reshape(-1)
                    for p, part in zip(learned, parts, strict=True)
                ]
            )
            group.world.all_reduce(flat, purpose="gradients")
            start = 0
            for parameter in learned:
                assert isinstance(parameter.node, Leaf)
                piece = flat[start : start + parameter.size].reshape(parameter.shape)
                deliver(parameter.node, piece.copy())
                start += parameter.size


def _every_name(module: Module) -> Iterable[tuple[str, Parameter]]:
    """All parameters, shared ones under each of their names."""
    for prefix, inner in module._every_module(""):
        for name, value in vars(inner).items():
            if isinstance(value, Parameter):
                yield f"{prefix}.{name}" if prefix else name, value
