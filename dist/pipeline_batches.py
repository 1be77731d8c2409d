"""A batch, cut into microbatches (along axis 0) and token slices (along axis 1)."""

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

from minigrad import backend, random
from minigrad.dist.counted_loss import CountedLoss, counted
from minigrad.dist.executor import Part
from minigrad.dist.pipeline_stages import Boundaries, Drawn, Values, tupled
from minigrad.dist.schedule import Schedule
from minigrad.dist.verbs import Array, balanced_counts
from minigrad.errors import UsageError
from minigrad.tensor import Tensor
from minigrad.tree import flatten, rebuild

Parts = dict[tuple[int, int], Part]


class Batches:
    """Cuts batches for one schedule.

    lengths      of token slices; none if the schedule has no slices
    loss         loss(output, target) of a microbatch or slice: a mean over what is in it, or a sum; one that
                 counts its targets (`counted`) is summed, and divided by their number in the whole batch
    boundaries   from the slices of one microbatch to what passes between stages for it, and what they draw
    training     whether layers are being trained, on which that hangs too
    """

    def __init__(
        self,
        schedule: Schedule,
        lengths: Sequence[int],
        loss: Callable[..., Tensor] | None,
        boundaries: Callable[[Sequence[Values]], tuple[Boundaries, Drawn]],
        training: Callable[[], bool],
    ) -> None:
        if loss is not None and not callable(loss):
            raise UsageError(f"the loss is {loss!r}; give a function of output and target")
        self.chunks, self.lengths, self.loss = schedule.microbatches, list(lengths), counted(loss)
        self.boundaries, self.training = boundaries, training
        self._known: dict[Any, tuple[Boundaries, Drawn]] = {}
        self._groups = [schedule.update_of.get((0, number), -1) for number in range(self.chunks)]
        self.updates = len(set(self._groups))

    def cut(
        self, inputs: Any, targets: Any, *, learn: bool, count: float | None = None
    ) -> tuple[Parts, list[int]]:
        """The parts of a batch by (microbatch, slice), and the number of samples of each microbatch. One for
        which no sample is left runs with the first, and counts for nothing.

        With `count`, losses are sums, and that is what they are divided by. Raises UsageError for what cannot
        be cut so.
        """
        values = [x.data if isinstance(x, Tensor) else Tensor(x).data for x in tupled(inputs)]
        wanted = [] if targets is None else flatten(targets)
        wanted = [x.data if isinstance(x, Tensor) else backend.asarray(x) for x in wanted]
        sizes = self._sizes([*values, *wanted])
        ends = list(accumulate(sizes, initial=0))
        rows_of = [slice(start, stop) for start, stop in pairwise(ends)]
        goals_of = [rebuild(targets, [x[rows] for x in wanted]) for rows in rows_of] if wanted else []
        weights = self._weights(sizes, goals_of if learn else [], count)
        _, _, step, outer, *_ = random.snapshot()
        samples = range(sum(sizes)) if step is None or outer is None else outer
        parts: Parts = {}
        for number, (size, rows) in enumerate(zip(sizes, rows_of, strict=True)):
            if not size:
                rows, weights[number] = slice(0, 1), [0.0] * len(weights[number])
            pieces = [tuple(map(Tensor.of, piece)) for piece in self._slices([x[rows] for x in values])]
            goals = self._slices([x[rows] for x in wanted])
            between, drawn = self._boundaries(pieces)
            for part, piece in enumerate(pieces):
                goal = () if targets is None else (rebuild(targets, goals[part]),)
                loss = self._loss_of(goal) if learn else None
                begin = sum(self.lengths[:part])
                weight = weights[number][part]
                parts[number, part] = Part(piece, loss, weight, samples[rows], between, begin, drawn)
        return parts, sizes

    def join(self, results: Mapping[tuple[int, int], Sequence[Array]], sizes: Sequence[int]) -> Any:
        """What the last stage returned for each part, as for the whole batch."""
        xp = backend.namespace(results[0, 0][0])
        slices = range(max(1, len(self.lengths)))
        outputs = []
        for place in range(len(results[0, 0])):
            rows = [[results[n, part][place] for part in slices] for n, size in enumerate(sizes) if size]
            whole = [row[0] if len(row) == 1 else xp.concatenate(row, axis=1) for row in rows]
            outputs.append(Tensor.of(xp.concatenate(whole)))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def shares(self, sizes: Sequence[int]) -> list[float]:
        """The share of each microbatch in its batch: in all of them, or in those of the same update."""
        return [size / total for size, total in zip(sizes, self._totals(sizes), strict=True)]

    def _totals(self, numbers: Sequence[Any]) -> list[Any]:
        """The sum of the numbers of each microbatch's batch."""
        totals: dict[int, Any] = {}
        for number, group in zip(numbers, self._groups, strict=True):
            totals[group] = totals.get(group, 0) + number
        return [totals[group] for group in self._groups]

    def _weights(self, sizes: Sequence[int], goals: Sequence[Any], count: float | None) -> list[list[Any]]:
        """What the loss of each part is multiplied by, by microbatch and slice."""
        slices = [length / sum(self.lengths) for length in self.lengths] or [1.0]
        if count is not None:
            return [[1.0 / count] * len(slices)] * len(sizes)
        if goals and isinstance(self.loss, CountedLoss):
            totals = self._totals([self.loss.count(goal) for goal in goals])
            return [[1.0 / (total + (total == 0))] * len(slices) for total in totals]
        return [[share * part for part in slices] for share in self.shares(sizes)]

    def _sizes(self, arrays: Sequence[Array]) -> list[int]:
        """The number of samples of each microbatch."""
        shapes = [tuple(x.shape) for x in arrays]
        if not all(shapes) or len({shape[0] for shape in shapes}) != 1:
            raise UsageError(
                f"inputs and targets count samples on their first axis, and have shapes {shapes}; make all "
                "first axes equal"
            )
        count = shapes[0][0]
        sizes = list(balanced_counts(count, self.chunks))
        if not all(self._totals(sizes)):
            raise UsageError(
                f"a batch of {count} samples, cut into {self.chunks} microbatches, leaves none for "
                f"{'one of the updates' if self.updates > 1 else 'the step'}; give larger batches, or fewer "
                "chunks"
            )
        for shape in shapes if self.lengths else ():
            if len(shape) < 2 or shape[1] != sum(self.lengths):
                raise UsageError(
                    f"token slices of {self.lengths} cut axis 1 of {sum(self.lengths)}, and an array has "
                    f"shape {shape}"
                )
        return sizes

    def _slices(self, arrays: Sequence[Array]) -> list[list[Array]]:
        if not self.lengths:
            return [list(arrays)]
        starts = [sum(self.lengths[:part]) for part in range(len(self.lengths))]
        return [
            [array[:, start : start + length] for array in arrays]
            for start, length in zip(starts, self.lengths, strict=True)
        ]

    def _loss_of(self, goal: tuple[Any, ...]) -> Callable[[Values], Tensor]:
        loss = self.loss.summed if isinstance(self.loss, CountedLoss) else self.loss
        assert loss is not None

        def one_number(outputs: Values) -> Tensor:
            found = loss(outputs[0] if len(outputs) == 1 else outputs, *goal)
            if not isinstance(found, Tensor) or found.size != 1:
                what = f"a tensor of shape {found.shape}" if isinstance(found, Tensor) else repr(found)
                raise UsageError(f"the loss returned {what}; it is to return a Tensor of one number")
            return found.reshape(()) if found.ndim else found

        return one_number

    def _boundaries(self, pieces: Sequence[Values]) -> tuple[Boundaries, Drawn]:
        """What passes between stages for such a microbatch, and what they draw: worked out once per kind."""
        kind = (self.training(), *((x.shape, str(x.dtype)) for piece in pieces for x in piece))
        if kind not in self._known:
            self._known[kind] = self.boundaries(pieces)
        return self._known[kind]
