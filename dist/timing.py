"""How long a schedule takes, who waits, and what is held: by running its actions on a clock, not by formulas.

Every rank begins its next computation as soon as it is free and what it needs has arrived. Times are exact
fractions, so that figures of papers can be compared for equality.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal, overload

from minigrad.dist.schedule import COMPUTE, RECEIVES, SENDS, Action, B, F, I, Kind, Schedule, W
from minigrad.dist.schedule_passes import Stuck, messages_of
from minigrad.errors import UsageError

DENOMINATOR = 10**12  # 0.1 means a tenth, not the nearest binary fraction


@dataclass(frozen=True)
class Costs:
    """How long things take, in any unit; those of computations are per whole stage and microbatch.

    A whole stage is a rank's share of the model: with v virtual stages each takes a v-th of it, and each of n
    token slices an n-th.

    forward    a forward
    backward   a whole backward
    weight     the part of `backward` that can be postponed (default: half of it)
    link       a message between two ranks; each direction of each pair carries one at a time
    update     an optimizer step of a whole stage
    gather     to make the parameters of a whole stage whole; the rank computes nothing meanwhile
    reduce     to sum its gradients over copies; the same
    """

    forward: float = 1
    backward: float = 2
    weight: float | None = None
    link: float = 0
    update: float = 0
    gather: float = 0
    reduce: float = 0

    def __post_init__(self) -> None:
        for what, number in vars(self).items():
            if number is not None and not 0 <= number < float("inf"):
                raise UsageError(f"the {what} takes {number}; times are finite and not negative")
        if self.weight is not None and self.weight > self.backward:
            raise UsageError(
                f"the part of the backward that can be postponed takes {self.weight}, longer than the whole "
                f"of {self.backward}; `backward` is the whole, `weight` a part of it"
            )

    def table(self, schedule: Schedule) -> "Durations":
        """The duration of each action of a schedule."""
        whole = exact(self.backward)
        later = whole / 2 if self.weight is None else exact(self.weight)
        kinds = {
            F: exact(self.forward),
            B: whole,
            I: whole - later,
            W: later,
            Kind.UPDATE: exact(self.update),
            Kind.GATHER: exact(self.gather),
            Kind.REDUCE: exact(self.reduce),
        }
        held = Counter(schedule.rank_of)
        table = {
            (stage, kind): cost / held[rank] / (schedule.slices if kind in COMPUTE else 1)
            for stage, rank in enumerate(schedule.rank_of)
            for kind, cost in kinds.items()
        }
        return lambda action: table.get((action.stage, action.kind), 0)


Durations = Callable[[Action], Any]


Profile = Mapping[Any, float]
"""Seconds by stage, kind and token slice; by stage and kind where all slices take as long."""


def measured(seconds: Profile) -> Durations:
    """Durations from a profile. A whole backward missing there is I and W; other things are free."""

    def taken(action: Action, kind: Kind) -> float | None:
        place = (action.stage, kind)
        return seconds.get((*place, action.slice), seconds.get(place))

    def duration(action: Action) -> float:
        found = taken(action, action.kind)
        if found is None and action.kind is B:
            inputs, weights = taken(action, I), taken(action, W)
            found = None if inputs is None or weights is None else inputs + weights
        if found is None and action.kind in COMPUTE:
            raise UsageError(f"the profile does not say how long {action} takes; it has {list(seconds)}")
        return found or 0

    return duration


def exact(number: float) -> Fraction:
    """A number as the fraction that is meant: 0.1 as a tenth, and what is no simple one by its digits."""
    simple = Fraction(number).limit_denominator(DENOMINATOR)
    return simple if float(simple) == number else Fraction(repr(float(number)))


@dataclass(frozen=True)
class Span:
    """One action of one rank, from `start` to `stop`."""

    rank: int
    action: Action
    start: Any
    stop: Any


@dataclass(frozen=True)
class Timeline:
    """When everything happens. `spans` are those of all ranks, in each rank's order."""

    schedule: Schedule
    spans: tuple[Span, ...]
    _by_rank: dict[int, list[Span]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        by_rank: dict[int, list[Span]] = {rank: [] for rank in range(len(self.schedule.ranks))}
        for span in self.spans:
            by_rank[span.rank].append(span)
        object.__setattr__(self, "_by_rank", by_rank)

    def of(self, rank: int) -> list[Span]:
        return self._by_rank[rank]

    @property
    def makespan(self) -> float:
        """From the first start to the last stop."""
        return float(self._makespan)

    @property
    def _makespan(self) -> Any:
        return max(s.stop for s in self.spans) - min(s.start for s in self.spans) if self.spans else 0

    @property
    def idle(self) -> list[float]:
        """How much of the makespan each rank does nothing."""
        return [float(self._makespan - sum(s.stop - s.start for s in row)) for row in self._by_rank.values()]

    @property
    def gaps(self) -> list[float]:
        """How long each rank does nothing between its own first and last action: the side of a parallelogram
        is not counted (Qi et al. 2023, §4, on why this is what ZB-H2 makes zero).
        """
        return [
            float(row[-1].stop - row[0].start - sum(s.stop - s.start for s in row)) if row else 0.0
            for row in self._by_rank.values()
        ]

    @property
    def bubble_fraction(self) -> float:
        """Idle time of all ranks, as a share of the total time of all ranks."""
        busy = sum(s.stop - s.start for s in self.spans)
        total = self._makespan * len(self._by_rank)
        return float(1 - busy / total) if total else 0.0


def simulate(
    schedule: Schedule, costs: Costs | Durations | None = None, *, link: Any = None, between: Any = 0
) -> Timeline:
    """Run a schedule on a clock.

    costs     a Costs, or a function from an action to its duration (see `measured`)
    link      how long a message takes: a number, or a function of its send (default: that of the costs)
    between   how long a rank is busy after each computation, with its messages and books, before the next one
              begins and before anything leaves; it counts as idle, since nothing is computed

    A message travels while ranks compute: only `between` takes their time.
    Raises Stuck (a UsageError) where no rank can go on.
    """
    costs = Costs() if costs is None else costs
    durations = costs.table(schedule) if isinstance(costs, Costs) else costs
    if link is None:
        link = exact(costs.link) if isinstance(costs, Costs) else 0
    travel = link if callable(link) else lambda send: link
    rows = [[a for a in row if a.kind not in SENDS | RECEIVES] for row in schedule.ranks]
    stop: dict[Action, Any] = {}
    arrival: dict[Action, Any] = {}  # of what a computation made, on the rank of the next stage
    link_free: dict[tuple[int, int], Any] = {}
    free: list[Any] = [0] * len(rows)
    at = [0] * len(rows)
    spans: list[Span] = []
    home = schedule.rank_of
    asking = list(range(len(rows)))  # ranks that may be able to go on
    waiting: dict[Action, list[int]] = {}  # ranks that cannot, by what they wait for
    while asking:
        rank = asking.pop()
        while at[rank] < len(rows[rank]):
            action = rows[rank][at[rank]]
            needed = schedule.dependencies(action) if action.kind in COMPUTE else []
            missing = next((other for other in needed if other not in stop), None)
            if missing is not None:
                waiting.setdefault(missing, []).append(rank)
                break
            start = free[rank]
            for other in needed:
                start = max(start, stop[other] if home[other.stage] == rank else arrival[other])
            stop[action] = start + durations(action)
            free[rank] = stop[action] + between
            spans.append(Span(rank, action, start, stop[action]))
            for send in messages_of(schedule, action):
                way = (rank, home[send.peer_stage])
                arrival[action] = max(free[rank], link_free.get(way, 0)) + travel(send)
                link_free[way] = arrival[action]
            asking += waiting.pop(action, ())
            at[rank] += 1
    if any(place < len(row) for place, row in zip(at, rows, strict=True)):
        raise Stuck([p if p < len(row) else None for p, row in zip(at, rows, strict=True)])
    return Timeline(schedule, tuple(sorted(spans, key=lambda span: span.rank)))


@overload
def peak_activations(
    schedule: Schedule, *, kept: float = 1, places: Literal[False] = False
) -> list[float]: ...
@overload
def peak_activations(
    schedule: Schedule, *, kept: float = 1, places: Literal[True]
) -> list[tuple[Fraction, int]]: ...
def peak_activations(schedule: Schedule, *, kept: float = 1, places: bool = False) -> list:
    """The most activations alive on each rank at a time, in those of a whole stage (a rank's share of the
    model, one microbatch).

    An activation lives from its forward to the end of its backward; where that is split, the share `kept`
    lives on until the weight gradients are done (M_W / M_B in Qi et al. 2023, §2.3; everything by default).
    With `places`, also where in the rank's list the peak is reached.
    """
    rest = exact(kept)
    peaks: list[tuple[Fraction, int]] = []
    for row in schedule.ranks:
        stages = {action.stage for action in row if action.kind in COMPUTE}
        share = Fraction(1, max(1, len(stages)) * schedule.slices)
        change = {F: share, B: -share, I: -share * (1 - rest), W: -share * rest}
        alive, peak, where = Fraction(0), Fraction(0), 0
        for place, action in enumerate(row):
            alive += change.get(action.kind, 0)
            if alive > peak:
                peak, where = alive, place
        peaks.append((peak, where))
    return peaks if places else [float(peak) for peak, _ in peaks]
