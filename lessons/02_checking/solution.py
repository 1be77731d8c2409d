"""Reference answers to lesson 2. Spoilers: try exercise.py first."""

from collections.abc import Callable

import numpy as np

import minigrad as mg


def central_difference(f: Callable[[np.ndarray], float], x: np.ndarray, h: float) -> np.ndarray:
    """The gradient, entry by entry."""
    gradient = np.zeros(x.shape)
    for entry in np.ndindex(x.shape):
        unit = np.zeros(x.shape)
        unit[entry] = h
        gradient[entry] = (f(x + unit) - f(x - unit)) / (2 * h)
    return gradient


def best_step(epsilon: float, order: int) -> float:
    """Where h**order = epsilon / h."""
    return float(epsilon ** (1 / (order + 1)))


def complex_step(f: Callable[[complex], complex], x: float, h: float = 1e-20) -> float:
    """The derivative by one evaluation."""
    return f(complex(x, h)).imag / h


def inner_product_gap(
    push: Callable[[np.ndarray], np.ndarray],
    pull: Callable[[np.ndarray], np.ndarray],
    t: np.ndarray,
    v: np.ndarray,
) -> float:
    """How far both walks are apart."""
    pushed, pulled = v * push(t), pull(v) * t
    scale = max(np.abs(pushed).sum(), np.abs(pulled).sum())
    return float(abs(pushed.sum() - pulled.sum()) / scale) if scale else 0.0


def hessian_vector_product(f: Callable[[mg.Tensor], mg.Tensor], x: mg.Tensor, v: mg.Tensor) -> mg.Tensor:
    """Forward over reverse."""
    _, product = mg.jvp(mg.grad(f), x, v)
    return product


def newton(f: Callable[[mg.Tensor], mg.Tensor], x: mg.Tensor, steps: int) -> mg.Tensor:
    """Newton's method, with a Hessian made of its columns."""
    for _ in range(steps):
        units = mg.eye(x.shape[0], dtype=x.dtype)
        columns = [hessian_vector_product(f, x, units[k]) for k in range(x.shape[0])]
        x = x - mg.solve(mg.stack(columns, axis=1), mg.grad(f)(x))
    return x
