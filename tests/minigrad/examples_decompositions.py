"""Examples of the operations of minigrad/ops/decompositions.py, matrices.py and products.py."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import minigrad as mg
from minigrad.ops import products
from tests.minigrad.examples import Example, spread

Shape = tuple[int, ...]


def matrix(*shape: int, shift: float = 2.0) -> np.ndarray:
    """Well-conditioned matrices with distinct singular values."""
    x = np.random.default_rng(sum(shape)).normal(size=shape)
    return x + shift * np.eye(shape[-2], shape[-1]) * (1 + np.arange(shape[-1]))


def positive(*shape: int) -> np.ndarray:
    x = matrix(*shape)
    return x @ x.swapaxes(-1, -2) / 4 + np.eye(shape[-1])


def singular(rank: int, n: int) -> np.ndarray:
    random = np.random.default_rng(n)
    return random.normal(size=(n, rank)) @ random.normal(size=(rank, n))


def each(
    call: Callable[..., Any], expected: Callable[..., Any], *inputs: Any, not_strict: str = ""
) -> list[Example]:
    return [
        Example(call, i if isinstance(i, tuple) else (i,), expected, not_strict=not_strict) for i in inputs
    ]


def cofactors(x: np.ndarray) -> np.ndarray:
    """Determinants of what is left without row i and column j, with their signs."""
    out = np.empty_like(x)
    n = x.shape[-1]
    for i in range(n):
        for j in range(n):
            rest = np.delete(np.delete(x, i, axis=-2), j, axis=-1)
            out[..., i, j] = (-1) ** (i + j) * np.linalg.det(rest)
    return out


def part(call: Callable[..., Any], index: int) -> Callable[..., Any]:
    return lambda *x: call(*x)[index]


def parts(
    call: Callable[..., Any], expected: Callable[..., Any], outputs: int, *inputs: np.ndarray
) -> list[Example]:
    return [e for k in range(outputs) for e in each(part(call, k), part(expected, k), *inputs)]


def reduced(x: np.ndarray) -> Any:
    return np.linalg.svd(x, full_matrices=False)


def triangular(upper: bool) -> list[Example]:
    def expected(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.linalg.solve(np.triu(a) if upper else np.tril(a), b)

    return each(
        lambda a, b: mg.solve_triangular(a, b, upper=upper),
        expected,
        (matrix(3, 3), spread(3, 2)),
        (matrix(2, 1, 2, 2), spread(3, 2, 1)),
        (matrix(3, 3), spread(3, 0)),
        (np.zeros((0, 2, 2)), spread(2, 1)),
    )


SQUARE = (matrix(3, 3), matrix(2, 2, 2), matrix(1, 1), np.zeros((0, 2, 2)), np.zeros((0, 0)))
TALL, WIDE = (matrix(4, 2), matrix(2, 3, 3), np.zeros((0, 3, 2))), (matrix(2, 4), matrix(2, 2, 3))

EXAMPLES: dict[str, list[Example]] = {
    "vecdot": each(
        products._vecdot,
        lambda x, y: (x * y).sum(axis=-1),
        (spread(2, 3), spread(2, 3)),
        (spread(3), spread(2, 1, 3)),
        (spread(0, 3), spread(3)),
        (spread(2, 0), spread(2, 0)),
    ),
    "cofactor": each(mg.cofactor, cofactors, *SQUARE[:4], singular(2, 3), singular(1, 3), np.eye(2)),
    "det": each(mg.det, np.linalg.det, *SQUARE, -matrix(3, 3), singular(2, 3), np.eye(3)),
    "slogdet": each(lambda x: mg.slogdet(x)[1], lambda x: np.linalg.slogdet(x)[1], *SQUARE, -matrix(3, 3)),
    "inv": each(mg.inv, np.linalg.inv, *SQUARE),
    "solve": each(
        mg.solve,
        np.linalg.solve,
        (matrix(3, 3), spread(3, 2)),
        (matrix(2, 1, 2, 2), spread(3, 2, 1)),
        (matrix(3, 3), spread(3, 0)),
        (np.zeros((0, 2, 2)), spread(2, 1)),
    ),
    "solve_triangular": triangular(True) + triangular(False),
    "pinv": each(mg.pinv, np.linalg.pinv, *TALL, *WIDE, matrix(3, 3)),
    "cholesky": each(mg.cholesky, np.linalg.cholesky, positive(3, 3), positive(2, 2, 2), np.zeros((0, 2, 2))),
    "qr": parts(mg.qr, np.linalg.qr, 2, *TALL, *WIDE),
    # Which columns complete others is any one's choice: only what they span is a function of these.
    "complement": each(
        lambda x: (lambda q: q @ mg.matrix_transpose(q))(mg.qr(x, mode="complete").Q[..., x.shape[-1] :]),
        lambda x: np.eye(x.shape[-2]) - x @ np.linalg.pinv(x),
        *TALL[:2],
        matrix(4, 1),
        np.zeros((0, 3, 2)),
    ),
    "svd": [
        *parts(partial(mg.svd, full_matrices=False), reduced, 3, *TALL, *WIDE),
        *each(
            lambda x: (lambda f: f.U @ (mg.tanh(f.S).reshape(-1, 1) * f.Vh))(mg.svd(x, full_matrices=False)),
            lambda x: (lambda u, s, vh: u @ (np.tanh(s)[:, None] * vh))(*reduced(x)),
            matrix(3, 3),
            matrix(3, 2),
        ),
    ],
    "eigh": parts(mg.eigh, np.linalg.eigh, 2, positive(3, 3), positive(2, 2, 2), np.zeros((0, 2, 2))),
}
CONSTANTS: dict[str, list[Example]] = {}
