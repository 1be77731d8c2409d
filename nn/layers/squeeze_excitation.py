"""Squeeze and excitation: channels that weigh each other by what the whole image shows."""

from __future__ import annotations

from typing import Any

from minigrad import ops
from minigrad.errors import ShapeError, UsageError
from minigrad.nn.functional.arguments import flags, whole
from minigrad.nn.layers.linear import Linear
from minigrad.nn.module import Module
from minigrad.tensor import Tensor


class SqueezeExcitation(Module):
    """x times s for each channel, s = σ(W₂ max(W₁ mean(x), 0)) of the means over all places.

    Modules: fc1 (channels → channels / reduction), fc2 (back), with biases unless `bias` is False. Shapes: x
    (N, channels, ...). Paper: Hu, Shen, Sun 2018, Squeeze-and-Excitation Networks, eq. 2-4.
    """

    def __init__(
        self,
        channels: int,
        reduction: int = 16,
        bias: bool = True,
        *,
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        channels, reduction = whole(self, channels=channels, reduction=reduction)
        flags(self, bias=bias)
        if reduction > channels:
            raise UsageError(f"SqueezeExcitation: reduction {reduction} leaves no channel of {channels}")
        self.channels, self.reduction = channels, reduction
        squeezed = channels // reduction
        self.fc1 = Linear(channels, squeezed, bias, device=device, dtype=dtype)
        self.fc2 = Linear(squeezed, channels, bias, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim < 3 or x.shape[1] != self.channels:
            raise ShapeError(f"SqueezeExcitation: expected (N, {self.channels}, ...), got {x.shape}")
        means = ops.mean(x, axis=tuple(range(2, x.ndim)))
        scale = ops.sigmoid(self.fc2(ops.relu(self.fc1(means))))
        return x * scale.reshape(*scale.shape, *(1,) * (x.ndim - 2))
