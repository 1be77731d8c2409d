"""Vision transformer, with torchvision's names.

Paper: Dosovitskiy et al. 2021, An Image is Worth 16x16 Words, eq. 1-4 and table 1.
"""

from __future__ import annotations

import math
from typing import Any

from minigrad import ops
from minigrad.errors import ShapeError, UsageError
from minigrad.nn import init
from minigrad.nn.containers import Sequential
from minigrad.nn.layers import GELU, Conv2d, Dropout, LayerNorm, Linear, MultiheadAttention
from minigrad.nn.layers.linear import new_parameter
from minigrad.nn.module import Module
from minigrad.tensor import Tensor


class EncoderBlock(Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, heads: int, width: int, inner: int, dropout: float, where: Any) -> None:
        self.ln_1 = LayerNorm(width, 1e-6, **where)
        self.self_attention = MultiheadAttention(width, heads, batch_first=True, **where)
        self.dropout = Dropout(dropout)
        self.ln_2 = LayerNorm(width, 1e-6, **where)
        self.mlp = Sequential(
            Linear(width, inner, **where),
            GELU(),
            Dropout(dropout),
            Linear(inner, width, **where),
            Dropout(dropout),
        )
        for layer in (self.mlp[0], self.mlp[3]):
            init.xavier_uniform_(layer.weight)
            init.normal_(layer.bias, std=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln_1(x)
        x = x + self.dropout(self.self_attention(y, y, y, need_weights=False)[0])
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out


class ViT(Module):
    """Images (N, 3, image_size, image_size) → (N, num_classes), by attention between patches.

    The defaults are ViT-B/16: 86,567,656 parameters.
    """

    def __init__(
        self,
        image_size: int = 224,
        patch_size: int = 16,
        num_layers: int = 12,
        num_heads: int = 12,
        hidden_dim: int = 768,
        mlp_dim: int = 3072,
        dropout: float = 0.0,
        num_classes: int = 1000,
        *,
        channels: int = 3,
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        if image_size % patch_size:
            raise UsageError(f"ViT: patches of {patch_size} do not tile an image of {image_size}")
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.image_size, self.patch_size, self.hidden_dim = image_size, patch_size, hidden_dim
        self.conv_proj = Conv2d(channels, hidden_dim, patch_size, patch_size, **where)
        init.trunc_normal_(self.conv_proj.weight, std=math.sqrt(1 / (channels * patch_size**2)))
        if self.conv_proj.bias is not None:
            init.zeros_(self.conv_proj.bias)
        self.class_token = new_parameter((1, 1, hidden_dim), **where)
        places = (image_size // patch_size) ** 2 + 1
        self.encoder = _Encoder(places, num_layers, num_heads, hidden_dim, mlp_dim, dropout, where)
        self.heads = Sequential({"head": Linear(hidden_dim, num_classes, **where)})
        init.zeros_(self.heads[0].weight)
        init.zeros_(self.heads[0].bias)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2:] != (self.image_size,) * 2:
            raise ShapeError(
                f"ViT: expected images (N, C, {self.image_size}, {self.image_size}), got {x.shape}"
            )
        patches = self.conv_proj(x)
        batch, width = patches.shape[:2]
        tokens = ops.matrix_transpose(patches.reshape(batch, width, math.prod(patches.shape[2:])))
        token = ops.broadcast_to(self.class_token, (batch, 1, width))
        out: Tensor = self.heads(self.encoder(ops.concat([token, tokens], axis=1)))
        return out


class _Encoder(Module):
    """(batch, places, width) → the first place of the last block's output, (batch, width): nobody looks at
    the norms of the others.
    """

    def __init__(
        self, places: int, layers: int, heads: int, width: int, inner: int, dropout: float, where: Any
    ) -> None:
        self.pos_embedding = new_parameter((1, places, width), **where)
        init.normal_(self.pos_embedding, std=0.02)
        self.dropout = Dropout(dropout)
        names = (f"encoder_layer_{number}" for number in range(layers))
        self.layers = Sequential({name: EncoderBlock(heads, width, inner, dropout, where) for name in names})
        self.ln = LayerNorm(width, 1e-6, **where)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.ln(self.layers(self.dropout(x + self.pos_embedding))[:, 0])
        return out


def vit_b_16(**options: Any) -> ViT:
    """ViT-B/16: 86,567,656 parameters."""
    return ViT(**options)


def vit_b_32(**options: Any) -> ViT:
    """ViT-B/32: 88,224,232 parameters."""
    return ViT(patch_size=32, **options)


def vit_l_16(**options: Any) -> ViT:
    """ViT-L/16: 304,326,632 parameters."""
    return ViT(num_layers=24, num_heads=16, hidden_dim=1024, mlp_dim=4096, **options)


def vit_h_14(**options: Any) -> ViT:
    """ViT-H/14: 632,045,800 parameters."""
    return ViT(patch_size=14, num_layers=32, num_heads=16, hidden_dim=1280, mlp_dim=5120, **options)
