"""BERT, with the parameter names that its published weights have.

Paper: Devlin et al. 2019, BERT: Pre-training of Deep Bidirectional Transformers, §3.
"""

from __future__ import annotations

from typing import Any

from minigrad import ops
from minigrad.errors import ShapeError, UsageError
from minigrad.nn import functional, init
from minigrad.nn.containers import ModuleList
from minigrad.nn.layers import Dropout, Embedding, LayerNorm, Linear
from minigrad.nn.module import Module
from minigrad.tensor import Tensor

EPSILON = 1e-12


class _Embeddings(Module):
    """The sum of three tables: tokens, positions, which of two sentences."""

    def __init__(
        self, vocabulary: int, width: int, longest: int, kinds: int, dropout: float, where: Any
    ) -> None:
        self.word_embeddings = Embedding(vocabulary, width, padding_idx=0, **where)
        self.position_embeddings = Embedding(longest, width, **where)
        self.token_type_embeddings = Embedding(kinds, width, **where)
        self.LayerNorm = LayerNorm(width, EPSILON, **where)
        self.dropout = Dropout(dropout)

    def forward(self, tokens: Tensor, kinds: Tensor | None) -> Tensor:
        x = self.word_embeddings(tokens) + self.position_embeddings.weight[: tokens.shape[1]]
        x = x + (self.token_type_embeddings.weight[0] if kinds is None else self.token_type_embeddings(kinds))
        out: Tensor = self.dropout(self.LayerNorm(x))
        return out


class _SelfAttention(Module):
    def __init__(self, width: int, heads: int, dropout: float, where: Any) -> None:
        self.heads = heads
        self.query = Linear(width, width, **where)
        self.key = Linear(width, width, **where)
        self.value = Linear(width, width, **where)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        batch, time, width = x.shape

        def apart(projected: Tensor) -> Tensor:
            split = projected.reshape(batch, time, self.heads, width // self.heads)
            return ops.permute_dims(split, (0, 2, 1, 3))

        heads = functional.scaled_dot_product_attention(
            apart(self.query(x)),
            apart(self.key(x)),
            apart(self.value(x)),
            mask,
            self.dropout.p if self.training else 0.0,
            stream=self.dropout.stream,
        )
        return ops.permute_dims(heads, (0, 2, 1, 3)).reshape(batch, time, width)


class _Output(Module):
    """norm(residual + dropout(dense(x)))"""

    def __init__(self, inputs: int, width: int, dropout: float, where: Any) -> None:
        self.dense = Linear(inputs, width, **where)
        self.LayerNorm = LayerNorm(width, EPSILON, **where)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        out: Tensor = self.LayerNorm(residual + self.dropout(self.dense(x)))
        return out


class _Dense(Module):
    def __init__(self, inputs: int, outputs: int, where: Any) -> None:
        self.dense = Linear(inputs, outputs, **where)


class _Layer(Module):
    def __init__(self, width: int, heads: int, inner: int, dropout: float, where: Any) -> None:
        self.attention = Module()
        self.attention.self = _SelfAttention(width, heads, dropout, where)
        self.attention.output = _Output(width, width, dropout, where)
        self.intermediate = _Dense(width, inner, where)
        self.output = _Output(inner, width, dropout, where)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        parts: Any = self.attention
        x = parts.output(parts.self(x, mask), x)
        out: Tensor = self.output(ops.gelu(self.intermediate.dense(x)), x)
        return out


class BERT(Module):
    """Tokens (batch, time) → hidden states (batch, time, width), and one vector (batch, width) of the first.

    The defaults are BERT-base: 109,482,240 parameters. (24 layers, 16 heads, width 1024: BERT-large,
    335,141,888.) `masked_logits` scores every word at every place for pre-training, with the table of words.
    """

    def __init__(
        self,
        vocabulary: int = 30522,
        layers: int = 12,
        heads: int = 12,
        width: int = 768,
        longest: int = 512,
        kinds: int = 2,
        dropout: float = 0.1,
        *,
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        if heads < 1 or width % heads:
            raise UsageError(f"BERT: width {width} is not divisible by {heads} heads")
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.longest = longest
        self.embeddings = _Embeddings(vocabulary, width, longest, kinds, dropout, where)
        self.encoder = Module()
        self.encoder.layer = ModuleList(
            _Layer(width, heads, 4 * width, dropout, where) for _ in range(layers)
        )
        self.pooler = _Dense(width, width, where)
        for module in self.modules():
            if isinstance(module, Linear | Embedding):
                init.normal_(module.weight, std=0.02)
            if isinstance(module, Linear) and module.bias is not None:
                init.zeros_(module.bias)

    def forward(self, tokens: Any, kinds: Any = None, mask: Any = None) -> tuple[Tensor, Tensor]:
        """`kinds` (batch, time) says which sentence a token belongs to; `mask` (batch, time) is true (or 1)
        where there is one at all.
        """
        tokens, kinds, mask = (None if a is None else self._host(a) for a in (tokens, kinds, mask))
        if tokens.ndim != 2 or tokens.shape[1] > self.longest:
            raise ShapeError(
                f"BERT: expected (batch, time) of at most {self.longest} positions, got {tokens.shape}"
            )
        x = self.embeddings(tokens, kinds)
        seen = None
        if mask is not None:
            seen = ops.not_equal(mask, 0).reshape(mask.shape[0], 1, 1, mask.shape[1])
        layers: Any = self.encoder
        for layer in layers.layer:
            x = layer(x, seen)
        return x, ops.tanh(self.pooler.dense(x[:, 0]))

    def _host(self, values: Any) -> Tensor:
        if isinstance(values, Tensor):
            return values
        return Tensor(values, device=self.embeddings.word_embeddings.weight.device)

    def masked_logits(self, hidden: Tensor) -> Tensor:
        """Logits of every word (batch, time, vocabulary), by the table that words come from."""
        return ops.linear(hidden, self.embeddings.word_embeddings.weight)
