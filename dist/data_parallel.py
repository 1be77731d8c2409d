"""Data parallelism: every rank has the whole model and a part of the batch; gradients are summed over ranks.

This is the gradient half of `ZeRO(stage=0)`, for programs that take the step themselves.

What is summed is not averaged: divide the loss by the number of tokens (or samples) of *all* ranks. Then
ranks may have parts of any size, none included (Goyal et al. 2017, Accurate, Large Minibatch SGD, section 3,
remark 3, on why the normalisation belongs to the whole batch).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from minigrad.dist.partition import BUCKET_BYTES, broadcast_rest, check_alike, check_settings, cut
from minigrad.dist.roster import Roster
from minigrad.dist.world import World
from minigrad.dist.zero_gradients import Filling, WholeGradients
from minigrad.nn.materialize import materialize
from minigrad.nn.module import Module
from minigrad.tensor import Tensor


class DataParallel:
    """Keeps the copies of `module` on all ranks of `world` alike.

    Parameters and buffers are taken from rank 0 now; a model that has shapes only is filled before. In each
    step call `synchronize()` after the backward walk: it leaves in every parameter's `.grad` the sum over all
    ranks, which may be clipped then. A parameter that only some ranks used counts as zero on the others; one
    that no rank used keeps no gradient.

    bucket_bytes      size from which on a bucket is sent: small ones start earlier, large ones cost less
    algorithm         how gradients are summed: "library", or one of minigrad's own ("ring", "ordered", …)
    seconds_driving   of the latest step: in the backward walk, to start messages and move them on
    seconds_waiting   of the latest step: in `synchronize`, where nothing else goes on. Both together are what
                      communication cost; on thread ranks they contain the time in which other ranks computed

    Raises CommunicationError where ranks have different parameters, and where a gradient changes after its
    bucket was sent; UsageError where parameters came or went after wrapping, or others are trained. On one
    rank alone nothing is done and the gradients stay where they are.
    """

    def __init__(
        self, module: Module, world: World, *, bucket_bytes: int = BUCKET_BYTES, algorithm: str = "library"
    ) -> None:
        check_settings("DataParallel", bucket_bytes, algorithm, ["all_reduce"])
        self.module = materialize(module)
        self.world = world
        self.seconds_driving = self.seconds_waiting = 0.0
        self._gradients: WholeGradients | None = None
        if world.size == 1:
            return
        check_alike(module, world)
        self._roster = Roster(module)
        trained = [parameter for parameter in self._roster.parameters if parameter.requires_grad]
        self._gradients = WholeGradients(cut(trained, world, bucket_bytes), world, algorithm=algorithm)
        self._gradients.whole = True
        for filling in self.buckets:  # the buffers carry the parameters over
            for parameter, view in zip(filling.bucket.parameters, filling.views, strict=True):
                view[...] = parameter.data
            world.broadcast(filling.flat, purpose="parameters")
            for parameter, view in zip(filling.bucket.parameters, filling.views, strict=True):
                parameter.assign(Tensor.of(view))
        broadcast_rest(module, world)

    @property
    def buckets(self) -> list[Filling]:
        """What is sent together, in the order in which it is sent."""
        return [] if self._gradients is None else self._gradients.fillings

    def __call__(self, *inputs: Any, **keywords: Any) -> Any:
        return self.module(*inputs, **keywords)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Backward walks in this block only add to this rank's gradients: for all but the last of several."""
        if self._gradients is None:
            yield
            return
        with self._gradients.no_sync():
            yield

    def synchronize(self) -> None:
        """Wait until the gradients are summed over ranks; all call it once a step, after their walks."""
        gradients = self._gradients
        if gradients is None:
            return
        self._roster.check(self.world.name)
        used = gradients.finish()
        gradients.whole = True
        for filling in gradients.fillings:
            for number, leaf in zip(filling.numbers, filling.leaves, strict=True):
                leaf.filled = used[number]
        self.seconds_waiting = gradients.seconds_waiting
        self.seconds_driving, gradients.seconds_driving = gradients.seconds_driving, 0.0
