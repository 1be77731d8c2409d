"""Batch normalisation layers."""

from __future__ import annotations

from typing import Any

from minigrad import random
from minigrad.errors import ShapeError
from minigrad.graph import state
from minigrad.nn import functional, init
from minigrad.nn.functional.arguments import flags, real, whole
from minigrad.nn.functional.batch_norm import Combine
from minigrad.nn.layers.linear import new_parameter
from minigrad.nn.module import Buffer, Module, Parameter
from minigrad.ops import creation
from minigrad.tensor import Tensor


class BatchNorm(Module):
    """Normalise each channel by the batch while training, and by what was learned of batches otherwise.

    Parameters: weight and bias (num_features,). Buffers: running_mean, running_var, num_batches_tracked. With
    `momentum=None` the running statistics are plain averages. `combine` adds a tensor up over ranks: see
    `functional.batch_norm`. Paper: Ioffe, Szegedy 2015, Batch Normalization, algorithms 1 and 2.
    """

    dimensions: tuple[int, ...] = ()
    combine: Combine | None = None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        device: str | None = None,
        dtype: Any = None,
        bias: bool = True,
    ) -> None:
        (num_features,) = whole(self, num_features=num_features)
        real(self, 0.0, eps=eps)
        if momentum is not None:
            real(self, 0.0, 1.0, momentum=momentum)
        flags(self, affine=affine, track_running_stats=track_running_stats, bias=bias)
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        self.weight: Parameter | None = None
        self.bias: Parameter | None = None
        self.running_mean: Buffer | None = None
        self.running_var: Buffer | None = None
        self.num_batches_tracked: Buffer | None = None
        if affine:
            self.weight = new_parameter((num_features,), dtype=dtype, device=device)
            init.ones_(self.weight)
        if affine and bias:
            self.bias = new_parameter((num_features,), dtype=dtype, device=device)
        if track_running_stats:
            wide = dtype or state.default_dtype
            self.running_mean = Buffer(creation.zeros(num_features, dtype=wide, device=device))
            self.running_var = Buffer(creation.ones(num_features, dtype=wide, device=device))
            self.num_batches_tracked = Buffer(creation.zeros((), dtype="int64", device=device))

    def reset_running_stats(self) -> None:
        """Forget what was learned of batches."""
        for buffer, value in ((self.running_mean, 0), (self.running_var, 1), (self.num_batches_tracked, 0)):
            if buffer is not None:
                buffer.assign(value)

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim not in self.dimensions or x.shape[1] != self.num_features:
            places = " or ".join({2: "(N, C)", 3: "(N, C, L)", 4: "(N, C, H, W)"}[n] for n in self.dimensions)
            raise ShapeError(
                f"{type(self).__name__}: expected {places} with C = {self.num_features}, got {x.shape}"
            )
        training = self.training or self.running_mean is None
        seen = x.size > 0 or self.combine is not None
        update = self.training and self.running_mean is not None and seen and not random.replaying()
        momentum = self.momentum or 0.0
        if update and self.num_batches_tracked is not None:
            self.num_batches_tracked.assign(self.num_batches_tracked + 1)
            if self.momentum is None:
                counted = self.num_batches_tracked.device != "shapes"  # nobody knows the number there
                momentum = 1.0 / max(int(self.num_batches_tracked), 1) if counted else 1.0
        return functional.batch_norm(
            x,
            self.running_mean if update or not training else None,
            self.running_var if update or not training else None,
            self.weight,
            self.bias,
            training,
            momentum,
            self.eps,
            combine=self.combine,
        )

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, "
            f"affine={self.affine}, bias={self.bias is not None}, "
            f"track_running_stats={self.track_running_stats}"
        )


class BatchNorm1d(BatchNorm):
    """Of x (N, C) or (N, C, L)."""

    dimensions = (2, 3)


class BatchNorm2d(BatchNorm):
    """Of x (N, C, H, W)."""

    dimensions = (4,)
