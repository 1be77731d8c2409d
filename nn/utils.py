"""Gradient clipping."""

from __future__ import annotations

import math
from collections.abc import Iterable

from minigrad import backend
from minigrad.backend import Array
from minigrad.errors import UsageError
from minigrad.nn.module import Parameter
from minigrad.tensor import Tensor


def clip_grad_norm_(parameters: Parameter | Iterable[Parameter], max_norm: float) -> float:
    """Scale all gradients in place so that their joint 2-norm is at most `max_norm`; return the norm before.

    Squares are summed per parameter in its dtype, then over parameters in float64, whatever their order. A
    norm that is not finite leaves the gradients as they are. Paper: Pascanu, Mikolov, Bengio 2013, On the
    difficulty of training RNNs, §3.2.
    """
    if not max_norm > 0:
        raise UsageError(f"the largest norm must be positive, got {max_norm}")
    if isinstance(parameters, Tensor):
        parameters = [parameters]
    gradients: list[Array] = [p.grad.data for p in parameters if p.grad is not None]
    total = math.sqrt(math.fsum(squared_norm(g) for g in gradients)) if gradients else 0.0
    if math.isfinite(total) and total > max_norm:
        for gradient in gradients:
            gradient *= max_norm / (total + 1e-6)
    return total


def squared_norm(array: Array) -> float:
    """The sum of squares of all entries."""
    xp = backend.namespace(array)
    flat = array.reshape(-1)
    return float(xp.vecdot(flat, flat))
