"""Transformer layers and stacks, with torch's arguments, parameter names and masks.

Paper: Vaswani et al. 2017, Attention Is All You Need, §3.1 (norms behind each part); with `norm_first` before
each part, as in Xiong et al. 2020, On Layer Normalization in the Transformer Architecture.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

from minigrad import ops
from minigrad.nn import init
from minigrad.nn.cache import Cache, DecoderCache
from minigrad.nn.containers import ModuleList
from minigrad.nn.functional.arguments import flags, real, refuse, whole
from minigrad.nn.layers.attention import MultiheadAttention
from minigrad.nn.layers.dropout import Dropout, new_stream
from minigrad.nn.layers.linear import Linear
from minigrad.nn.layers.normalization import LayerNorm
from minigrad.nn.module import Module
from minigrad.tensor import Tensor

ActivationFunction = str | Callable[[Tensor], Tensor]
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": ops.relu, "gelu": ops.gelu}


class _Layer(Module):
    """What encoder and decoder layers have in common: attention parts, then two linear layers."""

    attentions: tuple[str, ...] = ()

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: ActivationFunction = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        *,
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        whole(self, d_model=d_model, nhead=nhead, dim_feedforward=dim_feedforward)
        real(self, 0.0, 1.0, dropout=dropout)
        real(self, 0.0, layer_norm_eps=layer_norm_eps)
        flags(self, batch_first=batch_first, norm_first=norm_first, bias=bias)
        if not callable(activation) and activation not in tuple(_ACTIVATIONS):
            refuse(self, "activation", activation, '"relu", "gelu" or a function')
        self.activation = _ACTIVATIONS[activation] if isinstance(activation, str) else activation
        self.batch_first, self.norm_first = batch_first, norm_first
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        for name in self.attentions:
            attention = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=True, **where)
            setattr(self, name, attention)
        self.linear1 = Linear(d_model, dim_feedforward, bias, **where)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias, **where)
        for number in range(1, len(self.attentions) + 2):
            setattr(self, f"norm{number}", LayerNorm(d_model, layer_norm_eps, bias=bias, **where))
        for number in range(1, len(self.attentions) + 2):
            setattr(self, f"dropout{number}", Dropout(dropout))

    def _residual(self, number: int, x: Tensor, part: Callable[[Tensor], Tensor]) -> Tensor:
        """x + part(norm(x)), or norm(x + part(x))."""
        norm, drop = getattr(self, f"norm{number}"), getattr(self, f"dropout{number}")
        out: Tensor = x + drop(part(norm(x))) if self.norm_first else norm(x + drop(part(x)))
        return out

    def _feed_forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear2(self.dropout(self.activation(self.linear1(x))))
        return out

    def _attend(
        self,
        name: str,
        x: Tensor,
        other: Tensor | None,
        mask: Any,
        padding: Any,
        causal: bool,
        cache: Cache | None = None,
    ) -> Tensor:
        """Attention of x to itself, or to `other`; batches come first in here."""
        keys = x if other is None else other
        out: Tensor = getattr(self, name)(
            x, keys, keys, padding, need_weights=False, attn_mask=mask, is_causal=causal, cache=cache
        )[0]
        return out

    def _batch_first(self, x: Tensor) -> Tensor:
        """(batch, time, width) from what this layer is given; the way back is the same."""
        if x.ndim == 2 or self.batch_first:
            return x
        return ops.permute_dims(x, (1, 0, 2))


class TransformerEncoderLayer(_Layer):
    """Self-attention, then a feed-forward network, each with a residual connection and a norm."""

    attentions = ("self_attn",)

    def forward(
        self, src: Tensor, src_mask: Any = None, src_key_padding_mask: Any = None, is_causal: bool = False
    ) -> Tensor:
        """Shapes: src (time, batch, d_model), batch first with `batch_first`, or without batch. Masks as in
        `MultiheadAttention`.
        """
        x = self._batch_first(src)
        x = self._residual(
            1, x, lambda y: self._attend("self_attn", y, None, src_mask, src_key_padding_mask, is_causal)
        )
        return self._batch_first(self._residual(2, x, self._feed_forward))


class TransformerDecoderLayer(_Layer):
    """Self-attention, attention to the encoder's output, then a feed-forward network."""

    attentions = ("self_attn", "multihead_attn")

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Any = None,
        memory_mask: Any = None,
        tgt_key_padding_mask: Any = None,
        memory_key_padding_mask: Any = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
        *,
        cache: tuple[Cache, Cache] | None = None,
    ) -> Tensor:
        """Shapes: tgt (targets, batch, d_model), memory (sources, batch, d_model), batch first with
        `batch_first`, or without batch. Masks as in `MultiheadAttention`. With a `cache` (one of the targets,
        one of the memory), tgt is what follows those that are in it.
        """
        x, seen = self._batch_first(tgt), self._batch_first(memory)
        own, across = (None, None) if cache is None else cache
        masks = (tgt_mask, tgt_key_padding_mask, tgt_is_causal)
        x = self._residual(1, x, lambda y: self._attend("self_attn", y, None, *masks, own))
        others = (memory_mask, memory_key_padding_mask, memory_is_causal)
        x = self._residual(2, x, lambda y: self._attend("multihead_attn", y, seen, *others, across))
        return self._batch_first(self._residual(3, x, self._feed_forward))


def copies(stack: Module, layer: Module, num_layers: int) -> tuple[ModuleList, int]:
    """`num_layers` deep copies of a layer, whose dropouts draw random numbers of their own, for a stack; and
    how many these are.
    """
    (count,) = whole(stack, num_layers=num_layers)
    layers = ModuleList(copy.deepcopy(layer) for _ in range(count))
    for module in layers.modules():
        if isinstance(module, Dropout | MultiheadAttention):
            module.stream = new_stream(type(module).__name__)
    return layers, count


