"""How parameters are shared out over ranks: runs of whole parameters, each one flat array without padding.

A run is cut into one piece per rank, as evenly as can be. Nothing is padded, so nothing has to be kept out of
norms, weight decay or checkpoints; a rank may own a part of one parameter, several parameters, or nothing.

Rajbhandari et al. 2020, ZeRO: Memory Optimizations Toward Training Trillion Parameter Models, §5.
"""

import hashlib
from collections.abc import Iterable, Sequence
from itertools import accumulate

import numpy as np

from minigrad import backend
from minigrad.dist.algorithms import ALGORITHMS, LIBRARY
from minigrad.dist.verbs import Array, balanced_counts
from minigrad.dist.world import World
from minigrad.errors import CommunicationError, UsageError
from minigrad.mutation import mutated
from minigrad.nn.module import Module, Parameter


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


def cut(parameters: Sequence[Parameter], world: World, bucket_bytes: int) -> list[Bucket]:
    """Buckets of at least `bucket_bytes` each, the parameters that were declared last in the first."""
    runs: list[list[Parameter]] = []
    for parameter in reversed(parameters):
        last = runs[-1] if runs else []
        full = sum(member.data.nbytes for member in last) >= bucket_bytes
        if not last or full or last[0].dtype != parameter.dtype:
            runs.append([])
        runs[-1].append(parameter)
    return [Bucket(reversed(run), world) for run in runs]


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


def check_settings(who: str, bucket_bytes: int, algorithm: str, verbs: Sequence[str]) -> None:
    """Raises UsageError for a size of buckets that is none, and an algorithm that one of `verbs` has not."""
    if bucket_bytes < 1:
        raise UsageError(f"{who} got bucket_bytes={bucket_bytes}; give a number of at least 1")
    known = [LIBRARY, *(name for name in ALGORITHMS[verbs[0]] if all(name in ALGORITHMS[v] for v in verbs))]
    if algorithm not in known:
        raise UsageError(f"{who} got algorithm={algorithm!r}; give one of {', '.join(known)}")


# ----- Models that stay as they are, and are alike on all ranks -----


class Roster:
    """The parameters that a module has now, and a fast way to see that it still has the same."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self.parameters = list(module.parameters())
        self._look()

    def _look(self) -> None:
        inside = [vars(module) for module in self.module.modules()]
        self._counts = [(attributes, len(attributes)) for attributes in inside]
        self._places = [
            (attributes, name, value)
            for attributes in inside
            for name, value in attributes.items()
            if isinstance(value, Parameter)
        ]

    def check(self, where: str) -> None:
        """Raises UsageError if parameters came, went or were replaced."""
        if all(len(attributes) == count for attributes, count in self._counts) and all(
            attributes.get(name) is value for attributes, name, value in self._places
        ):
            return
        now = list(self.module.parameters())
        if list(map(id, now)) != list(map(id, self.parameters)):
            raise UsageError(
                f"{where}: the module had {len(self.parameters)} parameters when it was wrapped, and has "
                f"{len(now)} now, or others; wrap it when it is complete"
            )
        self._look()


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


def broadcast_rest(module: Module, world: World) -> None:
    """Take over from rank 0 what the module holds beside the parameters it trains."""
    frozen = [parameter for parameter in module.parameters() if not parameter.requires_grad]
    for tensor in [*frozen, *module.buffers()]:
        values = tensor.data.reshape(-1)
        world.broadcast(values, purpose="parameters")
        tensor.data[...] = values.reshape(tensor.shape)
        mutated(tensor.data)
