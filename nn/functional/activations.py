"""Activations with torch's argument names. Those that take x alone are the engine's own."""

from __future__ import annotations

from typing import Any

from minigrad import ops
from minigrad.errors import UsageError
from minigrad.tensor import Tensor


def softmax(input: Any, dim: int = -1) -> Tensor:
    """eˣ / Σ eˣ over axis `dim`."""
    return ops.softmax(input, axis=dim)


def softmin(input: Any, dim: int = -1) -> Tensor:
    """e⁻ˣ / Σ e⁻ˣ over axis `dim`."""
    return ops.softmax(-input, axis=dim)


def log_softmax(input: Any, dim: int = -1) -> Tensor:
    """x - ln Σ eˣ over axis `dim`."""
    return ops.log_softmax(input, axis=dim)


def leaky_relu(input: Any, negative_slope: float = 0.01) -> Tensor:
    """x where it is positive, `negative_slope` · x elsewhere."""
    return ops.leaky_relu(input, negative_slope=negative_slope)


def elu(input: Any, alpha: float = 1.0) -> Tensor:
    """x where it is positive, alpha · (eˣ - 1) elsewhere."""
    return ops.elu(input, alpha=alpha)


def celu(input: Any, alpha: float = 1.0) -> Tensor:
    """x where it is positive, alpha · (e^(x/alpha) - 1) elsewhere."""
    return ops.celu(input, alpha=alpha)


def glu(input: Any, dim: int = -1) -> Tensor:
    """The first half of x along `dim`, times the sigmoid of the second."""
    return ops.glu(input, axis=dim)


def softplus(input: Any, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """ln(1 + e^(beta·x)) / beta, and x itself where beta · x > `threshold`."""
    return ops.softplus(input, beta=beta, threshold=threshold)


def hardtanh(input: Any, min_val: float = -1.0, max_val: float = 1.0) -> Tensor:
    """x, but at least `min_val` and at most `max_val`."""
    return ops.hardtanh(input, min_val=min_val, max_val=max_val)


def relu6(input: Any) -> Tensor:
    """min(max(x, 0), 6). Paper: Howard et al. 2017, MobileNets."""
    return ops.clip(input, 0.0, 6.0)


def threshold(input: Any, threshold: float, value: float) -> Tensor:
    """x where it is above `threshold`, `value` elsewhere."""
    return ops.where(input > threshold, input, value)


def tanhshrink(input: Any) -> Tensor:
    """x - tanh x"""
    return input - ops.tanh(input)


def softshrink(input: Any, lambd: float = 0.5) -> Tensor:
    """x moved towards 0 by `lambd`, and 0 for what is closer than that. Raises UsageError if it is negative.

    Written as x - clip(x, -lambd, lambd).
    """
    if lambd < 0:
        raise UsageError(f"softshrink: lambd is not negative, and this one is {lambd}")
    return input - ops.clip(input, -lambd, lambd)


def hardshrink(input: Any, lambd: float = 0.5) -> Tensor:
    """x where |x| > `lambd`, 0 elsewhere."""
    return ops.where(ops.abs(input) > lambd, input, 0.0)
