"""Functions of layers under torch's names: `from minigrad.nn import functional as F`."""

from __future__ import annotations

from typing import Any

from minigrad import backend, random
from minigrad.errors import DTypeError, ShapeError, UsageError
from minigrad.ops import cross_entropy as _cross_entropy
from minigrad.ops import (
    gelu,
    permute_dims,
    relu,
    scaled_dot_product_attention,
    self_attention,
    sigmoid,
    take,
    tanh,
)
from minigrad.ops import layer_norm as _layer_norm
from minigrad.ops import linear as _linear
from minigrad.ops import log_softmax as _log_softmax
from minigrad.ops import softmax as _softmax
from minigrad.tensor import Tensor

__all__ = [
    "cross_entropy",
    "dropout",
    "embedding",
    "gelu",
    "layer_norm",
    "linear",
    "log_softmax",
    "relu",
    "scaled_dot_product_attention",
    "self_attention",
    "sigmoid",
    "softmax",
    "tanh",
]


def cross_entropy(input: Any, target: Any, *, ignore_index: int = -100, reduction: str = "mean") -> Tensor:
    """Softmax cross-entropy in nats, with the classes on axis 1 as in torch.

    Shapes: input (N, classes, ...), target (N, ...) of integers.
    `minigrad.ops.cross_entropy` is the same with the classes on the last axis, and says what is raised.
    """
    x = input if isinstance(input, Tensor) else Tensor(input)
    if x.ndim > 2:
        x = permute_dims(x, (0, *range(2, x.ndim), 1))
    return _cross_entropy(x, target, ignore_index=ignore_index, reduction=reduction)


def linear(input: Any, weight: Any, bias: Any = None) -> Tensor:
    """y = x Wᵀ + b over the last axis: input (..., in), weight (out, in), bias (out,) → (..., out)."""
    return _linear(input, weight, bias)


def softmax(input: Any, dim: int = -1) -> Tensor:
    """eˣ / Σ eˣ over axis `dim`."""
    return _softmax(input, axis=dim)


def log_softmax(input: Any, dim: int = -1) -> Tensor:
    """x - ln Σ eˣ over axis `dim`."""
    return _log_softmax(input, axis=dim)


def embedding(indices: Any, weight: Tensor) -> Tensor:
    """Rows of `weight` (entries, width) at integer `indices` of any shape: (..., width).

    Raises DTypeError for numbers that are not integers and, on the host (a GPU would have to be waited for),
    UsageError for those outside 0 ... entries - 1.
    """
    indices = indices if isinstance(indices, Tensor) else Tensor(indices, device=weight.device)
    if indices.dtype.kind not in "iu":
        raise DTypeError(f"embedding: indices are integers, and these are {indices.dtype}")
    if indices.size and backend.namespace(indices.data) is backend.host:
        low, high = int(indices.data.min()), int(indices.data.max())
        if low < 0 or high >= weight.shape[0]:
            raise UsageError(
                f"embedding: indices {low} ... {high} do not fit a table of {weight.shape[0]} rows"
            )
    return take(weight, indices, axis=0)


def layer_norm(
    x: Tensor, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Tensor:
    """Normalise over the last axes, which must be `normalized_shape`; see `minigrad.ops.layer_norm`."""
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
    if x.shape[x.ndim - len(shape) :] != shape:
        raise ShapeError(f"layer_norm over {shape} does not fit an input of shape {x.shape}")
    if len(shape) == 1:
        return _layer_norm(x, weight, bias, epsilon=eps)
    flat = x.reshape(*x.shape[: x.ndim - len(shape)], -1)
    weight, bias = (None if a is None else a.reshape(-1) for a in (weight, bias))
    return _layer_norm(flat, weight, bias, epsilon=eps).reshape(x.shape)


def dropout(x: Tensor, p: float = 0.5, training: bool = True, *, stream: str = "dropout") -> Tensor:
    """Set each entry to 0 with probability p and scale the others by 1/(1-p); the identity unless training.

    The mask is a function of `stream` and of what `minigrad.random.scope` says; the first axis counts
    samples. Paper: Srivastava et al. 2014, Dropout, §4 (here scaled at training time).
    """
    if not 0.0 <= p <= 1.0:
        raise UsageError(f"dropout probability must lie between 0 and 1, got {p}")
    if not training or p == 0.0:
        return x
    xp = backend.namespace(x.data)
    kept = (random.uniform(xp, x.shape, stream) >= p).astype(x.dtype)
    if p < 1.0:
        kept *= 1.0 / (1.0 - p)
    return x * Tensor.of(kept)
