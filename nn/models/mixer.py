"""MLP-Mixer: two perceptrons in turn, one across places and one across channels.

Paper: Tolstikhin et al. 2021, MLP-Mixer: An all-MLP Architecture for Vision, eq. 1 and table 1.
"""

from __future__ import annotations

import math
from typing import Any

from minigrad import ops
from minigrad.errors import ShapeError, UsageError
from minigrad.nn.containers import Sequential
from minigrad.nn.layers import Conv2d, LayerNorm, Linear
from minigrad.nn.module import Module
from minigrad.tensor import Tensor


class _Perceptron(Module):
    def __init__(self, width: int, inner: int, where: Any) -> None:
        self.fc1, self.fc2 = Linear(width, inner, **where), Linear(inner, width, **where)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(ops.gelu(self.fc1(x)))
        return out


class MixerBlock(Module):
    """x + mlp across places, then x + mlp across channels, a norm before each."""

    def __init__(self, places: int, width: int, token_dim: int, channel_dim: int, where: Any) -> None:
        self.norm1 = LayerNorm(width, 1e-6, **where)
        self.mlp_tokens = _Perceptron(places, token_dim, where)
        self.norm2 = LayerNorm(width, 1e-6, **where)
        self.mlp_channels = _Perceptron(width, channel_dim, where)

    def forward(self, x: Tensor) -> Tensor:
        across = ops.matrix_transpose(self.norm1(x))
        x = x + ops.matrix_transpose(self.mlp_tokens(across))
        out: Tensor = x + self.mlp_channels(self.norm2(x))
        return out


class Mixer(Module):
    """Images (N, 3, image_size, image_size) → (N, num_classes). The defaults are Mixer-B/16: 59,880,472
    parameters.
    """

    def __init__(
        self,
        image_size: int = 224,
        patch_size: int = 16,
        num_layers: int = 12,
        hidden_dim: int = 768,
        token_dim: int = 384,
        channel_dim: int = 3072,
        num_classes: int = 1000,
        *,
        channels: int = 3,
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        if image_size % patch_size:
            raise UsageError(f"Mixer: patches of {patch_size} do not tile an image of {image_size}")
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.image_size = image_size
        places = (image_size // patch_size) ** 2
        self.stem = Conv2d(channels, hidden_dim, patch_size, patch_size, **where)
        self.blocks = Sequential(
            *(MixerBlock(places, hidden_dim, token_dim, channel_dim, where) for _ in range(num_layers))
        )
        self.norm = LayerNorm(hidden_dim, 1e-6, **where)
        self.head = Linear(hidden_dim, num_classes, **where)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[2:] != (self.image_size,) * 2:
            raise ShapeError(
                f"Mixer: expected images (N, C, {self.image_size}, {self.image_size}), got {x.shape}"
            )
        patches = self.stem(x)
        batch, width = patches.shape[:2]
        tokens = ops.matrix_transpose(patches.reshape(batch, width, math.prod(patches.shape[2:])))
        out: Tensor = self.head(ops.mean(self.norm(self.blocks(tokens)), axis=1))
        return out
