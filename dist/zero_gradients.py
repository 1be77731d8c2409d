"""Gradients on their way: written into flat buckets by backward walks, summed over ranks meanwhile.

The stages differ in what a rank keeps and for how long:

* `WholeGradients`     (stage 0) all gradients, always; each bucket is all-reduced;
* `ScatteredGradients` (stage 1) the same memory; of each bucket a rank gets the sum of its own piece only;
* `PooledGradients`    (stages 2 and 3, `zero_pooled.py`) the own pieces, always; buckets are filled in a few
                       buffers that go round, and leave them as soon as they are full.

The backward walk reaches the last layers first, so buckets are cut from the end. As soon as the gradients of
a bucket are final its reduction is started, and the walk goes on; hooks move on what is under way, because
messages do not move by themselves. All ranks start them in the same order, however their walks differ: the
one in which the first walk of one rank (the one that finishes most of them) will come by, which its graph
tells before it begins. No bucket waits for a parameter that the walk does not reach: a step has one walk, or
says before its others that they are not the last.

Li et al. 2020, PyTorch Distributed: Experiences on Accelerating Data Parallel Training, sections 3.2 and 4.2;
Rajbhandari et al. 2020, ZeRO: Memory Optimizations Toward Training Trillion Parameter Models, §5.
"""

import time
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from operator import attrgetter, is_
from typing import Any, ClassVar
from weakref import WeakMethod

import numpy as np

from minigrad.dist.partition import Bucket, agreed_order, side_by_side
from minigrad.dist.request import Request, done
from minigrad.dist.verbs import Array
from minigrad.dist.world import World
from minigrad.errors import CommunicationError, UsageError
from minigrad.graph import Leaf, Node, state
from minigrad.nn.utils import SummingHook

Track = Callable[[str, Array], Array]
_filled_of, _buffer_of = attrgetter("filled"), attrgetter("buffer")


class Filling:
    """A bucket in one round of reductions: where its gradients are, and which of them are not final yet."""

    def __init__(self, bucket: Bucket, first: int) -> None:
        self.bucket = bucket
        self.numbers = range(first, first + len(bucket.parameters))  # of its parameters, among all
        self.leaves = [leaf_of(parameter) for parameter in bucket.parameters]
        self.flat: Array | None = None
        self.views: list[Array] = []
        self.reset()

    def reset(self) -> None:
        """Begin a round."""
        self.request: Request | None = None
        self.waits_for = set(self.numbers)


def leaf_of(parameter: Any) -> Leaf:
    """The leaf at which the gradients of a parameter arrive."""
    assert isinstance(parameter.node, Leaf)  # only what is trained gets here
    return parameter.node


