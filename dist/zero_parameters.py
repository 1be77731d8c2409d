"""Parameters in flat arrays: whole on every rank (stages 0 to 2), each rank answering for its own pieces."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from minigrad import backend
from minigrad.dist.partition import Bucket, side_by_side
from minigrad.dist.verbs import Array
from minigrad.dist.world import World
from minigrad.mutation import mutated
from minigrad.nn.materialize import unfilled
from minigrad.nn.module import Module, Parameter
from minigrad.nn.parameter import Start

Track = Callable[[str, Array], Array]
Starts = Mapping[int, Start]  # how parameters without values begin, by their id


@contextmanager
def standing(module: Module, device: str) -> Iterator[Starts]:
    """Inside the block what has shapes only stands on `device`, where it holds nothing.

    Its values are written by `begin`, wherever they are to lie. What got no place in the block, because
    something was refused or it is not shared out, has shapes only again.
    """
    xp = backend.of_device(device)
    found = unfilled(module, device=device).values()
    shapes = [tensor.data for tensor, _ in found]
    for tensor, _ in found:
        with xp.on(device):
            nothing = xp.empty((), dtype=tensor.dtype)
        tensor.data = xp.broadcast_to(nothing, tensor.shape)
    stand_ins = [tensor.data for tensor, _ in found]
    try:
        yield {id(tensor): start for tensor, start in found}
    finally:
        for (tensor, _), shape, stand_in in zip(found, shapes, stand_ins, strict=True):
            if tensor.data is stand_in:
                tensor.data = shape
            else:
                tensor.start = None


def begin(parameter: Parameter, place: Array, starts: Starts) -> None:
    """Write the values of a parameter, or those with which it begins, to where they are to lie."""
    if id(parameter) in starts:
        starts[id(parameter)].fill(place)
    else:
        place[...] = parameter.data


class WholeParameters:
    """Keeps every parameter whole, always; after a step each rank hands its own pieces to the others.

    seconds  spent to do that, since somebody set it to zero
    frozen   buckets of what is not trained: it stays where it was
    """

    frozen: Sequence[Bucket] = ()

    def __init__(
        self,
        buckets: Sequence[Bucket],
        world: World,
        starts: Starts,
        *,
        algorithm: str = "library",
        track: Track,
    ) -> None:
        self.world = world
        self.seconds = 0.0
        self.how: dict[str, Any] = {"purpose": "parameters", "algorithm": algorithm}
        self._flats = dict(zip(buckets, side_by_side(buckets), strict=True))
        for bucket, flat in self._flats.items():
            track("parameters", flat)
            for parameter, view in zip(bucket.parameters, bucket.views(flat), strict=True):
                begin(parameter, view, starts)
                mutated(parameter.data)  # what a graph saved is no longer the parameter
                parameter.data = view

    def take_over(self, axes: Sequence[World]) -> None:
        """Let all ranks begin with the values of each axis' rank 0."""
        for axis in axes:
            for flat in self._flats.values():
                axis.broadcast(flat, purpose="parameters")

    def own(self, bucket: Bucket) -> Array:
        """The values of this rank's piece of a bucket, flat: a view."""
        return bucket.own(self._flats[bucket])

    def shown(self, bucket: Bucket) -> Array:
        """The values of a bucket that are here, flat: all of them."""
        return self._flats[bucket]

    def publish(self) -> None:
        """Let every rank have what the owners of all pieces computed."""
        start = time.perf_counter()
        if self.world.size > 1:
            requests = [
                self.world.start_all_gather(bucket.own(flat), flat, counts=bucket.counts, **self.how)
                for bucket, flat in self._flats.items()
            ]
            for request in requests:
                request.wait()
        self.seconds += time.perf_counter() - start
        for flat in self._flats.values():
            mutated(flat)

    def end_round(self) -> None:
        """Nothing was gathered for a walk."""

    forget = end_round

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """They are whole anyway."""
        yield
