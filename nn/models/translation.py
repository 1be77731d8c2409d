"""The Transformer as its paper has it: token numbers in two languages, one table of vectors for both.

Paper: Vaswani et al. 2017, Attention Is All You Need, §3 (attention without biases, norms behind each part).
"""

from __future__ import annotations

import math
from typing import Any

from minigrad import ops
from minigrad.nn import init
from minigrad.nn.layers import (
    Dropout,
    Embedding,
    MultiheadAttention,
    SinusoidalPositions,
    TransformerDecoder,
    TransformerDecoderLayer,
    TransformerEncoder,
    TransformerEncoderLayer,
)
from minigrad.nn.module import Module
from minigrad.tensor import Tensor


class TranslationTransformer(Module):
    """Source (batch, sources) and target (batch, targets) tokens → logits of each next target token.

    The defaults are the base model with a vocabulary of 37,000: 63,045,632 parameters. (width 1024, 16 heads,
    inner 4096: the big one, 214.2 million.) The table of vectors serves source, target and output, times
    √width going in.
    """

    def __init__(
        self,
        vocabulary: int = 37000,
        width: int = 512,
        heads: int = 8,
        layers: int = 6,
        inner: int = 2048,
        dropout: float = 0.1,
        longest: int = 1024,
        padding: int | None = None,
        *,
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.width, self.padding = width, padding
        self.embedding = Embedding(vocabulary, width, **where)
        init.normal_(self.embedding.weight, std=width**-0.5)
        self.positions = SinusoidalPositions(width, longest, dropout, **where)
        options = (width, heads, inner, dropout)
        encoder = TransformerEncoderLayer(*options, batch_first=True, **where)
        decoder = TransformerDecoderLayer(*options, batch_first=True, **where)
        self.encoder = TransformerEncoder(_without_biases(encoder, where), layers)
        self.decoder = TransformerDecoder(_without_biases(decoder, where), layers)
        for stack in (self.encoder, self.decoder):
            for parameter in stack.parameters():
                if parameter.ndim > 1:
                    init.xavier_uniform_(parameter)

    def encode(self, source: Any) -> tuple[Tensor, Tensor | None]:
        """What the decoder looks at (batch, sources, width), and where it must not look."""
        source = source if isinstance(source, Tensor) else Tensor(source, device=self.embedding.weight.device)
        hidden = None if self.padding is None else ops.equal(source, self.padding)
        return self.encoder(self._embedded(source), None, hidden), hidden

    def decode(self, target: Any, memory: Tensor, hidden: Tensor | None) -> Tensor:
        """Logits (batch, targets, vocabulary); place i sees the targets up to i."""
        target = target if isinstance(target, Tensor) else Tensor(target, device=self.embedding.weight.device)
        x = self.decoder(self._embedded(target), memory, memory_key_padding_mask=hidden, tgt_is_causal=True)
        return ops.linear(x, self.embedding.weight)

    def forward(self, source: Any, target: Any) -> Tensor:
        memory, hidden = self.encode(source)
        return self.decode(target, memory, hidden)

    def _embedded(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.positions(self.embedding(tokens) * math.sqrt(self.width))
        return out


def _without_biases(layer: Module, where: Any) -> Module:
    """The paper's projections of queries, keys and values are matrices alone, and do without attention's own
    dropout.
    """
    for name, attention in list(layer.named_children()):
        if isinstance(attention, MultiheadAttention):
            options = {"bias": False, "batch_first": True, **where}
            setattr(layer, name, MultiheadAttention(attention.embed_dim, attention.num_heads, **options))
        elif isinstance(attention, Dropout) and name == "dropout":
            attention.p = 0.0
    return layer
