"""Gradient clipping."""

from __future__ import annotations

import math
from collections.abc import Iterable

from minigrad import backend
from minigrad.backend import Array
from minigrad.errors import UsageError
from minigrad.nn.module import Parameter
from minigrad.nn.norms import joint_norm, reproducible_norm
from minigrad.tensor import Tensor

__all__ = ["clip_coefficient", "clip_grad_norm_", "clip_grad_value_", "joint_norm", "reproducible_norm"]


def clip_grad_norm_(
    parameters: Parameter | Iterable[Parameter],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> Tensor:
    """Scale all gradients in place so that their joint norm is at most `max_norm`; return the norm before.

    The norm is of type p = `norm_type` (`math.inf`: the largest entry), a 0-d float64 tensor; on a GPU nobody
    looks at its value. A norm that is not finite leaves the gradients as they are, or raises UsageError with
    `error_if_nonfinite`. Paper: Pascanu, Mikolov, Bengio 2013, On the difficulty of training RNNs, §3.2.
    """
    gradients = _gradients(parameters)
    norm = joint_norm(gradients, norm_type)
    if error_if_nonfinite and not math.isfinite(norm):
        raise UsageError(
            f"the norm of the gradients is {float(norm)}; look for the layer that made it, or leave "
            "error_if_nonfinite out"
        )
    coefficient = clip_coefficient(norm, max_norm)
    if backend.namespace(norm) is not backend.host or float(coefficient) != 1.0:
        for gradient in gradients:
            gradient *= coefficient.astype(gradient.dtype)
    return Tensor.of(norm)


def clip_coefficient(norm: Array, max_norm: float) -> Array:
    """What gradients of this norm are multiplied by to have at most `max_norm`, a 0-d array.

    1 where the norm is small enough, or not finite.
    """
    if not max_norm > 0:
        raise UsageError(f"the largest norm must be positive, got {max_norm}")
    xp = backend.namespace(norm)
    below = xp.where(xp.isfinite(norm), max_norm / (norm + 1e-6), 1.0)
    return xp.asarray(xp.minimum(below, 1.0))


def clip_grad_value_(parameters: Parameter | Iterable[Parameter], clip_value: float) -> None:
    """Bring every entry of all gradients in place into [-clip_value, clip_value]."""
    if not clip_value >= 0:
        raise UsageError(f"the largest value must not be negative, got {clip_value}")
    for gradient in _gradients(parameters):
        xp = backend.namespace(gradient)
        xp.maximum(gradient, -clip_value, out=gradient)
        xp.minimum(gradient, clip_value, out=gradient)


def _gradients(parameters: Parameter | Iterable[Parameter]) -> list[Array]:
    given = [parameters] if isinstance(parameters, Tensor) else parameters
    return [p.grad.data for p in given if p.grad is not None]
