"""Examples of the operations of minigrad/ops/selecting.py and cumulative.py."""

from __future__ import annotations

from typing import Any

import numpy as np

import minigrad as mg
from minigrad.ops import cumulative
from tests.minigrad.examples import INTEGER_INDEX, Example, beside, one, reductions, spread

NEAR = np.array([[0, 2], [1, 1]])  # 1 twice on its line
FAR = np.array([[-1, 0, 2, 0]])


def replaced(x: np.ndarray, values: np.ndarray, index: Any) -> np.ndarray:
    out = x.copy()
    out[index] = values
    return out


def set_at(index: Any, *inputs: np.ndarray, not_strict: str = "") -> Example:
    return Example(
        lambda x, v: mg.index_set(x, index, v),
        tuple(map(np.asarray, inputs)),
        lambda x, v: replaced(x, v, index),
        not_strict,
    )


def take_along(x: np.ndarray, indices: np.ndarray, axis: int) -> Example:
    return Example(
        lambda x: mg.take_along_axis(x, beside(x, indices), axis=axis),
        (x,),
        lambda x: np.take_along_axis(x, indices, axis),
    )


def added_along(v: np.ndarray, indices: np.ndarray, axis: int, length: int) -> np.ndarray:
    out = np.zeros([length if k == axis else n for k, n in enumerate(v.shape)])
    for place in np.ndindex(*v.shape):
        out[(*place[:axis], indices[place], *place[axis + 1 :])] += v[place]
    return out


def scatter_along(v: np.ndarray, indices: np.ndarray, axis: int, length: int) -> Example:
    return Example(
        lambda v: mg.scatter_along_axis(v, beside(v, indices), axis=axis, length=length),
        (v,),
        lambda v: added_along(v, indices, axis, length),
    )


def with_zeros(x: np.ndarray, *places: int) -> np.ndarray:
    out = x.copy()
    out.reshape(-1)[list(places)] = 0.0
    return out