def _modules(stack: Module, **values: Module | None) -> None:
    """Raise UsageError unless all values are modules; what is not a layer to be copied may be None."""
    for name, value in values.items():
        if not isinstance(value, Module) and (value is not None or name.endswith("_layer")):
            refuse(stack, name, value, "a module, as nn.TransformerEncoderLayer(...) is one")


class TransformerEncoder(Module):
    """`num_layers` copies of an encoder layer, one after the other, and a last norm if given.

    torch's last two arguments, which speed up its own inference, are accepted and mean nothing here.
    """

    def __init__(
        self,
        encoder_layer: Module,
        num_layers: int,
        norm: Module | None = None,
        enable_nested_tensor: bool = True,
        mask_check: bool = True,
    ) -> None:
        _modules(self, encoder_layer=encoder_layer, norm=norm)
        flags(self, enable_nested_tensor=enable_nested_tensor, mask_check=mask_check)
        self.layers, self.num_layers = copies(self, encoder_layer, num_layers)
        self.norm = norm

    def forward(
        self, src: Tensor, mask: Any = None, src_key_padding_mask: Any = None, is_causal: bool | None = None
    ) -> Tensor:
        x = src
        for layer in self.layers:
            x = layer(x, mask, src_key_padding_mask, bool(is_causal))
        return x if self.norm is None else self.norm(x)


class TransformerDecoder(Module):
    """`num_layers` copies of a decoder layer, one after the other, and a last norm if given."""

    def __init__(self, decoder_layer: Module, num_layers: int, norm: Module | None = None) -> None:
        _modules(self, decoder_layer=decoder_layer, norm=norm)
        self.layers, self.num_layers = copies(self, decoder_layer, num_layers)
        self.norm = norm

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Any = None,
        memory_mask: Any = None,
        tgt_key_padding_mask: Any = None,
        memory_key_padding_mask: Any = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
        *,
        cache: DecoderCache | None = None,
    ) -> Tensor:
        """As the layers; with a `cache`, tgt is what follows those that are in it, and the memory is read
        once.
        """
        x = tgt
        for number, layer in enumerate(self.layers):
            x = layer(
                x,
                memory,
                tgt_mask,
                memory_mask,
                tgt_key_padding_mask,
                memory_key_padding_mask,
                bool(tgt_is_causal),
                memory_is_causal,
                **({} if cache is None else {"cache": cache.layers[number]}),
            )
        return x if self.norm is None else self.norm(x)


class Transformer(Module):
    """An encoder and a decoder that looks at its output, between vectors: embeddings are the caller's."""

    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: ActivationFunction = "relu",
        custom_encoder: Module | None = None,
        custom_decoder: Module | None = None,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        *,
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        d_model, nhead, _ = whole(self, d_model=d_model, nhead=nhead, dim_feedforward=dim_feedforward)
        whole(self, num_encoder_layers=num_encoder_layers, num_decoder_layers=num_decoder_layers)
        _modules(self, custom_encoder=custom_encoder, custom_decoder=custom_decoder)
        real(self, 0.0, 1.0, dropout=dropout)
        real(self, 0.0, layer_norm_eps=layer_norm_eps)
        flags(self, batch_first=batch_first, norm_first=norm_first, bias=bias)
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        options = (d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps)
        switches = (batch_first, norm_first, bias)
        self.d_model, self.nhead, self.batch_first = d_model, nhead, batch_first

        def norm() -> LayerNorm:
            return LayerNorm(d_model, layer_norm_eps, bias=bias, **where)

        if custom_encoder is None:
            layer: Module = TransformerEncoderLayer(*options, *switches, **where)
            custom_encoder = TransformerEncoder(layer, num_encoder_layers, norm())
        if custom_decoder is None:
            layer = TransformerDecoderLayer(*options, *switches, **where)
            custom_decoder = TransformerDecoder(layer, num_decoder_layers, norm())
        self.encoder, self.decoder = custom_encoder, custom_decoder
        for parameter in self.parameters():
            if parameter.ndim > 1:
                init.xavier_uniform_(parameter)

    def forward(
        self,
        src: Tensor,
        tgt: Tensor,
        src_mask: Any = None,
        tgt_mask: Any = None,
        memory_mask: Any = None,
        src_key_padding_mask: Any = None,
        tgt_key_padding_mask: Any = None,
        memory_key_padding_mask: Any = None,
        src_is_causal: bool | None = None,
        tgt_is_causal: bool | None = None,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """Shapes: src (sources, batch, d_model), tgt (targets, batch, d_model) → the shape of tgt; batch
        first with `batch_first`.
        """
        memory = self.encoder(src, src_mask, src_key_padding_mask, src_is_causal)
        out: Tensor = self.decoder(
            tgt,
            memory,
            tgt_mask,
            memory_mask,
            tgt_key_padding_mask,
            memory_key_padding_mask,
            tgt_is_causal,
            memory_is_causal,
        )
        return out

    @staticmethod
    def generate_square_subsequent_mask(sz: int, *, device: str | None = None, dtype: Any = None) -> Tensor:
        """Numbers to add, (sz, sz): -∞ above the diagonal, where the future lies, and 0 elsewhere."""
        zeros = ops.zeros((sz, sz), dtype=dtype, device=device)
        places = ops.arange(sz, device=device)
        return ops.where(places > ops.expand_dims(places, axis=1), -math.inf, zeros)
