"""The fast path of convolution: windows cut out, one matrix product, a few samples at a time.

So their windows stay in the processor's cache. Memory is laid out with the channels last: a window is then
made of long runs, and one large matrix product serves all places at once. Results are views, (N, C, H, W) by
shape and (N, H, W, C) in memory, and elementwise operations keep them so.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from minigrad.backend_windows import Geometry, Span, window_counts, window_spans
from minigrad.ops import depthwise
from minigrad.ops.linear import column_sums
from minigrad.ops.shape import inverse

BLOCK = 1 << 18  # entries of windows at a time, forwards and backwards: 1 MiB of float32

Padding = tuple[tuple[int, int], ...]


class _Plan:
    """The sizes of one convolution, and the layout of memory on its fast path.

    With few channels (`first`) the axes of windows are (channels, kernel, batch, places), otherwise (batch,
    places, kernel, channels); the long runs are last in both. All sizes are those of one group.
    """

    def __init__(self, x: Any, weight: Any, geometry: Geometry, padding: Padding, groups: int) -> None:
        self.geometry, self.groups = geometry, groups
        self.kernel = kernel = geometry[0]
        self.axes = axes = len(kernel)
        self.batch, self.inner, self.outer = x.shape[0], x.shape[1] // groups, weight.shape[0] // groups
        self.own = x.shape[2:]
        self.sizes = tuple(n + a + b for n, (a, b) in zip(self.own, padding, strict=True))
        self.inside = tuple(slice(a, a + n) for n, (a, _) in zip(self.own, padding, strict=True))
        self.counts = window_counts(self.sizes, geometry)
        self.places = math.prod(self.counts)
        self.depth = self.inner * math.prod(kernel)
        self.first = self.inner * kernel[-1] < self.counts[-1]
        spatial = tuple(range(2, 2 + axes))
        if self.first:  # from (N, C, sizes), and from (N, C, kernel, counts)
            self.image_axes: tuple[int, ...] = (1, 0, *spatial)
            self.window_axes: tuple[int, ...] = (1, *spatial, 0, *(a + axes for a in spatial))
            self.weight_axes: tuple[int, ...] = (0, 1, *spatial)
        else:
            self.image_axes = (0, *spatial, 1)
            self.window_axes = (0, *(a + axes for a in spatial), *spatial, 1)
            self.weight_axes = (0, *spatial, 1)
        self.back = inverse(self.image_axes)
        self.each = self.inner == self.outer == 1 < groups  # channels that do not mix
        self.plain = math.prod(kernel) == 1 == max(geometry[1])  # each place is its own window

    def blocks(self, xp: Any) -> Iterator[slice]:
        """Slices of the batch whose windows and results have about BLOCK entries, where blocking pays."""
        largest = self.places * max(self.depth, self.outer)
        step = max(1, BLOCK // max(largest, 1)) if xp.blocked else max(self.batch, 1)
        return (slice(start, min(start + step, self.batch)) for start in range(0, self.batch, step))

    def shaped(self, batch: int, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of an image (batch, channels, sizes) in this layout."""
        whole = (batch, self.inner, *sizes)
        return tuple(whole[a] for a in self.image_axes)

    @cached_property
    def spans(self) -> tuple[list[list[Span]], bool]:
        """Where windows meet the image inside of its border, for each axis; whether what fills is all."""
        before = [inside.start for inside in self.inside]
        each = zip(self.own, self.counts, *self.geometry, before, strict=True)
        spans, complete = zip(*(window_spans(*axis) for axis in each), strict=True)
        return list(spans), all(complete)

    def joins(self, bias: Any) -> bool:
        """Whether the bias goes into the product, as one more row beside few: a pass less over the result."""
        return bias is not None and self.first and not self.plain and not self.each

    def matrix(self, xp: Any, weight: Any) -> Any:
        """The weight of one group as (outer, depth)."""
        return xp.permute_dims(weight, self.weight_axes).reshape(self.outer, self.depth)


class _Windows:
    """The windows of one block after the other, as a matrix (batch · places, depth) in memory used again.

    With `ones`, which few channels allow, each window has an entry more: 1, whose weight is the bias.
    """

    def __init__(self, xp: Any, plan: _Plan, dtype: Any, *, ones: bool = False) -> None:
        self.xp, self.plan, self.dtype, self.ones = xp, plan, dtype, ones
        self.memory: dict[tuple[int, bool], Any] = {}

    def __call__(self, x: Any) -> Any:
        xp, plan = self.xp, self.plan
        batch = x.shape[0]
        x = xp.permute_dims(x, plan.image_axes)
        if plan.sizes != plan.own or not x.flags.c_contiguous:
            if (batch, True) not in self.memory:
                self.memory[batch, True] = xp.zeros(plan.shaped(batch, plan.sizes), dtype=self.dtype)
            padded = self.memory[batch, True]
            padded[(..., *plan.inside) if plan.first else (..., *plan.inside, slice(None))] = x
            x = padded
        if plan.plain:
            rows = batch * plan.places
            return x.reshape(plan.depth, rows).T if plan.first else x.reshape(rows, plan.depth)
        columns = self.columns(batch)
        cut = xp.cut_windows(xp.permute_dims(x, plan.back), plan.geometry)
        columns[...] = xp.permute_dims(cut, plan.window_axes)
        return self.memory[batch, False].T if plan.first else self.memory[batch, False]

    def columns(self, batch: int) -> Any:
        """The memory of the windows of so many samples, by axes, whatever it holds by now."""
        xp, plan = self.xp, self.plan
        rows, depth = batch * plan.places, plan.depth
        if (batch, False) not in self.memory:
            shape = (depth + self.ones, rows) if plan.first else (rows, depth)
            self.memory[batch, False] = xp.empty(shape, dtype=self.dtype)
            if self.ones:
                self.memory[batch, False][depth] = xp.ones(rows, dtype=self.dtype)
        whole = (batch, plan.inner, *plan.kernel, *plan.counts)
        windows = self.memory[batch, False]
        return (windows[:depth] if plan.first else windows).reshape([whole[a] for a in plan.window_axes])


