"""What LARS and LAMB share: a rate for each parameter, from norms of all of it, whichever ranks hold it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minigrad.backend import Array
from minigrad.errors import UsageError
from minigrad.nn.optim.optimizer import Optimizer
from minigrad.nn.optim.piece import Piece
from minigrad.nn.optim.reading import Reading
from minigrad.nn.optim.shard import Shard


class Layerwise(Optimizer):
    """An optimizer whose steps are scaled, for each parameter, by norms of that parameter and its step.

    Each block's squares are summed in the dtype of the state, blocks in float64 in order of place, ranks in
    the order of `reduce`: norms on several ranks differ from those on one by rounding only.
    """

    joins = False

    def shard(self, shards: Sequence[Shard], **options: Any) -> None:
        """As any optimizer; but a part of a parameter is not enough without `reduce`."""
        for index, (shard, p) in enumerate(zip(shards, self.parameters, strict=False)):
            if 0 < shard.stop - shard.start < p.size and options.get("reduce") is None:
                raise UsageError(
                    f"this rank has {shard.stop - shard.start} of {p.size} entries of parameter {index}, and "
                    f"{type(self).__name__} needs the norm of all; give shard(...) a `reduce` over the ranks"
                )
        super().shard(shards, **options)

    def step_pieces(self, pieces: Sequence[Piece], reading: Reading) -> None:
        """Two rounds: what changes the state and what is to be measured; then the parameters' steps."""
        xp = self.namespace
        squares = xp.zeros((2, len(self.parameters)), dtype="float64")
        for piece in pieces:
            (index,), step, settings = piece.members, self.step_number(piece), reading.settings[piece.group]
            for part in reading.parts(piece):
                move = self.prepare(part.values, part.gradient, part.state, settings, step)
                squares[0, index] += xp.vecdot(part.values, part.values)
                squares[1, index] += xp.vecdot(move, move)
                part.write_back()
        if self._reduce is not None:
            self._reduce(squares)
        norms = xp.sqrt(squares)
        for piece in pieces:
            (index,), step, settings = piece.members, self.step_number(piece), reading.settings[piece.group]
            ratio = self.ratio(norms[0, index : index + 1], norms[1, index : index + 1], settings)
            for part in reading.parts(piece):
                scale = ratio.astype(part.values.dtype)
                self.move(part.values, part.gradient, part.state, settings, step, scale)
                part.write_back()

    def prepare(
        self, parameter: Array, gradient: Array, state: dict[str, Array], settings: dict[str, Any], step: Any
    ) -> Array:
        """Bring the state up to date; return what the second norm is taken of."""
        raise NotImplementedError

    def ratio(self, parameter_norm: Array, other_norm: Array, settings: dict[str, Any]) -> Array:
        """What a parameter's step is multiplied by, from its norm and that of what `prepare` returned."""
        raise NotImplementedError

    def move(
        self,
        parameter: Array,
        gradient: Array,
        state: dict[str, Array],
        settings: dict[str, Any],
        step: Any,
        ratio: Array,
    ) -> None:
        """Change the parameter in place."""
        raise NotImplementedError


def quotient(xp: Any, above: Array, below: Array) -> Array:
    """above / below where both are positive, elsewhere 1."""
    usable = xp.logical_and(above > 0, below > 0)
    return xp.where(usable, above / xp.where(usable, below, 1.0), 1.0)
