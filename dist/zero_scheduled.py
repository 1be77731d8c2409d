"""Stage 3 by a pipeline's schedule: its gathers (G) make a stage whole, its reduces (R) let it go.

Around each use of a layer, stage 3 moves 3Ψ for every microbatch. A schedule that says itself when to gather
and to reduce moves 2Ψ for all of them: the parameters of a stage stay whole from G to R, and its gradients
are added up here until R sums them over the copies. Meanwhile a rank holds what its stages have; before and
after that its shards. (Zhao et al. 2023, PyTorch FSDP, §3.3.1 and §3.3.4: no resharding after the forward,
accumulation without communication.)

What several stages share is the root: whole from the first G to the last R of the rank. Its gradients are
complete after all stages only, and summed by the step.
"""

import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from minigrad.dist.partition import Bucket
from minigrad.dist.pipeline_shared import Group
from minigrad.dist.units import ROOT, Unit
from minigrad.dist.world import World
from minigrad.dist.zero_parameters import Track
from minigrad.dist.zero_pooled import PooledGradients
from minigrad.dist.zero_shards import ShardedParameters
from minigrad.graph import Node
from minigrad.nn.module import Module, Parameter


def stage_units(
    stages: Mapping[int, Module],
    module: Module,
    groups: Sequence[Group],
    world: World,
    *,
    beside: Sequence[Parameter],
) -> tuple[dict[int, Unit], Unit | None]:
    """A unit of each stage, and the root: what several stages have, here or on the ranks of `groups`, and
    those `beside` the module's.
    """
    shared = {id(parameter) for group in groups for parameter in group.parameters}
    holders: dict[int, list[int]] = {}
    for number, stage in stages.items():
        for parameter in stage.parameters():
            holders.setdefault(id(parameter), []).append(number)
    held: dict[int, list[Parameter]] = {-1: list(beside)}
    for parameter in module.parameters():
        first, *others = holders[id(parameter)]
        held.setdefault(-1 if others or id(parameter) in shared else first, []).append(parameter)
    units = {
        number: Unit(f"stage {number}", [stage], held.get(number, []), world)
        for number, stage in stages.items()
    }
    return units, Unit(ROOT, [module], held[-1], world) if held[-1] else None


class ScheduledParameters(ShardedParameters):
    """Makes the parameters of a stage whole, and lets them go, when it is told to."""

    def __init__(
        self, units: Mapping[int, Unit], root: Unit | None, world: World, *, algorithm: str, track: Track
    ) -> None:
        super().__init__(list(units.values()), root, world, algorithm=algorithm, track=track)
        self._units, self._held = dict(units), set[int]()

    def gather(self, stage: int) -> None:
        """Make the parameters of a stage whole, in memory of their own; of the first also the root."""
        start = time.perf_counter()
        for unit in self._changing(stage):
            for part in unit.parts:
                part.lie(self.memory(part))
                self.world.all_gather(part.shard, part.flat, counts=part.bucket.counts, **self.how)
            unit.attach()
        self._held.add(stage)
        self.seconds += time.perf_counter() - start

    def let_go(self, stage: int) -> None:
        """Keep the shards of a stage only; after the last also of the root."""
        self._held.remove(stage)
        for unit in self._changing(stage):
            unit.detach()
            for part in unit.parts:
                part.lie(None)

    def _changing(self, stage: int) -> list[Unit]:
        """What comes or goes with a stage: its unit and, where no other stage is held, the root."""
        return [self._units[stage], *([self.root] if self.root and not self._held else [])]

    def busy(self) -> bool:
        return bool(self._held)

    def forget(self) -> None:
        for stage in tuple(self._held):  # by a step that was broken off
            self.let_go(stage)

    publish = forget  # what was gathered is no longer right


class ScheduledGradients(PooledGradients):
    """Adds up the gradients of a stage here, and sums them over copies when it is told to."""

    advice: ClassVar[str] = "zero.step() after each pipeline.step(): its schedule sums gradients once"

    def __init__(
        self,
        buckets: Sequence[Bucket],
        world: World,
        *,
        stages: Mapping[int, Unit],
        root: Unit | None,
        **how: Any,
    ) -> None:
        self._stages, self.apart = stages, frozenset([root.bucket] if root and root.bucket else [])
        super().__init__(buckets, world, **how)
        self._agreed = self.quiet = True

    def _before_walk(self, nodes: Sequence[Node], leaves: Container[Node]) -> None:
        """Walks send nothing."""

    def patient(self) -> bool:
        return False  # a bucket is open until its stage is reduced

    def reduce(self, stage: int) -> None:
        """Sum the gradients of a stage over copies: stages in the order of the schedule, the same on all."""
        start = time.perf_counter()
        if self._stages[stage].bucket is not None:
            self.send_through(self._sent + 1)
            while self._arrived < self._sent:
                self._wait()
        self.seconds_driving += time.perf_counter() - start

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Walks send nothing anyway."""
        yield


class Scheduled:
    """What a pipeline calls where its schedule gathers and reduces, and where it only predicts."""

    def __init__(self, parameters: ScheduledParameters, gradients: ScheduledGradients) -> None:
        self._parameters, self._gradients = parameters, gradients
        self.gathered: Callable[[], Any] = parameters.gathered

    def gather(self, stage: int) -> None:
        self._parameters.gather(stage)

    def reduce(self, stage: int) -> None:
        self._gradients.reduce(stage)
        self._parameters.let_go(stage)
