"""The published pipeline schedules, each a pure function that says what all ranks compute, in what order.

To add one, write a function from a Shape to one list of actions per rank, and give it a line in SCHEDULES. It
says nothing about sends and receives: a pass puts them in (`minigrad.dist.schedule_passes`), `check` proves
the result, and one executor runs it. Where a paper excludes a shape, the function refuses it. All that others
need to know of a schedule is in its Entry, so its name stands nowhere else.

Letters: p stages (of the model, one per rank), m microbatches, v virtual stages per rank, s a rank's number.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from minigrad.dist.schedule import Action, B, F, I, Kind, Schedule, W
from minigrad.errors import UsageError

Lists = list[list[Action]]


@dataclass(frozen=True)
class Shape:
    """What a schedule is made for.

    ranks          p, how many ranks; each holds `virtual` stages
    microbatches   m, of one batch
    virtual        v, stages per rank: stage c·p + s is the c-th of rank s
    slices         token slices per microbatch
    batches        how many batches run without a flush between them (schedules that update within)
    """

    ranks: int
    microbatches: int
    virtual: int = 1
    slices: int = 1
    batches: int = 1


def naive(shape: Shape) -> Lists:
    """One microbatch after the other, forward through all stages and back: one rank works at a time."""
    return [
        [action for j in range(shape.microbatches) for action in (Action(s, F, j), Action(s, B, j))]
        for s in range(shape.ranks)
    ]


def gpipe(shape: Shape) -> Lists:
    """All forwards, then all backwards in reverse (Huang et al. 2019, GPipe, §2.3, figure 2c).

    Bubble (p−1)/(m+p−1) of the time; every rank holds m activations.
    """
    m = shape.microbatches
    return [
        [*(Action(s, F, j) for j in range(m)), *(Action(s, B, j) for j in reversed(range(m)))]
        for s in range(shape.ranks)
    ]


def one_forward_one_backward(shape: Shape) -> Lists:
    """1F1B with a flush (PipeDream-Flush: Narayanan et al. 2021, Memory-Efficient Pipeline-Parallel DNN
    Training, §3.3; Megatron-LM's default).

    After p−s−1 forwards, rank s alternates: GPipe's time, but at most min(p−s, m) activations.
    """
    return [_alternate(s, shape.ranks - s - 1, shape.microbatches) for s in range(shape.ranks)]


def _alternate(
    stage: int, ahead: int, count: int, after: Callable[[int], list[Action]] | None = None
) -> list:
    """`ahead` forwards, then forward and backward in turn, then the backwards that are left."""
    ahead = min(ahead, count)
    actions = [Action(stage, F, j) for j in range(ahead)]
    for j in range(count):
        if ahead + j < count:
            actions.append(Action(stage, F, ahead + j))
        actions.append(Action(stage, B, j))
        actions += after(j) if after else []
    return actions


def interleaved(shape: Shape) -> Lists:
    """1F1B over v stages per rank (Narayanan et al. 2021, Efficient Large-Scale Language Model Training,
    §2.2.2, figure 4).

    The bubble shrinks by v, messages grow by v. Microbatches go in groups of p, each group through all stages
    of a rank; rank s runs 2(p−s−1) + (v−1)p forwards ahead.
    """
    p, m, v = shape.ranks, shape.microbatches, shape.virtual
    if m % p:
        raise UsageError(
            f"the interleaved schedule sends microbatches in groups of as many as there are ranks, and {m} "
            f"microbatches are no multiple of {p} ranks; give {p * max(1, round(m / p))}, or use 1f1b"
        )

    def turn(k: int) -> tuple[int, int]:
        """The chunk and the microbatch of a rank's k-th forward; backwards take the chunks in reverse."""
        group, rest = divmod(k, p * v)
        chunk, place = divmod(rest, p)
        return chunk, group * p + place

    lists = []
    for s in range(p):
        forwards = [Action(chunk * p + s, F, j) for chunk, j in map(turn, range(m * v))]
        backwards = [Action((v - 1 - chunk) * p + s, B, j) for chunk, j in map(turn, range(m * v))]
        ahead = min(2 * (p - s - 1) + (v - 1) * p, m * v)
        actions = forwards[:ahead]
        for k, backward in enumerate(backwards):
            actions += [*forwards[ahead + k : ahead + k + 1], backward]
        lists.append(actions)
    return lists


def zb_h1(shape: Shape) -> Lists:
    """Zero bubble, handcrafted 1 (Qi et al. 2023, Zero Bubble Pipeline Parallelism, §2.2, figure 2 top).

    1F1B with the backward split: weight gradients wait for s more microbatches on rank s, and fill gaps. The
    bubble is a third of 1F1B's where F, I and W take equally long, at the memory of 1F1B's first rank.
    """
    return [_zero_bubble(s, shape.ranks - s - 1, s, shape.microbatches) for s in range(shape.ranks)]


def zb_h2(shape: Shape) -> Lists:
    """Zero bubble, handcrafted 2 (the same, figure 2 bottom): twice the forwards ahead close all gaps.

    No rank waits between its first and its last action, but first and last are staggered: the paper reaches
    zero because its optimizer step need not wait for all ranks. Memory 2p−1 instead of p activations.
    """
    return [_zero_bubble(s, 2 * (shape.ranks - s - 1), 2 * s, shape.microbatches) for s in range(shape.ranks)]


def _zero_bubble(stage: int, ahead: int, behind: int, count: int) -> list[Action]:
    """1F1B with `ahead` forwards first, and weight gradients `behind` microbatches late."""
    actions: list[Action] = []
    for action in _alternate(stage, ahead, count):
        if action.kind is F:
            actions.append(action)
            continue
        j = action.microbatch
        actions.append(Action(stage, I, j))
        if j >= behind:
            actions.append(Action(stage, W, j - behind))
    return actions + [Action(stage, W, j) for j in range(max(0, count - behind), count)]


def pipedream(shape: Shape) -> Lists:
    """1F1B without a flush: every microbatch is a batch, and an update follows each backward (Narayanan et
    al. 2019, PipeDream, §3.2, figure 8).

    A backward needs the weights of its forward, so rank s keeps p−s versions of them (weight stashing, §3.3).
    """

    def update(s: int) -> Callable[[int], list[Action]]:
        return lambda j: [Action(s, Kind.UPDATE, j)]

    return [_alternate(s, shape.ranks - s - 1, shape.microbatches, update(s)) for s in range(shape.ranks)]


def two_buffered_weights(shape: Shape) -> Lists:
    """PipeDream-2BW: 1F1B without a flush over several batches of m ≥ p microbatches, one update per batch
    (Narayanan et al. 2021, Memory-Efficient Pipeline-Parallel DNN Training, §3.1).

    Microbatches count through all batches. Every gradient is taken at the weights one update back, so two
    versions are enough.
    """
    p, m = shape.ranks, shape.microbatches
    if m < p:
        raise UsageError(
            f"2BW keeps two versions of the weights, which takes at least as many microbatches per batch as "
            f"stages, and {m} microbatches are fewer than {p} stages; give {p} or more, or use pipedream"
        )

    def update(s: int) -> Callable[[int], list[Action]]:
        return lambda j: [Action(s, Kind.UPDATE, j // m)] if j % m == m - 1 else []

    return [_alternate(s, p - s - 1, m * shape.batches, update(s)) for s in range(p)]


def terapipe(shape: Shape) -> Lists:
    """Token slices through the pipeline, forward from the first to the last, backward from the last to the
    first (Li et al. 2021, TeraPipe, §3.2); several microbatches follow each other as in GPipe.
    """
    cells = [(j, k) for j in range(shape.microbatches) for k in range(shape.slices)]
    return [
        [*(Action(s, F, j, k) for j, k in cells), *(Action(s, B, j, k) for j, k in reversed(cells))]
        for s in range(shape.ranks)
    ]


@dataclass(frozen=True)
class Entry:
    """A schedule of the catalogue.

    lists      its function
    uses       which parts of a Shape, beyond ranks and microbatches, it can use
    grouped    whether it takes microbatches only in multiples of the ranks
    versions   which rules for weights of several ages it may follow, the first by default
    """

    lists: Callable[[Shape], Lists]
    uses: tuple[str, ...] = ()
    grouped: bool = False
    versions: tuple[str, ...] = ()


SCHEDULES: dict[str, Entry] = {
    "naive": Entry(naive),
    "gpipe": Entry(gpipe),
    "1f1b": Entry(one_forward_one_backward),
    "interleaved": Entry(interleaved, ("virtual",), grouped=True),
    "zb-h1": Entry(zb_h1),
    "zb-h2": Entry(zb_h2),
    "pipedream": Entry(pipedream, versions=("stashing", "vertical-sync")),
    "2bw": Entry(two_buffered_weights, ("batches",), versions=("2bw",)),
    "terapipe": Entry(terapipe, ("slices",)),
}


def entry_of(name: str) -> Entry:
    """What the catalogue knows of a schedule. Raises UsageError for a name that is not there."""
    if name not in SCHEDULES:
        raise UsageError(f"there is no schedule {name!r}; there are {', '.join(SCHEDULES)}")
    return SCHEDULES[name]


def make(
    name: str, ranks: int, microbatches: int, *, virtual: int = 1, slices: int = 1, batches: int = 1
) -> Schedule:
    """The schedule of the catalogue under `name`, computations only; `Shape` says what the numbers are.

    Raises UsageError for a name that is not there, numbers below 1, and shapes that the paper excludes.

    >>> print(make("1f1b", 2, 3), end="")
    0: F0@0 F1@0 B0@0 F2@0 B1@0 B2@0
    1: F0@1 B0@1 F1@1 B1@1 F2@1 B2@1
    """
    entry = entry_of(name)
    shape = Shape(ranks, microbatches, virtual, slices, batches)
    for what, number in vars(shape).items():
        if number < 1:
            raise UsageError(f"the schedule {name} was asked for with {what} {number}; give at least 1")
    for what in ("virtual", "slices", "batches"):
        if getattr(shape, what) > 1 and what not in entry.uses:
            users = ", ".join(_users(what))
            raise UsageError(
                f"the schedule {name} has no use for {what} {getattr(shape, what)}: "
                f"leave it at 1, or take one that has ({users})"
            )
    return Schedule(tuple(map(tuple, entry.lists(shape))), name, entry.versions)


def _users(what: str) -> Iterator[str]:
    return (name for name, entry in SCHEDULES.items() if what in entry.uses)
