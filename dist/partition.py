"""How parameters are shared out over ranks: runs of whole parameters, each one flat array without padding.

A run is cut into one piece per rank, as evenly as can be. Nothing is padded, so nothing has to be kept out of
norms, weight decay or checkpoints; a rank may own a part of one parameter, several parameters, or nothing.

Rajbhandari et al. 2020, ZeRO: Memory Optimizations Toward Training Trillion Parameter Models, §5.
"""

import hashlib
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise

import numpy as np

from minigrad import backend
from minigrad.dist.algorithms import ALGORITHMS, LIBRARY
from minigrad.dist.verbs import Array, balanced_counts
from minigrad.dist.world import World
from minigrad.errors import CommunicationError, UsageError
from minigrad.mutation import mutated
from minigrad.nn.module import Module, Parameter

BUCKET_BYTES = 4 * 2**20
SMALL = 8  # two eighths of a model are a small part of it


class Bucket:
    """Parameters of one dtype, one after the other in a flat array that is cut into one piece per rank.

    starts       where each parameter begins in the flat array
    size, dtype  of the flat array; `nbytes` both together, `namespace` of which library
    counts       the entries of each rank's piece
    start, stop  this rank's piece
    """

    def __init__(self, parameters: Iterable[Parameter], world: World) -> None:
        self.parameters = list(parameters)
        *self.starts, self.size = accumulate((p.size for p in self.parameters), initial=0)
        self.dtype = self.parameters[0].dtype
        self.nbytes = self.size * self.dtype.itemsize
        self.namespace = backend.namespace(self.parameters[0].data)
        self.counts = balanced_counts(self.size, world.size)
        self.start = sum(self.counts[: world.rank])
        self.stop = self.start + self.counts[world.rank]

    def own(self, flat: Array) -> Array:
        """This rank's piece of the flat array."""
        return flat[self.start : self.stop]

    def views(self, flat: Array) -> list[Array]:
        """Each parameter's part of the flat array, in its shape."""
        return [
            flat[start : start + p.size].reshape(p.shape)
            for start, p in zip(self.starts, self.parameters, strict=True)
        ]

    def ranges(self) -> list[tuple[int, int]]:
        """Which entries of each flattened parameter lie in this rank's piece: first, and past the last."""
        clipped = (
            (min(max(edge - start, 0), p.size) for edge in (self.start, self.stop))
            for start, p in zip(self.starts, self.parameters, strict=True)
        )
        return [(first, last) for first, last in clipped]

    def pieces(self, own: Array) -> list[Array]:
        """This rank's piece cut up by parameter, as `ranges` says."""
        places = (
            (start + first - self.start, start + last - self.start)
            for start, (first, last) in zip(self.starts, self.ranges(), strict=True)
        )
        return [own[first:last] if first < last else own[:0] for first, last in places]


