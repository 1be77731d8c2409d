"""Examples of the operations of minigrad/ops/windows.py, convolution.py and pooling.py, in explicit loops."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

import minigrad as mg
from minigrad.ops import convolution, pooling
from tests.minigrad.examples import Example, one, spread


def places(geometry: Any, counts: Any) -> Any:
    """(window, place in it, entry of x) for all of them."""
    for window in itertools.product(*map(range, counts)):
        for place in itertools.product(*map(range, geometry[0])):
            yield (
                window,
                place,
                tuple(o * s + k * d for o, k, s, d in zip(window, place, *geometry[1:], strict=True)),
            )


def counts_of(sizes: Any, geometry: Any) -> list[int]:
    return [(n - d * (k - 1) - 1) // s + 1 for n, k, s, d in zip(sizes, *geometry, strict=True)]


def cut(x: np.ndarray, geometry: Any) -> np.ndarray:
    axes = len(geometry[0])
    counts = counts_of(x.shape[-axes:], geometry)
    out = np.zeros((*x.shape[:-axes], *geometry[0], *counts))
    for window, place, entry in places(geometry, counts):
        out[(..., *place, *window)] = x[(..., *entry)]
    return out


def put_back(v: np.ndarray, geometry: Any, sizes: Any) -> np.ndarray:
    axes = len(sizes)
    out = np.zeros((*v.shape[: -2 * axes], *sizes))
    for window, place, entry in places(geometry, v.shape[-axes:]):
        out[(..., *entry)] += v[(..., *place, *window)]
    return out


def convolved(
    x: np.ndarray, weight: np.ndarray, bias: Any, geometry: Any, padding: Any, groups: int
) -> np.ndarray:
    x = np.pad(x, ((0, 0), (0, 0), *padding))
    counts = counts_of(x.shape[2:], geometry)
    outer, inner = len(weight), weight.shape[1]
    out = np.zeros((len(x), outer, *counts))
    for window, place, entry in places(geometry, counts):
        for o, i in itertools.product(range(outer), range(inner)):
            channel = o // (outer // groups) * inner + i
            out[(slice(None), o, *window)] += x[(slice(None), channel, *entry)] * weight[(o, i, *place)]
    return out if bias is None else out + bias.reshape(-1, *(1,) * len(counts))


def convolution_example(
    x: Any, weight: Any, stride: Any, padding: Any, dilation: Any, groups: int = 1, bias: bool = True
) -> Example:
    parameters: Any = {"geometry": (weight[2:], stride, dilation), "padding": padding, "groups": groups}
    inputs = (spread(*x), spread(*weight), *((spread(weight[0]),) if bias else ()))
    return Example(
        lambda x, w, b=None: convolution._convolution(x, w, b, **parameters),
        inputs,
        lambda x, w, b=None: convolved(x, w, b, *parameters.values()),
    )


def largest(x: np.ndarray, geometry: Any) -> np.ndarray:
    axes = len(geometry[0])
    return cut(x, geometry).max(axis=tuple(range(x.ndim - axes, x.ndim)))


def cell_sums(x: np.ndarray, axis: int, cells: Any) -> np.ndarray:
    return np.stack([np.sum(np.take(x, range(a, b), axis), axis) for a, b in cells], axis)


def cells_spread(v: np.ndarray, axis: int, cells: Any, length: int) -> np.ndarray:
    belongs = np.array([[a <= i < b for i in range(length)] for a, b in cells], float)
    return np.moveaxis(np.tensordot(v, belongs, axes=((axis,), (0,))), -1, axis)


def largest_of_cells(x: np.ndarray, cells: Any) -> np.ndarray:
    for axis, pieces in enumerate(cells, 2):
        x = np.stack([np.max(np.take(x, range(a, b), axis), axis) for a, b in pieces], axis)
    return x


CELLS: Any = [
    ((5, 2), 0, ((0, 2), (1, 4), (3, 5))),
    ((2, 3, 2), 1, ((0, 3), (1, 2))),
    ((0, 3), 1, ((0, 2), (1, 3))),
    ((4,), 0, ((0, 1), (1, 2), (2, 3), (3, 4))),
]
ONE = ((2,), (1,), (1,))
WIDE = ((3,), (2,), (2,))
TWO = ((2, 3), (1, 2), (2, 1))
WINDOWS: Any = [((4,), ONE), ((2, 7), WIDE), ((0, 4), ONE), ((2, 4, 5), TWO)]

EXAMPLES: dict[str, list[Example]] = {
    "cut_windows": [
        one("cut_windows", lambda x, g=g: cut(x, g), spread(*shape), geometry=g) for shape, g in WINDOWS
    ],
    "add_windows": [
        one(
            "add_windows",
            lambda v, g=g, n=sizes: put_back(v, g, n),
            spread(*cut(np.zeros(shape), g).shape),
            geometry=g,
            sizes=sizes,
        )
        for shape, g in WINDOWS
        for sizes in [shape[-len(g[0]) :]]
    ],
    "convolution": [
        convolution_example((2, 2, 3, 2), (2, 2, 2, 2), (1, 1), ((1, 0), (1, 1)), (1, 1)),
        convolution_example((1, 1, 3, 7), (2, 1, 2, 2), (1, 1), ((0, 0), (0, 0)), (1, 1), bias=False),
        convolution_example((1, 4, 4, 3), (4, 2, 2, 2), (2, 1), ((0, 0), (1, 1)), (1, 2), 2),
        convolution_example((2, 2, 3, 4), (2, 1, 2, 2), (1, 2), ((1, 1), (0, 0)), (1, 1), 2),
        convolution_example((2, 2, 4), (3, 2, 1), (2,), ((0, 0),), (1,)),
        convolution_example((2, 2, 5), (2, 1, 2), (1,), ((1, 1),), (2,), 2, bias=False),
        convolution_example((2, 2, 3), (3, 2, 1), (1,), ((0, 0),), (1,)),
        convolution_example((0, 2, 3), (3, 2, 2), (1,), ((0, 0),), (1,)),
    ],
    "sum_cells": [
        Example(
            lambda x, a=axis, c=cells: mg.sum_cells(x, a, c),
            (spread(*shape),),
            lambda x, a=axis, c=cells: cell_sums(x, a, c),
        )
        for shape, axis, cells in CELLS
    ],
    "spread_cells": [
        Example(
            lambda v, a=axis, c=cells, n=shape[axis]: mg.spread_cells(v, a, c, n),
            (spread(*cell_sums(np.zeros(shape), axis, cells).shape),),
            lambda v, a=axis, c=cells, n=shape[axis]: cells_spread(v, a, c, n),
        )
        for shape, axis, cells in CELLS
    ],
    "max_cells": [
        Example(
            lambda x, c=cells: pooling._max_cells(x, cells=c),
            (spread(*shape),),
            lambda x, c=cells: largest_of_cells(x, c),
        )
        for shape, cells in [
            ((2, 1, 3, 4), (((0, 2), (1, 3)), ((0, 2), (1, 3), (2, 4)))),
            ((1, 2, 5), (((0, 3), (2, 5)),)),
            ((0, 2, 3), (((0, 2), (1, 3)),)),
        ]
    ],
    "max_pool": [
        Example(
            lambda x, g=g: pooling._max_pool(x, geometry=g), (spread(*shape),), lambda x, g=g: largest(x, g)
        )
        for shape, g in [
            ((1, 2, 4, 5), TWO),
            ((2, 1, 5), ONE),
            ((1, 2, 3), ((1,), (2,), (1,))),
            ((0, 2, 4), ONE),
        ]
    ],
}
CONSTANTS: dict[str, list[Example]] = {}
