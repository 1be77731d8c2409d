"""Parameters as shards (stage 3): what a rank always has of them, and how all of them become whole at once.

Who makes units whole while they are used: `zero_units.py`, around each use; `zero_scheduled.py`, when the
schedule of a pipeline says so.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from minigrad.dist.partition import Bucket
from minigrad.dist.units import Part, Unit
from minigrad.dist.verbs import Array, pieces
from minigrad.dist.world import World
from minigrad.dist.zero_parameters import Starts, Track, begin
from minigrad.errors import UsageError


class ShardedParameters:
    """Keeps this rank's pieces of the parameters of all units.

    frozen   buckets of what is not trained
    seconds  spent to gather, since somebody set it to zero
    """

    def __init__(
        self, units: Sequence[Unit], root: Unit | None, world: World, *, algorithm: str, track: Track
    ) -> None:
        self.world = world
        self.how: dict[str, Any] = {"purpose": "parameters", "algorithm": algorithm}
        self.track = track
        self.units, self.root = list(units), root
        self.seconds = 0.0
        self._parts = {part.bucket: part for unit in self.every for part in unit.parts}
        self.frozen = [bucket for bucket, part in self._parts.items() if not part.trained]
        self._open = False
        kinds: dict[Any, list[Part]] = {}
        for part in self._parts.values():
            kinds.setdefault((part.trained, part.bucket.dtype), []).append(part)
        for parts in kinds.values():
            counts = [part.bucket.stop - part.bucket.start for part in parts]
            xp, dtype = parts[0].bucket.namespace, parts[0].bucket.dtype
            shards = track("parameters", xp.empty(sum(counts), dtype=dtype))
            for part, shard in zip(parts, pieces(shards, counts), strict=True):
                part.shard = shard

    @property
    def every(self) -> list[Unit]:
        return [*self.units, *([self.root] if self.root else [])]

    def memory(self, part: Part) -> Array:
        """Memory for the whole of a part."""
        return self.track(
            "parameters", part.bucket.namespace.empty(part.bucket.size, dtype=part.bucket.dtype)
        )

    def take_over(self, axes: Sequence[World], starts: Starts) -> None:
        """Let all ranks begin with the values of each axis' rank 0, and keep their pieces only: unit by unit,
        so that of parameters without values no more than one unit is ever filled.
        """
        for bucket, part in self._parts.items():
            flat = self.memory(part) if part.flat is None else part.flat
            for parameter, view in zip(bucket.parameters, bucket.views(flat), strict=True):
                begin(parameter, view, starts)
            for axis in axes:
                axis.broadcast(flat, purpose="parameters")
            part.shard[...] = bucket.own(flat)
            part.detach()

    def own(self, bucket: Bucket) -> Array:
        """The values of this rank's piece of a bucket, flat: a view."""
        return self._parts[bucket].shard

    shown = own

    def busy(self) -> bool:
        """Whether a walk is under way."""
        return False

    def publish(self) -> None:
        """The values changed."""

    def end_round(self) -> None:
        """Take part in what others gathered in this round, if this rank had no walk; then begin a new one."""

    def forget(self) -> None:
        """Begin a new round."""

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """All parameters whole, in memory of their own; what is written there goes back into the shards."""
        if self._open:
            yield
            return
        if self.busy():
            raise UsageError(f"{self.world.name}: gathered() came in the middle of a walk; finish it first")
        flats = []
        for bucket, part in self._parts.items():
            flat = self.memory(part)
            self.world.all_gather(part.shard, flat, counts=bucket.counts, **self.how)
            part.attach(bucket.views(flat))
            flats.append(flat)
        self._open = True
        try:
            yield
        finally:
            self._open = False
            for (bucket, part), flat in zip(self._parts.items(), flats, strict=True):
                part.shard[...] = bucket.own(flat)
                part.detach()
            self.publish()
