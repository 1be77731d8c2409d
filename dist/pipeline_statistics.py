"""What layers learn of batches (running means and variances), learned once per batch from its microbatches.

Every microbatch starts from the statistics at the beginning of the batch, and what it would make of them is
averaged, weighted by samples: one update per batch, as without a pipeline. Means come out as those of the
whole batch; variances as the mean of those within microbatches (torchgpipe's deferred batch normalisation
counts the differences between microbatches in as well).
"""

from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager

from minigrad import backend, random
from minigrad.dist.pipeline_stages import Stage
from minigrad.dist.verbs import Array
from minigrad.errors import UsageError
from minigrad.nn.module import Buffer
from minigrad.tensor import Tensor


class Statistics:
    """The buffers of one stage that its forwards change; those of which `apart` has the ids may not change,
    since other stages have them too.
    """

    def __init__(self, stage: Stage, apart: Container[int] = ()) -> None:
        self._stage, self._apart = stage, apart
        self._buffers: list[Buffer] = list(stage.buffers())
        self._found: dict[int, list[Array]] = {}

    @contextmanager
    def of(self, microbatch: int) -> Iterator[None]:
        """Inside the block a forward changes copies; the statistics stay those before the batch."""
        if not self._buffers or not self._stage.training or random.replaying():
            yield
            return
        before = [buffer.data for buffer in self._buffers]
        for buffer in self._buffers:
            buffer.data = buffer.data.copy()
        try:
            yield
        finally:
            self._found[microbatch] = [buffer.data for buffer in self._buffers]
            for buffer, data in zip(self._buffers, before, strict=True):
                buffer.data = data

    def finish(self, weights: Sequence[float]) -> None:
        """The batch is over: let the buffers have the average of what its microbatches made of them."""
        found, self._found = self._found, {}
        for place, buffer in enumerate(self._buffers if found else ()):
            changed = [(weights[number], arrays[place]) for number, arrays in sorted(found.items())]
            if id(buffer) in self._apart:
                self._check_unchanged(buffer, [array for _, array in changed])
                continue
            if buffer.dtype.kind == "f":
                moved = sum(weight * (array - buffer.data) for weight, array in changed)
                buffer.assign(Tensor.of(buffer.data + moved))
            else:
                buffer.assign(
                    Tensor.of(changed[-1][1])
                )  # counters: each microbatch counted one from the start

    def _check_unchanged(self, buffer: Buffer, arrays: Sequence[Array]) -> None:
        xp = backend.namespace(buffer.data)
        if xp.name != "shapes" and not all(bool(xp.all(array == buffer.data)) for array in arrays):
            name = next(name for name, other in self._stage.named_buffers() if other is buffer)
            raise UsageError(
                f"{self._stage!r}: training changes {name}, which a layer of another stage has, too, and "
                "each would learn from its own place alone; give each stage a layer of its own"
            )
