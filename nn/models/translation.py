"""The Transformer as its paper has it: token numbers in two languages, one table of vectors for both.

Paper: Vaswani et al. 2017, Attention Is All You Need, §3 (attention without biases, norms behind each part).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy

from minigrad import ops
from minigrad.errors import ShapeError
from minigrad.graph import no_grad
from minigrad.nn import init
from minigrad.nn.cache import DecoderCache
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
from minigrad.nn.sampling import beam_search, sample_sequence
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

    def decode(
        self, target: Any, memory: Tensor, hidden: Tensor | None, *, cache: DecoderCache | None = None
    ) -> Tensor:
        """Logits (batch, targets, vocabulary); place i sees the targets up to i, those in `cache` first."""
        target = target if isinstance(target, Tensor) else Tensor(target, device=self.embedding.weight.device)
        x = self._embedded(target, 0 if cache is None else cache.length)
        causal = {"memory_key_padding_mask": hidden, "tgt_is_causal": True, "cache": cache}
        return ops.linear(self.decoder(x, memory, **causal), self.embedding.weight)

    def forward(self, source: Any, target: Any) -> Tensor:
        memory, hidden = self.encode(source)
        return self.decode(target, memory, hidden)

    def translate(
        self, source: Any, *, start: int, end: int | None, length: int, width: int = 4, penalty: float = 0.6
    ) -> list[tuple[list[int], float]]:
        """The likeliest targets of one source (sources,), best first, with their log-probabilities.

        A beam of `width` begins with the token `start` and takes up to `length` more; each token is read
        once. The other arguments are those of `sampling.beam_search`.
        """
        options: Any = {"width": width, "length": length, "end": end, "penalty": penalty}
        with self._reading(source, length) as (score, select):
            return beam_search(score, [start], select=select, **options)

    def sample(
        self, source: Any, *, start: int, end: int | None, length: int, seed: int = 0, **options: Any
    ) -> list[int]:
        """A target of one source (sources,), drawn token by token, up to `length` of them and the last `end`.

        The options are those of `sampling.probabilities`: temperature, top_k, top_p.
        """
        with self._reading(source, length) as (score, _):
            return sample_sequence(score, [start], length=length, end=end, seed=seed, **options)

    @contextmanager
    def _reading(self, source: Any, length: int) -> Iterator[tuple[Any, Any]]:
        """What scores the next tokens of one source, each token being read once, and what picks beams."""
        tokens = numpy.asarray(source)
        if tokens.ndim != 1 or not len(tokens):
            raise ShapeError(
                f"{type(self).__name__}: expected one source (sources,), got shape {tokens.shape}"
            )
        was_training = self.training
        self.eval()
        try:
            with no_grad():
                memory, hidden = self.encode(tokens[None])
                cache = DecoderCache(self.decoder.num_layers, length, len(tokens))

                def for_each(tensor: Tensor, beams: Any) -> Tensor:
                    return ops.broadcast_to(tensor, (len(beams), *tensor.shape[1:]))

                def score(beams: Any) -> Any:
                    masked = None if hidden is None else for_each(hidden, beams)
                    seen = for_each(memory, beams)
                    return self.decode(beams[:, cache.length :], seen, masked, cache=cache)[:, -1]

                yield score, cache.select
        finally:
            self.train(was_training)

    def _embedded(self, tokens: Tensor, start: int = 0) -> Tensor:
        out: Tensor = self.positions(self.embedding(tokens) * math.sqrt(self.width), start)
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
