"""Leaves of float64, and their gradients as arrays."""

import numpy as np

import minigrad as mg


def leaf(*shape: int, seed: int = 0, dtype: str = "float64") -> mg.Tensor:
    return mg.tensor(np.random.default_rng(seed).normal(size=shape), dtype=dtype, requires_grad=True)


def filled(x: mg.Tensor) -> bool:
    return x.grad is not None


def copied(x: mg.Tensor) -> np.ndarray:
    """The gradient as it is now."""
    assert x.grad is not None
    return x.grad.numpy().copy()