def cut(parameters: Sequence[Parameter], world: World, bucket_bytes: int | None) -> list[Bucket]:
    """Buckets of at least `bucket_bytes` each, the parameters that were declared last in the first.

    None: of an eighth of all, and no more than `BUCKET_BYTES`, so that two of them are a small part.
    """
    if bucket_bytes is None:
        bucket_bytes = min(BUCKET_BYTES, sum(parameter.data.nbytes for parameter in parameters) // SMALL)
    runs: list[list[Parameter]] = []
    for parameter in reversed(parameters):
        last = runs[-1] if runs else []
        full = sum(member.data.nbytes for member in last) >= bucket_bytes
        if not last or full or last[0].dtype != parameter.dtype:
            runs.append([])
        runs[-1].append(parameter)
    return [Bucket(reversed(run), world) for run in runs]


def agreed_order(turns: Sequence[float | None], world: World) -> list[int]:
    """The numbers 0, 1, … by the turns that the rank with the most of them has for them (of several, the
    first), the same on all ranks. Those without a turn come where `with_guesses` says.
    """
    own = np.array([np.nan if turn is None else turn for turn in turns])
    every = np.empty((world.size, own.size))
    world.all_gather(own, every, purpose="control")
    fullest = max(every, key=lambda row: np.count_nonzero(~np.isnan(row)))
    keys = with_guesses([None if np.isnan(turn) else float(turn) for turn in fullest])
    return sorted(range(own.size), key=keys.__getitem__)


def with_guesses(turns: Sequence[float | None]) -> list[float]:
    """Turns also for what has none: next after that of the number before, or of the number after where most
    turns fall from number to number.
    """
    known = [turn for turn in turns if turn is not None]
    falls = 2 * sum(b < a for a, b in pairwise(known)) > max(0, len(known) - 1)
    found: list[float] = []
    latest, step = -1.0, 1 / (len(turns) + 1)  # less than 1 in all
    for turn in reversed(turns) if falls else turns:
        latest = latest + step if turn is None else turn
        found.append(latest)
    return found[::-1] if falls else found


def side_by_side(buckets: Sequence[Bucket]) -> list[Array]:
    """A flat array for each bucket, all of one dtype adjoining in one array, in the order of declaration.
    They hold zeros.
    """
    wholes: dict[np.dtype, Array] = {}
    places: dict[np.dtype, int] = {}
    for dtype in dict.fromkeys(bucket.dtype for bucket in buckets):
        places[dtype] = sum(bucket.size for bucket in buckets if bucket.dtype == dtype)
        wholes[dtype] = buckets[0].namespace.zeros(places[dtype], dtype=dtype)
    flats = []
    for bucket in buckets:
        stop = places[bucket.dtype]
        places[bucket.dtype] = stop - bucket.size
        flats.append(wholes[bucket.dtype][stop - bucket.size : stop])
    return flats


def check_settings(who: str, bucket_bytes: int | None, algorithm: str, verbs: Sequence[str]) -> None:
    """Raises UsageError for a size of buckets that is none, and an algorithm that one of `verbs` has not."""
    if bucket_bytes is not None and bucket_bytes < 1:
        raise UsageError(f"{who} got bucket_bytes={bucket_bytes}; give a number of at least 1")
    known = [LIBRARY, *(name for name in ALGORITHMS[verbs[0]] if all(name in ALGORITHMS[v] for v in verbs))]
    if algorithm not in known:
        raise UsageError(f"{who} got algorithm={algorithm!r}; give one of {', '.join(known)}")


# ----- Models that are alike on all ranks -----


def check_alike(module: Module, world: World) -> None:
    """Compare names, shapes, dtypes and what is trained on all ranks, in 8 bytes each.

    Raises CommunicationError, naming the first rank that differs from rank 0.
    """
    tensors = [*module.named_parameters(), *module.named_buffers()]
    described = [(name, tensor.shape, str(tensor.dtype), tensor.requires_grad) for name, tensor in tensors]
    digest = np.frombuffer(hashlib.sha256(repr(described).encode()).digest()[:8], dtype=np.int64)
    digests = np.empty(world.size, dtype=np.int64)
    world.all_gather(digest, digests, purpose="control")
    for rank, other in enumerate(digests):
        if other != digests[0]:
            raise CommunicationError(
                f"{world.name}: the model of rank {rank} of this world has other parameters than that of "
                "rank 0 (names, shapes, dtypes, or what is trained); build the same on all ranks"
            )


def broadcast_rest(module: Module, world: World, *, frozen: bool = True) -> None:
    """Take over from rank 0 what the module holds beside trained parameters: buffers, and frozen ones."""
    kept = [p for p in module.parameters() if frozen and not p.requires_grad]
    for tensor in [*kept, *module.buffers()]:
        values = tensor.data.reshape(-1)
        world.broadcast(values, purpose="parameters")
        tensor.data[...] = values.reshape(tensor.shape)
        mutated(tensor.data)
