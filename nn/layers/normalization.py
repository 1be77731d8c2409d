"""Layers that normalise each sample by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from minigrad.errors import ShapeError, UsageError
from minigrad.graph import state
from minigrad.nn import functional, init
from minigrad.nn.functional.arguments import flags, real, sizes, whole
from minigrad.nn.layers.linear import new_parameter
from minigrad.nn.module import Buffer, Module, Parameter
from minigrad.ops import creation
from minigrad.tensor import Tensor


def _affine(module: Any, shape: tuple[int, ...], weight: bool, bias: bool, device: Any, dtype: Any) -> None:
    """Give a module weight (ones) and bias (zeros), or None in their place."""
    module.weight = module.bias = None
    if weight:
        module.weight = new_parameter(shape, dtype=dtype, device=device)
        init.ones_(module.weight)
    if bias:
        module.bias = new_parameter(shape, dtype=dtype, device=device)


class LayerNorm(Module):
    """Normalise over the last axes. Parameters: weight and bias of shape `normalized_shape`."""

    weight: Parameter | None
    bias: Parameter | None

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        (self.normalized_shape,) = sizes(self, None, normalized_shape=normalized_shape)
        real(self, 0.0, eps=eps)
        flags(self, elementwise_affine=elementwise_affine, bias=bias)
        self.eps, self.elementwise_affine = eps, elementwise_affine
        _affine(self, self.normalized_shape, elementwise_affine, elementwise_affine and bias, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}, "
            f"bias={self.bias is not None}"
        )


class RMSNorm(Module):
    """Divide by the root mean square over the last axes. Parameter: weight of shape `normalized_shape`."""

    weight: Parameter | None

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        *,
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        (self.normalized_shape,) = sizes(self, None, normalized_shape=normalized_shape)
        if eps is not None:
            real(self, 0.0, eps=eps)
        flags(self, elementwise_affine=elementwise_affine)
        self.eps, self.elementwise_affine = eps, elementwise_affine
        self.weight = None
        if elementwise_affine:
            self.weight = new_parameter(self.normalized_shape, dtype=dtype, device=device)
            init.ones_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class GroupNorm(Module):
    """Normalise each sample's channels in groups. Parameters: weight and bias (num_channels,)."""

    weight: Parameter | None
    bias: Parameter | None

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        *,
        device: str | None = None,
        dtype: Any = None,
        bias: bool = True,
    ) -> None:
        num_groups, num_channels = whole(self, num_groups=num_groups, num_channels=num_channels)
        real(self, 0.0, eps=eps)
        flags(self, affine=affine, bias=bias)
        if num_channels % num_groups:
            raise UsageError(f"GroupNorm: num_groups {num_groups} does not divide {num_channels} channels")
        self.num_groups, self.num_channels, self.eps, self.affine = num_groups, num_channels, eps, affine
        _affine(self, (num_channels,), affine, affine and bias, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim < 2 or x.shape[1] != self.num_channels:
            raise ShapeError(f"GroupNorm: expected (N, {self.num_channels}, ...), got {x.shape}")
        return functional.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, "
            f"bias={self.bias is not None}"
        )


class _InstanceNorm(Module):
    """Normalise each channel of each sample; off by default: parameters, and running statistics."""

    weight: Parameter | None
    bias: Parameter | None
    axes = 1

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        *,
        device: str | None = None,
        dtype: Any = None,
        bias: bool = True,
    ) -> None:
        (num_features,) = whole(self, num_features=num_features)
        real(self, 0.0, eps=eps)
        real(self, 0.0, 1.0, momentum=momentum)
        flags(self, affine=affine, track_running_stats=track_running_stats, bias=bias)
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        _affine(self, (num_features,), affine, affine and bias, device, dtype)
        self.running_mean: Buffer | None = None
        self.running_var: Buffer | None = None
        self.num_batches_tracked: Buffer | None = None
        if track_running_stats:
            wide = dtype or state.default_dtype
            self.running_mean = Buffer(creation.zeros(num_features, dtype=wide, device=device))
            self.running_var = Buffer(creation.ones(num_features, dtype=wide, device=device))
            self.num_batches_tracked = Buffer(creation.zeros((), dtype="int64", device=device))

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == self.axes + 1:
            return self.forward(x.reshape(1, *x.shape)).reshape(x.shape)
        if x.ndim != self.axes + 2 or x.shape[1] != self.num_features:
            expected = ["L"] if self.axes == 1 else ["H", "W"]
            raise ShapeError(
                f"{type(self).__name__}: expected (N, {self.num_features}, {', '.join(expected)}), "
                f"got {x.shape}"
            )
        if self.running_mean is not None and self.running_var is not None:
            if not self.training:
                return functional.batch_norm(
                    x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
                )
            if len(x):
                self._learn(x, self.running_mean, self.running_var)
        return functional.instance_norm(x, self.weight, self.bias, self.eps)

    def _learn(self, x: Tensor, running_mean: Buffer, running_var: Buffer) -> None:
        """Move the running statistics towards the mean of the samples' own."""
        flat = x.detach().astype(running_var.dtype).reshape(*x.shape[:2], math.prod(x.shape[2:]))
        mean = flat.mean(axis=2, keepdims=True)
        centred = flat - mean
        variance = (centred * centred).sum(axis=2) / float(flat.shape[2] - 1)
        for running, found in ((running_mean, mean.mean(axis=(0, 2))), (running_var, variance.mean(axis=0))):
            running.assign((1.0 - self.momentum) * running + self.momentum * found)

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, "
            f"affine={self.affine}, bias={self.bias is not None}, "
            f"track_running_stats={self.track_running_stats}"
        )


class InstanceNorm1d(_InstanceNorm):
    """Normalise each channel of each sample of x (N, C, L), or (C, L)."""

    axes = 1


class InstanceNorm2d(_InstanceNorm):
    """Normalise each channel of each sample of x (N, C, H, W), or (C, H, W)."""

    axes = 2
