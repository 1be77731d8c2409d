"""Affine maps and lookups."""

from __future__ import annotations

from typing import Any

from minigrad import backend
from minigrad.errors import ShapeError, UsageError
from minigrad.ops import einsum, equal, expand_dims, take, where
from minigrad.ops import linear as _linear
from minigrad.ops.indexing import index_array
from minigrad.tensor import Tensor


def linear(input: Any, weight: Any, bias: Any = None) -> Tensor:
    """y = x Wᵀ + b over the last axis: input (..., in), weight (out, in), bias (out,) → (..., out)."""
    return _linear(input, weight, bias)


def bilinear(input1: Any, input2: Any, weight: Any, bias: Any = None) -> Tensor:
    """y_k = x₁ᵀ W_k x₂ + b_k: inputs (..., in1) and (..., in2), weight (out, in1, in2) → (..., out)."""
    if (*input1.shape[:-1], *weight.shape[1:]) != (*input2.shape[:-1], input1.shape[-1], input2.shape[-1]):
        raise ShapeError(
            f"bilinear: a weight (out, in1, in2) {weight.shape} does not fit inputs (..., in1) "
            f"{input1.shape} and (..., in2) {input2.shape}"
        )
    out = einsum("...i,kij,...j->...k", input1, weight, input2)
    return out if bias is None else out + bias


def embedding(indices: Any, weight: Tensor, padding_idx: int | None = None) -> Tensor:
    """Rows of `weight` (entries, width) at integer `indices` of any shape: (..., width).

    The row `padding_idx` gets no gradient. Raises DTypeError for numbers that are not integers and, on the
    host (a GPU would have to be waited for), UsageError for those outside 0 ... entries - 1.
    """
    indices = index_array("embedding", indices, weight)
    if indices.size and backend.namespace(indices.data) is backend.host:
        low, high = int(indices.data.min()), int(indices.data.max())
        if low < 0 or high >= weight.shape[0]:
            raise UsageError(
                f"embedding: indices {low} ... {high} do not fit a table of {weight.shape[0]} rows"
            )
    rows = take(weight, indices, axis=0)
    if padding_idx is None:
        return rows
    padding = expand_dims(equal(indices, padding_idx % weight.shape[0]), axis=indices.ndim)
    return where(padding, rows.detach(), rows)
