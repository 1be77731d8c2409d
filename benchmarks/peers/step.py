"""What a peer offers: a step that can be called again and again, and a look at what it computed."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TypeAlias, TypeVar

from benchmarks.workloads import GPT, MLP, Floats, Overhead, Workload

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Step:
    """One training step of a workload, ready to run.

    `run()` takes the next batch, does forward, backward and optimizer, and returns the loss before the
    update. `gradients()` gives those of the last step by parameter name, where the peer keeps them.
    """

    run: Callable[[], float]
    gradients: Callable[[], dict[str, Floats]] | None = None


Builder: TypeAlias = Callable[[Workload], Step]


def by_workload(
    mlp: Callable[[MLP], Step], gpt: Callable[[GPT], Step], overhead: Callable[[Overhead], Step]
) -> Builder:
    """The `build` of a peer: the step of any workload, made by the function for its kind."""

    def build(workload: Workload) -> Step:
        if isinstance(workload, MLP):
            return mlp(workload)
        if isinstance(workload, GPT):
            return gpt(workload)
        return overhead(workload)

    return build


def in_turn(batches: Sequence[Batch]) -> Iterator[Batch]:
    """The batches again and again, in order."""
    return cycle(batches)