def forward(
    xp: Any, x: Any, weight: Any, bias: Any, *, geometry: Geometry, padding: Padding, groups: int
) -> tuple[Any, None]:
    """The result, and nothing kept: windows are cut again backwards."""
    plan = _Plan(x, weight, geometry, padding, groups)
    if plan.each:
        out = depthwise.forward(xp, plan, x, weight, bias)
    else:
        out = xp.empty((plan.batch * plan.places, weight.shape[0]), dtype=x.dtype)
    ones = plan.joins(bias)
    for group in range(0 if plan.each else groups):
        own, inputs = _group(group, plan.outer), _group(group, plan.inner)
        matrix, windows = plan.matrix(xp, weight[own]).T, _Windows(xp, plan, x.dtype, ones=ones)
        if ones:
            matrix = xp.concat([matrix, bias[own].reshape(1, plan.outer)])
        for block in plan.blocks(xp):
            part = out[block.start * plan.places : block.stop * plan.places, own]
            xp.matmul(windows(x[block, inputs]), matrix, out=part)
            if bias is not None and not ones:
                part += bias[own]
    out = out.reshape(plan.batch, *plan.counts, weight.shape[0])
    return xp.permute_dims(out, (0, plan.axes + 1, *range(1, plan.axes + 1))), None


def _group(number: int, size: int) -> slice:
    return slice(number * size, (number + 1) * size)


def pull(
    xp: Any,
    v: Any,
    needs: Any,
    arrays: Any,
    kept: None,
    into: Any,
    *,
    geometry: Geometry,
    padding: Padding,
    groups: int,
) -> list[Any]:
    """The cotangents of x, weight and bias."""
    x, weight, bias = arrays
    plan = _Plan(x, weight, geometry, padding, groups)
    v = xp.permute_dims(v, (0, *range(2, 2 + plan.axes), 1))
    v = v.reshape(plan.batch * plan.places, weight.shape[0])
    dx = dw = None
    if needs[0]:
        shape = (*x.shape[:2], *plan.own) if plan.first else (plan.batch, *plan.own, x.shape[1])
        dx = (xp.empty if plan.spans[1] else xp.zeros)(shape, dtype=x.dtype)
        dx = dx if plan.first else xp.permute_dims(dx, (0, plan.axes + 1, *range(1, plan.axes + 1)))
    if needs[1]:
        dw = xp.empty(weight.shape, dtype=weight.dtype) if into[1] is None else into[1]
    if plan.each:
        depthwise.pull(xp, plan, v.reshape(plan.batch, *plan.counts, len(weight)), x, weight, dx, dw)
    ones = needs[1] and needs[2] and plan.joins(bias)
    db: Any = None
    if ones:
        db = xp.empty(bias.shape, dtype=bias.dtype) if into[2] is None else into[2]
    elif needs[2]:
        db = column_sums(xp, v, into[2])
    for group in range(0 if plan.each else groups):
        own, inputs = _group(group, plan.outer), _group(group, plan.inner)
        matrix, windows = plan.matrix(xp, weight[own]), _Windows(xp, plan, x.dtype, ones=ones)
        total = xp.zeros((plan.depth + ones, plan.outer), dtype=weight.dtype) if dw is not None else None
        for block in plan.blocks(xp):
            part = v[block.start * plan.places : block.stop * plan.places, own]
            if total is not None:
                xp.add_matmul(windows(x[block, inputs]).T, part, total)
            if dx is not None:
                _pull_image(plan, windows, part, matrix, dx[block, inputs])
        if dw is not None and total is not None:
            kernels = total[: plan.depth].T.reshape([weight[own].shape[a] for a in plan.weight_axes])
            dw[own] = xp.permute_dims(kernels, inverse(plan.weight_axes))
            if ones:
                db[own] = total[plan.depth]
    return [dx, dw, db]


def _pull_image(plan: _Plan, windows: _Windows, v: Any, matrix: Any, dx: Any) -> None:
    """Write into `dx`, a block, what its windows' cotangents v · matrix add up to; where its entries are not
    all met by places that fill, it holds zeros before.
    """
    xp, batch = windows.xp, dx.shape[0]
    image = xp.permute_dims(dx, plan.image_axes)
    if plan.plain and not plan.first and plan.sizes == plan.own:
        xp.matmul(v, matrix, out=image.reshape(v.shape[0], plan.inner))
        return
    columns = windows.columns(batch)
    if plan.first:
        xp.matmul(matrix.T, v.T, out=columns.reshape(plan.depth, v.shape[0]))
    else:
        xp.matmul(v, matrix, out=columns.reshape(v.shape[0], plan.depth))
    every = slice(None)
    for spans in itertools.product(*plan.spans[0]):
        place, met, entries, fills = zip(*spans, strict=True)
        target = (..., *entries) if plan.first else (every, *entries)
        part = columns[(every, *place, every, *met) if plan.first else (every, *met, *place)]
        if all(fills):
            image[target] = part
        else:
            image[target] += part
