"""Where to cut sequences into slices: TeraPipe's dynamic programme.

Later tokens attend to more tokens, so slices of one length take longer and longer. The pipeline takes the sum
of all slices once, and the longest of them once more for every further stage (Li et al. 2021, TeraPipe, §3.3,
equation 3): Σ tᵢ + (K−1) max tᵢ.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from minigrad.errors import UsageError

SliceCost = Callable[[int, int], float]


@dataclass(frozen=True)
class Slicing:
    """How to cut: for each part of the batch, its number of sequences and the lengths of their slices.

    `seconds` is the time of the pipeline from the first stage's start to the last stage's end.
    """

    seconds: float
    parts: tuple[tuple[int, tuple[int, ...]], ...]

    @property
    def slices(self) -> list[int]:
        """The lengths, where the batch is one part."""
        if len(self.parts) != 1:
            raise UsageError(f"the batch is cut into {len(self.parts)} parts; look at `parts`")
        return list(self.parts[0][1])


def pipeline_seconds(times: Sequence[float], stages: int) -> float:
    """What slices that take `times` on each of `stages` stages take together."""
    return sum(times) + (stages - 1) * max(times)


def slice_tokens(
    cost: SliceCost, length: int, stages: int, *, granularity: int = 1, tolerance: float = 0.0
) -> Slicing:
    """The lengths of slices that make the pipeline fastest.

    cost          cost(l, c): seconds of one stage for l tokens that come after c others
    length        tokens of a sequence; a multiple of `granularity`, as are all slices
    tolerance     longest times closer together than this are taken as one: faster, and the result is at most
                  (stages − 1) · tolerance above the optimum

    >>> slicing = slice_tokens(lambda l, c: max(4, l) + 0.0625 * l * (c + (l + 1) / 2), 12, 4)
    >>> slicing.slices, slicing.seconds
    ([5, 4, 3], 36.0625)
    """
    return slice_batch(
        lambda tokens, before, sequences: cost(tokens, before),
        length,
        1,
        stages,
        granularity=granularity,
        tolerance=tolerance,
    )


def slice_batch(
    cost: Callable[[int, int, int], float],
    length: int,
    sequences: int,
    stages: int,
    *,
    granularity: int = 1,
    tolerance: float = 0.0,
) -> Slicing:
    """Cut the batch and the sequences together (TeraPipe §3.4): `cost(l, c, b)` is for b sequences at once.

    For every time that the longest slice may take, the cheapest slicing under it is found for each size of
    part, and then the cheapest way to make up the batch of such parts; the best total wins. All times that a
    slice can take are tried, in one sweep.
    """
    cells = _checked(length, sequences, stages, granularity, tolerance)
    tables = [
        [
            [float(cost(k * granularity, c * granularity, b)) for c in range(cells - k + 1)]
            for k in range(1, cells + 1)
        ]
        for b in range(1, sequences + 1)
    ]
    limits = _spaced(sorted({t for table in tables for row in table for t in row}), tolerance)
    if limits[0] < 0 or not np.isfinite(limits[-1]):
        raise UsageError("the cost of a slice must be finite and not negative")
    tried = np.asarray(limits)
    of_part = [_cheapest(table, cells, tried)[-1] for table in tables]
    whole = [np.zeros(len(tried))]
    for n in range(1, sequences + 1):
        whole.append(np.min([whole[n - b] + of_part[b - 1] for b in range(1, n + 1)], axis=0))
    chosen = int(np.argmin(whole[-1] + (stages - 1) * tried))
    parts: list[tuple[int, tuple[int, ...]]] = []
    left = sequences
    while left:
        b = 1 + int(np.argmin([whole[left - b][chosen] + of_part[b - 1][chosen] for b in range(1, left + 1)]))
        lengths = _lengths(tables[b - 1], cells, tried[chosen : chosen + 1])
        parts.append((b, tuple(k * granularity for k in lengths)))
        left -= b
    times = [t for b, lengths in parts for t in _times(cost, lengths, b)]
    return Slicing(float(pipeline_seconds(times, stages)), tuple(parts))


def _checked(length: int, sequences: int, stages: int, granularity: int, tolerance: float) -> int:
    if min(length, sequences, stages, granularity) < 1 or tolerance < 0:
        raise UsageError(
            f"slices of {sequences} sequences of {length} tokens on {stages} stages, in steps of "
            f"{granularity} with tolerance {tolerance}: give numbers of at least 1 and no negative tolerance"
        )
    if length % granularity:
        raise UsageError(f"{length} tokens are no multiple of the granularity {granularity}; choose another")
    return length // granularity


def _spaced(values: list[float], tolerance: float) -> list[float]:
    """The values without those that have a larger one within the tolerance."""
    kept = [values[-1]]
    for value in reversed(values[:-1]):
        if kept[-1] - value > tolerance or tolerance == 0:
            kept.append(value)
    return kept[::-1]


def _cheapest(table: Sequence[Sequence[float]], cells: int, tried: np.ndarray) -> list[np.ndarray]:
    """For each length and each limit of `tried` (ascending): the least sum of times, none above the limit.

    table[k - 1][c] is the time of k cells after c others. Each entry extends what ends where it begins.
    """
    best = [np.zeros(len(tried))]
    for stop in range(1, cells + 1):
        row = np.full(len(tried), np.inf)
        for k in range(1, stop + 1):
            seconds = table[k - 1][stop - k]
            allowed = int(np.searchsorted(tried, seconds))
            np.minimum(row[allowed:], best[stop - k][allowed:] + seconds, out=row[allowed:])
        best.append(row)
    return best


def _lengths(table: Sequence[Sequence[float]], cells: int, limit: np.ndarray) -> list[int]:
    """The slices behind the cheapest sum under one limit."""
    best = _cheapest(table, cells, limit)
    lengths: list[int] = []
    stop = cells
    while stop:
        k = next(
            k
            for k in range(1, stop + 1)
            if table[k - 1][stop - k] <= limit[0]
            and best[stop - k][0] + table[k - 1][stop - k] == best[stop][0]
        )
        lengths.append(k)
        stop -= k
    return lengths[::-1]


def _times(cost: Callable[[int, int, int], float], lengths: Sequence[int], sequences: int) -> list[float]:
    before, times = 0, []
    for tokens in lengths:
        times.append(cost(tokens, before, sequences))
        before += tokens
    return times


def terapipe_flops(*, layers: int, width: int, heads: int, length: int, batch: int) -> int:
    """FLOPs of a training step as TeraPipe counts them in its tables (the flop model published with it).

    Six per multiply-add (forward, and twice that backward, two FLOPs each). One of the two products of
    attention is counted, not both: compare with the paper's figures, and not with measured ones.
    """
    tokens = batch * length * width  # C
    scores = batch * heads * length**2  # A
    attention = 2 * tokens + 3 * tokens * width
    products = scores * (width // heads) + scores
    output = tokens * width + tokens
    feed_forward = 8 * tokens * width + 4 * tokens
    return 6 * layers * (attention + products + output + feed_forward)
