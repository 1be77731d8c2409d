"""A shard: the entries of one parameter that this rank updates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from minigrad.backend import Array
from minigrad.errors import UsageError
from minigrad.nn.optim.piece import contiguous
from minigrad.nn.parameter import Parameter


@dataclass(eq=False)
class Shard:
    """Entries `start` ... `stop` of a flattened parameter (none if both are equal), and where they lie.

    `values` (flat, in the model's dtype) is what a step changes, `gradient` (as long) where it finds the
    gradient; it may be replaced between steps. `filled` says whether this step has a gradient for the
    parameter, and has to be alike on all ranks, those with no entries of it included.
    """

    start: int
    stop: int
    values: Array
    gradient: Array | None = None
    filled: bool = False


def check_shards(shards: Sequence[Shard], parameters: Sequence[Parameter]) -> None:
    """Raise UsageError for shards that do not fit the parameters."""
    if len(shards) != len(parameters):
        raise UsageError(f"{len(shards)} shards for {len(parameters)} parameters; give one for each")
    for index, (shard, p) in enumerate(zip(shards, parameters, strict=True)):
        count = shard.stop - shard.start
        if not 0 <= shard.start <= shard.stop <= p.size:
            raise UsageError(
                f"the shard of parameter {index} runs from {shard.start} to {shard.stop}, beyond its "
                f"{p.size} entries"
            )
        for name, array in (("values", shard.values), ("gradient", shard.gradient)):
            if array is not None and (array.shape != (count,) or not contiguous(array)):
                raise UsageError(
                    f"the {name} of shard {index} have shape {array.shape}; expected {count} contiguous "
                    "entries"
                )