class WholeGradients:
    """Keeps all gradients and all-reduces each bucket; the other stages change what happens to a bucket.

    quiet            while true, walks only add to this rank's gradients
    whole            whether parameters show sums over all ranks, and nothing of them is on its way
    seconds_driving  since the latest `finish`: in backward walks, to start messages and move them on
    seconds_waiting  of the latest `finish`: where nothing else goes on. Both together are what communication
                     cost; on thread ranks they contain the time in which other ranks computed
    """

    advice: ClassVar[str] = (
        "synchronize() after each walk, or run all but the last in `with parallel.no_sync():`"
    )

    def __init__(
        self,
        buckets: Sequence[Bucket],
        world: World,
        *,
        algorithm: str = "library",
        track: Track | None = None,
    ) -> None:
        self.world = world
        self.how: dict[str, Any] = {"purpose": "gradients", "algorithm": algorithm}
        self.track = track or (lambda category, array: array)
        self.quiet = self.whole = self._begun = False
        self.seconds_driving = self.seconds_waiting = 0.0
        self.fillings: list[Filling] = []
        self._starts: dict[Filling, Callable[[], Request]] = {}
        self._sent = self._arrived = self._count = 0
        for bucket in buckets:
            filling = Filling(bucket, self._count)
            self.fillings.append(filling)
            self._count += len(bucket.parameters)
            for number, parameter in zip(filling.numbers, bucket.parameters, strict=True):
                parameter.zero_grad()
                hook = SummingHook(self._final, filling, number)
                hook.check_whole = self.check_whole
                leaf_of(parameter).hooks.append(hook)
        self._used = np.zeros(self._count, dtype=np.uint8)
        self._tell = world.persistent_all_reduce(self._used, operation="max", purpose="control")
        self._order, self._agreed = list(self.fillings), False  # in which buckets are sent, on all ranks
        watching = (watcher for watcher in state.watchers if watcher() is not None)
        state.watchers = (*watching, WeakMethod(self._before_walk))
        self._lay_out()

    # ----- What a stage decides -----

    def _lay_out(self) -> None:
        """Give every gradient its place in one flat array."""
        flats = side_by_side([filling.bucket for filling in self.fillings])
        for filling, flat in zip(self.fillings, flats, strict=True):
            filling.flat = self.track("gradients", flat)
            filling.views = filling.bucket.views(flat)
            for parameter, view in zip(filling.bucket.parameters, filling.views, strict=True):
                parameter.grad_buffer = view

    def gradient(self, filling: Filling) -> Array:
        """The summed gradient that this rank gets of a bucket, flat."""
        assert filling.flat is not None
        return filling.flat

    def _open(self, filling: Filling) -> None:
        """See to it that the bucket has memory."""

    def _start(self, filling: Filling) -> Request:
        """Start to sum a bucket over ranks."""
        if filling not in self._starts:
            self._starts[filling] = self.world.persistent_all_reduce(filling.flat, **self.how)
        return self._starts[filling]()

    def _settle(self, filling: Filling) -> None:
        """The sum of a bucket is there."""

    # ----- Within the backward walk -----

    def _before_walk(self, nodes: Sequence[Node], leaves: Container[Node]) -> None:
        """A walk of this thread is about to visit these nodes, and to deliver to these leaves."""
        if self.quiet:
            return
        met = set(nodes)
        missing = [
            (filling, number)
            for filling in self.fillings
            for number, p, leaf in zip(
                filling.numbers, filling.bucket.parameters, filling.leaves, strict=True
            )
            if leaf not in leaves and leaf not in met
            if p.node is leaf  # else a pipeline delivers there after the walk: stages share it
        ]
        if len(missing) == self._count:
            return  # it is another model's
        if not self._agreed:
            self._agree_on_order(nodes, leaves)
        for filling, number in missing:
            filling.waits_for.discard(number)

    def _agree_on_order(self, nodes: Sequence[Node] = (), leaves: Container[Node] = ()) -> None:
        """Send buckets, from now on, in the order in which this walk of the first rank finishes them."""
        owners = {leaf: filling for filling in self.fillings for leaf in filling.leaves}
        turns: dict[Filling, float] = {}
        for turn, node in enumerate(nodes):
            final = [node, *(edge for edge in node.inputs if edge is not None and edge in leaves)]
            turns.update((owners[leaf], float(turn)) for leaf in final if leaf in owners)  # the last counts
        self._agreed = True
        numbers = agreed_order([turns.get(filling) for filling in self.fillings], self.world)
        self._order = [self.fillings[number] for number in numbers]

    def _final(self, filling: Filling, number: int) -> None:
        """A gradient is final: send what is complete, and move on what is under way."""
        self.whole, self._begun = False, True
        if self.quiet:
            return
        start = time.perf_counter()
        if filling.request is not None:
            raise self.late(filling, number)
        filling.waits_for.discard(number)
        while self._sent < len(self._order) and not self._order[self._sent].waits_for:
            self._send(self._order[self._sent])
        self._advance()
        self.seconds_driving += time.perf_counter() - start

    def check_whole(self) -> None:
        """Raises UsageError while parameters do not show sums over ranks."""
        if not self.whole:
            raise UsageError(
                f"{self.world.name}: gradients that are not summed over ranks yet cannot be clipped: behind "
                "DataParallel do it after synchronize(); give max_norm or max_value to ZeRO, which clips"
            )

    def late(self, filling: Filling, number: int) -> CommunicationError:
        """The error for a gradient that comes when the others of its bucket are gone."""
        shape = filling.bucket.parameters[number - filling.numbers.start].shape
        return CommunicationError(
            f"{self.world.name}: a gradient of shape {shape} changed after its bucket was sent; {self.advice}"
        )

    def _send(self, filling: Filling) -> None:
        """Start the next bucket. What has no gradient here counts as zero."""
        self._open(filling)
        in_place = map(is_, map(_buffer_of, filling.leaves), filling.views)
        if all(map(_filled_of, filling.leaves)) and all(in_place):
            self._used[filling.numbers.start : filling.numbers.stop] = True
        else:
            self._look_through(filling)
        filling.request = self._start(filling)
        self._sent += 1

    def _look_through(self, filling: Filling) -> None:
        """See which gradients of a bucket are there."""
        for number, leaf, view in zip(filling.numbers, filling.leaves, filling.views, strict=True):
            if leaf.filled and leaf.buffer is not view:
                raise UsageError(
                    f"{self.world.name}: a parameter of shape {view.shape} lost its gradient buffer; leave "
                    "grad_buffer alone, and wrap the model anew after moving it"
                )
            if leaf.filled:
                self._used[number] = True
            else:
                view[...] = 0

    def send_through(self, count: int) -> None:
        """Send the first `count` buckets: nothing more comes for them in this round."""
        while self._sent < count:
            self._send(self._order[self._sent])

    def _send_rest(self) -> None:
        """Send all that was not sent."""
        if not self._agreed:
            self._agree_on_order()
        self.send_through(len(self.fillings))

    def _advance(self) -> None:
        """Look after the messages under way."""
        while self._arrived < self._sent:
            filling = self._order[self._arrived]
            if not filling.request.test():  # type: ignore[union-attr]  # it was sent
                return
            self._arrived += 1
            self._settle(filling)

    def _wait(self) -> None:
        """Wait for the oldest message under way."""
        filling = self._order[self._arrived]
        filling.request.wait()  # type: ignore[union-attr]  # it was sent
        self._arrived += 1
        self._settle(filling)

    # ----- After it -----

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Backward walks in this block only add to this rank's gradients: for all but the last of several."""
        before, self.quiet = self.quiet, True
        try:
            yield
        finally:
            self.quiet = before

    def flush(self) -> None:
        """End a round: send all that was not sent, and wait until everything is summed."""
        self._send_rest()
        while self._arrived < self._sent:
            self._wait()
        self._sent = self._arrived = 0
        self._begun = False
        for filling in self.fillings:
            filling.reset()

    def finish(self) -> list[bool]:
        """End the last round of a step. Returns which parameters any rank used, in the buckets' order."""
        start = time.perf_counter()
        self._send_rest()
        told = self._tell()  # while the last bucket is under way
        self.flush()
        told.wait()
        used: list[bool] = self._used.astype(bool).tolist()
        self._used[...] = False
        self.seconds_waiting = time.perf_counter() - start
        return used

    def forget(self) -> None:
        """Let the next walk begin anew. What was sent already is waited for: all ranks do this alike."""
        if self._sent:
            self.flush()
        self._begun = False
        for filling in self.fillings:
            filling.reset()
            for leaf in filling.leaves:
                leaf.filled = False
        self._used[...] = False


class ScatteredGradients(WholeGradients):
    """Keeps all gradients until they are reduced; the sum of this rank's piece stays where it was."""

    advice = "step() after each walk, or run all but the last in `with zero.no_sync():`"

    def gradient(self, filling: Filling) -> Array:
        return filling.bucket.own(filling.flat)

    def _start(self, filling: Filling) -> Request:
        return self._scatter(filling, filling.flat, self.gradient(filling))

    def _scatter(self, filling: Filling, flat: Array, out: Array) -> Request:
        """Start to sum a flat bucket over ranks, this rank's piece of it into `out`."""
        if self.world.size == 1:
            return Request(done)
        return self.world.start_reduce_scatter(flat, out, counts=filling.bucket.counts, **self.how)