def median_place(x: np.ndarray) -> np.ndarray:
    place = np.argsort(x, axis=-1)[..., [(x.shape[-1] - 1) // 2]]
    unknown = np.isnan(x)
    return np.where(unknown.any(axis=-1, keepdims=True), unknown.argmax(axis=-1)[..., None], place)


TIES = np.array([[1.0, 3.0, 3.0, 2.0], [2.0, 2.0, 1.0, 2.0]])

EXAMPLES: dict[str, list[Example]] = {
    "index_set": [
        set_at(slice(1, 3), spread(4, 2), spread(2, 2) * 1.1),
        set_at((..., 0), spread(2, 3), spread() * 1.1),
        set_at((slice(None, None, -2), 1), spread(3, 2), spread(1) * 1.1),
        set_at(1, spread(3), spread() * 1.1),
        set_at(slice(0, 0), spread(0, 2), spread(2) * 1.1),
        set_at((), spread(), spread() * 1.1),
        set_at(np.array([2, 0, 2]), spread(3, 2), spread(3, 2) * 1.1, not_strict=INTEGER_INDEX),
        set_at(np.array([2, 0, 2]), spread(3, 2), spread(2) * 1.1, not_strict=INTEGER_INDEX),
        set_at((np.array([[0], [1]]), [0, 2]), spread(2, 3), spread(2, 2) * 1.1, not_strict=INTEGER_INDEX),
        set_at(spread(2, 3) > 0, spread(2, 3), spread() * 1.1, not_strict="NumPy's mask"),
    ],
    "take_along_axis": [
        take_along(spread(2, 3), NEAR, 1),
        take_along(spread(3, 4), FAR, 0),
        take_along(spread(2, 1, 3), np.zeros((1, 2, 1), int), -2),
        take_along(spread(3), np.array([2, 2, -3]), 0),
        take_along(spread(2, 3), np.zeros((2, 0), int), 1),
        take_along(spread(0, 3), np.zeros((0, 2), int), 1),
    ],
    "scatter_along_axis": [
        scatter_along(spread(2, 2), NEAR, 1, 3),
        scatter_along(spread(1, 4), FAR, 0, 3),
        scatter_along(spread(2, 2, 1), NEAR[..., None], 1, 4),
        scatter_along(spread(2, 0), np.zeros((2, 0), int), 1, 3),
        scatter_along(spread(0, 2), np.zeros((0, 2), int), 1, 3),
    ],
    "prod": [
        Example(mg.prod, (x,), np.prod)
        for x in (spread(2, 3), spread(), spread(0, 3), with_zeros(spread(4), 2), with_zeros(spread(4), 0, 3))
    ]
    + [
        Example(lambda x, p=p: mg.prod(x, **p), (x,), lambda x, p=p: np.prod(x, **p))
        for x, p in [
            (with_zeros(spread(2, 3), 1, 4), {"axis": 0}),
            (with_zeros(spread(2, 3, 2), 1), {"axis": (-1, 0), "keepdims": True}),
            (with_zeros(spread(2, 4), 0, 1, 2), {"axis": 1}),
            (spread(0, 3), {"axis": 0}),
        ]
    ],
    "cumulative_prod": [
        Example(lambda x, a=a: mg.cumulative_prod(x, axis=a), (x,), lambda x, a=a: np.cumprod(x, axis=a))
        for x, a in [
            (spread(5), None),
            (spread(2, 3), 0),
            (spread(1), 0),
            (with_zeros(spread(7), 2), 0),
            (with_zeros(spread(2, 6), 0, 3, 8, 9), 1),
            (spread(0, 3), 1),
            (spread(2, 0), 1),
        ]
    ],
    "cumulative_sum": [
        Example(lambda x, a=a: mg.cumulative_sum(x, axis=a), (x,), lambda x, a=a: np.cumsum(x, axis=a))
        for x, a in [(spread(5), None), (spread(2, 3), 0), (spread(2, 3, 2), -2), (spread(2, 0), 1)]
    ],
}

CONSTANTS: dict[str, list[Example]] = {
    "argsort": [
        one("argsort", lambda x: np.argsort(x, kind="stable"), TIES),
        one("argsort", lambda x: np.argsort(x, axis=0), spread(3, 2), axis=0),
        one("argsort", lambda x: np.argsort(-x, kind="stable"), TIES, descending=True),
        one("argsort", lambda x: np.argsort(-x, axis=0), spread(3, 2), axis=0, descending=True),
        one("argsort", lambda x: np.argsort(x), spread(2, 0)),
        one("argsort", lambda x: np.array([1, 2, 0]), np.array([np.nan, -1.0, np.inf])),
    ],
    "sorted": [
        Example(lambda x, a=a: mg.sort(x.detach(), axis=a), (x,), lambda x, a=a: np.sort(x, axis=a))
        for x, a in [(TIES, -1), (spread(3, 2), 0), (spread(2, 0), 1)]
    ],
    "top": [
        Example(
            lambda x, k=k: mg.topk(x, k)[1], (spread(*s),), lambda x, k=k: np.argsort(-x, axis=-1)[..., :k]
        )
        for s, k in [((6,), 2), ((2, 5), 1), ((2, 3), 3), ((2, 3), 0), ((0, 3), 2)]
    ]
    + [
        Example(
            lambda x: mg.topk(x, 3, axis=0, largest=False)[1],
            (spread(5, 2),),
            lambda x: np.argsort(x, axis=0)[:3],
        )
    ],
    "searchsorted": [
        Example(
            lambda x, y, s=s: mg.searchsorted(x, y, side=s),
            (np.array([1.0, 2.0, 2.0, 3.0]), y),
            lambda x, y, s=s: np.searchsorted(x, y, s),
        )
        for s in ("left", "right")
        for y in (np.array([[2.0, 5.0], [-1.0, 1.5]]), np.array(2.0), np.zeros(0))
    ],
    "nonzero": [
        Example(lambda x: mg.stack(mg.nonzero(x)), (x,), lambda x: np.stack(np.nonzero(x)))
        for x in (np.array([[0.0, 1.0, np.nan], [2.0, 0.0, 0.0]]), np.zeros(3), np.zeros((0, 2)))
    ],
    "argmin": [
        one("argmin", lambda x: np.argmin(x), spread(2, 3)),
        one("argmin", lambda x: np.argmin(x, axis=1), TIES, axis=1),
        one("argmin", lambda x: np.argmin(x, axis=0, keepdims=True), spread(2, 3), axis=0, keepdims=True),
    ],
    **{
        name: [
            *reductions(name, expected),
            one(name, lambda x, f=expected: f(x, axis=0), with_zeros(spread(2, 2), 0, 2), axis=0),
        ]
        for name, expected in {"any": np.any, "all": np.all, "count_nonzero": np.count_nonzero}.items()
    },
    "middle": [
        Example(cumulative._middle, (x,), median_place)
        for x in (spread(5), spread(2, 6), spread(1), np.array([[1.0, np.nan, 0.0], [3.0, 1.0, 2.0]]))
    ],
}
