"""A loss that is a mean over what counts in a batch, however that is cut: targets may be ignored.

Microbatches, token slices and copies have different shares of the targets that count, so a mean of their
means is not the mean. Sums are added up, and divided once, by how many count in all.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from minigrad import backend, nn, ops
from minigrad.nn import functional
from minigrad.tensor import Tensor

IGNORED = -100


@dataclass(frozen=True)
class CountedLoss:
    """Called with output and target, the mean over the targets that count (0 / 0 where none does).

    summed   summed(output, target): the sum of their losses, 0 where none counts
    count    count(target): how many count, or what they weigh together; a number, or a 0-d array of a device

    A `Pipeline` divides the sums of all parts by the count of the whole batch.

    >>> import minigrad as mg
    >>> loss = counted(mg.cross_entropy)
    >>> loss.count([[1, -100], [0, 2]])
    3.0
    """

    summed: Callable[[Any, Any], Tensor]
    count: Callable[[Any], Any]

    def __call__(self, output: Any, target: Any) -> Tensor:
        return self.summed(output, target) / self.count(target)


def counted(loss: Any) -> Any:
    """The same loss as sum and count, where it is one of minigrad's means over class numbers that may be
    ignored: `cross_entropy` and `nll_loss`, and their modules. Others are left as they are.
    """
    if loss in (ops.cross_entropy, functional.cross_entropy, functional.nll_loss):
        return CountedLoss(partial(_summed, loss, {}), count_of)
    if isinstance(loss, nn.CrossEntropyLoss | nn.NLLLoss) and loss.reduction == "mean":
        options = {name: getattr(loss, name) for name in loss._options}
        count = partial(count_of, ignored=options["ignore_index"], weight=options["weight"])
        return CountedLoss(partial(_summed, type(loss).function, options), count)
    return loss


def _summed(loss: Callable[..., Tensor], options: dict[str, Any], output: Any, target: Any) -> Tensor:
    return loss(wide(output), target, **{**options, "reduction": "sum"})


def wide(output: Tensor) -> Tensor:
    """In float32 at least: a sum over a batch is soon beyond the largest float16."""
    return output.astype("float32") if output.dtype.itemsize < 4 else output


def count_of(target: Any, *, ignored: int = IGNORED, weight: Any = None) -> Any:
    """How many class numbers are not `ignored`, or what their classes weigh together: a float, or a 0-d array
    where they are on a device, which is not waited for. Of probabilities (N, classes, ...) all count.
    """
    labels = target.data if isinstance(target, Tensor) else backend.asarray(target)
    if labels.dtype.kind not in "iu":
        return float(labels.size // labels.shape[1]) if labels.ndim > 1 else 1.0
    xp = backend.namespace(labels)
    counts = (labels != ignored).astype("float64")
    if weight is not None:
        table = weight.data if isinstance(weight, Tensor) else backend.asarray(weight)
        counts *= xp.asarray(table)[xp.where(labels != ignored, labels, 0)]
    total = xp.sum(counts)
    return float(total) if xp is backend.host else total
