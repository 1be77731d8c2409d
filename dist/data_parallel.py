"""Data parallelism: every rank has the whole model and a part of the batch; gradients are summed over ranks.

The gradients lie in one flat array in the order in which the parameters are declared, and a bucket is a
piece of it. The backward walk reaches the last layers first, so buckets are filled from the end of that
array. As soon as the gradients of a bucket are final, its all-reduce is started, and the walk goes on.

What is summed is not averaged: divide the loss by the number of tokens (or samples) of *all* ranks. Then
ranks may have parts of any size, none included (Goyal et al. 2017, Accurate, Large Minibatch SGD, section 3,
remark 3, on why the normalisation belongs to the whole batch).

Li et al. 2020, PyTorch Distributed: Experiences on Accelerating Data Parallel Training, sections 3.2 and
4.2, describe the same design: buckets, one order on all ranks, unused parameters.
"""

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minigrad import backend
from minigrad.dist.request import Request
from minigrad.dist.verbs import Array
from minigrad.dist.world import World
from minigrad.errors import CommunicationError, UsageError
from minigrad.mutation import mutated
from minigrad.nn.module import Module, Parameter
from minigrad.tensor import Tensor

BUCKET_BYTES = 4 * 2**20


@dataclass
class Bucket:
    """A piece of the flat gradient, and what of it is not final yet in this step."""

    flat: Array
    parameters: list[Parameter]
    waits_for: set[int] = field(default_factory=set)
    request: Request | None = None

    def reset(self) -> None:
        self.waits_for = {id(parameter) for parameter in self.parameters}
        self.request = None


