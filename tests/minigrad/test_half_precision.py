"""Half precision: float16, and bfloat16 of ml_dtypes. What is added up is added up in float32, as in torch.

Figures that are said to be torch's are those of torch 2.13.
"""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad.backend_special import is_half
from minigrad.errors import DTypeError
from tests.gpu import stand_in
from tests.minigrad.examples import ALL, Example, ids
from tests.packaging.tree import ROOT

pytest.importorskip("ml_dtypes")
HALVES = ("float16", "bfloat16")
EPSILON = {"float16": 2.0**-10, "bfloat16": 2.0**-7}
REFUSED = {
    *("cholesky", "cofactor", "complement", "det", "eigh", "inv", "pinv"),
    *("qr", "slogdet", "solve", "solve_triangular", "svd"),
}
"""What computes in float32 and float64 only, and says so."""

halves = pytest.mark.parametrize("dtype", HALVES)
few = settings(max_examples=40, deadline=None)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Rounding to 0 or ∞ is what half precision does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


# ----- Every operation ----------------------------------------------------------------------------


@halves
@pytest.mark.parametrize(("name", "example"), ALL, ids=ids(ALL))
def test_half_precision_stays_half(name: str, example: Example, dtype: str) -> None:
    """Results, gradients of both readings, and tangents have the dtype of the inputs, and their values."""
    if name == "astype":
        pytest.skip("casting is what it is for")
    leaves = example.leaves(dtype)
    if name in REFUSED:
        with pytest.raises(DTypeError, match="computes in float32 or float64"):
            example.call(*leaves)
        return
    out, exact = example.call(*leaves), example.call(*example.leaves())
    assert out.dtype == dtype
    share = 10 * EPSILON[dtype]
    np.testing.assert_allclose(out.numpy().astype("float64"), exact.numpy(), rtol=share, atol=2 * share)
    for create_graph in (False, True):
        for leaf in leaves:
            leaf.grad = None
        example.call(*leaves).backward(mg.ones_like(out), create_graph=create_graph)
        assert {leaf.grad.dtype for leaf in leaves if leaf.grad is not None} <= {out.dtype}
    points = tuple(leaf.detach() for leaf in leaves)
    assert mg.jvp(example.call, points, points)[1].dtype == dtype


R = np.random.default_rng(0).normal
CALLS: dict[str, tuple[Callable[..., Any], list[np.ndarray]]] = {
    "einsum": (lambda x, y: mg.einsum("ij,jk->k", x, y), [R(size=(3, 4)), R(size=(4, 5))]),
    "tensordot": (lambda x, y: mg.tensordot(x, y, axes=1), [R(size=(3, 4)), R(size=(4, 5))]),
    "grid_sample": (mg.grid_sample, [R(size=(1, 2, 4, 4)), R(size=(1, 3, 3, 2))]),
    "conv2d": (mg.conv2d, [R(size=(1, 2, 5, 5)), R(size=(3, 2, 3, 3))]),
    "cross_entropy": (lambda x: mg.cross_entropy(x, [0, 1, 2]), [R(size=(3, 4))]),
    "prod": (lambda x: mg.prod(x, axis=0), [R(size=(3, 4))]),
    "std": (mg.std, [R(size=(3, 4))]),
    "logsumexp": (lambda x: mg.logsumexp(x, axis=1), [R(size=(3, 4))]),
    "layer_norm": (mg.layer_norm, [R(size=(3, 4)), R(size=4), R(size=4)]),
    "adaptive_avg_pool2d": (lambda x: mg.adaptive_avg_pool2d(x, 3), [R(size=(1, 2, 5, 5))]),
    "leaky_relu": (mg.leaky_relu, [R(size=5)]),
    "polygamma": (lambda x: mg.polygamma(1, mg.abs(x) + 1), [R(size=5)]),
}


