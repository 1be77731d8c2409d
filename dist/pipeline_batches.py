"""A batch, cut into microbatches (along axis 0) and token slices (along axis 1)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from minigrad import backend, random
from minigrad.dist.executor import Part
from minigrad.dist.pipeline_stages import Boundaries, Values, tupled
from minigrad.dist.schedule import Schedule
from minigrad.dist.verbs import Array, balanced_counts
from minigrad.errors import UsageError
from minigrad.tensor import Tensor
from minigrad.tree import flatten, rebuild

Parts = dict[tuple[int, int], Part]


class Batches:
    """Cuts batches for one schedule.

    lengths      of token slices; none if the schedule has no slices
    loss         loss(output, target) of a microbatch or slice: a mean over what is in it, or a sum
    boundaries   from the slices of one microbatch to what passes between stages for it
    """

    def __init__(
        self,
        schedule: Schedule,
        lengths: Sequence[int],
        loss: Callable[..., Tensor] | None,
        boundaries: Callable[[Sequence[Values]], Boundaries],
    ) -> None:
        self.chunks, self.lengths, self.loss = schedule.microbatches, list(lengths), loss
        self.boundaries = boundaries
        self._known: dict[Any, Boundaries] = {}
        self._groups = [schedule.update_of.get((0, number), -1) for number in range(self.chunks)]
        self.updates = len(set(self._groups))

    def cut(
        self, inputs: Any, targets: Any, *, learn: bool, count: float | None = None
    ) -> tuple[Parts, list[int]]:
        """The parts of a batch by (microbatch, slice), and the number of samples of each microbatch.

        With `count`, losses are sums, and that is what they are divided by. Raises UsageError for what cannot
        be cut so.
        """
        values = [x.data if isinstance(x, Tensor) else Tensor(x).data for x in tupled(inputs)]
        wanted = [] if targets is None else flatten(targets)
        wanted = [x.data if isinstance(x, Tensor) else backend.asarray(x) for x in wanted]
        sizes = self._sizes([*values, *wanted])
        shares = self.shares(sizes)
        _, _, step, outer, *_ = random.snapshot()
        samples = range(sum(sizes)) if step is None or outer is None else outer
        parts: Parts = {}
        start = 0
        for number, size in enumerate(sizes):
            rows = slice(start, start + size)
            pieces = [tuple(map(Tensor.of, piece)) for piece in self._slices([x[rows] for x in values])]
            goals = self._slices([x[rows] for x in wanted])
            between = self._boundaries(pieces)
            for part, piece in enumerate(pieces):
                goal = () if targets is None else (rebuild(targets, goals[part]),)
                loss = self._loss_of(goal) if learn else None
                share = shares[number] * (self.lengths[part] / sum(self.lengths) if self.lengths else 1.0)
                share = share if count is None else 1.0 / count
                begin = sum(self.lengths[:part])
                parts[number, part] = Part(piece, loss, share, samples[rows], between, begin)
            start += size
        return parts, sizes

    def join(self, results: Mapping[tuple[int, int], Sequence[Array]]) -> Any:
        """What the last stage returned for each part, as for the whole batch."""
        xp = backend.namespace(results[0, 0][0])
        slices = range(max(1, len(self.lengths)))
        outputs = []
        for place in range(len(results[0, 0])):
            rows = [[results[number, part][place] for part in slices] for number in range(self.chunks)]
            whole = [row[0] if len(row) == 1 else xp.concatenate(row, axis=1) for row in rows]
            outputs.append(Tensor.of(xp.concatenate(whole)))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def shares(self, sizes: Sequence[int]) -> list[float]:
        """The share of each microbatch in its batch: in all of them, or in those of the same update."""
        totals: dict[int, int] = {}
        for size, group in zip(sizes, self._groups, strict=True):
            totals[group] = totals.get(group, 0) + size
        return [size / totals[group] for size, group in zip(sizes, self._groups, strict=True)]

    def _sizes(self, arrays: Sequence[Array]) -> list[int]:
        """The number of samples of each microbatch."""
        shapes = [tuple(x.shape) for x in arrays]
        if not all(shapes) or len({shape[0] for shape in shapes}) != 1:
            raise UsageError(
                f"inputs and targets count samples on their first axis, and have shapes {shapes}; make all "
                "first axes equal"
            )
        count = shapes[0][0]
        if count < self.chunks:
            raise UsageError(
                f"a batch of {count} samples cannot be cut into {self.chunks} microbatches; give larger "
                "batches, or fewer chunks"
            )
        for shape in shapes if self.lengths else ():
            if len(shape) < 2 or shape[1] != sum(self.lengths):
                raise UsageError(
                    f"token slices of {self.lengths} cut axis 1 of {sum(self.lengths)}, and an array has "
                    f"shape {shape}"
                )
        return list(balanced_counts(count, self.chunks))

    def _slices(self, arrays: Sequence[Array]) -> list[list[Array]]:
        if not self.lengths:
            return [list(arrays)]
        starts = [sum(self.lengths[:part]) for part in range(len(self.lengths))]
        return [
            [array[:, start : start + length] for array in arrays]
            for start, length in zip(starts, self.lengths, strict=True)
        ]

    def _loss_of(self, goal: tuple[Any, ...]) -> Callable[[Values], Tensor]:
        loss = self.loss
        assert loss is not None
        return lambda outputs: loss(outputs[0] if len(outputs) == 1 else outputs, *goal)

    def _boundaries(self, pieces: Sequence[Values]) -> Boundaries:
        """What passes between stages for such a microbatch; worked out once for each kind."""
        kind = tuple((x.shape, str(x.dtype)) for piece in pieces for x in piece)
        if kind not in self._known:
            self._known[kind] = self.boundaries(pieces)
        return self._known[kind]
