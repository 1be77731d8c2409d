"""A decoder-only transformer with GPT-2's structure and names.

Paper: Radford et al. 2019, Language Models are Unsupervised Multitask Learners, §2.3: layer norm before each
sub-block and after the last, residual projections started at 1/√(number of residual layers), learned
positions, tanh-GELU, and an output layer tied to the token embedding.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy

from minigrad import backend, random
from minigrad.checkpoint import checkpoint
from minigrad.errors import ShapeError, UsageError
from minigrad.graph import no_grad
from minigrad.nn import functional, init
from minigrad.nn.cache import Cache as Cache
from minigrad.nn.containers import ModuleList
from minigrad.nn.layers import Dropout, Embedding, LayerNorm, Linear
from minigrad.nn.module import Module
from minigrad.nn.sampling import beam_search, check_options, sample
from minigrad.ops import cross_entropy, matmul, matrix_transpose, permute_dims, reshape, softmax, where
from minigrad.ops.attention import hidden
from minigrad.tensor import Tensor


@dataclass(frozen=True)
class GPTConfig:
    """Sizes of a GPT: token kinds, longest sequence, blocks, attention heads, width, dropout probability."""

    vocabulary: int = 256
    context: int = 128
    layers: int = 4
    heads: int = 8
    width: int = 256
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("vocabulary", "context", "layers", "heads", "width"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.width % self.heads:
            raise UsageError(
                f"width {self.width} is not divisible by {self.heads} heads; "
                f"try width {(self.width // self.heads + 1) * self.heads}"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise UsageError(f"dropout must lie in [0, 1), got {self.dropout}")


class CausalSelfAttention(Module):
    """Multi-head attention of each position to itself and those before it.

    Parameters: c_attn (width → 3·width: queries, keys, values side by side), c_proj (width → width).
    """

    def __init__(self, config: GPTConfig, *, name: str, dtype: Any = None, device: str | None = None) -> None:
        self.heads = config.heads
        self.c_attn = Linear(config.width, 3 * config.width, dtype=dtype, device=device)
        self.c_proj = Linear(config.width, config.width, dtype=dtype, device=device)
        self.attn_dropout = Dropout(config.dropout, stream=f"{name}.attn_dropout")
        self.resid_dropout = Dropout(config.dropout, stream=f"{name}.resid_dropout")

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        packed = self.c_attn(x)  # (batch, time, 3 · width)
        if cache is None and not (self.training and self.attn_dropout.p):
            out = functional.self_attention(packed, heads=self.heads, is_causal=True)
            return self.resid_dropout(self.c_proj(out))
        batch, time, width = x.shape
        five = reshape(packed, (batch, time, 3, self.heads, width // self.heads))
        query, key, value = permute_dims(five, (2, 0, 3, 1, 4))  # each (batch, heads, time, head)
        if cache is not None:
            key, value = cache.extend(key, value)
            heads = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        else:
            xp = backend.namespace(x.data)
            scores = matmul(query * (1.0 / math.sqrt(query.shape[-1])), matrix_transpose(key))
            scores = where(xp.matrix_transpose(hidden(xp, time, time)), -math.inf, scores)
            heads = matmul(self.attn_dropout(softmax(scores)), value)
        return self.resid_dropout(
            self.c_proj(reshape(permute_dims(heads, (0, 2, 1, 3)), (batch, time, width)))
        )


class MLP(Module):
    """width → 4·width → GELU → width."""

    def __init__(self, config: GPTConfig, *, name: str, dtype: Any = None, device: str | None = None) -> None:
        self.c_fc = Linear(config.width, 4 * config.width, dtype=dtype, device=device)
        self.c_proj = Linear(4 * config.width, config.width, dtype=dtype, device=device)
        self.dropout = Dropout(config.dropout, stream=f"{name}.dropout")

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.c_proj(functional.gelu(self.c_fc(x), approximate="tanh")))


class Block(Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: GPTConfig, *, name: str, dtype: Any = None, device: str | None = None) -> None:
        self.ln_1 = LayerNorm(config.width, dtype=dtype, device=device)
        self.attn = CausalSelfAttention(config, name=f"{name}.attn", dtype=dtype, device=device)
        self.ln_2 = LayerNorm(config.width, dtype=dtype, device=device)
        self.mlp = MLP(config, name=f"{name}.mlp", dtype=dtype, device=device)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        x = x + self.attn(self.ln_1(x), cache)
        return x + self.mlp(self.ln_2(x))


class GPT(Module):
    """Token numbers (batch, time) to logits of the next token (batch, time, vocabulary).

    Every starting value is a function of `seed` and the parameter's name. With `checkpoint_activations` a
    walk keeps only what enters each block, and computes what is in it once more (Chen et al. 2016, §3).
    """

    def __init__(
        self, config: GPTConfig, *, seed: int = 0, dtype: Any = "float32", device: str | None = None
    ) -> None:
        self.config = config
        self.checkpoint_activations = False
        self.wte = Embedding(config.vocabulary, config.width, dtype=dtype, device=device)
        self.wpe = Embedding(config.context, config.width, dtype=dtype, device=device)
        self.drop = Dropout(config.dropout, stream="drop")
        self.h = ModuleList(
            Block(config, name=f"h.{i}", dtype=dtype, device=device) for i in range(config.layers)
        )
        self.ln_f = LayerNorm(config.width, dtype=dtype, device=device)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                std = 0.02 / math.sqrt(2 * config.layers) if name.endswith("c_proj.weight") else 0.02
                init.normal_(parameter, std=std, generator=(seed, name))
            elif name.endswith(".bias"):
                init.zeros_(parameter)

    def forward(self, tokens: Any, caches: list[Cache] | None = None) -> Tensor:
        x = self.features(tokens, caches)
        return functional.linear(x, self.wte.weight)  # the output layer is the token embedding

    def features(self, tokens: Any, caches: list[Cache] | None = None) -> Tensor:
        """The last hidden states, (batch, time, width)."""
        tokens = tokens if isinstance(tokens, Tensor) else Tensor(tokens, device=self.wte.weight.device)
        start = caches[0].length if caches else 0
        time = tokens.shape[-1] if tokens.ndim == 2 else 0
        if tokens.ndim != 2 or start + time > self.config.context:
            raise ShapeError(
                f"expected (batch, time) of at most {self.config.context} positions, got {tokens.shape}"
                + (f" after {start} cached ones" if start else "")
            )
        x = self.drop(self.wte(tokens) + self.wpe.weight[start : start + time])
        for index, block in enumerate(self.h):
            if caches or not self.checkpoint_activations:
                x = block(x, caches[index] if caches else None)
            else:
                x = checkpoint(block, x)
        return self.ln_f(x)

    def loss(self, tokens: Any, targets: Any, *, reduction: str = "mean") -> Tensor:
        """Cross-entropy in nats of the targets (batch, time), over all positions.

        It is computed in float32 at least: a sum over a batch is soon beyond the largest float16.
        """
        logits = self(tokens)
        if logits.dtype.itemsize < 4:
            logits = logits.astype("float32")
        return cross_entropy(logits, Tensor(targets, device=self.wte.weight.device), reduction=reduction)

    def generate(
        self,
        tokens: Any,
        count: int,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
    ) -> list[int]:
        """Continue one sequence of token numbers by `count` sampled ones and return those.

        Temperature 0 takes the likeliest token; `top_k` and `top_p` are those of `sampling.probabilities`.
        """
        options: Any = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        return list(self.stream(tokens, count, seed=seed, **options))

    def stream(
        self,
        tokens: Any,
        count: int,
        *,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
    ) -> Iterator[int]:
        """Yield what `generate` returns, each token as soon as it is drawn.

        Keys and values are cached. When the context is full, the newer half of it is read again and the
        window moves on. Raises UsageError for an empty start or an option out of range.
        """
        history, context = self._start(tokens), self.config.context
        options: Any = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        check_options(self.config.vocabulary, **options)
        was_training = self.training
        self.eval()
        try:
            caches: list[Cache] = []
            pending = history[-context:]
            for _ in range(count):
                if not caches or caches[0].length + len(pending) > context:
                    pending = history[-context:] if not caches else history[-max(1, context // 2) :]
                    caches = [Cache(context) for _ in self.h]
                with no_grad():
                    logits = self(numpy.asarray([pending]), caches)[0, -1]
                token = int(sample(logits, random.generator(seed, "sample", len(history)), **options))
                history.append(token)
                pending = [token]
                yield token
        finally:
            self.train(was_training)

    def beam(
        self, tokens: Any, count: int, *, width: int, end: int | None = None, penalty: float = 0.0
    ) -> list[tuple[list[int], float]]:
        """The likeliest continuations of one sequence by up to `count` tokens, best first, with their
        log-probabilities: `sampling.beam_search`, each token read once.

        Raises UsageError where start and continuation are longer than the context.
        """
        history, context = self._start(tokens), self.config.context
        if len(history) + count - 1 > context:
            raise UsageError(
                f"a beam reads {len(history)} tokens and up to {count - 1} of its own, and the context is "
                f"{context}; give at most {context - count + 1}"
            )
        was_training = self.training
        self.eval()
        caches = [Cache(context) for _ in self.h]

        def score(beams: Any) -> Tensor:
            return self(beams[:, caches[0].length :], caches)[:, -1]

        def select(rows: Any) -> None:
            for cache in caches:
                cache.select(rows)

        try:
            with no_grad():
                options: Any = {"width": width, "length": count, "end": end, "penalty": penalty}
                return beam_search(score, history, select=select, **options)
        finally:
            self.train(was_training)

    def _start(self, tokens: Any) -> list[int]:
        """What is to be continued. Raises UsageError for tokens that are none."""
        history, vocabulary = [int(token) for token in tokens], self.config.vocabulary
        if not history or min(history) < 0 or max(history) >= vocabulary:
            raise UsageError(f"generation starts from at least one token between 0 and {vocabulary - 1}")
        return history
