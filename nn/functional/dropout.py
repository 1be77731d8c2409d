"""Dropout in its forms: entries, channels, with the moments kept, whole residual branches.

Every mask is a function of `stream` and of what `minigrad.random.scope` says; the first axis counts samples.
"""

from __future__ import annotations

import math
from typing import Any

from minigrad import backend, ops, random
from minigrad.errors import ShapeError
from minigrad.nn.functional.arguments import real
from minigrad.tensor import Tensor


def _kept(x: Tensor, shape: tuple[int, ...], p: float, stream: str) -> Any:
    """A raw array of x's dtype, 1 with probability 1 - p and 0 otherwise, that broadcasts against x."""
    kept = random.uniform(backend.namespace(x.data), shape, stream) >= p
    return kept.astype(x.dtype).reshape(shape + (1,) * (x.ndim - len(shape)))


def _scaled(x: Tensor, shape: tuple[int, ...], p: float, training: bool, stream: str) -> Tensor:
    real("dropout", 0.0, 1.0, p=p)
    if not training or p == 0.0:
        return x
    kept = _kept(x, shape, p, stream)
    if p < 1.0:
        kept *= 1.0 / (1.0 - p)
    return x * Tensor.of(kept)


def dropout(x: Tensor, p: float = 0.5, training: bool = True, *, stream: str = "dropout") -> Tensor:
    """Set each entry to 0 with probability p and scale the others by 1/(1-p); the identity unless training.

    Paper: Srivastava et al. 2014, Dropout, §4 (here scaled at training time).
    """
    return _scaled(x, x.shape, p, training, stream)


def feature_dropout(x: Tensor, p: float = 0.5, training: bool = True, *, stream: str = "dropout") -> Tensor:
    """Dropout of whole channels: x (N, C, ...). Paper: Tompson et al. 2015, Efficient Object Localization,
    §3.2.
    """
    if x.ndim < 2:
        raise ShapeError(f"dropout of channels: expected x of shape (N, C, ...), got {x.shape}")
    return _scaled(x, x.shape[:2], p, training, stream)


dropout1d = dropout2d = feature_dropout


def stochastic_depth(x: Tensor, p: float, training: bool = True, *, stream: str = "depth") -> Tensor:
    """Set a sample to 0 as a whole, its other half being a skip connection, with probability p.

    Paper: Huang et al. 2016, Deep Networks with Stochastic Depth, §3 (here per sample, and scaled at training
    time).
    """
    return _scaled(x, x.shape[:1], p, training, stream)


_SATURATED = -1.7580993408473766  # -scale · alpha of SELU: what it tends to on the left


def alpha_dropout(x: Tensor, p: float = 0.5, training: bool = False, *, stream: str = "dropout") -> Tensor:
    """Set entries to SELU's negative limit with probability p, then scale and shift so that mean 0 and
    variance 1 stay. Paper: Klambauer et al. 2017, Self-Normalizing Neural Networks, §3.
    """
    real("dropout", 0.0, 1.0, p=p)
    if not training or p == 0.0:
        return x
    if p == 1.0:
        return x * 0.0
    scale = 1.0 / math.sqrt((1.0 - p) * (1.0 + p * _SATURATED**2))
    kept = _kept(x, x.shape, p, stream)
    return x * Tensor.of(kept * scale) + Tensor.of((1.0 - p - kept) * (_SATURATED * scale))


def rrelu(
    x: Tensor,
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,
    *,
    stream: str = "rrelu",
) -> Tensor:
    """x where it is not negative, and elsewhere x times a slope: drawn for every entry while training.

    Paper: Xu et al. 2015, Empirical Evaluation of Rectified Activations, §2.4.
    """
    if not training:
        return ops.where(x >= 0, x, x * ((lower + upper) / 2))
    drawn = random.uniform(backend.namespace(x.data), x.shape, stream)
    return ops.where(x >= 0, x, x * Tensor.of((lower + drawn * (upper - lower)).astype(x.dtype)))
