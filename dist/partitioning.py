"""Where to cut a model into stages: by balance, or by PipeDream's dynamic programme with replicated stages.

Layers are a chain; stages are runs of neighbouring layers. Planners are tested against brute force.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

from minigrad.errors import UsageError

ROUNDING = 1e-12


def balance(costs: Sequence[float], stages: int) -> list[int]:
    """How many layers each stage takes, so that the dearest stage is as cheap as can be.

    Among such cuts the one with the least variance is taken (Huang et al. 2019, GPipe, §2.2, balances so).
    Maxima that differ by less than rounding does, by 1e-12 of all costs, count as equal. Raises UsageError
    for more stages than layers.

    >>> balance([1, 1, 1, 5, 2, 2], 3)
    [3, 1, 2]
    """
    count = len(costs)
    if not 1 <= stages <= count:
        raise UsageError(
            f"{count} layers cannot be cut into {stages} stages of at least one layer; "
            f"give 1 to {count} stages"
        )
    if min(costs) < 0 or not all(map(math.isfinite, costs)):
        raise UsageError(f"costs of layers are finite and not negative, and these are {list(costs)}")
    ends = [0, *accumulate(costs)]

    def cheapest(limit: float, square: bool) -> tuple[float, list[int]]:
        """The least maximum, or sum of squares, of stages that cost at most `limit`; and where they begin."""
        best = [0.0] + [math.inf] * count
        cuts: list[list[int]] = []
        for _ in range(stages):
            row, origin = [math.inf] * (count + 1), [0] * (count + 1)
            for stop in range(1, count + 1):
                for start in range(stop):
                    cost = ends[stop] - ends[start]
                    if cost > limit:
                        continue
                    total = best[start] + cost * cost if square else max(best[start], cost)
                    if total < row[stop]:
                        row[stop], origin[stop] = total, start
            best = row
            cuts.append(origin)
        starts = [count]
        for origin in reversed(cuts):
            starts.append(origin[starts[-1]])
        return best[count], starts[::-1]

    least, _ = cheapest(math.inf, square=False)
    _, starts = cheapest(least + ROUNDING * ends[-1], square=True)
    return [stop - start for start, stop in pairwise(starts)]


@dataclass(frozen=True)
class Layer:
    """What a profile says of a layer, for one minibatch: forward and backward together, the size of what it
    hands on, the size of its weights. Any units, if bandwidth is in the same ones.
    """

    seconds: float
    output_bytes: float
    weight_bytes: float


@dataclass(frozen=True)
class Level:
    """One level of a cluster: so many parts (machines, or groups of them), on links of one bandwidth."""

    machines: int
    bytes_per_second: float


@dataclass(frozen=True)
class PlannedStage:
    """Layers `start` … `stop` - 1 on `replicas` parts of a level; `inner` is how each part splits them."""

    start: int
    stop: int
    replicas: int
    inner: tuple["PlannedStage", ...] = ()

    def __str__(self) -> str:
        inside = f" [{', '.join(map(str, self.inner))}]" if len(self.inner) > 1 else ""
        return f"({self.start}-{self.stop - 1})x{self.replicas}{inside}"


@dataclass(frozen=True)
class Plan:
    """A partition and the time between two minibatches in its steady state."""

    seconds: float
    stages: tuple[PlannedStage, ...]

    @property
    def in_flight(self) -> int:
        """NOAM: the minibatches per input replica that keep the pipeline full (PipeDream §3.2)."""
        return math.ceil(sum(stage.replicas for stage in self.stages) / self.stages[0].replicas)


Variant = Literal["2018", "2019"]
_Choice = tuple[float, tuple[PlannedStage, ...]]


def pipedream(
    layers: Sequence[Layer],
    levels: Sequence[Level],
    *,
    variant: Variant = "2018",
    compression: float | None = None,
) -> Plan:
    """PipeDream's partition: runs of layers, each replicated, so that the slowest is as fast as can be.

    T are the seconds of a run of layers, w its weights, a the output of a layer, m the replicas of a run and
    B the bandwidth.

    "2018"   the recurrence of Harlap et al. 2018 (arXiv 1806.03377, §3.2): a replicated run takes
             max(T, 4(m−1)w / (mB)) / m, and a cut after a layer 2a / B
    "2019"   what `optimizer_graph_hierarchical.py`, published with Narayanan et al. 2019 (SOSP), computes for
             a chain: a replicated run takes (T + 4(m−1)w / (mB)) / m. In the first stage of what a level
             plans, the second term is divided by the number of parts of the level below. A cut takes no time,
             unless there is a `compression`, the factor by which activations are compressed: then the stage
             behind it takes at least 2a / (mB · compression) for what comes in, and for what it hands on.
             (The options of that code for memory and for fewer machines are not here.)

    Of several levels, the first is the innermost: what a run takes there on all parts is its T one level up.
    That is part of "2019"; with "2018", whose paper knows one level, it is taken over. All machines are used.

    Raises UsageError for no layers, no levels, and numbers that make no sense.
    """
    if not layers or not levels:
        raise UsageError(
            f"a plan needs layers and levels of machines, and got {len(layers)} and {len(levels)}"
        )
    if variant not in ("2018", "2019"):
        raise UsageError(f"there is no variant {variant!r} of PipeDream's planner; there are 2018 and 2019")
    if compression is not None and not (variant == "2019" and 0 < compression < math.inf):
        raise UsageError(
            f"activations compressed by {compression} for the variant {variant}; give a factor above 0, and "
            "the variant 2019, the only one that knows it"
        )
    for level in levels:
        if level.machines < 1 or not 0 < level.bytes_per_second < math.inf:
            raise UsageError(
                f"a level has {level.machines} machines and a bandwidth of {level.bytes_per_second}; "
                "give at least 1 and more than 0"
            )
    for place, layer in enumerate(layers):
        if not all(0 <= number < math.inf for number in vars(layer).values()):
            raise UsageError(f"layer {place} has a number that is not finite or negative: {layer}")
    seconds = {(i, j): sum(x.seconds for x in layers[i:j]) for i, j in _runs(len(layers))}
    weights = {(i, j): sum(x.weight_bytes for x in layers[i:j]) for i, j in _runs(len(layers))}
    plans: dict[tuple[int, int], tuple[PlannedStage, ...]] = dict.fromkeys(seconds, ())
    below = 1
    for place, level in enumerate(levels, start=1):
        rules = _Rules(layers, level, variant, below, compression)
        starts = range(1 if place == len(levels) else len(layers))
        found = _plan_level(len(layers), level.machines, rules, seconds, weights, plans, starts)
        below = level.machines
        seconds = {run: best for run, (best, _) in found.items()}
        plans = {run: stages for run, (_, stages) in found.items()}
    whole = (0, len(layers))
    return Plan(seconds[whole], plans[whole])


def _runs(count: int) -> Iterator[tuple[int, int]]:
    """All runs of neighbouring layers, as (start, stop)."""
    return ((i, j) for i in range(count) for j in range(i + 1, count + 1))


@dataclass(frozen=True)
class _Rules:
    """What things take on one level, with so many parts of the level below in each of its own."""

    layers: Sequence[Layer]
    level: Level
    variant: Variant
    below: int
    compression: float | None

    def replicated(self, seconds: float, weights: float, m: int, *, first: bool) -> float:
        """A run on m parts; `first` if no other is before it."""
        exchange = 4 * (m - 1) * weights / (m * self.level.bytes_per_second)
        if self.variant == "2018":
            return max(seconds, exchange) / m
        return (seconds + (exchange / self.below if first else exchange)) / m

    def transferred(self, cut: int, stop: int, m: int) -> float:
        """The messages of a stage on m parts, of the layers from `cut` on to `stop`."""
        bandwidth = self.level.bytes_per_second
        if self.variant == "2018":
            return 2 * self.layers[cut - 1].output_bytes / bandwidth
        if self.compression is None:
            return 0.0
        outputs = [self.layers[end - 1].output_bytes for end in (cut, stop) if end < len(self.layers)]
        return 2 * max(outputs) / (m * bandwidth * self.compression)


def _plan_level(
    count: int,
    machines: int,
    rules: _Rules,
    seconds: dict[tuple[int, int], float],
    weights: dict[tuple[int, int], float],
    inner: dict[tuple[int, int], tuple[PlannedStage, ...]],
    starts: range,
) -> dict[tuple[int, int], _Choice]:
    """The best plan, on all machines of a level, of every run of layers that begins in `starts`."""
    last = {
        (cut, j): [
            max(
                rules.replicated(seconds[cut, j], weights[cut, j], m, first=False),
                rules.transferred(cut, j, m),
            )
            for m in range(1, machines)
        ]
        for cut, j in _runs(count)
        if cut
    }
    found = {}
    for i in starts:
        # best[j][m - 1]: layers i … j-1 on m machines.
        best: dict[int, list[_Choice]] = {}
        for j in range(i + 1, count + 1):
            best[j] = []
            for m in range(1, machines + 1):
                slowest = rules.replicated(seconds[i, j], weights[i, j], m, first=True)
                split: tuple[int, int] | None = None
                for cut in range(i + 1, j):
                    before, behind = best[cut], last[cut, j]
                    for own in range(1, m):  # machines of the last stage
                        taken = max(before[m - own - 1][0], behind[own - 1])
                        if taken < slowest:
                            slowest, split = taken, (cut, own)
                if split is None:
                    best[j].append((slowest, (PlannedStage(i, j, m, inner[i, j]),)))
                else:
                    cut, own = split
                    stages = best[cut][m - own - 1][1]
                    best[j].append((slowest, (*stages, PlannedStage(cut, j, own, inner[cut, j]))))
            found[i, j] = best[j][-1]
    return found