@halves
@pytest.mark.parametrize("name", CALLS)
def test_functions_made_of_several_operations(name: str, dtype: str) -> None:
    f, inputs = CALLS[name]
    leaves = [mg.tensor(x, dtype=dtype, requires_grad=True) for x in inputs]
    out, exact = f(*leaves), f(*map(mg.tensor, inputs))
    assert out.dtype == dtype
    limit = 16 * EPSILON[dtype]
    np.testing.assert_allclose(out.numpy().astype("float64"), exact.numpy(), rtol=limit, atol=limit)
    mg.sum(out).backward()
    assert {leaf.grad.dtype for leaf in leaves if leaf.grad is not None} == {out.dtype}
    if name not in ("grid_sample", "cross_entropy"):
        shaped = f(*(mg.zeros(x.shape, dtype=dtype, device="shapes") for x in inputs))
        assert (shaped.shape, shaped.dtype) == (out.shape, out.dtype)


# ----- Sums of many -------------------------------------------------------------------------------

SUMS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "sum": (mg.sum, np.sum),
    "mean": (mg.mean, np.mean),
    "var": (mg.var, np.var),
    "std": (mg.std, np.std),
    "cumulative_sum": (mg.cumulative_sum, np.cumsum),
    "logsumexp": (mg.logsumexp, lambda x, axis: np.log(np.sum(np.exp(x), axis=axis))),
    "softmax": (mg.softmax, lambda x, axis: np.exp(x) / np.sum(np.exp(x), axis=axis, keepdims=True)),
    "log_softmax": (mg.log_softmax, lambda x, axis: x - np.log(np.sum(np.exp(x), axis=axis, keepdims=True))),
}


@halves
@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.parametrize("name", SUMS)
@few
@given(data=st.data())
def test_many_entries_add_up_in_float32(name: str, device: str, dtype: str, data: st.DataObject) -> None:
    """The result is that of float64, rounded once, however many entries there are, on which axis ever."""
    if (device, dtype) == ("gpu", "bfloat16"):
        return  # which CuPy does not have
    f, exact = SUMS[name]
    shape = data.draw(st.sampled_from([(3000, 2), (2, 3000), (5000,), (40, 3, 50)]))
    axis = data.draw(st.sampled_from(range(len(shape))))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    x = mg.tensor(rng.uniform(0.5, 1.5, size=shape), dtype=dtype)
    expected = exact(x.numpy().astype("float64"), axis=axis)
    with stand_in.installed():
        out = f(mg.tensor(x.data, device=device), axis=axis)
        assert out.dtype == dtype
        found = out.numpy().astype("float64")
    np.testing.assert_allclose(found, expected, rtol=EPSILON[dtype], atol=2.0**-20)


@halves
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_gradients_of_many_uses_add_up_in_float32(dtype: str, device: str) -> None:
    """A bias of many rows, an index that comes often. In float16 2048 + 1 is 2048."""
    if (device, dtype) == ("gpu", "bfloat16"):
        return
    with stand_in.installed():
        zeros = np.zeros(3000, "int64")
        for name, f in {
            "broadcast": lambda x: x + mg.ones((3000, 2), dtype=dtype, device=device),
            "index": lambda x: x[zeros],
            "index among slices": lambda x: mg.reshape(x, (1, 2))[:, zeros],
            "take": lambda x: mg.take(x, zeros),
            "along an axis": lambda x: mg.take_along_axis(x, zeros, axis=0),
            "cumulative sum": lambda x: mg.cumulative_sum(mg.broadcast_to(x[:1], (3000,)), axis=0)[-1:],
        }.items():
            x = mg.tensor(np.ones(2), dtype=dtype, device=device, requires_grad=True)
            f(x).backward(mg.ones_like(f(x)))
            assert x.grad is not None
            assert float(x.grad.numpy()[0]) == pytest.approx(3000, rel=2.0**-8), name


@halves
@pytest.mark.parametrize("f", [mg.sum, mg.prod, mg.cumulative_sum, mg.cumulative_prod])
def test_a_dtype_that_is_asked_for_is_given(f: Callable[..., Any], dtype: str) -> None:
    x = mg.tensor([300.0, 300.0], dtype=dtype)
    for wanted in ("float32", "float64"):
        out = f(x, dtype=wanted)
        assert out.dtype == wanted
        assert np.ravel(out.numpy())[-1] in (600.0, 90_000.0)


