"""Where to cut a model into stages: by balance, or by PipeDream's dynamic programme with replicated stages.

Layers are a chain; stages are runs of neighbouring layers. Planners are tested against brute force.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

from minigrad.errors import UsageError


def balance(costs: Sequence[float], stages: int) -> list[int]:
    """How many layers each stage takes, so that the dearest stage is as cheap as can be.

    Among such cuts the one with the least variance is taken (Huang et al. 2019, GPipe, §2.2, balances so).
    Raises UsageError for more stages than layers.

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
    _, starts = cheapest(least, square=True)
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


def pipedream(layers: Sequence[Layer], levels: Sequence[Level], *, variant: Variant = "2018") -> Plan:
    """PipeDream's partition: runs of layers, each replicated, so that the slowest is as fast as can be.

    With T the seconds of a run of layers, w its weights, m replicas and B the bandwidth, a replicated run
    takes

        "2018"   max(T, 4(m−1)w / (mB)) / m     (Harlap et al. 2018, arXiv 1806.03377, §3.2)
        "2019"   (T + 4(m−1)w / (mB)) / m       (as the code published with Narayanan et al. 2019, SOSP)

    and a cut after a layer takes twice its output over B. Of several levels, the first is the innermost: what
    a run takes there on all parts is its T one level up (SOSP 2019, §3.1). All machines are used.

    Raises UsageError for no layers, no levels, and numbers that make no sense.
    """
    if not layers or not levels:
        raise UsageError(
            f"a plan needs layers and levels of machines, and got {len(layers)} and {len(levels)}"
        )
    if variant not in ("2018", "2019"):
        raise UsageError(f"there is no variant {variant!r} of PipeDream's planner; there are 2018 and 2019")
    for level in levels:
        if level.machines < 1 or not level.bytes_per_second > 0:
            raise UsageError(
                f"a level has {level.machines} machines and a bandwidth of {level.bytes_per_second}; "
                "give at least 1 and more than 0"
            )
    for place, layer in enumerate(layers):
        if min(layer.seconds, layer.output_bytes, layer.weight_bytes) < 0:
            raise UsageError(f"layer {place} has a negative number: {layer}")
    seconds = {(i, j): sum(x.seconds for x in layers[i:j]) for i, j in _runs(len(layers))}
    weights = {(i, j): sum(x.weight_bytes for x in layers[i:j]) for i, j in _runs(len(layers))}
    plans: dict[tuple[int, int], tuple[PlannedStage, ...]] = dict.fromkeys(seconds, ())
    for level in levels:
        found = _plan_level(layers, level, seconds, weights, plans, variant)
        seconds = {run: best for run, (best, _) in found.items()}
        plans = {run: stages for run, (_, stages) in found.items()}
    whole = (0, len(layers))
    return Plan(seconds[whole], plans[whole])


def _runs(count: int) -> Iterator[tuple[int, int]]:
    """All runs of neighbouring layers, as (start, stop)."""
    return ((i, j) for i in range(count) for j in range(i + 1, count + 1))


def _plan_level(
    layers: Sequence[Layer],
    level: Level,
    seconds: dict[tuple[int, int], float],
    weights: dict[tuple[int, int], float],
    inner: dict[tuple[int, int], tuple[PlannedStage, ...]],
    variant: Variant,
) -> dict[tuple[int, int], _Choice]:
    """The best plan of every run of layers on all machines of a level."""

    def replicated(i: int, j: int, m: int) -> float:
        exchange = 4 * (m - 1) * weights[i, j] / (m * level.bytes_per_second)
        return (max if variant == "2018" else _sum)(seconds[i, j], exchange) / m

    found = {}
    for i in range(len(layers)):
        # best[j, m]: layers i … j-1 on m machines, the last stage on `own` of them.
        best: dict[tuple[int, int], _Choice] = {}
        for j in range(i + 1, len(layers) + 1):
            for m in range(1, level.machines + 1):
                choice: _Choice = (replicated(i, j, m), (PlannedStage(i, j, m, inner[i, j]),))
                for cut in range(i + 1, j):
                    transfer = 2 * layers[cut - 1].output_bytes / level.bytes_per_second
                    for own in range(1, m):
                        before, stages = best[cut, m - own]
                        slowest = max(before, transfer, replicated(cut, j, own))
                        if slowest < choice[0]:
                            choice = (slowest, (*stages, PlannedStage(cut, j, own, inner[cut, j])))
                best[j, m] = choice
            found[i, j] = best[j, level.machines]
    return found


def _sum(a: float, b: float) -> float:
    return a + b
