"""Where tensor-parallel regions begin and end, and how activations lie between them.

Inside a region each rank has its columns (or heads, or words) of every token. Between regions every rank has
all of every token; with `sequence`, its own tokens only. The edges are pairs of collectives, the reverse of
each being the other one's:

| edge  | forward              | reverse    | with `sequence`: forward | reverse        |
|-------|----------------------|------------|--------------------------|----------------|
| enter | replicate (f)        | all-reduce | all-gather               | reduce-scatter |
| leave | all-reduce (g)       | replicate  | reduce-scatter           | all-gather     |

Shoeybi et al. 2019, Megatron-LM, §3 (f and g); Korthikanti et al. 2022, Reducing Activation Recomputation in
Large Transformer Models, §4.2.2 (the same along the sequence).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from minigrad import backend, random
from minigrad.dist import collectives
from minigrad.dist.algorithms import LIBRARY
from minigrad.dist.verbs import Array, balanced_counts
from minigrad.dist.world import World
from minigrad.nn.functional import dropout
from minigrad.nn.layers import Dropout
from minigrad.ops import concat, moveaxis
from minigrad.tensor import Tensor


@dataclass(frozen=True)
class Region:
    """How the tensor-parallel ranks of `world` work together.

    sequence    between regions the tokens (the axis before the last) are shared out
    algorithm   of all collectives: "library", or one of minigrad's own
    """

    world: World
    sequence: bool = False
    algorithm: str = LIBRARY

    def shares(self, length: int) -> tuple[int, ...]:
        """How many of so many heads, words or tokens each rank has."""
        return balanced_counts(length, self.world.size)

    def span(self, length: int) -> tuple[int, int]:
        """The first of so many that this rank has, and the first after those."""
        counts, rank = self.shares(length), self.world.rank
        return sum(counts[:rank]), sum(counts[: rank + 1])

    def tokens(self, length: int) -> tuple[int, int]:
        """This rank's tokens of a sequence, between regions."""
        return self.span(length) if self.sequence else (0, length)

    # ----- The edges -----

    def enter(self, x: Tensor, length: int | None = None) -> Tensor:
        """All of every token, for this rank to use in its own way: x (..., tokens, width).

        `length` is that of the whole sequence; by default every rank has as many tokens as this one.
        """
        if self.sequence:
            return self._gathered(x, length)
        if self._moves_nothing(x):
            return x
        return collectives.replicate(x, self.world, algorithm=self.algorithm)

    def leave(self, x: Tensor) -> Tensor:
        """The sum of all ranks' x (..., tokens, width), as it lies between regions."""
        if self._moves_nothing(x):
            first, stop = self.tokens(x.shape[-2])
            return _of_length(x, -2, stop - first)
        if not self.sequence:
            return collectives.all_reduce(x, self.world, algorithm=self.algorithm)
        rows = moveaxis(x, -2, 0)
        return moveaxis(collectives.reduce_scatter(rows, self.world, algorithm=self.algorithm), 0, -2)

    def outside(self, x: Tensor, length: int | None = None) -> Tensor:
        """All of every token, on all ranks, which go on alike."""
        return self._gathered(x, length, replicated=True) if self.sequence else x

    def _gathered(self, x: Tensor, length: int | None, *, replicated: bool = False) -> Tensor:
        counts = self.shares(x.shape[-2] * self.world.size if length is None else length)
        return self.joined(x, -2, counts, replicated=replicated)

    def joined(self, x: Tensor, axis: int, counts: Sequence[int], *, replicated: bool = True) -> Tensor:
        """All ranks' x, of lengths `counts` along `axis`, one after the other."""
        if self._moves_nothing(x):
            return _of_length(x, axis, sum(counts))
        rows = collectives.all_gather(
            moveaxis(x, axis, 0), self.world, counts=counts, replicated=replicated, algorithm=self.algorithm
        )
        return moveaxis(rows, 0, axis)

    def reduce(self, array: Array, operation: Literal["sum", "max"] = "sum") -> None:
        """Combine an array over ranks in place."""
        if backend.namespace(array).name != "shapes":
            self.world.all_reduce(array, operation=operation, purpose="activations", algorithm=self.algorithm)

    def _moves_nothing(self, x: Tensor) -> bool:
        """Whether this rank is alone, or x has no values, but only a shape."""
        return self.world.size == 1 or x.device == "shapes"

    # ----- What is used between regions -----

    def shared(self, *parameters: Tensor) -> tuple[Tensor, ...]:
        """Parameters of what runs between regions. Where each rank uses them for its own tokens, their
        gradients are summed, in one all-gather for all of them: they are few.
        """
        if not self.sequence or self._moves_nothing(parameters[0]):
            return parameters
        flat = collectives.replicate(
            concat([parameter.reshape(-1) for parameter in parameters]),
            self.world,
            gathered=True,
            purpose="parameters",
            algorithm=self.algorithm,
        )
        pieces, start = [], 0
        for parameter in parameters:
            pieces.append(flat[start : start + parameter.size].reshape(*parameter.shape))
            start += parameter.size
        return tuple(pieces)

    def dropout(self, layer: Dropout, x: Tensor, length: int, start: int = 0) -> Tensor:
        """Dropout between regions: x (batch, tokens, width) of `length` tokens, from place `start` on."""
        return dropout_of_part(layer, x, (start + self.tokens(length)[0], 0), x.shape[2:])


def _of_length(x: Tensor, axis: int, length: int) -> Tensor:
    """x, which has no values if it has another length along an axis, as if ranks had made it this long."""
    if x.shape[axis] == length:
        return x
    rows = moveaxis(x, axis, 0)
    if rows.shape[0] < length:
        missing = (length - rows.shape[0], *rows.shape[1:])
        rows = concat([rows, Tensor.of(backend.namespace(x.data).empty(missing, dtype=x.dtype))])
    return moveaxis(rows[:length], 0, axis)


def dropout_of_part(layer: Dropout, x: Tensor, starts: Sequence[int], rest: Sequence[int]) -> Tensor:
    """Dropout of x (samples, ...), a part of a larger array, with that array's mask.

    Along the axes after the samples x begins at `starts`; the larger array has lengths `rest` along those
    after the second. (Its numbers are counted in that order, so that what is behind x need not be drawn.)
    """
    if not layer.training or not 0.0 < layer.p < 1.0 or not (any(starts) or x.shape[2:] != tuple(rest)):
        return dropout(x, layer.p, layer.training, stream=layer.stream)
    shape = (x.shape[0], starts[0] + x.shape[1], *rest)
    drawn = random.uniform(backend.namespace(x.data), shape, layer.stream)
    place = tuple(slice(start, start + n) for start, n in zip(starts, x.shape[1:], strict=True))
    kept: Any = (drawn[(slice(None), *place)] >= layer.p).astype(x.dtype)
    kept *= 1.0 / (1.0 - layer.p)
    return x * Tensor.of(kept)
