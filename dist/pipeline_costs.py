"""What layers and stages cost: counted without computing, measured, or read off a real run.

Three ways to the numbers that `balance` and `simulate` want.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from statistics import median
from typing import Any

from minigrad import backend
from minigrad.dist.pipeline_stages import Stage, tupled
from minigrad.dist.schedule import COMPUTE, Kind
from minigrad.dist.timing import Timeline
from minigrad.errors import UsageError
from minigrad.graph import no_grad
from minigrad.meter import metered
from minigrad.nn.module import Module
from minigrad.tensor import Tensor


def layer_flops(layers: Iterable[Module], *inputs: Any) -> list[int]:
    """The FLOPs of each layer's forward on such inputs, counted on arrays without values.

    >>> from minigrad import nn
    >>> import minigrad as mg
    >>> layer_flops(nn.Sequential(nn.Linear(4, 8, bias=False), nn.Linear(8, 2, bias=False)), mg.ones((3, 4)))
    [192, 96]
    """
    xp = backend.of_device("shapes")
    values = tuple(Tensor.of(xp.empty(x.shape, dtype=x.dtype)) for x in map(_tensor, inputs))
    counts = []
    for layer in layers:
        with Stage(0, {"layer": layer}).without_values(), no_grad(), metered() as meter:
            values = tupled(layer(*values))
        counts.append(meter.flops)
    return counts


def layer_seconds(
    layers: Iterable[Module],
    *inputs: Any,
    repeats: int = 5,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """The seconds of each layer's forward and backward on such inputs, the median of `repeats`.

    Gradients of the layers are forgotten afterwards.
    """
    if repeats < 1:
        raise UsageError(f"layers were to be timed {repeats} times; give at least 1")
    values = tuple(x.detach() for x in map(_tensor, inputs))
    seconds = []
    for layer in layers:
        runs = []
        outputs: tuple[Tensor, ...] = ()
        for _ in range(repeats):
            given = [x.detach().requires_grad_(x.dtype.kind == "f") for x in values]
            start = clock()
            outputs = tupled(layer(*given))
            for x in outputs:
                if x.node is not None and not x.is_leaf:
                    x.backward(backend.namespace(x.data).ones_like(x.data), retain_graph=True)
            runs.append(clock() - start)
        layer.zero_grad()
        seconds.append(median(runs))
        values = tuple(x.detach() for x in outputs)
    return seconds


def profile(timelines: Sequence[Timeline]) -> dict[tuple[int, Kind, int], float]:
    """Median seconds of what is done on each stage, by stage, kind and token slice, from real runs: what
    `measured` takes.
    """
    found: dict[tuple[int, Kind, int], list[float]] = {}
    for timeline in timelines:
        for span in timeline.spans:
            place = (span.action.stage, span.action.kind, span.action.slice)
            found.setdefault(place, []).append(float(span.stop - span.start))
    return {place: median(seconds) for place, seconds in found.items()}


def pause(timelines: Sequence[Timeline]) -> float:
    """Median seconds that a rank takes from one computation to the next when it waits for nobody: for its
    messages and books. From real runs; what `simulate` takes as `between`. 0 if all have to wait.

    Only computations count whose inputs from other ranks were made before the one ahead of them began: a
    message is taken to be quicker than a computation.
    """
    found = []
    for timeline in timelines:
        home, made = timeline.schedule.rank_of, {span.action: span.stop for span in timeline.spans}
        for rank in range(len(timeline.schedule.ranks)):
            for before, span in pairwise(timeline.of(rank)):
                needed = timeline.schedule.dependencies(span.action) if span.action.kind in COMPUTE else []
                if all(home[a.stage] == rank or made[a] <= before.start for a in needed):
                    found.append(float(span.start - before.stop))
    return median(found) if found else 0.0


def _tensor(x: Any) -> Tensor:
    return x if isinstance(x, Tensor) else Tensor(x)
