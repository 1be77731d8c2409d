"""What a peer offers: a step that can be called again and again, and a look at what it computed."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any, TypeAlias, TypeVar

from benchmarks.workloads import Floats, Workload

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


class NotWritten(NotImplementedError):
    """A peer for which nobody has written this workload."""


def trained(model: Any, workload: Any) -> Step:
    """The step of a network by hand: loss and gradients into its buffers, then its optimizer."""
    batches = in_turn(workload.data())

    def run() -> float:
        loss: float = model.loss_and_gradients(*next(batches))
        model.adam.step()
        return loss

    return Step(run, lambda: model.gradients)


def by_workload(**builders: Callable[..., Step]) -> Builder:
    """The `build` of a peer: the step of any workload, made by the function with the lower-case name of its
    class. Raises NotWritten where there is none.
    """

    def build(workload: Workload) -> Step:
        name = type(workload).__name__.lower()
        if name not in builders:
            raise NotWritten(f"not written for {name}")
        return builders[name](workload)

    return build


def in_turn(batches: Sequence[Batch]) -> Iterator[Batch]:
    """The batches again and again, in order."""
    return cycle(batches)
