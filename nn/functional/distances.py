"""Distances and angles between vectors."""

from __future__ import annotations

from minigrad import ops
from minigrad.errors import UsageError
from minigrad.tensor import Tensor


def norm(x: Tensor, p: float = 2.0, *, dim: int = -1, keepdim: bool = False) -> Tensor:
    """(Σ |x|^p)^(1/p) along `dim`; the largest |x| for p = ∞. At 0 the derivative is taken as 0."""
    if not p > 0:
        raise UsageError(f"norm: p is positive, and this one is {p}")
    size = ops.abs(x)
    if p == float("inf"):
        return ops.max(size, axis=dim, keepdims=keepdim)
    if p == 1:
        return ops.sum(size, axis=dim, keepdims=keepdim)
    total = ops.sum(ops.square(x) if p == 2 else size**p, axis=dim, keepdims=keepdim)
    zero = ops.equal(total, 0.0)
    total = ops.where(zero, 1.0, total)  # a root has no derivative at 0
    return ops.where(zero, 0.0, ops.sqrt(total) if p == 2 else total ** (1.0 / p))


def normalize(input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """x / max(‖x‖_p, eps) along `dim`."""
    return input / ops.clip(norm(input, p, dim=dim, keepdim=True), min=eps)


def pairwise_distance(
    x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> Tensor:
    """‖x1 - x2 + eps‖_p over the last axis, as in torch, where eps keeps equal vectors differentiable."""
    return norm(x1 - x2 + eps, p, keepdim=keepdim)


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """x1 · x2 / (max(‖x1‖, eps) · max(‖x2‖, eps)) along `dim`."""
    product = ops.sum(x1 * x2, axis=dim)
    return product / (ops.clip(norm(x1, dim=dim), min=eps) * ops.clip(norm(x2, dim=dim), min=eps))
