"""Attention layers: additive, and multi-head scaled dot-product with torch's layout of parameters."""

from __future__ import annotations

import math
from typing import Any

from minigrad import ops
from minigrad.errors import ShapeError, UsageError
from minigrad.nn import init
from minigrad.nn.cache import Cache
from minigrad.nn.functional.arguments import flags, real, whole
from minigrad.nn.functional.attention import attention_and_weights, scaled_dot_product_attention
from minigrad.nn.layers.dropout import new_stream
from minigrad.nn.layers.linear import Linear, new_parameter
from minigrad.nn.module import Module, Parameter
from minigrad.tensor import Tensor


class AdditiveAttention(Module):
    """Attention scored by a small network, e_ij = vᵀ tanh(W s_i + U h_j), and not by a product.

    Modules: query (W, no bias), key (U), score (v, no bias). Paper: Bahdanau, Cho, Bengio 2015, Neural
    Machine Translation by Jointly Learning to Align and Translate, §3.1 and A.1.2.
    """

    def __init__(
        self,
        query_size: int,
        key_size: int,
        hidden_size: int,
        *,
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        query_size, key_size, hidden_size = whole(
            self, query_size=query_size, key_size=key_size, hidden_size=hidden_size
        )
        self.query = Linear(query_size, hidden_size, bias=False, device=device, dtype=dtype)
        self.key = Linear(key_size, hidden_size, device=device, dtype=dtype)
        self.score = Linear(hidden_size, 1, bias=False, device=device, dtype=dtype)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor | None = None, mask: Any = None
    ) -> tuple[Tensor, Tensor]:
        """The contexts (batch, queries, width of values) and the weights (batch, queries, keys).

        Shapes: query (batch, queries, query_size), key (batch, keys, key_size); value is key unless given;
        mask (batch, keys) or (batch, queries, keys) is true where a key may be looked at, and elsewhere the
        weight is exactly 0.
        """
        return self.attend(query, self.key(key), key if value is None else value, mask)

    def attend(self, query: Tensor, projected: Tensor, value: Tensor, mask: Any) -> tuple[Tensor, Tensor]:
        """The same with U h computed already: it is the same for all steps of a decoder."""
        asked = ops.expand_dims(self.query(query), axis=2)  # (batch, queries, 1, hidden)
        scores = self.score(ops.tanh(asked + ops.expand_dims(projected, axis=1)))
        scores = ops.squeeze(scores, axis=3)  # (batch, queries, keys)
        if mask is not None:
            mask = mask if isinstance(mask, Tensor) else Tensor(mask, device=scores.device)
            mask = ops.expand_dims(mask, axis=1) if mask.ndim == 2 else mask
            scores = ops.where(mask, scores, -math.inf)
        weights = ops.softmax(scores)
        return ops.matmul(weights, value), weights