# ----- Where a sum overflows, and its mean does not -----------------------------------------------


@halves
def test_means_of_what_overflows(dtype: str) -> None:
    """As in torch: 100, and of 100,000 ones 1."""
    hundreds = mg.full((1, 1, 64, 64), 100.0, dtype=dtype)
    functions: list[Callable[..., Any]] = [
        lambda x: mg.mean(x),
        lambda x: mg.avg_pool2d(x, 64),
        lambda x: mg.adaptive_avg_pool2d(x, 1),
        lambda x: mg.adaptive_avg_pool2d(x, 3),
        lambda x: mg.mean(x, axis=(2, 3), keepdims=True),
        np.mean,
    ]
    for f in functions:
        x = mg.tensor(hundreds.data, requires_grad=True)
        out = f(x)
        assert out.dtype == dtype
        assert set(np.ravel(out.numpy()).tolist()) == {100.0}
        mg.sum(out).backward()
        assert x.grad is not None
        total = float(np.sum(x.grad.numpy().astype("float64")))
        assert total == pytest.approx(out.size, rel=8 * EPSILON[dtype])
    assert mg.mean(mg.ones(100_000, dtype=dtype)).item() == 1.0
    assert float(mg.mean(mg.ones(100_000, dtype=dtype, device="cpu") * 3.0)) == 3.0


def test_statistics_beside_torch() -> None:
    x = mg.tensor(np.array([300, -300, 100, 0], "float16"))
    one, zero = mg.ones(4, dtype="float16"), mg.zeros(4, dtype="float16")
    torchs = [1.2705, -1.5010, 0.3464, -0.1155]
    for fused in (True, False):
        with mg.fused_operations(fused):
            for weight, bias in ((one, zero), (None, None), (one.astype("float32"), zero.astype("float32"))):
                out = mg.layer_norm(x, weight, bias)
                np.testing.assert_allclose(out.numpy(), torchs, rtol=1e-3)
                assert out.dtype == ("float16" if weight is None else weight.dtype)
    assert mg.std(x, correction=1).item() == 250.0
    assert mg.std(mg.tensor(np.array([300, -300], "float16"))).item() == 300.0
    assert mg.var(mg.ones(1000, dtype="bfloat16")).item() == 0.0
    zeros = mg.softmax(mg.zeros(100_000, dtype="float16")).numpy()
    np.testing.assert_array_equal(zeros, np.float16(1e-5))
    assert mg.cross_entropy(mg.zeros((9, 70_000), dtype="float16"), [0] * 9).item() == np.float16(11.156)


@halves
def test_gradients_of_layer_norm_do_not_overflow(dtype: str) -> None:
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(600, 8)) * 300, rng.normal(size=8)
    grads = {}
    for kind in (dtype, "float64"):
        for fused in (True, False):
            leaves = [
                mg.tensor(a.astype("float32"), dtype=dtype, requires_grad=True).astype(kind) for a in (x, w)
            ]
            with mg.fused_operations(fused):
                out = mg.layer_norm(leaves[0], leaves[1], None)
                found = mg.gradients(mg.sum(out * out), leaves)
            grads[kind, fused] = [g.numpy().astype("float64") for g in found]
    for fused in (True, False):
        for a, b in zip(grads[dtype, fused], grads["float64", fused], strict=True):
            assert np.abs(a - b).max() <= 8 * EPSILON[dtype] * np.abs(b).max()


# ----- bfloat16 by its name -----------------------------------------------------------------------


def test_bfloat16_is_known_by_name_without_an_import() -> None:
    code = "import minigrad as mg; print(mg.tensor([1.5], dtype='bfloat16').astype('bfloat16').dtype)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stdout.strip() == "bfloat16", done.stderr


def test_without_ml_dtypes_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(DTypeError, match="pip install ml_dtypes"):
        mg.ones(2, dtype="bfloat16")


def test_what_is_half() -> None:
    assert [is_half(mg.ones(1, dtype=d).dtype) for d in (*HALVES, "float32", "int16", "uint16")] == [
        True,
        True,
        False,
        False,
        False,
    ]
