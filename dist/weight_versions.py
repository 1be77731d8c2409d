"""Weights of several ages at once, for schedules that update while microbatches are under way.

Version v of a stage is what its weights were after v updates of the run that is under way; versions below 0
are from the runs before. Which version each microbatch uses is a table, worked out from the schedule by one
of three published rules; its forward and its backward use the same one.

| rule            | the version that a microbatch uses on a stage                                        |
|-----------------|--------------------------------------------------------------------------------------|
| "stashing"      | the newest that the stage has when the forward comes (PipeDream §3.3)                |
| "vertical-sync" | the one that stage 0 used for it (PipeDream §3.3)                                    |
| "2bw"           | k - 1 for the gradient of update k: one update old (Narayanan et al. 2021, ICML §3.1) |

The pipeline drains at the end of a run, so the first two begin each run with the newest weights. The delay of
the third is carried over: its versions live on, and how updates are dealt out to runs changes nothing.

Narayanan et al. 2019, PipeDream: Generalized Pipeline Parallelism for DNN Training; Narayanan et al. 2021,
Memory-Efficient Pipeline-Parallel DNN Training.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from minigrad import backend
from minigrad.dist.memory import Meter
from minigrad.dist.pipeline_stages import Stage
from minigrad.dist.schedule import F, Kind, Schedule
from minigrad.dist.verbs import Array
from minigrad.errors import UsageError
from minigrad.mutation import mutated
from minigrad.nn.module import Parameter
from minigrad.nn.optim import Optimizer
from minigrad.tensor import Tensor

Table = dict[tuple[int, int], int]  # versions by (stage, microbatch)
MakeOptimizer = Callable[[Iterable[Parameter]], Optimizer]


# ----- Rules -----


def stashing(schedule: Schedule) -> Table:
    """Each stage takes the newest weights that it has when a forward comes."""
    found: Table = {}
    for row in schedule.ranks:
        updates: Counter[int] = Counter()
        for action in row:
            if action.kind is Kind.UPDATE:
                updates[action.stage] += 1
            elif action.kind is F:
                found.setdefault((action.stage, action.microbatch), updates[action.stage])
    return found


def vertical_sync(schedule: Schedule) -> Table:
    """All stages take, for a microbatch, the version that the first stage took."""
    stashed = stashing(schedule)
    return {(stage, number): stashed[0, number] for stage, number in stashed}


def double_buffered(schedule: Schedule) -> Table:
    """All microbatches of one update take the weights from one update before: delay 1, two versions."""
    return {place: update - 1 for place, update in schedule.update_of.items()}


RULES: dict[str, Callable[[Schedule], Table]] = {
    "stashing": stashing,
    "vertical-sync": vertical_sync,
    "2bw": double_buffered,
}


def find_versions(schedule: Schedule, rule: str | None = None) -> Table:
    """The table of a rule: by default of the one that the schedule brings.

    Raises UsageError for a rule that is not there or not the schedule's, for a schedule of your own that
    leaves open which weights are meant, and where a microbatch would need weights that are not made yet.
    """
    newest = stashing(schedule)
    if rule is None and not schedule.versions:
        if any(newest[place] != update for place, update in schedule.update_of.items()):
            raise UsageError(
                f"the schedule {schedule.name} updates while microbatches are under way; say which weights "
                f"these use: versions= one of {', '.join(RULES)}"
            )
        return newest
    rule = rule or schedule.versions[0]
    if rule not in RULES:
        raise UsageError(f"there is no rule {rule!r} for versions of weights; there are {', '.join(RULES)}")
    if schedule.versions and rule not in schedule.versions:
        raise UsageError(
            f"the schedule {schedule.name} goes with the rule {' or '.join(schedule.versions)}, and versions "
            f"is {rule!r}; leave versions out, or take another schedule"
        )
    table = RULES[rule](schedule)
    for (stage, number), version in table.items():
        if version > newest[stage, number]:
            raise UsageError(
                f"microbatch {number} needs version {version} of the weights on stage {stage} by the rule "
                f"{rule}, and only {newest[stage, number]} is there when its turn comes; take another rule"
            )
    return table


# ----- Versions of one stage -----


@dataclass
class Version:
    """All values of one version in one array, and each parameter's part of it."""

    flat: Array
    views: list[Array]