class MultiheadAttention(Module):
    """Several attentions side by side, each over its own projection of queries, keys and values.

    Parameters: in_proj_weight (3 · embed_dim, embed_dim) and in_proj_bias, for queries, keys and values one
    below the other; q_proj_weight, k_proj_weight, v_proj_weight instead where kdim or vdim differ; bias_k and
    bias_v (1, 1, embed_dim) with `add_bias_kv`; out_proj. Paper: Vaswani et al. 2017, Attention Is All You
    Need, §3.2.2.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        *,
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        embed_dim, num_heads = whole(self, embed_dim=embed_dim, num_heads=num_heads)
        real(self, 0.0, 1.0, dropout=dropout)
        flags(self, bias=bias, add_bias_kv=add_bias_kv, add_zero_attn=add_zero_attn, batch_first=batch_first)
        if embed_dim % num_heads:
            raise UsageError(
                f"MultiheadAttention: embed_dim {embed_dim} is not divisible by {num_heads} heads"
            )
        self.embed_dim, self.num_heads, self.dropout = embed_dim, num_heads, dropout
        (self.kdim,) = (embed_dim,) if kdim is None else whole(self, kdim=kdim)
        (self.vdim,) = (embed_dim,) if vdim is None else whole(self, vdim=vdim)
        self.batch_first, self.add_zero_attn = batch_first, add_zero_attn
        self.stream = new_stream("attention")
        widths = {"in": (3 * embed_dim, embed_dim)}
        if not self.kdim == self.vdim == embed_dim:
            widths = {"q": (embed_dim, embed_dim), "k": (embed_dim, self.kdim), "v": (embed_dim, self.vdim)}
        self.packed = "in" in widths
        for name, shape in widths.items():
            weight = new_parameter(shape, dtype=dtype, device=device)
            setattr(self, f"{name}_proj_weight", init.xavier_uniform_(weight))
        self.in_proj_bias: Parameter | None = None
        if bias:
            self.in_proj_bias = new_parameter((3 * embed_dim,), dtype=dtype, device=device)
        self.out_proj = Linear(embed_dim, embed_dim, bias=bias, device=device, dtype=dtype)
        if self.out_proj.bias is not None:
            init.zeros_(self.out_proj.bias)
        self.bias_k: Parameter | None = None
        self.bias_v: Parameter | None = None
        if add_bias_kv:
            self.bias_k, self.bias_v = (
                new_parameter((1, 1, embed_dim), dtype=dtype, device=device) for _ in range(2)
            )
            init.xavier_normal_(self.bias_k)
            init.xavier_normal_(self.bias_v)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Any = None,
        need_weights: bool = True,
        attn_mask: Any = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
        *,
        cache: Cache | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """The attended values, in the shape of query, and the weights (batch, queries, keys), or None.

        Shapes: query (queries, batch, embed_dim), key (keys, batch, kdim), value (keys, batch, vdim); batch
        first with `batch_first`; or without batch. Masks are true (or -∞) where NOT to look, as in torch:
        key_padding_mask (batch, keys), attn_mask (queries, keys) or (batch · heads, queries, keys).
        `is_causal` hides later keys. Weights are means over heads unless `average_attn_weights` is False.
        With a `cache`, keys and values are those of all calls, and masks are for all of them.
        """
        alone, same = query.ndim == 2, query is key is value
        if alone and key_padding_mask is not None:
            key_padding_mask = _mask(key_padding_mask, query)[None]
        given = [self._arranged(x) for x in ((query,) if same else (query, key, value))]
        query, key, value = given * 3 if same else given
        self._check(query, key, value)
        drop = self.dropout if self.training else 0.0
        weights: Tensor | None = None
        plain = key_padding_mask is None and attn_mask is None and self.bias_k is None
        plain = plain and same and self.packed and cache is None
        if plain and not (need_weights or drop or self.add_zero_attn):
            packed = ops.linear(query, self._parameter("in"), self.in_proj_bias)
            joined = ops.self_attention(packed, heads=self.num_heads, is_causal=is_causal)
        else:
            q, k, v = self._cached(query, key, value, cache)
            k, v, more = self._extended(k, v)
            mask = self._combined(attn_mask, key_padding_mask, q, k.shape[2] - more, is_causal, more)
            if need_weights:
                heads, weights = attention_and_weights(q, k, v, mask, drop, stream=self.stream)
            else:
                causal = is_causal and not more and mask is None
                heads = scaled_dot_product_attention(q, k, v, mask, drop, causal, stream=self.stream)
            joined = ops.permute_dims(heads, (0, 2, 1, 3)).reshape(*query.shape[:2], self.embed_dim)
        out = self.out_proj(joined)
        if weights is not None and average_attn_weights:
            weights = weights.mean(axis=1)
        if alone:
            return ops.squeeze(out, axis=0), None if weights is None else ops.squeeze(weights, axis=0)
        return out if self.batch_first else ops.permute_dims(out, (1, 0, 2)), weights

    def _arranged(self, x: Tensor) -> Tensor:
        """(batch, time, width) from what `forward` is given."""
        if x.ndim == 2:
            return ops.expand_dims(x)
        return x if self.batch_first else ops.permute_dims(x, (1, 0, 2))

    def _check(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        widths = (self.embed_dim, self.kdim, self.vdim)
        given = tuple(x.shape[-1] for x in (query, key, value))
        if query.ndim != 3 or given != widths or key.shape[:2] != value.shape[:2] or len(query) != len(key):
            raise ShapeError(
                f"MultiheadAttention: expected query, key, value of widths {widths}, one batch and as many "
                f"keys as values; got, batch first, {query.shape}, {key.shape}, {value.shape}"
            )

    def _parameter(self, name: str) -> Parameter:
        found: Parameter = getattr(self, f"{name}_proj_weight")
        return found

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values, each (batch, time, embed_dim)."""
        if self.packed and query is key is value:
            return ops.chunk(ops.linear(query, self._parameter("in"), self.in_proj_bias), 3, axis=2)
        weights: Any = [self._parameter(n) for n in "qkv"] if not self.packed else None
        weights = weights or ops.chunk(self._parameter("in"), 3)
        biases = (None,) * 3 if self.in_proj_bias is None else ops.chunk(self.in_proj_bias, 3)
        parts = zip((query, key, value), weights, biases, strict=True)
        return tuple(ops.linear(x, weight, bias) for x, weight, bias in parts)

    def _cached(
        self, query: Tensor, key: Tensor, value: Tensor, cache: Cache | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, and keys and values with those that were there before, each (batch, heads, time, head)."""
        if cache is not None and cache.whole and cache.length:
            weight, bias = self._parameter("in" if self.packed else "q"), self.in_proj_bias
            first = slice(self.embed_dim)
            q = ops.linear(query, weight[first], None if bias is None else bias[first])
            return self._heads(q), *cache.seen()
        q, k, v = (self._heads(x) for x in self._projected(query, key, value))
        return (q, k, v) if cache is None else (q, *cache.extend(k, v))

    def _heads(self, x: Tensor) -> Tensor:
        batch, time, width = x.shape
        split = x.reshape(batch, time, self.num_heads, width // self.num_heads)
        return ops.permute_dims(split, (0, 2, 1, 3))  # (batch, heads, time, head)

    def _extended(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, int]:
        """Keys and values with those that every query sees besides, and how many these are."""
        batch, heads, _, width = k.shape
        more = 0
        if self.bias_k is not None and self.bias_v is not None:
            own = [b.reshape(1, heads, 1, width) for b in (self.bias_k, self.bias_v)]
            own = [ops.broadcast_to(b, (batch, heads, 1, width)) for b in own]
            k, v, more = ops.concat([k, own[0]], axis=2), ops.concat([v, own[1]], axis=2), more + 1
        if self.add_zero_attn:
            zero = ops.zeros((batch, heads, 1, width), dtype=k.dtype, device=k.device)
            k, v, more = ops.concat([k, zero], axis=2), ops.concat([v, zero], axis=2), more + 1
        return k, v, more

    def _combined(
        self, attn_mask: Any, padding: Any, q: Tensor, keys: int, causal: bool, more: int
    ) -> Tensor | None:
        """One mask of numbers to add, that broadcasts to (batch, heads, queries, keys + more)."""
        batch, _, queries, _ = q.shape
        masks = []
        if attn_mask is not None:
            mask = _mask(attn_mask, q)
            if mask.shape not in ((queries, keys), (batch * self.num_heads, queries, keys)):
                raise ShapeError(
                    f"MultiheadAttention: expected attn_mask {(queries, keys)} or "
                    f"{(batch * self.num_heads, queries, keys)}, got {mask.shape}"
                )
            masks.append(mask if mask.ndim == 2 else mask.reshape(batch, self.num_heads, queries, keys))
        elif causal:
            hidden = ops.arange(keys, device=q.device) > ops.expand_dims(
                ops.arange(queries, device=q.device), axis=1
            ) + (keys - queries)
            masks.append(_mask(hidden, q))
        if padding is not None:
            mask = _mask(padding, q)
            if mask.shape != (batch, keys):
                raise ShapeError(
                    f"MultiheadAttention: expected key_padding_mask {(batch, keys)}, got {mask.shape}"
                )
            masks.append(mask.reshape(batch, 1, 1, keys))
        if not masks:
            return None
        total = masks[0] if len(masks) == 1 else masks[0] + masks[1]
        if more:
            seen = ops.zeros((*total.shape[:-1], more), dtype=total.dtype, device=total.device)
            total = ops.concat([total, seen], axis=-1)
        return total


def _mask(mask: Any, like: Tensor) -> Tensor:
    """Numbers to add: a boolean mask, true where not to look, becomes -∞ there and 0 elsewhere."""
    mask = mask if isinstance(mask, Tensor) else Tensor(mask, device=like.device)
    if mask.dtype.kind != "b":
        return mask
    zero = ops.zeros((), dtype=like.dtype, device=like.device)
    return ops.where(mask, -math.inf, zero)
