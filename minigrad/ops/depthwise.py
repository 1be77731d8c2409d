"""The fast path of convolution where every channel has a kernel of its own.

There is no matrix product in it: for each place in the kernel, one product entry by entry over all windows,
with the channels last in memory, a few samples at a time. It takes five times as long as torch, whose loop is
compiled: NumPy goes through memory twice for each place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from minigrad.backend_windows import window_slices

BLOCK = 1 << 17  # entries of x at a time: 512 KiB of float32


def _blocks(xp: Any, x: Any) -> Iterator[slice]:
    step = max(1, BLOCK // max(math.prod(x.shape[1:]), 1)) if xp.blocked else max(x.shape[0], 1)
    return (slice(start, min(start + step, x.shape[0])) for start in range(0, x.shape[0], step))


def _last(xp: Any, x: Any) -> Any:
    return xp.permute_dims(x, (0, *range(2, len(x.shape)), 1))


def _padded(xp: Any, plan: Any, x: Any) -> Any:
    padded = xp.zeros((x.shape[0], *plan.sizes, x.shape[1]), dtype=x.dtype)
    padded[(slice(None), *plan.inside)] = _last(xp, x)
    return padded


def _kernel(xp: Any, weight: Any) -> Any:
    """The weight (channels, 1, kernel) as one row of channels for each place in the kernel."""
    rows = xp.permute_dims(weight.reshape(weight.shape[0], math.prod(weight.shape[2:])), (1, 0))
    return xp.asarray(rows, copy=True)


def forward(xp: Any, plan: Any, x: Any, weight: Any, bias: Any) -> Any:
    """The result, (batch, counts, channels)."""
    out = xp.zeros((plan.batch, *plan.counts, x.shape[1]), dtype=x.dtype)
    kernel = _kernel(xp, weight)
    for block in _blocks(xp, x):
        padded, part = _padded(xp, plan, x[block]), out[block]
        for number, (_, index) in enumerate(window_slices(plan.counts, plan.geometry)):
            part += padded[(slice(None), *index)] * kernel[number]
        if bias is not None:
            part += bias
    return out


def pull(xp: Any, plan: Any, v: Any, x: Any, weight: Any, dx: Any, dw: Any) -> None:
    """Write the cotangents of x and of the weight into `dx` and `dw` (None: not wanted); v: channels last."""
    kernel, channels = _kernel(xp, weight), x.shape[1]
    total = xp.zeros(kernel.shape, dtype=weight.dtype)
    for block in _blocks(xp, x):
        part = v[block]
        padded = _padded(xp, plan, x[block]) if dw is not None else None
        image = xp.zeros((part.shape[0], *plan.sizes, channels), dtype=x.dtype) if dx is not None else None
        for number, (_, index) in enumerate(window_slices(plan.counts, plan.geometry)):
            if padded is not None:
                product = (part * padded[(slice(None), *index)]).reshape(
                    part.shape[0] * plan.places, channels
                )
                ones = xp.ones((1, product.shape[0]), dtype=x.dtype)
                total[number] += xp.matmul(ones, product)[0]  # a sum of columns, the fast way
            if image is not None:
                image[(slice(None), *index)] += part * kernel[number]
        if image is not None:
            _last(xp, dx[block])[...] = image[(slice(None), *plan.inside)]
    if dw is not None:
        dw[...] = xp.permute_dims(total, (1, 0)).reshape(*weight.shape)