class DataParallel:
    """Keeps the copies of `module` on all ranks of `world` alike.

    Parameters and buffers are taken from rank 0 now. In each step call `synchronize()` after the backward
    walk: it leaves in every parameter's `.grad` the sum over all ranks. A parameter that only some ranks used
    counts as zero on the others; one that no rank used keeps no gradient.

    bucket_bytes      size from which on a bucket is sent: small ones start earlier, large ones cost less
    seconds_driving   of the latest step: in the backward walk, to start messages and move them on
    seconds_waiting   of the latest step: in `synchronize`, where nothing else goes on. Both together are what
                      communication cost; on thread ranks they contain the time in which other ranks computed

    Raises CommunicationError where ranks have different parameters, and where a gradient changes after its
    bucket was sent. On one rank alone nothing is done and the gradients stay where they are.
    """

    def __init__(self, module: Module, world: World, *, bucket_bytes: int = BUCKET_BYTES) -> None:
        if bucket_bytes < 1:
            raise UsageError(f"DataParallel got bucket_bytes={bucket_bytes}; give a number of at least 1")
        self.module = module
        self.world = world
        self.seconds_driving = self.seconds_waiting = 0.0
        self.buckets: list[Bucket] = []
        self._parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self._bucket_of: dict[int, Bucket] = {}
        self._started = 0
        self._quiet = False
        self._driving = 0.0
        if world.size > 1:
            self._check_that_all_have_the_same()
            self._make_buckets(bucket_bytes)
            self._take_over_from_rank_0()
            for parameter in self._parameters:
                parameter.register_post_accumulate_grad_hook(self._final)

    def __call__(self, *inputs: Any, **keywords: Any) -> Any:
        return self.module(*inputs, **keywords)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Backward walks in this block only add to this rank's gradients: for all but the last of several."""
        before, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = before

    def synchronize(self) -> None:
        """Wait until the gradients are summed over ranks; all call it once a step, after their walks."""
        if self.world.size == 1:
            return
        start = time.perf_counter()
        used = np.array([parameter.grad is not None for parameter in self._parameters], dtype=np.uint8)
        for parameter, here in zip(self._parameters, used, strict=True):
            if not here:
                self._buffer(parameter)[...] = 0
        for bucket in self.buckets[self._started :]:
            self._send(bucket)
        self.world.all_reduce(used, operation="max", purpose="control")
        for bucket in self.buckets:
            bucket.request.wait()  # type: ignore[union-attr]  # all were sent
            bucket.reset()
        for parameter, anywhere in zip(self._parameters, used, strict=True):
            if anywhere and parameter.grad is None:
                parameter.grad = Tensor.of(self._buffer(parameter))
        self._started = 0
        self.seconds_waiting = time.perf_counter() - start
        self.seconds_driving, self._driving = self._driving, 0.0

    # -------------------------------------------------------------- within the backward walk

    def _final(self, parameter: Tensor) -> None:
        """The gradient of `parameter` is final: send what is complete, and move on what is under way."""
        if self._quiet:
            return
        start = time.perf_counter()
        bucket = self._bucket_of[id(parameter)]
        if bucket.request is not None:
            raise CommunicationError(
                f"{self.world.name}: a gradient of shape {parameter.shape} changed after its bucket was "
                "sent; synchronize() after each walk, or run all but the last in `with parallel.no_sync():`"
            )
        bucket.waits_for.discard(id(parameter))
        while self._started < len(self.buckets) and not self.buckets[self._started].waits_for:
            self._send(self.buckets[self._started])
        for sent in self.buckets[: self._started]:
            if not sent.request.test():  # type: ignore[union-attr]  # all of these were sent
                break
        self._driving += time.perf_counter() - start

    def _send(self, bucket: Bucket) -> None:
        """Start the next bucket; all ranks start them in the same order, however their walks differ."""
        bucket.request = self.world.start_all_reduce(bucket.flat, purpose="gradients")
        self._started += 1

    # -------------------------------------------------------------------------- at the start

    def _check_that_all_have_the_same(self) -> None:
        """Compare names, shapes and dtypes of all ranks, in 8 bytes each."""
        tensors = [*self.module.named_parameters(), *self.module.named_buffers()]
        described = [
            (name, tensor.shape, str(tensor.dtype), tensor.requires_grad) for name, tensor in tensors
        ]
        digest = np.frombuffer(hashlib.sha256(repr(described).encode()).digest()[:8], dtype=np.int64)
        digests = np.empty(self.world.size, dtype=np.int64)
        self.world.all_gather(digest, digests, purpose="control")
        for rank, other in enumerate(digests):
            if other != digests[0]:
                raise CommunicationError(
                    f"{self.world.name}: the model of rank {rank} of this world has other parameters than "
                    "that of rank 0 (names, shapes, dtypes, or what is trained); build the same on all ranks"
                )

    def _make_buckets(self, bucket_bytes: int) -> None:
        """Lay the gradients out, one flat array for each dtype, and cut it from its end into buckets."""
        runs: list[list[Parameter]] = []
        totals: dict[np.dtype, int] = {}
        for parameter in reversed(self._parameters):
            totals[parameter.dtype] = totals.get(parameter.dtype, 0) + parameter.size
            last = runs[-1] if runs else []
            full = sum(member.data.nbytes for member in last) >= bucket_bytes
            if not last or full or last[0].dtype != parameter.dtype:
                runs.append([])
            runs[-1].append(parameter)
        make = backend.namespace(self._parameters[0].data).zeros if runs else np.zeros
        flats = {dtype: make(total, dtype=dtype) for dtype, total in totals.items()}
        for run in runs:
            flat, stop = flats[run[0].dtype], totals[run[0].dtype]
            place = stop
            for parameter in run:
                place -= parameter.size
                parameter.grad_buffer = flat[place : place + parameter.size].reshape(parameter.shape)
            totals[run[0].dtype] = place
            bucket = Bucket(flat[place:stop], run)
            bucket.reset()
            self.buckets.append(bucket)
            self._bucket_of.update({id(parameter): bucket for parameter in run})

    def _take_over_from_rank_0(self) -> None:
        """Broadcast parameters, through the buckets, and whatever else the module holds."""
        for bucket in self.buckets:
            for parameter in bucket.parameters:
                self._buffer(parameter)[...] = parameter.data
            self.world.broadcast(bucket.flat, purpose="parameters")
            for parameter in bucket.parameters:
                parameter.assign(Tensor.of(self._buffer(parameter)))
        trained = set(map(id, self._parameters))
        frozen = [parameter for parameter in self.module.parameters() if id(parameter) not in trained]
        for tensor in [*frozen, *self.module.buffers()]:
            values = tensor.data.reshape(-1)
            self.world.broadcast(values, purpose="parameters")
            tensor.data[...] = values.reshape(tensor.shape)
            mutated(tensor.data)

    @staticmethod
    def _buffer(parameter: Parameter) -> Array:
        buffer = parameter.grad_buffer
        if buffer is None:
            raise UsageError("a parameter lost the gradient buffer of DataParallel; wrap the model again")
        return buffer
