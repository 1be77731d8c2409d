"""The public functions that are compositions, or have no derivative: on a device as on the host.

(The operations themselves, which all of these are made of: test_gpu.py.)
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn
from minigrad.ops.windows import add_windows

X = np.random.default_rng(0).normal(size=(4, 6))
"""No two entries alike, none on a kink."""


def whole(x: mg.Tensor) -> mg.Tensor:
    """Integers with repetitions."""
    return (x * 4).astype("int64")


def plain(x: mg.Tensor, *shape: int) -> mg.Tensor:
    return mg.reshape(x, shape)


def on(x: mg.Tensor, values: Any) -> mg.Tensor:
    return mg.tensor(values, device=x.device)


def image(x: mg.Tensor) -> mg.Tensor:
    return plain(x, 1, 1, 4, 6)


def square(x: mg.Tensor) -> mg.Tensor:
    return x @ mg.matrix_transpose(x) + 3 * mg.eye(4, dtype=x.dtype, device=x.device)


CALLS: dict[str, Callable[[mg.Tensor], Any]] = {
    "adaptive_avg_pool2d": lambda x: mg.adaptive_avg_pool2d(image(x), (3, 2)),
    "adaptive_max_pool2d": lambda x: mg.adaptive_max_pool2d(image(x), (3, 2)),
    "all": lambda x: mg.all(x > 0, axis=1),
    "any": lambda x: mg.any(x > 1, axis=0),
    "argmax": lambda x: mg.argmax(x, axis=1),
    "argmin": lambda x: mg.argmin(x, axis=0),
    "argsort": lambda x: mg.argsort(x, axis=1),
    "argsort, downwards": lambda x: mg.argsort(x, axis=0, descending=True),
    "at": lambda x: x.at[on(x, [0, 2])].add(x[:2]),
    "avg_pool2d": lambda x: mg.avg_pool2d(image(x), 2),
    "bitwise": lambda x: (whole(x) & 5) | (whole(x) ^ 3),
    "bitwise, shifted": lambda x: [mg.bitwise_left_shift(whole(x), 2), mg.bitwise_right_shift(whole(x), 1)],
    "bitwise_invert": lambda x: [~whole(x), mg.bitwise_invert(x > 0)],
    "ceil": mg.ceil,
    "celu": lambda x: mg.celu(x),
    "chunk": lambda x: mg.chunk(x, 4, axis=1),
    "clip": lambda x: mg.clip(x, -0.5, 0.5),
    "comparisons": lambda x: [x < 0.1, x <= 0.1, x == x, x != 0.1, x > 0.1, x >= 0.1],
    "conv1d": lambda x: mg.conv1d(plain(x, 1, 4, 6), plain(x, 3, 4, 2)),
    "conv2d": lambda x: mg.conv2d(image(x), plain(x, 4, 1, 2, 3), padding=1, stride=2),
    "conv_transpose2d": lambda x: mg.conv_transpose2d(image(x), plain(x, 1, 4, 2, 3), stride=2),
    "count_nonzero": lambda x: mg.count_nonzero(x > 0, axis=1),
    "cross": lambda x: mg.cross(plain(x, 8, 3), plain(x, 8, 3)[::-1]),
    "cross_entropy": lambda x: mg.cross_entropy(x, on(x, [1, 0, -100, 5])),
    "cross_entropy, each": lambda x: mg.cross_entropy(x, on(x, [1, 0, 2, 5]), reduction="none"),
    "cumulative": lambda x: [mg.cumulative_sum(x, axis=1), mg.cumulative_prod(x, axis=0)],
    "diag": lambda x: mg.diag(x[0]),
    "diff": lambda x: mg.diff(x, n=2, axis=0, prepend=0.0),
    "diagonal": lambda x: mg.diagonal(x, offset=1),
    "eigvalsh": lambda x: mg.eigvalsh(square(x)),
    "einsum": lambda x: mg.einsum("ij,kj->ik", x, x),
    "embedding": lambda x: nn.functional.embedding(on(x, [[0, 3], [3, 1]]), x),
    "elu": lambda x: mg.elu(x),
    "equal": lambda x: mg.equal(x, x),
    "flip": lambda x: mg.flip(x, axis=1),
    "floor": mg.floor,
    "floor_divide": lambda x: mg.floor_divide(x, 0.3),
    "full_like": lambda x: mg.full_like(x, 3.0),
    "gather": lambda x: mg.gather(x, on(x, [[0, 5], [1, 1], [2, 3], [4, 4]]), axis=1),
    "getitem": lambda x: [x[1], x[:, None, ::-2], x[..., on(x, [3, 0, 3])], x[on(x, [0, 0]), on(x, [1, 1])]],
    "glu": lambda x: mg.glu(x, axis=1),
    "hardtanh": lambda x: mg.hardtanh(x),
    "index_add, integers": lambda x: [
        mg.index_add(whole(x).astype(d), on(x, [1, -1, 1]), whole(x)[:3].astype(d))
        for d in ("int64", "int32", "int16", "uint8")
    ],
    "index_add": lambda x: mg.index_add(x, on(x, [1, 1]), x[:2]),
    "interpolate": lambda x: mg.interpolate(image(x), (7, 3), mode="bilinear"),
    "is...": lambda x: [mg.isfinite(x), mg.isinf(x), mg.isnan(x), mg.signbit(x)],
    "kron": lambda x: mg.kron(x[:2, :2], x[2:, 2:]),
    "linspace": lambda x: mg.linspace(0, 1, 5, device=x.device),
    "logical": lambda x: [mg.logical_and(x > 0, x > 1), mg.logical_or(x > 0, x > 1), mg.logical_not(x > 0)],
    "logical_xor": lambda x: mg.logical_xor(x > 0, x > 1),
    "logsigmoid": mg.logsigmoid,
    "logsumexp": lambda x: mg.logsumexp(x, axis=1),
    "masked_fill": lambda x: mg.masked_fill(x, x > 0, 7.0),
    "matrix_norm": lambda x: mg.matrix_norm(x),
    "matrix_power": lambda x: mg.matrix_power(square(x), 3),
    "max_pool2d": lambda x: mg.max_pool2d(image(x), 2),
    "mean": lambda x: mg.mean(x, axis=0),
    "median": lambda x: mg.median(x, axis=1),
    "meshgrid": lambda x: mg.meshgrid(x[0], x[1]),
    "mish": mg.mish,
    "moveaxis": lambda x: mg.moveaxis(x, 0, 1),
    "norms": lambda x: [mg.vector_norm(x, axis=1), mg.vector_norm(x, ord=1)],
    "outer": lambda x: mg.outer(x[0], x[1]),
    "pad": lambda x: [mg.pad(image(x), (1, 2), mode=m) for m in ("constant", "reflect", "edge", "circular")],
    "pow": lambda x: [mg.pow(mg.abs(x), 1.5), x**3, 2.0**x],
    "prelu": lambda x: mg.prelu(x, x[0, :1]),
    "reciprocal": mg.reciprocal,
    "repeat": lambda x: mg.repeat(x, 2, axis=1),
    "round": mg.round,
    "scatter": lambda x: mg.scatter(x, on(x, [[0], [1], [2], [3]]), x[:, :1], axis=1),
    "scatter_add": lambda x: mg.scatter_add(x, on(x, [[0, 1], [1, 1]]), x, axis=1),
    "sets": lambda x: [
        *mg.unique_inverse(whole(x)),
        mg.unique_counts(whole(x)).counts,
        mg.isin(whole(x), whole(x[0])),
    ],
    "searchsorted": lambda x: mg.searchsorted(mg.sort(x[0]), x[1]),
    "selu": mg.selu,
    "sign": mg.sign,
    "silu": mg.silu,
    "softsign": mg.softsign,
    "sort": lambda x: [mg.sort(x, axis=1), mg.sort(x, axis=0, descending=True)],
    "split": lambda x: mg.split(x, 2, axis=1),
    "squeeze": lambda x: mg.squeeze(x[:1], axis=0),
    "std": lambda x: [mg.std(x, axis=1), mg.var(x, correction=1)],
    "svdvals": mg.svdvals,
    "take": lambda x: mg.take(x, on(x, [2, 0, 2]), axis=1),
    "tensordot": lambda x: mg.tensordot(x, x, axes=1 if x.ndim == 1 else ((1,), (1,))),
    "tile": lambda x: mg.tile(x, (2, 1)),
    "topk": lambda x: mg.topk(x, 2, axis=1),
    "trace": mg.trace,
    "trunc": mg.trunc,
    "unfold": lambda x: mg.unfold(x, axis=1, size=3, step=2),
    "unstack": mg.unstack,
    "where": lambda x: mg.where(x > 0, x, 0.0),
}


def flat(result: Any) -> list[mg.Tensor]:
    if isinstance(result, (list, tuple)):
        return [leaf for part in result for leaf in flat(part)]
    return [result]


@pytest.mark.parametrize("name", CALLS)
def test_a_function_agrees_with_the_host(name: str, device: str):
    leaves = [mg.tensor(X, device=place, requires_grad=True) for place in ("cpu", device)]
    for expected, actual in zip(*(flat(CALLS[name](x)) for x in leaves), strict=True):
        assert isinstance(actual, mg.Tensor)
        assert actual.device.startswith("gpu")
        assert actual.dtype == expected.dtype
        np.testing.assert_allclose(actual.numpy(), expected.numpy(), rtol=1e-9, atol=1e-12)
        if expected.requires_grad:
            for tensor in (expected, actual):
                mg.sum(mg.cos(tensor)).backward(retain_graph=True)
    if leaves[0].grad is not None:
        assert leaves[1].grad is not None
        np.testing.assert_allclose(leaves[1].grad.numpy(), leaves[0].grad.numpy(), rtol=1e-9, atol=1e-12)


def test_the_sign_of_what_is_no_number_is_none(device: str):
    values = np.array([np.nan, -0.0, np.inf, -3.0])
    np.testing.assert_array_equal(mg.sign(mg.tensor(values, device=device)).numpy(), np.sign(values))
    whole_numbers = mg.tensor(np.array([-3, 0, 5]), device=device)
    assert mg.sign(whole_numbers).numpy().tolist() == [-1, 0, 1]


def test_windows_are_not_written_to(device: str):
    """The transpose of a sum of windows is a view of its cotangent, to which a walk adds in a copy only."""
    grads = []
    for place in ("cpu", device):
        w = mg.tensor(np.arange(18.0).reshape(3, 6) / 7, device=place, requires_grad=True)
        added = add_windows(w, ((3,), (1,), (1,)), (8,))
        (mg.sum(w * w) + mg.sum(mg.sin(added))).backward()
        assert w.grad is not None
        grads.append(w.grad.numpy())
    np.testing.assert_allclose(grads[1], grads[0], rtol=1e-12)
