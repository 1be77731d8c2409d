"""Sliding windows of raw arrays, and their transpose: what convolution and pooling are made of.

A window takes every `dilation`-th entry, and starts `stride` entries after the one before it. `geometry`
below is (kernel, stride, dilation), each with a number for every windowed axis; these are the last axes of x.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy

Array = Any
Cells = tuple[tuple[int, int], ...]
Geometry = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


def window_counts(sizes: Sequence[int], geometry: Geometry) -> tuple[int, ...]:
    """How many windows lie on each axis (0 or less where not even one does)."""
    return tuple((n - d * (k - 1) - 1) // s + 1 for n, k, s, d in zip(sizes, *geometry, strict=True))


def window_shape(shape: tuple[int, ...], geometry: Geometry) -> tuple[int, ...]:
    """The shape of all windows: (..., sizes) → (..., kernel, counts)."""
    axes = len(geometry[0])
    return (*shape[:-axes], *geometry[0], *window_counts(shape[-axes:], geometry))


def window_slices(
    counts: Sequence[int], geometry: Geometry
) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
    """For every place in a window: the place, and the slices of x with the entries that all windows have
    there.
    """
    for place in itertools.product(*map(range, geometry[0])):
        yield (
            place,
            tuple(
                slice(i * d, i * d + s * (o - 1) + 1, s)
                for i, o, s, d in zip(place, counts, geometry[1], geometry[2], strict=True)
            ),
        )


Span = tuple[int, slice, slice, bool]


def window_spans(
    size: int, count: int, kernel: int, stride: int, dilation: int, before: int
) -> tuple[list[Span], bool]:
    """Along one axis, where the windows of x, which has a border of `before` entries, meet x itself.

    For every place in a window that meets x: the place, the windows it does so in, the entries met, and
    whether it fills: whether these are every `stride`-th entry up to the end, and met by no place before. The
    places that fill come first. Then, whether these meet every entry.
    """
    spans: list[Span] = []
    filled = set()
    for place in range(kernel):
        start = place * dilation - before
        first, stop = max(0, -(start // stride)), min(count, (size - 1 - start) // stride + 1)
        if first >= stop:
            continue
        entries = slice(start + first * stride, start + (stop - 1) * stride + 1, stride)
        fills = entries.start < stride and entries.stop + stride > size and entries.start not in filled
        filled.update([entries.start] if fills else [])
        spans.append((place, slice(first, stop), entries, fills))
    spans.sort(key=lambda span: not span[-1])
    return spans, len(filled) == min(stride, size)


class Windows:
    """The part of a namespace that knows windows: views for NumPy's arrays, copies by slices for others."""

    empty: Any
    zeros: Any
    sum: Any

    def cut_windows(self, x: Array, geometry: Geometry) -> Array:
        """All windows: (..., sizes) → (..., kernel, counts)."""
        if type(x) is numpy.ndarray:
            return strided(_read_only, x, geometry)
        axes = len(geometry[0])
        out = self.empty(window_shape(x.shape, geometry), dtype=x.dtype)
        for place, index in window_slices(out.shape[-axes:], geometry):
            out[(..., *place, *(slice(None),) * axes)] = x[(..., *index)]
        return out

    def add_windows(self, v: Array, geometry: Geometry, sizes: tuple[int, ...]) -> Array:
        """Add windows (..., kernel, counts) to zeros (..., sizes), each where it was cut out."""
        axes = len(sizes)
        out = self.zeros((*v.shape[: -2 * axes], *sizes), dtype=v.dtype)
        for place, index in window_slices(v.shape[-axes:], geometry):
            out[(..., *index)] += v[(..., *place, *(slice(None),) * axes)]
        return out

    def sum_cells(self, x: Array, axis: int, cells: Cells) -> Array:
        """Sums over pieces of an axis, which may overlap: one entry for each piece."""
        out = self.empty((*x.shape[:axis], len(cells), *x.shape[axis + 1 :]), dtype=x.dtype)
        before = (slice(None),) * axis
        for i, (start, stop) in enumerate(cells):
            out[(*before, i, ...)] = self.sum(x[(*before, slice(start, stop), ...)], axis=axis)
        return out

    def spread_cells(self, v: Array, axis: int, cells: Cells, length: int) -> Array:
        """Add entry i of an axis to every place of piece i of one that is `length` long: the transpose."""
        out = self.zeros((*v.shape[:axis], length, *v.shape[axis + 1 :]), dtype=v.dtype)
        before = (slice(None),) * axis
        for i, (start, stop) in enumerate(cells):
            out[(*before, slice(start, stop), ...)] += v[(*before, slice(i, i + 1), ...)]
        return out


def strided(as_strided: Callable[..., Array], x: Array, geometry: Geometry) -> Array:
    """All windows of x as a view, not to be written to: nothing is copied."""
    kernel, stride, dilation = geometry
    axes = len(kernel)
    steps = x.strides[-axes:]
    within = [a * d for a, d in zip(steps, dilation, strict=True)]
    between = [a * s for a, s in zip(steps, stride, strict=True)]
    return as_strided(
        x, shape=window_shape(x.shape, geometry), strides=(*x.strides[:-axes], *within, *between)
    )


def _read_only(x: numpy.ndarray, *, shape: tuple[int, ...], strides: tuple[int, ...]) -> numpy.ndarray:
    return numpy.lib.stride_tricks.as_strided(x, shape, strides, writeable=False)
