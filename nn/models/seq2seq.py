"""Sequence to sequence with attention: a bidirectional GRU reads, a GRU that looks back at it writes.

Paper: Bahdanau, Cho, Bengio 2015, Neural Machine Translation by Jointly Learning to Align and Translate, §3
and A (without maxout before the softmax).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy

from minigrad import ops
from minigrad.errors import ShapeError
from minigrad.graph import no_grad
from minigrad.nn.layers import GRU, AdditiveAttention, Dropout, Embedding, GRUCell, Linear
from minigrad.nn.module import Module
from minigrad.nn.sampling import beam_search, sample_sequence
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

    def translate(
        self, source: Any, *, start: int, end: int | None, length: int, width: int = 4, penalty: float = 0.0
    ) -> list[tuple[list[int], float]]:
        """The likeliest targets of one source (sources,), best first, with their log-probabilities.

        A beam of `width` begins with the token `start` and takes up to `length` more. The other arguments are
        those of `sampling.beam_search`.
        """
        options: Any = {"width": width, "length": length, "end": end, "penalty": penalty}
        with self._reading(source) as (score, select):
            return beam_search(score, [start], select=select, **options)

    def sample(
        self, source: Any, *, start: int, end: int | None, length: int, seed: int = 0, **options: Any
    ) -> list[int]:
        """A target of one source (sources,), drawn token by token, up to `length` of them and the last `end`.

        The options are those of `sampling.probabilities`: temperature, top_k, top_p.
        """
        with self._reading(source) as (score, _):
            return sample_sequence(score, [start], length=length, end=end, seed=seed, **options)

    @contextmanager
    def _reading(self, source: Any) -> Iterator[tuple[Any, Any]]:
        """What scores the next tokens of one source, one step further each time, and what picks beams."""
        tokens = numpy.asarray(source)
        if tokens.ndim != 1 or not len(tokens):
            raise ShapeError(f"Seq2Seq: expected one source (sources,), got shape {tokens.shape}")
        was_training = self.training
        self.eval()
        try:
            with no_grad():
                annotations, state, mask = self.encode(tokens[None])
                projected = self.attention.key(annotations)

                def score(beams: Any) -> Any:
                    nonlocal state
                    last = Tensor(beams[:, -1], device=state.device)
                    seen, keys = (
                        ops.broadcast_to(x, (len(beams), *x.shape[1:])) for x in (annotations, projected)
                    )
                    logits, state, _ = self.step(last, state, keys, seen, mask)
                    return logits

                def select(rows: Any) -> None:
                    nonlocal state
                    state = ops.take(state, Tensor(rows, device=state.device))

                yield score, select
        finally:
            self.train(was_training)
