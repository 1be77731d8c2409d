"""Batch normalisation with the batch's own statistics, fused: its composition, and the fast path held to it.

The fast path goes through the batch in blocks that stay in a processor's cache, and takes images as they lie
in memory, channels first or (as a convolution leaves them) last. Forwards it reads x three times and writes
once: a mean, a variance around it, the result. Backwards, with g the cotangent, y the normalised x, n the
number of entries of a channel and Σ sums over these: dx = weight / σ · (g - Σg / n - y Σgy / n). Paper:
Ioffe, Szegedy 2015, Batch Normalization, algorithm 1 and §3.
"""

from __future__ import annotations

import math
from typing import Any

from minigrad import ops
from minigrad.fused import fused
from minigrad.ops.blocks import blocks
from minigrad.rules import OPERATIONS
from minigrad.tensor import Tensor


class _Layout:
    """x (N, C, ...) as rows of channels (n, C), or as (N, C, places), whichever its memory is."""

    def __init__(self, xp: Any, x: Any) -> None:
        self.xp, self.shape, self.channels = xp, x.shape, x.shape[1]
        self.places = math.prod(x.shape[2:])
        self.count = x.shape[0] * self.places
        self.last = (0, *range(2, len(x.shape)), 1)
        self.first = (0, len(x.shape) - 1, *range(1, len(x.shape) - 1))
        self.rows = len(x.shape) == 2 or xp.permute_dims(x, self.last).flags.c_contiguous
        # Ones to add up with: a product with them is the fast way to sum.
        self.ones = xp.ones((self.places, 1), dtype=x.dtype)

    def flat(self, x: Any) -> Any:
        """A view of what lies like x, or a copy laid out so."""
        if self.rows:
            return self.xp.permute_dims(x, self.last).reshape(self.count, self.channels)
        return x.reshape(self.shape[0], self.channels, self.places)

    def whole(self, flat: Any) -> Any:
        """The inverse of `flat`."""
        if not self.rows:
            return flat.reshape(self.shape)
        return self.xp.permute_dims(flat.reshape(self.shape[0], *self.shape[2:], self.channels), self.first)

    def blocks(self) -> Any:
        length, each = (self.count, 1) if self.rows else (self.shape[0], self.places)
        return blocks(self.xp, length, self.channels * each)

    def sum(self, block: Any) -> Any:
        """Sums of each channel, to broadcast against blocks."""
        if self.rows:
            return self.xp.matmul(self.xp.ones((1, block.shape[0]), dtype=block.dtype), block)
        return self.xp.sum(self.xp.matmul(block, self.ones), axis=0)

    def product(self, one: Any, other: Any) -> Any:
        """Sums of products of two blocks; writes over `one`."""
        if self.rows:
            one *= other
            return self.sum(one)
        return self.xp.sum(self.xp.vecdot(one, other), axis=0)[:, None]

    def along(self, values: Any) -> Any:
        """Numbers (C,), to broadcast against blocks."""
        return values if self.rows else values.reshape(self.channels, 1)

    def of_channels(self, values: Any) -> Any:
        return values.reshape(self.channels)


def _forward(
    xp: Any, x: Any, weight: Any, bias: Any, *, epsilon: float, found: list[Any]
) -> tuple[Any, tuple[Any, Any]]:
    layout = _Layout(xp, x)
    flat, share = layout.flat(x), 1.0 / layout.count
    total = squares = 0.0
    for block in layout.blocks():
        total = layout.sum(flat[block]) + total
    mean = total * share
    for block in layout.blocks():
        centred = flat[block] - mean
        squares = layout.product(centred, centred) + squares
    variance = squares * share
    found[:] = (layout.of_channels(mean), layout.of_channels(variance), layout.count)
    inverse = 1.0 / xp.sqrt(variance + epsilon)
    scale = inverse if weight is None else inverse * layout.along(weight)
    shift = -mean * scale if bias is None else layout.along(bias) - mean * scale
    out = xp.empty(flat.shape, dtype=x.dtype)
    for block in layout.blocks():
        part = xp.multiply(flat[block], scale, out=out[block])
        part += shift
    return layout.whole(out), (mean, inverse)


def _pull(
    xp: Any, v: Any, needs: Any, arrays: Any, kept: Any, into: Any, *, epsilon: float, found: list[Any]
) -> list[Any]:
    x, weight, _ = arrays
    mean, inverse = kept
    layout = _Layout(xp, x)
    flat, g, share = layout.flat(x), layout.flat(v), 1.0 / layout.count
    total = along = 0.0
    for block in layout.blocks():
        total = layout.sum(g[block]) + total
        along = layout.product(flat[block] - mean, g[block]) + along
    along = along * inverse  # Σ g y
    dx = None
    if needs[0]:
        scale = inverse if weight is None else inverse * layout.along(weight)
        slope = -scale * along * inverse * share
        shift = -scale * total * share - mean * slope
        dx = xp.empty(flat.shape, dtype=x.dtype)
        for block in layout.blocks():
            part = xp.multiply(g[block], scale, out=dx[block])
            part += flat[block] * slope
            part += shift
        dx = layout.whole(dx)
    dw, db = layout.of_channels(along), layout.of_channels(total)
    return [dx, dw if needs[1] else None, db if needs[2] else None]


@fused(forward=_forward, pull=_pull)
def _normalised_by_the_batch(
    x: Any, weight: Any, bias: Any, /, *, epsilon: float, found: list[Any]
) -> Tensor:
    axes, shape = (0, *range(2, x.ndim)), (1, x.shape[1]) + (1,) * (x.ndim - 2)
    mean = ops.mean(x, axis=axes, keepdims=True)
    centred = x - mean
    variance = ops.mean(ops.square(centred), axis=axes, keepdims=True)
    count = x.size // x.shape[1]
    found[:] = (*(a.detach().reshape(x.shape[1]).data for a in (mean, variance)), count)
    out = centred / ops.sqrt(variance + epsilon)
    out = out if weight is None else out * weight.reshape(shape)
    return out if bias is None else out + bias.reshape(shape)


del OPERATIONS[
    "normalised_by_the_batch"
]  # not of the engine's catalogue; tests/nn/test_batch_norm.py sweeps it


def normalised_by_the_batch(
    x: Tensor, weight: Any, bias: Any, epsilon: float
) -> tuple[Tensor, Tensor, Tensor, int]:
    """x (N, C, ...) normalised, scaled by weight (C,) and shifted by bias (C,), either None; and, without
    derivatives, mean and (biased) variance of each channel, and of how many entries they are.
    """
    found: list[Any] = []
    out = _normalised_by_the_batch(x, weight, bias, epsilon=epsilon, found=found)
    mean, variance, count = found
    return out, Tensor.of(mean), Tensor.of(variance), count
