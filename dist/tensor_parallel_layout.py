"""Which part of a whole array a tensor-parallel rank has, and how parts are cut, joined and saved.

A parameter is cut along one axis, into one part per rank. Where several matrices lie side by side in it (the
queries, keys and values of attention), each of them is cut: a rank's part is then several *boxes* of the
whole, one after the other.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from minigrad import backend
from minigrad.dist.checkpoint_boxes import Box, entries
from minigrad.dist.checkpoint_piece import Piece
from minigrad.dist.verbs import Array
from minigrad.dist.world import World
from minigrad.nn.module import Module, Parameter


@dataclass(frozen=True)
class Layout:
    """How an array lies on ranks.

    shape    of the whole
    axis     along which it is cut; with several groups the first one, so that boxes lie one after the other
    counts   the length of each rank's part along that axis, in each of the groups
    rank     whose part this is
    groups   how many arrays of one size lie side by side along the axis, each cut alike

    >>> Layout((6, 2), 0, (2, 1), rank=1, groups=2).boxes
    (((2, 1), (0, 2)), ((5, 1), (0, 2)))
    """

    shape: tuple[int, ...]
    axis: int
    counts: tuple[int, ...]
    rank: int
    groups: int = 1

    @property
    def own_shape(self) -> tuple[int, ...]:
        """The shape of this rank's part."""
        own = self.counts[self.rank] * self.groups
        return (*self.shape[: self.axis], own, *self.shape[self.axis + 1 :])

    @property
    def boxes(self) -> tuple[Box, ...]:
        """One (offset, length) per axis for every group. Flattened, this rank's part is its boxes in turn."""
        first, length = sum(self.counts[: self.rank]), self.counts[self.rank]
        stride = self.shape[self.axis] // self.groups
        whole = tuple((0, n) for n in self.shape)
        return tuple(
            (*whole[: self.axis], (group * stride + first, length), *whole[self.axis + 1 :])
            for group in range(self.groups)
        )

    def _views(self, whole: Array) -> list[Array]:
        """The boxes of the whole array."""
        return [whole[tuple(slice(o, o + n) for o, n in box)] for box in self.boxes]

    def cut(self, whole: Array) -> Array:
        """A copy of this rank's part of the whole array."""
        return backend.namespace(whole).concat(self._views(whole), axis=self.axis)

    def join(self, own: Array, world: World) -> Array:
        """The whole array, from the parts of all ranks; all of them call it."""
        xp = backend.namespace(own)
        layouts = [replace(self, rank=rank) for rank in range(world.size)]
        sizes = [prod(layout.own_shape) for layout in layouts]
        flat = xp.empty(sum(sizes), dtype=own.dtype)
        world.all_gather(own.reshape(-1), flat, counts=sizes, purpose="parameters")
        whole = xp.empty(self.shape, dtype=own.dtype)
        start = 0
        for layout in layouts:
            for view in layout._views(whole):
                view[...] = flat[start : start + view.size].reshape(view.shape)
                start += view.size
        return whole

    def runs(self, start: int, stop: int) -> Iterator[tuple[Box, int, int, int]]:
        """Entries `start` to `stop` of the flattened part, box by box: the box, from and to where in it, and
        where that begins in the part.
        """
        first = 0
        for box in self.boxes:
            size = entries(box)
            low, high = max(start - first, 0), min(stop - first, size)
            if low < high:
                yield box, low, high, first + low
            first += size


class ParameterPart(Parameter):
    """A parameter of which this rank has a part only. `layout` says which."""

    __slots__ = ("layout",)
    layout: Layout

    def __init__(self, whole: Parameter, layout: Layout) -> None:
        super().__init__(layout.cut(whole.data), requires_grad=whole.requires_grad)
        self.layout = layout

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        twin = super().__deepcopy__(memo)
        twin.layout = self.layout  # type: ignore[attr-defined]
        return twin


def whole_copy(parameter: Parameter) -> Parameter:
    """A copy of a parameter that every rank has whole."""
    return Parameter(parameter.data.copy(), requires_grad=parameter.requires_grad)


def layouts_of(module: Module) -> dict[str, Layout]:
    """The layouts of a module's parameters of which this rank has a part, by every name they have."""
    return {
        f"{prefix}.{name}" if prefix else name: value.layout
        for prefix, inner in module._every_module("")
        for name, value in vars(inner).items()
        if isinstance(value, ParameterPart)
    }


def with_boxes(pieces: Iterable[Piece], module: Module) -> list[Piece]:
    """Pieces of a checkpoint, as `ZeRO(module, ...).pieces()` gives them, in terms of whole arrays.

    What is a part of a larger array ("model.NAME", "optimizer.NAME.STATE") gets its shape and boxes; the
    arrays stay the same memory. All else is left as it is.
    """
    layouts = layouts_of(module)
    found = []
    for piece in pieces:
        layout = _layout_of(piece, layouts)
        if layout is None:
            found.append(piece)
            continue
        runs = list(layout.runs(piece.start, piece.stop))
        if not runs:  # nothing of it is here, but the array is known by name all the same
            runs = [(layout.boxes[0], 0, 0, piece.start)]
        for box, start, stop, place in runs:
            array = piece.array[place - piece.start : place - piece.start + stop - start]
            found.append(Piece(piece.name, layout.shape, start, stop, array, box))
    return found


def _layout_of(piece: Piece, layouts: Mapping[str, Layout]) -> Layout | None:
    """The layout of the parameter that a piece belongs to, if it has that parameter's shape."""
    kind, _, name = piece.name.partition(".")
    if kind == "optimizer":
        name = name.rpartition(".")[0]
    layout = layouts.get(name)
    return layout if layout is not None and tuple(piece.shape) == layout.own_shape else None
