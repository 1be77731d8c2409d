"""What a contender offers on each of its ranks, and the workloads that they share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from benchmarks.workloads import GPT, MLP, Adam, Workload

Rows = TypeVar("Rows", bound=Any)  # an array or tensor of either library

MICROBATCHES = 4  # of the perceptron and of pipelines

# A large epsilon: gradients that are wrong by a factor move the loss, which plain Adam would hide.
_ADAM = Adam(learning_rate=1e-3, epsilon=1e-3)

WORKLOADS: dict[str, Workload] = {
    "gpt": GPT(adam=_ADAM),
    "mlp": MLP(widths=(784, 128, 127, 126, 125, 124, 123, 10)),
}
TINY: dict[str, Workload] = {
    "gpt": GPT(layers=2, width=32, heads=4, context=16, batch=8, vocabulary=50, adam=_ADAM),
    "mlp": MLP(widths=(20, 16, 15, 14, 5), batch=24),
}
LEARNING_RATE = 0.1  # of the perceptron, whose optimizer is plain gradient descent


@dataclass(frozen=True)
class Program:
    """One rank of a contender, ready to run.

    `run()` takes one training step and returns this rank's part of the loss before it: the parts of all ranks
    add up to the loss of the whole batch. `meet()` returns when all ranks have called it.
    """

    rank: int
    description: str
    run: Callable[[], float]
    meet: Callable[[], None]


def share(array: Rows, rank: int, ranks: int) -> Rows:
    """This rank's rows of a batch that all ranks can divide."""
    rows = len(array) // ranks
    part: Rows = array[rank * rows : (rank + 1) * rows]
    return part
