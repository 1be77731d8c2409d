"""A vocabulary shared out over ranks: an embedding by words, and the loss of logits that nobody has whole.

Shoeybi et al. 2019, Megatron-LM, §3: the loss moves b·s numbers (batch × sequence) a few times, where the
logits are b·s·v.
"""

import math
from typing import Any

from minigrad import backend, nn
from minigrad.backend import Array
from minigrad.dist.collective_rules import anchored, apart
from minigrad.dist.collectives import all_reduce
from minigrad.dist.tensor_parallel_layout import Layout, ParameterPart
from minigrad.dist.tensor_parallel_region import Region
from minigrad.errors import DTypeError, ShapeError, UsageError
from minigrad.fused import fused
from minigrad.nn.module import Module
from minigrad.ops import exp, log, take, where
from minigrad.ops import sum as total_of
from minigrad.tensor import Tensor


class VocabularyParallelEmbedding(Module):
    """This rank's words of a table of vectors; the ranks' vectors are summed, where all but one are zero.

    Parameter: weight (own words, width). Raises UsageError, on the host, for numbers that are no words.
    """

    def __init__(self, whole: nn.Embedding, region: Region) -> None:
        self.region, self.num_embeddings = region, whole.num_embeddings
        self.embedding_dim = whole.embedding_dim
        self.first, self.stop = region.span(whole.num_embeddings)
        counts = region.shares(whole.num_embeddings)
        self.weight = ParameterPart(whole.weight, Layout(whole.weight.shape, 0, counts, region.world.rank))

    def forward(self, indices: Any) -> Tensor:
        return self.region.leave(self.own_vectors(indices))

    def own_vectors(self, indices: Any) -> Tensor:
        """The vectors of this rank's words, and zeros for all others."""
        indices = Tensor(indices, device=self.weight.device)
        if indices.dtype.kind not in "iu":
            raise DTypeError(f"an embedding is looked up by integers, and these are {indices.dtype}")
        _refuse_others("an embedding", indices.data, self.num_embeddings)
        xp = backend.namespace(indices.data)
        if self.first == self.stop:  # a walk comes by nevertheless, as it does on the other ranks
            return anchored(xp.zeros((*indices.shape, self.embedding_dim), dtype=self.weight.dtype))
        mine = xp.logical_and(indices.data >= self.first, indices.data < self.stop)
        rows = take(self.weight, xp.where(mine, indices.data - self.first, 0), axis=0)
        return rows * Tensor.of(mine[..., None].astype(rows.dtype))


def vocabulary_cross_entropy(
    logits: Tensor,
    targets: Any,
    region: Region,
    vocabulary: int,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """Cross-entropy in nats, as `mg.cross_entropy`, of logits of which each rank has its own words only.

    Shapes: logits (..., own words), targets (...), the same on all ranks. All ranks get the same loss. It
    takes one all-reduce of the largest logits, and one of sums of exponentials beside target logits: three
    numbers per token; the backward takes none. Raises ShapeError, DTypeError or UsageError as
    `mg.cross_entropy` does.
    """
    first, stop = region.span(vocabulary)
    targets = Tensor(targets, device=logits.device)
    if targets.dtype.kind not in "iu":
        raise DTypeError(f"cross-entropy: targets are numbers of words, so integers; got {targets.dtype}")
    if (*targets.shape, stop - first) != logits.shape:
        raise ShapeError(
            f"{region.world.name}: cross-entropy got logits {logits.shape} and targets {targets.shape}; "
            f"expected {(*targets.shape, stop - first)}: words {first} to {stop - 1} of {vocabulary}"
        )
    if reduction not in ("mean", "sum", "none"):
        raise UsageError(f'cross-entropy: reduction is "mean", "sum" or "none", not {reduction!r}')
    flat = targets.reshape(math.prod(targets.shape))
    _refuse_others("cross-entropy", flat.data, vocabulary, ignore_index)
    losses = _losses(
        logits.reshape(flat.size, stop - first), flat, region=region, first=first, ignored=ignore_index
    )
    if reduction == "none":
        return losses.reshape(*targets.shape)
    total = total_of(losses)
    return total if reduction == "sum" else total / total_of((flat != ignore_index).astype(logits.dtype))


def _refuse_others(what: str, numbers: Array, vocabulary: int, ignored: int | None = None) -> None:
    """Raise UsageError for numbers that are no words; on the host only, for a GPU would have to be waited
    for.
    """
    if backend.namespace(numbers) is backend.host:
        wrong = (numbers < 0) | (numbers >= vocabulary)
        if ignored is not None:
            wrong &= numbers != ignored
        if wrong.any():
            raise UsageError(f"{what} got {numbers[wrong].reshape(-1)[0]}, none of {vocabulary} words from 0")


# ----- The loss of every token, from this rank's logits (tokens, own words) -----


def _largest(xp: Any, logits: Array, region: Region) -> Array:
    """The largest logit of each token, over all ranks: (tokens, 1)."""
    top = xp.full((logits.shape[0], 1), -math.inf, dtype=logits.dtype)
    if logits.shape[1]:
        top = xp.max(logits, axis=-1, keepdims=True)
    region.reduce(top, "max")
    return top


def _own(xp: Any, logits: Array, targets: Array, first: int) -> tuple[Array, Array, Array]:
    """Numbers of rows, the targets' places among this rank's words (0 for others), and which are its own."""
    mine = xp.logical_and(targets >= first, targets < first + logits.shape[1])
    return xp.arange(targets.shape[0]), xp.where(mine, targets - first, 0), mine


def _forward(
    xp: Any, logits: Array, targets: Array, *, region: Region, first: int, ignored: int
) -> tuple[Array, Any]:
    rows, places, mine = _own(xp, logits, targets, first)
    top = _largest(xp, logits, region)
    both = xp.zeros((2, targets.shape[0]), dtype=logits.dtype)  # sums of exponentials, target logits
    if logits.shape[1]:
        shifted = logits - top
        both[1] = shifted[rows, places] * mine
        xp.exp(shifted, out=shifted)
        both[0] = xp.matmul(shifted, xp.ones((logits.shape[1], 1), dtype=logits.dtype))[:, 0]
    region.reduce(both)
    log_total = xp.log(both[0])
    losses = xp.where(targets != ignored, log_total - both[1], xp.zeros_like(log_total))
    return losses, log_total[:, None] + top


def _pull(
    xp: Any,
    v: Any,
    needs: Any,
    arrays: Any,
    kept: Any,
    into: Any,
    *,
    region: Region,
    first: int,
    ignored: int,
) -> list[Any]:
    logits, targets = arrays
    rows, places, mine = _own(xp, logits, targets, first)
    v = v * (targets != ignored)
    gradient = logits - kept
    xp.exp(gradient, out=gradient)
    gradient *= v[:, None]
    if logits.shape[1]:
        gradient[rows, places] -= v * mine
    return [gradient, None]


with apart():

    @fused(forward=_forward, pull=_pull)
    def _losses(logits: Any, targets: Any, /, *, region: Region, first: int, ignored: int) -> Tensor:
        labels = targets.data if isinstance(targets, Tensor) else targets
        xp = backend.namespace(logits.data)
        rows, places, mine = _own(xp, logits, labels, first)
        shifted = logits - _largest(xp, logits.data, region)
        summed = all_reduce(total_of(exp(shifted), axis=-1), region.world, algorithm=region.algorithm)
        own = shifted[rows, places] * mine if logits.shape[1] else total_of(shifted, axis=-1)
        target = all_reduce(own, region.world, algorithm=region.algorithm)
        return where(labels != ignored, log(summed) - target, 0.0)
