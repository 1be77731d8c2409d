"""Connectionist temporal classification: the likelihood of a label sequence, summed over all alignments.

Paper: Graves et al. 2006, Connectionist Temporal Classification, §4.1.
"""

from __future__ import annotations

from typing import Any

import numpy

from minigrad import ops
from minigrad.errors import ShapeError, UsageError
from minigrad.nn.functional.losses import reduced
from minigrad.tensor import Tensor

NEVER = -1e30
"""ln 0, but finite: infinities would subtract to NaN. No path's logarithm comes near it."""


def _host(x: Any) -> Any:
    return x.numpy() if isinstance(x, Tensor) else numpy.asarray(x)


def _labels(targets: Any, lengths: Any, batch: int) -> Any:
    """Targets as (N, longest), from that or from one after the other in a single axis."""
    targets = _host(targets)
    if targets.ndim == 2:
        return targets
    if targets.ndim != 1 or targets.size != lengths.sum():
        raise ShapeError(
            f"ctc_loss: targets are (N, longest) or, with these lengths, ({lengths.sum()},), "
            f"and not {targets.shape}"
        )
    padded = numpy.zeros((batch, int(lengths.max(initial=0))), dtype="int64")
    padded[numpy.arange(padded.shape[1]) < lengths[:, None]] = targets
    return padded


def ctc_loss(
    log_probs: Tensor,
    targets: Any,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    *,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """-ln p(targets | log_probs), over all ways to stretch the targets with repeats and blanks.

    Shapes: log_probs (T, N, classes); targets (N, longest) or all in one axis, of classes other than `blank`;
    lengths (N,). "mean" divides each loss by its target's length first. Targets that do not fit into their
    time have loss ∞ and gradient 0 (loss 0 with `zero_infinity`). Raises ShapeError and UsageError.
    """
    time, batch, classes = log_probs.shape
    spans, lengths = (_host(x).astype("int64") for x in (input_lengths, target_lengths))
    labels = _labels(targets, lengths, batch).astype("int64")
    if spans.shape != (batch,) or lengths.shape != (batch,) or labels.shape[0] != batch:
        raise ShapeError(
            f"ctc_loss: {batch} sequences need lengths ({batch},), got {spans.shape}, {lengths.shape}"
        )
    if spans.max(initial=0) > time or lengths.max(initial=0) > labels.shape[1] or spans.min(initial=1) < 1:
        raise UsageError(
            f"ctc_loss: lengths {spans.tolist()} and {lengths.tolist()} do not fit {time} steps and targets "
            f"{labels.shape}"
        )
    used = numpy.arange(labels.shape[1]) < lengths[:, None]
    labels = numpy.where(used, labels, blank)
    if not 0 <= blank < classes or ((labels < 0) | (labels >= classes) | (used & (labels == blank))).any():
        raise UsageError(
            f"ctc_loss: targets are classes 0 ... {classes - 1} without the blank {blank}, and these are "
            f"{numpy.unique(labels[used])[:9].tolist()}"
        )
    loss = -_log_likelihood(log_probs, labels, spans, lengths, blank)
    impossible = loss > -NEVER / 2
    loss = ops.where(impossible, 0.0 if zero_infinity else numpy.inf, loss)
    if reduction == "mean":
        loss = loss / Tensor(numpy.maximum(lengths, 1), dtype=loss.dtype, device=loss.device)
    return reduced(loss, reduction)


def _log_likelihood(log_probs: Tensor, labels: Any, spans: Any, lengths: Any, blank: int) -> Tensor:
    """The forward variables of the paper, eq. 5-8: α_t(s), over labels with blanks around each."""
    time, batch, _ = log_probs.shape
    stretched = numpy.full((batch, 2 * labels.shape[1] + 1), blank)
    stretched[:, 1::2] = labels
    # From two places back only between different labels: the blank between equal ones is needed.
    jump = numpy.zeros(stretched.shape, dtype=bool)
    jump[:, 2:] = (stretched[:, 2:] != blank) & (stretched[:, 2:] != stretched[:, :-2])
    device = log_probs.device
    places = Tensor(numpy.broadcast_to(stretched, (time, *stretched.shape)), device=device)
    emitted = ops.take_along_axis(log_probs, places, axis=2)  # (time, batch, places)
    may_jump = Tensor(jump, device=device)
    start = Tensor(numpy.arange(stretched.shape[1]) < 2, device=device)
    alpha = ops.where(start, emitted[0], NEVER)
    one, two = (ops.full((batch, n), NEVER, dtype=log_probs.dtype, device=device) for n in (1, 2))
    for step in range(1, time):
        stay = ops.logaddexp(alpha, ops.concat([one, alpha[:, :-1]], axis=1))
        leap = ops.where(may_jump, ops.concat([two, alpha[:, :-2]], axis=1)[:, : alpha.shape[1]], NEVER)
        reached = ops.logaddexp(stay, leap) + emitted[step]
        running = Tensor((step < spans)[:, None], device=device)
        alpha = reached if (step < spans).all() else ops.where(running, reached, alpha)
    ends = numpy.stack([2 * lengths, numpy.maximum(2 * lengths - 1, 0)], axis=1)
    last = ops.take_along_axis(alpha, Tensor(ends, device=device), axis=1)
    only = Tensor(numpy.array([[True, False]]) | (lengths > 0)[:, None], device=device)
    return ops.logsumexp(ops.where(only, last, NEVER), axis=1)
