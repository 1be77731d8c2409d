"""Scaled dot-product attention with masks and dropout."""

from __future__ import annotations

import math
from typing import Any

from minigrad import backend, ops
from minigrad.nn.functional.dropout import dropout
from minigrad.ops.attention import hidden
from minigrad.tensor import Tensor


def scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    *,
    stream: str = "attention",
) -> Tensor:
    """softmax(Q Kᵀ · scale + mask) V: query (..., queries, d), key (..., keys, d), value (..., keys, e).

    `attn_mask` broadcasts to (..., queries, keys): true where a query may look, or numbers that are added.
    Without mask and dropout this is the fused operation of `minigrad.ops`. With `is_causal` the ends of
    queries and keys are aligned, so that one new query sees a whole cache. A query that may look nowhere gets
    zeros. Paper: Vaswani et al. 2017, Attention Is All You Need, eq. 1.
    """
    if attn_mask is None and not dropout_p:
        return ops.scaled_dot_product_attention(query, key, value, is_causal=is_causal, scale=scale)
    return attention_and_weights(
        query, key, value, attn_mask, dropout_p, is_causal=is_causal, scale=scale, stream=stream
    )[0]


def attention_and_weights(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    *,
    is_causal: bool = False,
    scale: float | None = None,
    stream: str = "attention",
) -> tuple[Tensor, Tensor]:
    """The same, step by step, with the weights (..., queries, keys) that dropout left."""
    scale = 1.0 / math.sqrt(query.shape[-1] or 1) if scale is None else scale
    scores = ops.matmul(query * scale, ops.matrix_transpose(key))  # (..., queries, keys)
    if is_causal:
        xp = backend.namespace(scores.data)
        scores = ops.where(xp.matrix_transpose(hidden(xp, query.shape[-2], key.shape[-2])), -math.inf, scores)
    if attn_mask is None:
        weights = ops.softmax(scores)
    else:
        mask = attn_mask if isinstance(attn_mask, Tensor) else Tensor(attn_mask, device=scores.device)
        scores = ops.where(mask, scores, -math.inf) if mask.dtype.kind == "b" else scores + mask
        nowhere = ops.equal(ops.max(scores.detach(), axis=-1, keepdims=True), -math.inf)
        weights = ops.softmax(ops.where(nowhere, 0.0, scores))  # ∞ - ∞ would make a NaN of it
        weights = ops.where(nowhere, 0.0, weights)
    weights = dropout(weights, dropout_p, stream=stream)
    return ops.matmul(weights, value), weights
