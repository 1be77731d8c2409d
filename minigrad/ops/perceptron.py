"""Affine maps one after the other, each with max(·, 0) behind it or not: a perceptron as one operation.

For small layers a node of the graph costs as much as its products, and how these are written matters, too:
samples are columns here. W X multiplies matrices as they lie in memory; for x Wᵀ BLAS turns one of them
first, which takes as long as the product where x has few rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from minigrad.errors import UsageError
from minigrad.fused import fused
from minigrad.ops.elementwise import relu
from minigrad.ops.linear import linear, misfit, row_of_ones


def _forward(xp: Any, x: Any, *layers: Any, rectified: tuple[bool, ...], keep: bool) -> tuple[Any, Any]:
    _refuse_none(layers)
    if not x.shape:
        raise misfit(x, *layers[:2])
    lead = x.shape[:-1]
    rows = x if len(lead) == 1 else x.reshape(math.prod(lead), x.shape[-1])
    matmul, zero, columns = xp.product(x.dtype), xp.zeros((), dtype=x.dtype), rows.T
    kept = [columns]
    for weight, bias, positive in zip(layers[::2], layers[1::2], rectified, strict=True):
        outer, inner = weight.shape
        if columns.shape[0] != inner or (bias is not None and bias.shape != (outer,)):
            raise misfit(columns.T, weight, bias)
        columns = matmul(weight, columns)
        if bias is not None:
            columns += bias[:, None]
        if positive:
            xp.maximum(columns, zero, out=columns)
        if keep:
            kept.append(columns)
    out = xp.empty(columns.shape[::-1], dtype=columns.dtype)
    out[...] = columns.T
    return out if len(lead) == 1 else out.reshape(*lead, out.shape[1]), kept


def _pull(
    xp: Any, v: Any, needs: Any, arrays: Any, kept: Any, into: Any, *, rectified: tuple[bool, ...]
) -> Iterator[tuple[int, Any]]:
    matmul, kept = xp.product(v.dtype), [*kept]  # of its own, so that what is passed can be freed
    first = next(index for index, need in enumerate(needs) if need)
    columns = kept.pop()
    v = v.reshape(columns.shape[::-1]).T
    zero, ones = xp.zeros((), dtype=v.dtype), row_of_ones(xp, v.shape[1], v.dtype)[0]
    mask, add_product = xp.masked, xp.adding(v.dtype, v.shape[1])  # v is the caller's as yet
    from_the_last = (rectified[::-1], needs[-2::-2], needs[::-2], arrays[-2::-2])
    for number, (positive, weight, bias, array) in enumerate(zip(*from_the_last, strict=False), 1):
        if positive:
            v = mask(v, columns > zero)
        columns = kept.pop()  # what went into this layer
        at = len(needs) - 2 * number
        below = None
        if at > first:  # before a hook of the weight can overwrite it
            below = matmul(array.T, v) if kept else matmul(v.T, array)
        for index, edge, factor in ((at + 1, bias, ones), (at, weight, columns)):
            if edge is None:
                continue
            leaf = into(edge)
            if leaf is None:
                yield index, matmul(v, factor.T)
                continue
            if leaf.filled:
                add_product(v, factor, leaf.buffer)
            else:
                matmul(v, factor.T, out=leaf.buffer)
            leaf.settle()
        if below is None:
            return
        v, mask = below, xp.mask
    yield 0, v if v.shape == arrays[0].shape else v.reshape(arrays[0].shape)


def _refuse_none(layers: tuple[Any, ...]) -> None:
    if not layers:
        raise UsageError("perceptron: no layers were given; expected a weight and a bias (or None) of each")


@fused(forward=_forward, pull=_pull)
def perceptron(x: Any, /, *layers: Any, rectified: tuple[bool, ...]) -> Any:
    """`linear` with each weight and bias (or None) of `layers` in turn, and `relu` behind those `rectified`.

    Shapes: x (..., in), then weight (out, in) and bias (out,) of each layer → (..., out of the last). Raises
    ShapeError where they do not fit, and UsageError where there are none.
    """
    _refuse_none(layers)
    for weight, bias, positive in zip(layers[::2], layers[1::2], rectified, strict=True):
        x = linear(x, weight, bias)
        if positive:
            x = relu(x)
    return x
