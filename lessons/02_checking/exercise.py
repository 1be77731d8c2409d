"""Exercises of lesson 2: checking and differentiating twice.

Replace each `raise Todo(...)`; keep the names. `minigrad check 2` checks all, `minigrad check 2.2` one.
"""

from collections.abc import Callable

import numpy as np

import minigrad as mg
from minigrad.lessons import Todo

# ----- 2.1 ----------------------------------------------------------------------------------------


def central_difference(f: Callable[[np.ndarray], float], x: np.ndarray, h: float) -> np.ndarray:
    """Return the gradient of f at x by central differences, entry by entry, in the shape of x.

    f takes an array and returns a number. x must be the same afterwards as before.
    """
    raise Todo("2.1: (f(x + h e) - f(x - h e)) / 2h for each entry")


def best_step(epsilon: float, order: int) -> float:
    """Return the step h where truncation and round-off are equal.

    Truncation is h to the power `order` (1 for forward differences, 2 for central ones), round-off is
    epsilon / h; leave all other factors out.
    """
    raise Todo("2.1: solve h**order = epsilon / h")


# ----- 2.2 ----------------------------------------------------------------------------------------


def complex_step(f: Callable[[complex], complex], x: float, h: float = 1e-20) -> float:
    """Return f'(x) for a function that takes complex numbers, without subtracting anything."""
    raise Todo("2.2: the imaginary part of f at x + ih")


# ----- 2.3 ----------------------------------------------------------------------------------------


def inner_product_gap(
    push: Callable[[np.ndarray], np.ndarray],
    pull: Callable[[np.ndarray], np.ndarray],
    t: np.ndarray,
    v: np.ndarray,
) -> float:
    """Return how far <v, J t> and <J' v, t> are apart, relative to the size of the numbers that are added.

    `push(t)` is J t and `pull(v)` is J' v, for one function at one point. Divide the difference by the larger
    of the sum of |v| * |J t| and the sum of |J' v| * |t| over all entries (both inner products with all signs
    taken away), so that the answer does not change when v or t is scaled. Where both are zero, so is the gap.
    """
    raise Todo("2.3: compare both inner products")


# ----- 2.4 ----------------------------------------------------------------------------------------


def hessian_vector_product(f: Callable[[mg.Tensor], mg.Tensor], x: mg.Tensor, v: mg.Tensor) -> mg.Tensor:
    """Return H v, where H is the Hessian of f at x, without ever making H.

    `mg.grad(f)` is the gradient as a function, and `mg.jvp(g, x, v)` returns g(x) and its derivative along v.
    """
    raise Todo("2.4: push v through the gradient")


def newton(f: Callable[[mg.Tensor], mg.Tensor], x: mg.Tensor, steps: int) -> mg.Tensor:
    """Return x after some steps of Newton's method; x is a vector of n entries.

    Column k of H is H times the k-th unit vector; `mg.solve(H, g)` solves H d = g.
    """
    raise Todo("2.4: x - d, where H d is the gradient")
