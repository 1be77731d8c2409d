"""Gradients that do not stay (stages 2 and 3): buckets are filled in buffers that go round.

Rajbhandari et al. 2020, ZeRO: Memory Optimizations Toward Training Trillion Parameter Models, §5.2 and §6.2.
"""

import time
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from minigrad.dist.contiguous import Pool
from minigrad.dist.partition import Bucket
from minigrad.dist.request import Request
from minigrad.dist.verbs import Array
from minigrad.dist.world import World
from minigrad.dist.zero_gradients import Filling, ScatteredGradients
from minigrad.graph import Node

POOLED_AT_ONCE = 2  # one bucket is filled while the one before it travels


class PooledGradients(ScatteredGradients):
    """Keeps the sums of this rank's pieces only; buckets are filled in buffers that go round.

    Two are enough where a walk has no more than two buckets at a time that are begun and not finished, and
    comes by them in the order agreed on for the first; otherwise it takes more, until the round ends.

    apart    buckets that are filled all through a walk, and have a buffer each
    patient  whether a walk may wait for a bucket to arrive, rather than take one buffer more
    """

    advice = "step() after each walk, or run each but the last in a `with zero.no_sync():` of its own"
    apart: frozenset[Bucket] = frozenset()

    def patient(self) -> bool:
        return True

    def _lay_out(self) -> None:
        buckets = [filling.bucket for filling in self.fillings]
        xp, dtype = buckets[0].namespace, buckets[0].dtype

        def make(size: int, dtype: Any) -> Array:
            return self.track("gradients", xp.empty(size, dtype=dtype))

        size = max((bucket.size for bucket in buckets if bucket not in self.apart), default=0)
        self._make = make
        self._pool = Pool(make, size, dtype)
        self._reserved: dict[Bucket, Array] = {}
        total = sum(bucket.stop - bucket.start for bucket in buckets)
        self._shard = self.track("gradients", xp.zeros(total, dtype=dtype))
        self._owns: dict[Bucket, Array] = {}
        place = 0
        for bucket in buckets:
            self._owns[bucket] = self._shard[place : place + bucket.stop - bucket.start]
            place += bucket.stop - bucket.start
        self._rounds = 0
        for filling in self.fillings:
            for number, leaf in zip(filling.numbers, filling.leaves, strict=True):
                leaf.provide = partial(self._provide, filling, number)

    def gradient(self, filling: Filling) -> Array:
        return self._owns[filling.bucket]

    def _provide(self, filling: Filling, number: int) -> Array:
        """The place of a gradient whose first contribution is about to be written."""
        if filling.request is not None:
            raise self.late(filling, number)
        if filling.flat is None:
            start = time.perf_counter()
            self._open(filling)
            self.seconds_driving += time.perf_counter() - start
        return filling.views[number - filling.numbers.start]

    def _open(self, filling: Filling) -> None:
        if filling.flat is not None:
            return
        bucket = filling.bucket
        if bucket in self.apart:
            if bucket not in self._reserved:
                self._reserved[bucket] = self._make(bucket.size, bucket.dtype)
            filling.flat = self._reserved[bucket]
        else:
            while self._pool.taken >= POOLED_AT_ONCE and self._arrived < self._sent and self.patient():
                self._wait()
            filling.flat = self._pool.take()
        filling.views = filling.bucket.views(filling.flat)
        for leaf, view in zip(filling.leaves, filling.views, strict=True):
            leaf.buffer = view

    def _start(self, filling: Filling) -> Request:
        flat = filling.flat[: filling.bucket.size]  # type: ignore[index]  # it is open
        # What comes after the first round is added to it: until then it lies in the bucket's own place.
        out = filling.bucket.own(flat) if self._rounds else self.gradient(filling)
        if self.world.size == 1 and not self._rounds:
            out[...] = flat
        for leaf in filling.leaves:
            leaf.buffer, leaf.filled = None, False
        return self._scatter(filling, flat, out)

    def _settle(self, filling: Filling) -> None:
        if self._rounds:
            own = self.gradient(filling)
            own += filling.bucket.own(filling.flat)
        self._close(filling)

    def _close(self, filling: Filling) -> None:
        """Let others use the buffer of a bucket."""
        if filling.bucket not in self.apart:
            self._pool.give_back(filling.flat)
        filling.flat, filling.views = None, []

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """One backward walk in this block, whose sums are added to those of the step's other walks."""
        yield
        self.flush()

    def flush(self) -> None:
        super().flush()
        self._rounds += 1

    def forget(self) -> None:
        super().forget()
        self._rounds = 0
        for filling in self.fillings:
            for leaf in filling.leaves:
                leaf.buffer = None
            if filling.flat is not None:
                self._close(filling)


class UnitGradients(PooledGradients):
    """Buckets that are units: who gathers these says in which order they come, and what a walk has passed.

    apart    buckets that are filled all through a walk, and have a buffer each
    patient  whether a walk may wait for a bucket to arrive, rather than take one buffer more
    """

    def __init__(
        self,
        buckets: Sequence[Bucket],
        world: World,
        *,
        apart: Sequence[Bucket],
        patient: Callable[[], bool],
        **how: Any,
    ) -> None:
        self.apart, self.patient = frozenset(apart), patient  # type: ignore[method-assign]
        super().__init__(buckets, world, **how)
        self._agreed = True

    def pass_by(self, count: int, walks: bool) -> None:
        """The first `count` buckets are left behind; for good, unless by a walk that is for inputs only."""
        if self._begun or not walks:
            self.send_through(count)

    def _before_walk(self, nodes: Sequence[Node], leaves: Container[Node]) -> None:
        """What a walk does not reach is sent when it has passed the unit: at once, for others wait for it."""
        if not self._begun:
            met, own = set(nodes), (leaf for filling in self.fillings for leaf in filling.leaves)
            self._begun = any(leaf in leaves or leaf in met for leaf in own)

    def reorder(self, buckets: Sequence[Bucket]) -> None:
        """From now on send these in this order, and then those that are apart."""
        turns = {bucket: turn for turn, bucket in enumerate(buckets)}
        self._order.sort(key=lambda filling: turns.get(filling.bucket, len(turns)))