class WeightVersions:
    """The versions of one stage's weights, each in an array of its own: the newest, which the optimizer
    changes, and older ones as long as a microbatch, of this run or the next, needs them.

    An update that would overwrite such a version is made in another array, that of a version which is no
    longer needed where there is one: so at no time is there a copy more than there are versions.

    newest      how many updates this run has made
    most_held   the most versions that there were at a time
    """

    def __init__(
        self, stage: Stage, schedule: Schedule, table: Table, optimizer: Optimizer, meter: Meter | None = None
    ) -> None:
        self.optimizer = optimizer
        self.newest, self.most_held = 0, 1
        self._names = {id(parameter): name for name, parameter in stage.named_parameters()}
        self._meter = meter
        self._older: dict[int, Version] = {}
        self._present: Version | None = None
        self._table = {number: version for (s, number), version in table.items() if s == stage.number}
        self._ended: dict[int, list[int]] = {}
        for (s, number), update in schedule.update_of.items():
            if s == stage.number:
                self._ended.setdefault(update, []).append(number)
        self._left: Counter[int] = Counter()

    @property
    def held(self) -> list[int]:
        """The versions that are there now."""
        return [*sorted(self._older), self.newest]

    def begin(self) -> None:
        """A new run of the schedule: versions count from the weights that are there."""
        self._find_parameters()
        aged = {version - self.newest: held for version, held in self._older.items()}
        self._older = {version: held for version, held in aged.items() if version in self._table.values()}
        self.newest = 0
        updates = len(self._ended)
        # Before the first update, nothing is older than the weights that are there.
        self._of = {j: v if v >= 0 or v in self._older else 0 for j, v in self._table.items()}
        self._left = Counter(self._of.values())
        self._left.update(updates + v for v in self._table.values() if v < 0)  # by the next run

    def _find_parameters(self) -> None:
        """Where the newest values lie: the optimizer keeps its parameters in one array."""
        self.optimizer.gradients()  # lays them out, unless it has done so
        flat = self.optimizer.flat_parameters
        assert flat is not None
        if self._present is None or self._present.flat is not flat:
            self._older.clear()  # other parameters, or in another order
            self._present = Version(flat, [p.data for p in self.optimizer.parameters])
            if self._meter is not None:
                self._meter.track("parameters", flat)

    @contextmanager
    def used_by(self, microbatch: int) -> Iterator[None]:
        """The stage has the weights of this microbatch inside the block."""
        version = self._of[microbatch]
        if version == self.newest:
            yield
            return
        assert self._present is not None
        self._show(self._older[version])
        try:
            yield
        finally:
            self._show(self._present)

    def update(self, number: int) -> None:
        """Update `number` of this run; the backwards whose gradients it takes are done."""
        spare = None
        for microbatch in self._ended[number]:
            version = self._of[microbatch]
            self._left[version] -= 1
            if not self._left[version]:
                spare = self._older.pop(version, spare)
        if self._left[self.newest]:
            self._move(spare)
        self.newest += 1
        self.most_held = max(self.most_held, len(self.held))
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _move(self, spare: Version | None) -> None:
        """Let the newest values stay as they are, for those who need them, and go on with a copy."""
        assert self._present is not None
        before = self._present
        if spare is None:
            spare = self._version(backend.namespace(before.flat).empty_like(before.flat))
        spare.flat[...] = before.flat
        mutated(spare.flat)
        self._older[self.newest] = before
        self._present = spare
        self.optimizer.move_to(spare.flat, spare.views)

    def _version(self, flat: Array) -> Version:
        if self._meter is not None:
            self._meter.track("parameters", flat)
        parameters = self.optimizer.parameters
        ends = accumulate(p.size for p in parameters)
        return Version(
            flat, [flat[end - p.size : end].reshape(p.shape) for p, end in zip(parameters, ends, strict=True)]
        )

    def _show(self, version: Version) -> None:
        for parameter, view in zip(self.optimizer.parameters, version.views, strict=True):
            parameter.data = view

    # ----- Between runs -----

    def forget(self) -> None:
        """Begin anew with the weights that are there, as at the start of the training."""
        self._older.clear()

    def state_dict(self) -> dict[str, Tensor]:
        """The older versions that the next run needs, for a checkpoint: "1.NAME" from one update before."""
        return {
            f"{self.newest - version}.{self._names[id(parameter)]}": Tensor.of(view)
            for version, held in sorted(self._older.items())
            for parameter, view in zip(self.optimizer.parameters, held.views, strict=True)
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave; the weights themselves are loaded before."""
        self._find_parameters()
        self._older.clear()
        for age in sorted({int(name.partition(".")[0]) for name in state}):
            assert self._present is not None
            held = self._version(backend.namespace(self._present.flat).empty_like(self._present.flat))
            for parameter, view in zip(self.optimizer.parameters, held.views, strict=True):
                name = f"{age}.{self._names[id(parameter)]}"
                if name not in state:
                    raise UsageError(f"the state lacks {name!r}; give what state_dict() returned")
                Tensor.of(view).assign(state[name])
            self._older[self.newest - age] = held


# ----- All stages of a rank -----


class Updates:
    """The optimizers of one rank's stages and their weights of several ages, for a schedule that updates.

    versions     by stage, of those that learn anything
    optimizers   the same
    """

    def __init__(
        self,
        schedule: Schedule,
        stages: Mapping[int, Stage],
        optimizer: MakeOptimizer,
        rule: str | None,
        meter: Meter | None = None,
    ) -> None:
        self.table = find_versions(schedule, rule)
        learned = {n: [p for p in stage.parameters() if p.requires_grad] for n, stage in stages.items()}
        self.optimizers = {
            number: optimizer(parameters) for number, parameters in learned.items() if parameters
        }
        self.versions = {
            number: WeightVersions(stages[number], schedule, self.table, own, meter)
            for number, own in self.optimizers.items()
        }

    @staticmethod
    def find(
        schedule: Schedule,
        stages: Mapping[int, Stage],
        optimizer: MakeOptimizer | None,
        rule: str | None,
        *,
        tied: bool,
        meter: Meter | None = None,
    ) -> "Updates | None":
        """What a schedule needs to update; None for one that never does.

        Raises UsageError for an optimizer or a rule that is missing or of no use, and for parameters that
        stages share: each stage updates at a time of its own, so at none has such a parameter its whole
        gradient. (Within one stage it may be used as often as one likes.)
        """
        if not schedule.update_of:
            if optimizer is not None:
                raise UsageError(
                    f"the schedule {schedule.name} never updates; build the optimizer over "
                    "pipeline.parameters() and step it after pipeline.step()"
                )
            if rule is not None:
                raise UsageError(
                    f"the schedule {schedule.name} never updates, so there is one version of the weights; "
                    f"leave versions={rule!r} out"
                )
            return None
        if optimizer is None:
            raise UsageError(
                f"the schedule {schedule.name} updates while it runs; give optimizer=, a function from "
                "parameters to an optimizer"
            )
        if tied:
            raise UsageError(
                f"the schedule {schedule.name} updates each stage by itself, and stages of this model share "
                "parameters; use a schedule with a flush"
            )
        return Updates(schedule, stages, optimizer, rule, meter)

    def begin(self) -> None:
        """A new run of the schedule, from the weights that are there."""
        for versions in self.versions.values():
            versions.begin()

    def forget(self) -> None:
        """Other weights were loaded: older ones do not belong to them."""
        for versions in self.versions.values():
            versions.forget()

    def weights(self, stage: int, microbatch: int) -> AbstractContextManager[None]:
        """A context in which a stage has the weights meant for a microbatch."""
        versions = self.versions.get(stage)
        return nullcontext() if versions is None else versions.used_by(microbatch)

    def update(self, stage: int, number: int) -> None:
        """Update `number` of one stage, between its walks."""
        if stage in self.versions:
            self.versions[stage].update(number)
