"""Weights of several ages at once, for schedules that update while microbatches are under way.

Version v of a stage is what its weights were after v updates. Which version each microbatch uses is a table,
worked out from the schedule by one of three published rules; its forward and its backward use the same one.

| rule            | the version that a microbatch uses on a stage                                        |
|-----------------|--------------------------------------------------------------------------------------|
| "stashing"      | the newest that the stage has when the forward comes (PipeDream §3.3)                |
| "vertical-sync" | the one that stage 0 used for it (PipeDream §3.3)                                    |
| "2bw"           | k - 1 for the gradient of update k: one update old (Narayanan et al. 2021, ICML §3.1) |

Narayanan et al. 2019, PipeDream: Generalized Pipeline Parallelism for DNN Training; Narayanan et al. 2021,
Memory-Efficient Pipeline-Parallel DNN Training.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from minigrad.dist.pipeline_stages import Stage
from minigrad.dist.schedule import COMPUTE, B, F, Kind, Schedule, W
from minigrad.dist.verbs import Array
from minigrad.errors import UsageError
from minigrad.nn.module import Parameter
from minigrad.nn.optim import Optimizer

Versions = dict[tuple[int, int], int]  # by (stage, microbatch)
MakeOptimizer = Callable[[Iterable[Parameter]], Optimizer]


def stashing(schedule: Schedule) -> Versions:
    """Each stage takes the newest weights that it has when a forward comes."""
    found: Versions = {}
    for row in schedule.ranks:
        updates: Counter[int] = Counter()
        for action in row:
            if action.kind is Kind.UPDATE:
                updates[action.stage] += 1
            elif action.kind is F:
                found.setdefault((action.stage, action.microbatch), updates[action.stage])
    return found


def vertical_sync(schedule: Schedule) -> Versions:
    """All stages take, for a microbatch, the version that the first stage took."""
    stashed = stashing(schedule)
    return {(stage, number): stashed[0, number] for stage, number in stashed}


def double_buffered(schedule: Schedule) -> Versions:
    """All microbatches of one update take the weights from one update before: delay 1, two versions."""
    return {place: max(0, update - 1) for place, update in schedule.update_of.items()}


RULES: dict[str, Callable[[Schedule], Versions]] = {
    "stashing": stashing,
    "vertical-sync": vertical_sync,
    "2bw": double_buffered,
}


def find_versions(schedule: Schedule, rule: str) -> Versions:
    """The table of a rule. Raises UsageError where a microbatch would need weights that are not made yet."""
    if rule not in RULES:
        raise UsageError(f"there is no rule {rule!r} for versions of weights; there are {', '.join(RULES)}")
    table = RULES[rule](schedule)
    newest = stashing(schedule)
    for (stage, number), version in table.items():
        if version > newest[stage, number]:
            raise UsageError(
                f"microbatch {number} needs version {version} of the weights on stage {stage} by the rule "
                f"{rule}, and only {newest[stage, number]} is there when its turn comes; take another rule"
            )
    return table


class WeightVersions:
    """The versions of one stage's weights: the newest where the optimizer changes it, older ones as copies.

    A version is copied when a microbatch begins to use it that will not end before the next update, and
    dropped with the last microbatch that needs it.

    held   version numbers that are there now
    """

    def __init__(self, stage: Stage, schedule: Schedule, table: Versions) -> None:
        self.parameters: list[Parameter] = list(stage.parameters())
        self.newest = 0
        self.most_held = 1
        self._number = stage.number
        self._copies: dict[int, list[Array]] = {}
        self._table, self._schedule = table, schedule
        row = schedule.ranks[schedule.rank_of[stage.number]]
        mine = [a for a in row if a.stage == stage.number and (a.kind in COMPUTE or a.kind is Kind.UPDATE)]
        self._uses = Counter(table[stage.number, j] for j in {a.microbatch for a in mine if a.kind is F})
        self._ends = {a.microbatch: place for place, a in enumerate(mine) if a.kind in (B, W)}
        self._begins = {a.microbatch: place for place, a in reversed(list(enumerate(mine))) if a.kind is F}
        self._updates = [place for place, a in enumerate(mine) if a.kind is Kind.UPDATE]
        self._left = Counter(self._uses)

    @property
    def held(self) -> list[int]:
        return sorted({*self._copies, self.newest})

    def begin(self) -> None:
        """Start counting from 0 again, at the weights that are there: a new run of the schedule."""
        self._copies.clear()
        self._left = Counter(self._uses)
        self.newest = 0

    @contextmanager
    def used_by(self, microbatch: int) -> Iterator[None]:
        """The stage has the weights of this microbatch inside the block."""
        version = self._table[self._number, microbatch]
        if version == self.newest and version not in self._copies and self._overtaken(microbatch):
            self._copy()
        if version not in self._copies:
            assert version == self.newest, f"version {version} is gone; the newest is {self.newest}"
            yield
            return
        newest = [parameter.data for parameter in self.parameters]
        self._put(self._copies[version])
        try:
            yield
        finally:
            self._put(newest)

    def finished(self, microbatch: int) -> None:
        """The backward of this microbatch is done; a version that nobody else needs goes."""
        version = self._table[self._number, microbatch]
        self._left[version] -= 1
        if not self._left[version]:
            self._copies.pop(version, None)

    def before_update(self) -> None:
        """The weights are about to change: keep a copy if somebody still needs them as they are."""
        if self._left[self.newest] and self.newest not in self._copies:
            self._copy()
        self.newest += 1
        self.most_held = max(self.most_held, len(self.held))

    def _overtaken(self, microbatch: int) -> bool:
        """Whether an update comes between the forward and the end of the backward."""
        return any(self._begins[microbatch] < at < self._ends[microbatch] for at in self._updates)

    def _copy(self) -> None:
        self._copies[self.newest] = [parameter.data.copy() for parameter in self.parameters]

    def _put(self, arrays: Sequence[Array]) -> None:
        for parameter, array in zip(self.parameters, arrays, strict=True):
            parameter.data = array


class Updates:
    """The optimizers of one rank's stages and their weights of several ages, for a schedule that updates."""

    def __init__(
        self, schedule: Schedule, stages: Mapping[int, Stage], optimizer: MakeOptimizer, rule: str
    ) -> None:
        table = find_versions(schedule, rule)
        self.versions = {number: WeightVersions(stage, schedule, table) for number, stage in stages.items()}
        learned = {n: [p for p in stage.parameters() if p.requires_grad] for n, stage in stages.items()}
        self.optimizers = {
            number: optimizer(parameters) for number, parameters in learned.items() if parameters
        }
        self._ended: dict[tuple[int, int], list[int]] = {}
        for (stage, microbatch), update in schedule.update_of.items():
            self._ended.setdefault((stage, update), []).append(microbatch)

    @staticmethod
    def find(
        schedule: Schedule,
        stages: Mapping[int, Stage],
        optimizer: MakeOptimizer | None,
        rule: str,
        *,
        tied: bool,
    ) -> "Updates | None":
        """What a schedule needs to update; None for one that never does.

        Raises UsageError for an optimizer that is missing or of no use, and for parameters that stages share.
        """
        if not schedule.update_of:
            if optimizer is not None:
                raise UsageError(
                    f"the schedule {schedule.name} never updates; build the optimizer over "
                    "pipeline.parameters() and step it after pipeline.step()"
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
        return Updates(schedule, stages, optimizer, rule)

    def begin(self) -> None:
        """A new run of the schedule, from the weights that are there."""
        for versions in self.versions.values():
            versions.begin()

    def update(self, stage: int, number: int) -> None:
        """Update `number` of one stage, between its walks."""
        for microbatch in self._ended[stage, number]:
            self.versions[stage].finished(microbatch)
        self.versions[stage].before_update()
        if stage in self.optimizers:
            self.optimizers[stage].step()
            self.optimizers[stage].zero_grad()
