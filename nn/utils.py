"""Gradient clipping; parameters as one vector; `rnn`, packed and padded sequences, where torch has them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from minigrad import backend, ops
from minigrad.backend import Array
from minigrad.errors import ShapeError, UsageError
from minigrad.graph import Leaf
from minigrad.nn import sequences as rnn
from minigrad.nn.module import Module, Parameter
from minigrad.nn.norms import joint_norm, reproducible_norm
from minigrad.tensor import Tensor

__all__ = [
    "clip_coefficient",
    "clip_grad_norm_",
    "clip_grad_value_",
    "clip_grads_with_norm_",
    "get_total_norm",
    "joint_norm",
    "parameters_to_vector",
    "reproducible_norm",
    "rnn",
    "vector_to_parameters",
]


class SummingHook(partial[None]):
    """A hook of a leaf whose gradients somebody sums over ranks. `check_whole()` raises UsageError while they
    are not summed: clipping asks it first.
    """

    check_whole: Callable[[], None]


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
    norm = _norm(gradients, norm_type, error_if_nonfinite)
    _scale(gradients, norm, max_norm)
    return Tensor.of(norm)


def get_total_norm(
    tensors: Tensor | Iterable[Tensor], norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> Tensor:
    """The joint norm of tensors (gradients, say), a 0-d float64 tensor; see `clip_grad_norm_`."""
    return Tensor.of(_norm([x.data for x in _several(tensors)], norm_type, error_if_nonfinite))


def clip_grads_with_norm_(
    parameters: Parameter | Iterable[Parameter], max_norm: float, total_norm: Tensor
) -> None:
    """Scale all gradients in place as `clip_grad_norm_` does for this joint norm."""
    _scale(_gradients(parameters), total_norm.data, max_norm)


def _norm(arrays: list[Array], norm_type: float, error_if_nonfinite: bool) -> Array:
    norm = joint_norm(arrays, norm_type)
    if error_if_nonfinite and not math.isfinite(norm):
        raise UsageError(
            f"the norm of the gradients is {float(norm)}; look for the layer that made it, or leave "
            "error_if_nonfinite out"
        )
    return norm


def _scale(gradients: list[Array], norm: Array, max_norm: float) -> None:
    coefficient = clip_coefficient(norm, max_norm)
    if backend.namespace(norm) is not backend.host or float(coefficient) != 1.0:
        for gradient in gradients:
            gradient *= coefficient.astype(gradient.dtype)


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
    clip_values(_gradients(parameters), clip_value)


def clip_values(arrays: Iterable[Array], limit: Any) -> None:
    """Bring every entry of all arrays in place into [-limit, limit]: a number or a 0-d array, rounded to
    their dtype. One beyond what that holds changes nothing.
    """
    for array in arrays:
        xp = backend.namespace(array)
        with backend.numpy.errstate(over="ignore"):
            bound = xp.asarray(limit, dtype=array.dtype)
        xp.maximum(array, -bound, out=array)
        xp.minimum(array, bound, out=array)


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """All parameters one after the other, flat; derivatives go through."""
    return ops.concat([p.reshape(p.size) for p in _several(parameters)])


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Copy a flat vector into parameters, the inverse of `parameters_to_vector`.

    Raises ShapeError, before anything changes, where their sizes differ.
    """
    own = _several(parameters)
    total = sum(p.size for p in own)
    if vec.shape != (total,):
        raise ShapeError(f"vector_to_parameters: expected a vector of {total} entries, got {vec.shape}")
    start = 0
    for p in own:
        p.assign(vec.detach()[start : start + p.size].reshape(p.shape))
        start += p.size


def _several(tensors: Tensor | Iterable[Tensor]) -> list[Tensor]:
    if isinstance(tensors, Module):
        raise UsageError(f"expected parameters, got a {type(tensors).__name__}; give model.parameters()")
    return [tensors] if isinstance(tensors, Tensor) else list(tensors)


def whole_gradients(parameters: Tensor | Iterable[Tensor]) -> list[tuple[Any, Array]]:
    """The parameters that have a gradient, with it. Raises UsageError for gradients that somebody sums over
    ranks and has not summed.
    """
    several = _several(parameters)
    for p in several:
        for hook in p.node.hooks if isinstance(p.node, Leaf) else ():
            if isinstance(hook, SummingHook):
                hook.check_whole()
    return [(p, p.grad.data) for p in several if p.grad is not None]


def _gradients(parameters: Parameter | Iterable[Parameter]) -> list[Array]:
    return [gradient for _, gradient in whole_gradients(parameters)]
