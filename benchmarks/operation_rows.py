"""The rows of the table of operations: each as minigrad and as torch spell it, on the same inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

import minigrad as mg

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """One operation: both spellings, the shapes of its inputs, what entries they have, and why it is slow
    where it is.
    """

    name: str
    ours: Callable[..., Any]
    theirs: Callable[..., Any]
    shapes: tuple[Shape, ...]
    entries: str = "normal"  # "positive", "unit" (-1 to 1), "above one"
    reason: str = ""

    def arrays(self) -> list[np.ndarray]:
        """The inputs, float32, the same each time."""
        rng = np.random.default_rng(0)
        made = []
        for shape in self.shapes:
            x = rng.normal(size=shape)
            if self.entries == "positive":
                x = np.abs(x) + 0.1
            elif self.entries == "unit":
                x = np.tanh(x) * 0.9
            elif self.entries == "above one":
                x = np.abs(x) + 1.1
            made.append(x.astype("float32"))
        return made


FLAT, BLOCK, IMAGE = (512, 512), (64, 64, 64), (16, 16, 28, 28)
INDEX = np.random.default_rng(1).integers(0, 512, 2048)
ALONG = np.random.default_rng(2).integers(0, 512, (512, 64))
MASK = np.random.default_rng(3).random(FLAT) > 0.5
LABELS = np.random.default_rng(4).integers(0, 512, 512)
CHOSEN, PLACES, HIDDEN, TARGETS = map(torch.as_tensor, (INDEX, ALONG, MASK, LABELS))
LINEAR_ALGEBRA = (32, 32, 32)
SCIPY = "SciPy's loop is not vectorised; it is exact to the last digits"
NUMPY = "NumPy's loop is not vectorised"


def each(names: str, entries: str = "normal", **reasons: str) -> list[Row]:
    """Functions of one array that both libraries give the same name."""
    return [
        Row(name, getattr(mg, name), getattr(torch, name), (FLAT,), entries, reasons.get(name, ""))
        for name in names.split()
    ]


def both(names: str, entries: str = "normal", **reasons: str) -> list[Row]:
    """Functions of two arrays that both libraries give the same name."""
    return [
        Row(name, getattr(mg, name), getattr(torch, name), (FLAT, FLAT), entries, reasons.get(name, ""))
        for name in names.split()
    ]


def activation(names: str) -> list[Row]:
    """Activations of one array that both libraries give the same name."""
    return [Row(name, getattr(mg, name), getattr(F, name), (FLAT,)) for name in names.split()]


def square(x: torch.Tensor) -> torch.Tensor:
    """A symmetric positive definite matrix from any."""
    return x @ x.mT / 32 + torch.eye(32)


def own_square(x: mg.Tensor) -> mg.Tensor:
    """The same in minigrad."""
    return x @ x.mT / 32 + mg.eye(32)


ELEMENTWISE = [
    *each("abs negative square exp expm1 sin cos tanh sigmoid erf sinc atan asinh sinh cosh tan floor sign"),
    *each("sqrt log log2 log10 log1p lgamma digamma reciprocal", "positive", lgamma=SCIPY, digamma=SCIPY),
    *each("asin acos atanh erfinv", "unit", erfinv=SCIPY),
    *each("erfc", erfc=SCIPY),
    *each("acosh", "above one"),
    *both("add subtract multiply divide maximum minimum hypot atan2 logaddexp copysign less", hypot=NUMPY),
    *both("remainder xlogy", "positive", remainder=NUMPY),
    Row("pow, a power of two arrays", mg.pow, torch.pow, (FLAT, FLAT), "positive"),
    Row("pow 3", lambda x: x**3, lambda x: x**3, (FLAT,)),
    Row("pow -0.5", lambda x: x**-0.5, lambda x: x**-0.5, (FLAT,), "positive"),
    Row(
        "polygamma 1",
        lambda x: mg.polygamma(1, x),
        lambda x: torch.polygamma(1, x),
        (FLAT,),
        "positive",
        SCIPY,
    ),
    Row(
        "polynomial",
        lambda x: mg.polynomial(x, coefficients=(1.0, -0.5, 0.0, 0.25)),
        lambda x: 1.0 + x * (-0.5 + 0.25 * x * x),
        (FLAT,),
    ),
    Row("clip", lambda x: mg.clip(x, -1.0, 1.0), lambda x: torch.clip(x, -1.0, 1.0), (FLAT,)),
    Row("where", lambda x, y: mg.where(MASK, x, y), lambda x, y: torch.where(HIDDEN, x, y), (FLAT, FLAT)),
    Row("masked_fill", lambda x: mg.masked_fill(x, MASK, 0.0), lambda x: x.masked_fill(HIDDEN, 0.0), (FLAT,)),
]

ACTIVATIONS = [
    *activation("relu leaky_relu elu selu celu gelu silu mish softplus softsign hardtanh hardswish"),
    *activation("hardsigmoid logsigmoid"),
    Row(
        "gelu, tanh",
        lambda x: mg.gelu(x, approximate="tanh"),
        lambda x: F.gelu(x, approximate="tanh"),
        (FLAT,),
    ),
    Row("glu", mg.glu, F.glu, (FLAT,)),
    Row("prelu", mg.prelu, F.prelu, (FLAT, (512,))),
    Row("softmax", mg.softmax, lambda x: F.softmax(x, -1), (FLAT,)),
    Row("log_softmax", mg.log_softmax, lambda x: F.log_softmax(x, -1), (FLAT,)),
    Row(
        "layer_norm",
        lambda x, w, b: mg.layer_norm(x, w, b),
        lambda x, w, b: F.layer_norm(x, (512,), w, b),
        (FLAT, (512,), (512,)),
    ),
    Row(
        "cross_entropy",
        lambda x: mg.cross_entropy(x, LABELS),
        lambda x: F.cross_entropy(x, TARGETS),
        (FLAT,),
    ),
]


def reductions(names: str) -> list[Row]:
    """Reductions over rows and over columns."""
    rows = []
    for name in names.split():
        ours, theirs = getattr(mg, name), getattr(torch, {"max": "amax", "min": "amin"}.get(name, name))
        rows += [
            Row(f"{name}, rows", lambda x, f=ours: f(x, axis=1), lambda x, f=theirs: f(x, dim=1), (FLAT,)),
            Row(f"{name}, columns", lambda x, f=ours: f(x, axis=0), lambda x, f=theirs: f(x, dim=0), (FLAT,)),
        ]
    return rows


REDUCTIONS = [
    *reductions("sum mean max min argmax"),
    Row("prod", lambda x: mg.prod(x, axis=1), lambda x: torch.prod(x, 1), (FLAT,), "unit"),
    Row("var", lambda x: mg.var(x, axis=1), lambda x: torch.var(x, 1, correction=0), (FLAT,)),
    Row("std", lambda x: mg.std(x, axis=1), lambda x: torch.std(x, 1, correction=0), (FLAT,)),
    Row("logsumexp", lambda x: mg.logsumexp(x, axis=1), lambda x: torch.logsumexp(x, 1), (FLAT,)),
    Row(
        "vector_norm",
        lambda x: mg.vector_norm(x, axis=1),
        lambda x: torch.linalg.vector_norm(x, dim=1),
        (FLAT,),
    ),
    Row(
        "vector_norm 1",
        lambda x: mg.vector_norm(x, axis=1, ord=1),
        lambda x: torch.linalg.vector_norm(x, 1, dim=1),
        (FLAT,),
    ),
    Row(
        "vector_norm 3",
        lambda x: mg.vector_norm(x, axis=1, ord=3),
        lambda x: torch.linalg.vector_norm(x, 3, dim=1),
        (FLAT,),
    ),
    Row("cumulative_sum", lambda x: mg.cumulative_sum(x, axis=1), lambda x: torch.cumsum(x, 1), (FLAT,)),
    Row(
        "cumulative_prod",
        lambda x: mg.cumulative_prod(x, axis=1),
        lambda x: torch.cumprod(x, 1),
        (FLAT,),
        "unit",
    ),
    Row("count_nonzero", lambda x: mg.count_nonzero(x, axis=1), lambda x: torch.count_nonzero(x, 1), (FLAT,)),
    Row("median", lambda x: mg.median(x, axis=1), lambda x: torch.median(x, 1).values, (FLAT,)),
    Row("sort", lambda x: mg.sort(x, axis=1), lambda x: torch.sort(x, dim=1, stable=True).values, (FLAT,)),
    Row("argsort", lambda x: mg.argsort(x, axis=1), lambda x: torch.argsort(x, dim=1, stable=True), (FLAT,)),
    Row("topk", lambda x: mg.topk(x, 8)[0], lambda x: torch.topk(x, 8).values, (FLAT,)),
]

SHAPES = [
    Row(
        "permute_dims",
        lambda x: mg.permute_dims(x, (2, 0, 1)) * 1.0,
        lambda x: x.permute(2, 0, 1) * 1.0,
        (BLOCK,),
    ),
    Row(
        "broadcast_to",
        lambda x: mg.broadcast_to(x, FLAT) * 1.0,
        lambda x: x.broadcast_to(FLAT) * 1.0,
        ((512,),),
    ),
    Row("concat", lambda x, y: mg.concat([x, y]), lambda x, y: torch.concat([x, y]), (FLAT, FLAT)),
    Row("stack", lambda x, y: mg.stack([x, y], axis=1), lambda x, y: torch.stack([x, y], 1), (FLAT, FLAT)),
    Row("unstack", lambda x: mg.stack(mg.unstack(x)), lambda x: torch.stack(torch.unbind(x)), (BLOCK,)),
    Row(
        "split",
        lambda x: mg.concat(mg.chunk(x, 8, axis=1)),
        lambda x: torch.concat(torch.chunk(x, 8, 1)),
        (FLAT,),
    ),
    Row("tile", lambda x: mg.tile(x, (2, 2)), lambda x: torch.tile(x, (2, 2)), ((256, 256),)),
    Row(
        "repeat", lambda x: mg.repeat(x, 4, axis=0), lambda x: torch.repeat_interleave(x, 4, 0), ((128, 512),)
    ),
    Row("roll", lambda x: mg.roll(x, 7, axis=1), lambda x: torch.roll(x, 7, 1), (FLAT,)),
    Row("flip", lambda x: mg.flip(x, axis=1) * 1.0, lambda x: torch.flip(x, (1,)) * 1.0, (FLAT,)),
    Row("pad", lambda x: mg.pad(x, (2, 2)), lambda x: F.pad(x, (2, 2)), (FLAT,)),
    Row(
        "pad, reflect",
        lambda x: mg.pad(x, (2, 2), mode="reflect"),
        lambda x: F.pad(x, (2, 2), mode="reflect"),
        (FLAT,),
    ),
    Row(
        "unfold",
        lambda x: mg.unfold(x, axis=1, size=4, step=2) * 1.0,
        lambda x: x.unfold(1, 4, 2) * 1.0,
        (FLAT,),
    ),
    Row("tril", mg.tril, torch.tril, (FLAT,)),
    Row("diagonal", lambda x: mg.diagonal(x) * 1.0, lambda x: torch.diagonal(x) * 1.0, (FLAT,)),
    Row("slice", lambda x: x[:, 5:400] * 1.0, lambda x: x[:, 5:400] * 1.0, (FLAT,)),
    Row("index by an array", lambda x: x[INDEX], lambda x: x[CHOSEN], (FLAT,)),
    Row("index by a mask", lambda x: x[MASK], lambda x: x[HIDDEN], (FLAT,)),
    Row("take", lambda x: mg.take(x, INDEX), lambda x: F.embedding(CHOSEN, x), (FLAT,)),
    Row(
        "take, axis 1",
        lambda x: mg.take(x, INDEX, axis=1),
        lambda x: torch.index_select(x, 1, CHOSEN),
        (FLAT,),
    ),
    Row(
        "take_along_axis",
        lambda x: mg.take_along_axis(x, ALONG, axis=1),
        lambda x: torch.gather(x, 1, PLACES),
        (FLAT,),
    ),
    Row(
        "scatter",
        lambda x, v: mg.scatter(x, np.sort(ALONG, 1)[:, :1], v, axis=1),
        lambda x, v: torch.scatter(x, 1, torch.as_tensor(np.sort(ALONG, 1)[:, :1]), v),
        (FLAT, (512, 1)),
    ),
    Row(
        "index_add",
        lambda x, v: mg.index_add(x, INDEX, v),
        lambda x, v: torch.index_add(x, 0, CHOSEN, v),
        (FLAT, (2048, 512)),
    ),
    Row(
        "at[...].set",
        lambda x, v: x.at[3:100].set(v),
        lambda x, v: torch.slice_scatter(x, v, 0, 3, 100),
        (FLAT, (97, 512)),
    ),
]

PRODUCTS = [
    Row("matmul", mg.matmul, torch.matmul, (FLAT, FLAT)),
    Row("matmul, stacks", mg.matmul, torch.matmul, (BLOCK, BLOCK)),
    Row("linear", mg.linear, F.linear, (FLAT, FLAT, (512,))),
    Row(
        "einsum",
        lambda x, y: mg.einsum("bij,bkj->bik", x, y),
        lambda x, y: torch.einsum("bij,bkj->bik", x, y),
        (BLOCK, BLOCK),
    ),
    Row("vecdot", mg.vecdot, torch.linalg.vecdot, (FLAT, FLAT)),
    Row("outer", mg.outer, torch.outer, ((512,), (512,))),
    Row("kron", mg.kron, torch.kron, ((16, 16), (32, 32))),
    Row("cross", mg.cross, torch.linalg.cross, ((20000, 3), (20000, 3))),
    Row(
        "attention",
        lambda q, k, v: mg.scaled_dot_product_attention(q, k, v, is_causal=True),
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
        ((4, 8, 128, 32),) * 3,
    ),
    *(
        Row(name, lambda x, f=f: f(own_square(x)), lambda x, g=g: g(square(x)), (LINEAR_ALGEBRA,))
        for name, f, g in [
            ("det", mg.det, torch.linalg.det),
            ("slogdet", lambda x: mg.slogdet(x)[1], lambda x: torch.linalg.slogdet(x)[1]),
            ("inv", mg.inv, torch.linalg.inv),
            ("cholesky", mg.cholesky, torch.linalg.cholesky),
            ("qr", lambda x: mg.qr(x)[1], lambda x: torch.linalg.qr(x)[1]),
            ("svdvals", mg.svdvals, torch.linalg.svdvals),
            ("eigvalsh", mg.eigvalsh, torch.linalg.eigvalsh),
            ("pinv", mg.pinv, torch.linalg.pinv),
        ]
    ),
    Row(
        "solve",
        lambda x, b: mg.solve(own_square(x), b),
        lambda x, b: torch.linalg.solve(square(x), b),
        (LINEAR_ALGEBRA, (32, 32, 4)),
    ),
    Row(
        "solve_triangular",
        lambda x, b: mg.solve_triangular(own_square(x), b, upper=True),
        lambda x, b: torch.linalg.solve_triangular(square(x), b, upper=True),
        (LINEAR_ALGEBRA, (32, 32, 4)),
    ),
]

WINDOWS = [
    Row(
        "conv1d",
        lambda x, w: mg.conv1d(x, w, padding=1),
        lambda x, w: F.conv1d(x, w, padding=1),
        ((16, 32, 256), (32, 32, 3)),
    ),
    Row(
        "conv2d",
        lambda x, w: mg.conv2d(x, w, padding=1),
        lambda x, w: F.conv2d(x, w, padding=1),
        (IMAGE, (32, 16, 3, 3)),
    ),
    Row(
        "conv2d, groups",
        lambda x, w: mg.conv2d(x, w, padding=1, groups=4),
        lambda x, w: F.conv2d(x, w, padding=1, groups=4),
        (IMAGE, (32, 4, 3, 3)),
    ),
    Row(
        "conv2d, depthwise",
        lambda x, w: mg.conv2d(x, w, padding=1, groups=16),
        lambda x, w: F.conv2d(x, w, padding=1, groups=16),
        (IMAGE, (16, 1, 3, 3)),
    ),
    Row(
        "conv_transpose2d",
        lambda x, w: mg.conv_transpose2d(x, w, stride=2),
        lambda x, w: F.conv_transpose2d(x, w, stride=2),
        (IMAGE, (16, 8, 3, 3)),
    ),
    Row("max_pool2d", lambda x: mg.max_pool2d(x, 2), lambda x: F.max_pool2d(x, 2), (IMAGE,)),
    Row("avg_pool2d", lambda x: mg.avg_pool2d(x, 2), lambda x: F.avg_pool2d(x, 2), (IMAGE,)),
    Row(
        "adaptive_avg_pool2d",
        lambda x: mg.adaptive_avg_pool2d(x, 5),
        lambda x: F.adaptive_avg_pool2d(x, 5),
        (IMAGE,),
    ),
    Row(
        "adaptive_max_pool2d",
        lambda x: mg.adaptive_max_pool2d(x, 5),
        lambda x: F.adaptive_max_pool2d(x, 5),
        (IMAGE,),
    ),
    Row(
        "interpolate, nearest",
        lambda x: mg.interpolate(x, scale_factor=2.0),
        lambda x: F.interpolate(x, scale_factor=2.0),
        (IMAGE,),
    ),
    Row(
        "interpolate, bilinear",
        lambda x: mg.interpolate(x, scale_factor=2.0, mode="bilinear"),
        lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"),
        (IMAGE,),
    ),
    Row(
        "grid_sample",
        lambda x, g: mg.grid_sample(x, g),
        lambda x, g: F.grid_sample(x, g, align_corners=False),
        (IMAGE, (16, 28, 28, 2)),
        "unit",
    ),
]

TABLE: dict[str, list[Row]] = {
    "elementwise": ELEMENTWISE,
    "activations and fused": ACTIVATIONS,
    "reductions and sorting": REDUCTIONS,
    "shapes and indexing": SHAPES,
    "products and linear algebra": PRODUCTS,
    "windows": WINDOWS,
}
