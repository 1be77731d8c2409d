"""Sequence to sequence with attention: a bidirectional GRU reads, a GRU that looks back at it writes.

Paper: Bahdanau, Cho, Bengio 2015, Neural Machine Translation by Jointly Learning to Align and Translate, §3
and A (without maxout before the softmax).
"""

from __future__ import annotations

from typing import Any

import numpy

from minigrad import ops
from minigrad.errors import ShapeError
from minigrad.nn.layers import GRU, AdditiveAttention, Dropout, Embedding, GRUCell, Linear
from minigrad.nn.module import Module
from minigrad.nn.sequences import pack_padded_sequence, pad_packed_sequence
from minigrad.tensor import Tensor


class Seq2Seq(Module):
    """Source (batch, sources) and target (batch, targets) tokens → logits of each next target token.

    The attention asks with the state *before* a step; weights of padding are exactly 0.
    """

    def __init__(
        self,
        source_vocabulary: int,
        target_vocabulary: int,
        width: int = 256,
        hidden: int = 256,
        dropout: float = 0.0,
        *,
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.source = Embedding(source_vocabulary, width, **where)
        self.target = Embedding(target_vocabulary, width, **where)
        self.encoder = GRU(width, hidden, bidirectional=True, batch_first=True, **where)
        self.start = Linear(hidden, hidden, **where)
        self.attention = AdditiveAttention(hidden, 2 * hidden, hidden, **where)
        self.decoder = GRUCell(width + 2 * hidden, hidden, **where)
        self.output = Linear(3 * hidden + width, target_vocabulary, **where)
        self.dropout = Dropout(dropout)

    def encode(self, source: Any, lengths: Any = None) -> tuple[Tensor, Tensor, Any]:
        """Annotations (batch, sources, 2 hidden), the decoder's first state, and which sources are real."""
        tokens = source if isinstance(source, Tensor) else Tensor(source, device=self.source.weight.device)
        if tokens.ndim != 2:
            raise ShapeError(f"Seq2Seq: expected source tokens (batch, time), got {tokens.shape}")
        x = self.dropout(self.source(tokens))
        mask = None
        if lengths is None:
            annotations, last = self.encoder(x)
        else:
            packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            packed, last = self.encoder(packed)
            annotations, _ = pad_packed_sequence(packed, batch_first=True, total_length=tokens.shape[1])
            mask = numpy.arange(tokens.shape[1]) < numpy.asarray(lengths)[:, None]
        return annotations, ops.tanh(self.start(last[1])), mask  # last[1]: what was read from the end

    def step(
        self, tokens: Tensor, state: Tensor, projected: Tensor, annotations: Tensor, mask: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One step of all sequences: logits (batch, vocabulary), the next state, attention's weights."""
        x = self.dropout(self.target(tokens))
        context, weights = self.attention.attend(ops.expand_dims(state, axis=1), projected, annotations, mask)
        context = ops.squeeze(context, axis=1)
        state = self.decoder(ops.concat([x, context], axis=1), state)
        logits = self.output(ops.concat([state, context, x], axis=1))
        return logits, state, ops.squeeze(weights, axis=1)

    def forward(self, source: Any, target: Any, lengths: Any = None) -> Tensor:
        """Logits (batch, targets, vocabulary); step t is given target t, and predicts the next."""
        target = target if isinstance(target, Tensor) else Tensor(target, device=self.target.weight.device)
        annotations, state, mask = self.encode(source, lengths)
        projected = self.attention.key(annotations)
        outputs = []
        for tokens in ops.unstack(target, axis=1):
            logits, state, _ = self.step(tokens, state, projected, annotations, mask)
            outputs.append(logits)
        return ops.stack(outputs, axis=1)
