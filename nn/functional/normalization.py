"""Normalisation with statistics of each sample: layer, group, instance, root mean square."""

from __future__ import annotations

import math
from typing import Any

from minigrad import backend, ops
from minigrad.errors import ShapeError, UsageError
from minigrad.tensor import Tensor


def _shape(name: str, x: Tensor, normalized_shape: Any) -> tuple[int, ...]:
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if not shape or x.shape[max(x.ndim - len(shape), 0) :] != shape:
        raise ShapeError(f"{name} over {shape} does not fit an input of shape {x.shape}")
    return shape


def layer_norm(
    x: Tensor, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Tensor:
    """Normalise over the last axes, which must be `normalized_shape`; see `minigrad.ops.layer_norm`."""
    shape = _shape("layer_norm", x, normalized_shape)
    if len(shape) == 1:
        return ops.layer_norm(x, weight, bias, epsilon=eps)
    flat = x.reshape(*x.shape[: x.ndim - len(shape)], math.prod(shape))
    weight, bias = (None if a is None else a.reshape(math.prod(shape)) for a in (weight, bias))
    return ops.layer_norm(flat, weight, bias, epsilon=eps).reshape(x.shape)


def rms_norm(x: Tensor, normalized_shape: Any, weight: Any = None, eps: float | None = None) -> Tensor:
    """x / √(mean(x²) + eps) · weight over the last axes; eps is the dtype's precision unless given.

    Paper: Zhang, Sennrich 2019, Root Mean Square Layer Normalization, eq. 4.
    """
    shape = _shape("rms_norm", x, normalized_shape)
    axes = tuple(range(x.ndim - len(shape), x.ndim))
    if eps is None:
        eps = float(backend.numpy.finfo(x.dtype).eps) if x.dtype.kind == "f" else 2.0**-7  # bfloat16
    wide = x.astype("float32") if x.dtype.itemsize < 4 else x  # squares leave the range of a half
    out = (wide / ops.sqrt(ops.mean(ops.square(wide), axis=axes, keepdims=True) + eps)).astype(x.dtype)
    return out if weight is None else out * weight


def group_norm(x: Tensor, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
    """Normalise each sample's channels in groups: x (N, C, ...), weight and bias (C,).

    Raises UsageError where the groups do not divide the channels. Paper: Wu, He 2018, Group Normalization,
    eq. 7.
    """
    if x.ndim < 2 or num_groups < 1 or x.shape[1] % num_groups:
        raise UsageError(
            f"group_norm: {num_groups} groups do not divide the channels of x (N, C, ...) {x.shape}"
        )
    batch, channels = x.shape[:2]
    size = math.prod(x.shape[1:]) // num_groups
    out = ops.layer_norm(x.reshape(batch, num_groups, size), None, None, epsilon=eps).reshape(x.shape)
    along = (channels,) + (1,) * (x.ndim - 2)
    out = out if weight is None else out * weight.reshape(along)
    return out if bias is None else out + bias.reshape(along)


def instance_norm(x: Tensor, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
    """Normalise each channel of each sample: group norm with groups of one channel.

    Raises UsageError where a channel has a single entry, which would always become 0. Paper: Ulyanov et al.
    2016, Instance Normalization, eq. 1.
    """
    if math.prod(x.shape[2:]) == 1:
        raise UsageError(f"instance_norm: x {x.shape} has one entry for each channel; expected more")
    return group_norm(x, x.shape[1], weight, bias, eps)
