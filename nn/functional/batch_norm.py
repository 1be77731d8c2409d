"""Batch normalisation: statistics of each channel over the batch and all places, of one rank or several."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from minigrad import ops
from minigrad.errors import ShapeError, UsageError
from minigrad.nn.functional.batch_norm_kernel import normalised_by_the_batch
from minigrad.tensor import Tensor

Combine = Callable[[Tensor], Tensor]


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    combine: Combine | None = None,
) -> Tensor:
    """(x - mean) / √(variance + eps) · weight + bias for each channel of x (N, C, ...).

    While training the statistics are the batch's, and running ones, where given, move towards them by
    `momentum` (with the unbiased variance); otherwise the running ones are used. `combine` adds a tensor up
    over ranks, with derivatives: the statistics are then those of the whole batch, however unevenly it is
    dealt out. Raises ShapeError and UsageError. Paper: Ioffe, Szegedy 2015, Batch Normalization, algorithm 1.
    """
    if x.ndim < 2:
        raise ShapeError(f"batch_norm: expected x of shape (N, C, ...), got {x.shape}")
    if x.dtype.itemsize < 4:  # statistics of thousands of entries need more digits than a half has
        w, b = (None if a is None else a.astype("float32") for a in (weight, bias))
        wide = x.astype("float32")
        out = batch_norm(wide, running_mean, running_var, w, b, training, momentum, eps, combine=combine)
        return out.astype(x.dtype)
    if not training:
        if running_mean is None or running_var is None:
            raise UsageError("batch_norm: without running statistics it can only train; give both")
        return _scaled(x, running_mean, running_var, weight, bias, eps)
    count: Any
    if combine is None:
        if x.size == x.shape[1]:
            raise UsageError(
                f"batch_norm: x {x.shape} has one value for each channel, and a variance needs more; "
                "train on more samples, or call eval()"
            )
        if not x.size:  # nothing to learn from, and nothing to normalise: a rank without samples
            zeros = ops.zeros(x.shape[1], dtype=x.dtype, device=x.device)
            return _scaled(x, zeros, zeros, weight, bias, eps)
        out, mean, variance, count = normalised_by_the_batch(x, weight, bias, eps)
    else:
        mean, variance, count = _combined_statistics(x, combine)
        out = _scaled(x, mean, variance, weight, bias, eps)
        mean, variance = mean.detach(), variance.detach()
    for running, found in ((running_mean, mean), (running_var, variance * (count / (count - 1)))):
        if running is not None:
            running.assign((1.0 - momentum) * running + momentum * found)
    return out


def _scaled(x: Tensor, mean: Tensor, variance: Tensor, weight: Any, bias: Any, eps: float) -> Tensor:
    """x normalised by these statistics (C,): a product and a sum over x."""
    shape = (x.shape[1],) + (1,) * (x.ndim - 2)
    scale = 1.0 / ops.sqrt(variance + eps)
    scale = scale if weight is None else scale * weight
    shift = -mean * scale
    shift = shift if bias is None else shift + bias
    return x * scale.reshape(shape) + shift.reshape(shape)


def _combined_statistics(x: Tensor, combine: Combine) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and (biased) variance of each channel (C,) over all ranks, and the number of entries.

    Sums come first and squares of distances from the mean second, since a difference of two large sums would
    lose small numbers.
    """
    axes, channels = (0, *range(2, x.ndim)), x.shape[1]
    own = ops.full(1, math.prod(x.shape[i] for i in axes), dtype=x.dtype, device=x.device)
    totals = combine(ops.concat([ops.sum(x, axis=axes), own]))
    count = totals[channels]
    if x.device == "cpu" and float(count) <= 1:
        raise UsageError("batch_norm: all ranks together have one value a channel; train on more samples")
    mean = totals[:channels] / count
    distances = x - mean.reshape((channels,) + (1,) * (x.ndim - 2))
    return mean, combine(ops.sum(ops.square(distances), axis=axes)) / count, count.detach()
