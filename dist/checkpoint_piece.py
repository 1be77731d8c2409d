"""A piece: the part of a named array that one rank holds; how it is filled from a checkpoint's files."""

from dataclasses import dataclass
from math import prod

import numpy as np

from minigrad import backend
from minigrad.dist.checkpoint_boxes import Box, Rectangle, common, entries, rectangles, shape_of, whole
from minigrad.dist.checkpoint_files import Files, data_type
from minigrad.dist.checkpoint_manifest import Entry, Run, check_run
from minigrad.dist.verbs import Array
from minigrad.errors import UsageError
from minigrad.mutation import mutated


@dataclass(frozen=True)
class Piece:
    """A part of a named array that this rank holds: entries `start` to `stop` of its flattened box.

    name         what the array is called on all ranks
    shape        of the whole array
    start, stop  which entries of the flattened box (C order) lie in `array`: none where both are equal
    array        flat, stop - start entries, on any device
    box          the slice of a tensor-parallel rank, one (offset, length) per axis; None: the whole array
    """

    name: str
    shape: tuple[int, ...]
    start: int
    stop: int
    array: Array
    box: Box | None = None

    @property
    def part(self) -> Box:
        """The box, also where it is the whole array."""
        return whole(self.shape) if self.box is None else self.box

    def check(self) -> None:
        """Raises UsageError for a piece that contradicts itself."""
        check_run(self.name, self.shape, self.part, self.start, self.stop)
        data_type(self.array.dtype.name)
        if not self.name or self.name == "__metadata__" or self.array.shape != (self.stop - self.start,):
            raise UsageError(
                f"the piece {self.name!r} [{self.start}:{self.stop}] came with an array of shape "
                f"{self.array.shape}; expected a name and a flat array of {self.stop - self.start} entries"
            )

    @property
    def key(self) -> str:
        """What it is called in its file: the array's name, and for a part of it also which."""
        if self.part == whole(self.shape) and (self.start, self.stop) == (0, prod(self.shape)):
            return self.name
        box = ",".join(f"{offset}+{length}" for offset, length in self.box or ())
        return f"{self.name}|{box}|{self.start}:{self.stop}"

    def check_fits(self, saved: Entry | None) -> None:
        """Raises UsageError where the checkpoint has no such array."""
        if saved is None:
            raise UsageError(f"it holds no array {self.name!r}; load what was saved")
        if (saved.shape, saved.dtype) != (tuple(self.shape), self.array.dtype.name):
            raise UsageError(
                f"it holds {self.name} as {saved.dtype} of shape {saved.shape}, and not as "
                f"{self.array.dtype.name} of shape {tuple(self.shape)}; build what was saved"
            )

    def fill(self, saved: Entry, files: Files) -> None:
        """Overwrite `array` by what was saved; only these entries are read."""
        for run in reversed(saved.pieces):  # what a lower rank saved counts
            self._take(run, files[run.file][run.key])
        mutated(self.array)

    def _take(self, run: Run, content: Array) -> None:
        """Copy what this piece and a saved run have in common."""
        mine, theirs = self.part, run.box
        if mine == theirs:  # flattened, both are one rectangle
            mine = theirs = ((0, entries(mine)),)
        namespace = backend.namespace(self.array)
        for target, at in rectangles(mine, self.start, self.stop):
            for source, place in rectangles(theirs, run.start, run.stop):
                shared = common(target, source)
                if shared is None:
                    continue
                values = _cut(content, source, place - run.start, shared)
                if namespace is not backend.host:
                    device = namespace.device(self.array)
                    values = namespace.from_host(np.ascontiguousarray(values), device=device)
                _cut(self.array, target, at - self.start, shared)[...] = values


def _cut(flat: Array, rectangle: Rectangle, place: int, part: Rectangle) -> Array:
    """A view of `part` of a rectangle, whose entries lie from `place` on in a flat array."""
    shape = shape_of(rectangle)
    slices = tuple(
        slice(low - first, high - first) for (low, high), (first, _) in zip(part, rectangle, strict=True)
    )
    return flat[place : place + prod(shape)].reshape(shape)[slices]
