"""Fused operations against the compositions that define them."""

import math
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad.errors import DTypeError, ShapeError, UsageError
from minigrad.fused import Fused
from minigrad.ops import attention, blocks
from minigrad.testing import arrays, check_gradients, shapes
from tests.minigrad.examples import DECLARED, spread
from tests.minigrad.examples_fused import TARGETS, attend


def both(f, *inputs: np.ndarray | None, needs=None, dtype="float64"):
    """Results and gradients of f with the fast path and without. `needs` says which inputs have gradients."""
    needs = needs or [True] * len(inputs)
    outcomes = []
    for enabled in (True, False):
        tensors = [
            None if a is None else mg.tensor(a, dtype=dtype, requires_grad=need)
            for a, need in zip(inputs, needs, strict=True)
        ]
        with mg.fused_operations(enabled):
            y = f(*tensors)
        weights = np.cos(np.arange(y.size)).reshape(y.shape).astype(dtype)
        if y.requires_grad:
            y.backward(weights)
        grads = [None if t is None or t.grad is None else t.grad.numpy() for t in tensors]
        outcomes.append([y.numpy(), *grads])
    return outcomes


def same(f, *inputs: np.ndarray | None, needs=None, dtype="float64", tolerance=1e-11) -> None:
    fast, slow = both(f, *inputs, needs=needs, dtype=dtype)
    for a, b in zip(fast, slow, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def masks(count: int):
    return st.lists(st.booleans(), min_size=count, max_size=count)


def test_every_fused_operation_is_tested_here() -> None:
    fused = {name for name, operation in DECLARED.items() if isinstance(operation, Fused)}
    elsewhere = {"convolution", "max_cells", "max_pool"}  # in test_windows.py
    here = {"attention", "self_attention", "linear", "layer_norm", "gelu", "gelu_tanh", "cross_entropy"}
    assert fused == here | elsewhere | {"perceptron"}  # in test_perceptron.py


@given(shapes(dimensions=3), st.integers(0, 4), st.integers(1, 4), masks(3), st.booleans(), st.data())
def test_linear(lead, inner, outer, needs, has_bias, data) -> None:
    x, w, b = (data.draw(arrays(s)) for s in [(*lead, inner), (outer, inner), (outer,)])
    same(mg.linear, x, w, b if has_bias else None, needs=needs)


@given(shapes(dimensions=3), st.integers(0, 5), masks(3), st.booleans(), st.booleans(), st.data())
def test_layer_norm(lead, width, needs, has_weight, has_bias, data) -> None:
    x, w, b = (data.draw(arrays(s)) for s in [(*lead, width), (width,), (width,)])
    with np.errstate(all="ignore"):  # a width of 0 has no mean
        same(mg.layer_norm, x, w if has_weight else None, b if has_bias else None, needs=needs)


@given(shapes(), st.data())
def test_gelu(shape, data) -> None:
    x = data.draw(arrays(shape))
    for approximate in ("tanh", "none"):
        same(lambda x, a=approximate: mg.gelu(x, approximate=a), x)


@given(shapes(dimensions=2), st.integers(1, 5), st.sampled_from(["none", "sum"]), st.data())
def test_cross_entropy(lead, classes, reduction, data) -> None:
    logits = data.draw(arrays((*lead, classes)))
    count = math.prod(lead)
    labels = st.lists(st.sampled_from([-100, *range(classes)]), min_size=count, max_size=count)
    targets = np.asarray(data.draw(labels), "int64").reshape(lead)
    same(lambda x: mg.cross_entropy(x, targets, reduction=reduction), logits)


@given(
    shapes(dimensions=3, longest=3),
    st.integers(0, 4),
    st.integers(1, 4),
    st.tuples(st.integers(1, 3), st.integers(0, 3)),
    st.booleans(),
    masks(3),
    st.booleans(),
    st.data(),
)
def test_attention(lead, queries, keys, widths, causal, needs, keep_scores, data) -> None:
    block = data.draw(st.integers(1, 4), label="queries at a time")
    keys = max(keys, queries) if causal else keys
    q, k, v = (
        data.draw(arrays((*lead, *s))) for s in [(queries, widths[0]), (keys, widths[0]), (keys, widths[1])]
    )

    def f(q, k, v):
        return mg.scaled_dot_product_attention(q, k, v, is_causal=causal)

    kept = mock.patch.object(attention, "KEEP_SCORES_UP_TO", 256 if keep_scores else 0)
    with kept, mock.patch.object(attention, "QUERIES", block):
        same(f, q, k, v, needs=needs)
    found = f(*map(mg.tensor, (q, k, v))).numpy()
    np.testing.assert_allclose(found, attend(q, k, v, causal, 1 / math.sqrt(widths[0])), atol=1e-12)


@given(st.integers(0, 3), st.integers(1, 4), st.integers(1, 3), st.integers(1, 2), st.booleans(), st.data())
def test_self_attention(batch, time, heads, each, causal, data) -> None:
    packed = data.draw(arrays((batch, time, 3 * heads * each)))
    same(lambda x: mg.self_attention(x, heads=heads, is_causal=causal), packed)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_computes_scores_again_beyond_the_limit(causal: bool) -> None:
    keys = attention.KEEP_SCORES_UP_TO + 3
    q, k, v = spread(1, 1, 5, 4), spread(1, 1, keys, 4), spread(1, 1, keys, 2)
    same(lambda q, k, v: mg.scaled_dot_product_attention(q, k, v, is_causal=causal), q, k, v)
    x = mg.tensor(q, requires_grad=True)
    node = mg.scaled_dot_product_attention(x, k, v).node
    assert node is not None
    _, (_, (probabilities, tops, totals)) = node.saved
    assert probabilities is None
    assert tops.size == totals.size == 5


@pytest.mark.parametrize("length", [6.0, 30.0, 1e15, np.inf, np.nan])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_scores_of_any_size(length: float, dtype: str) -> None:
    """Also far beyond what an exponential can take."""
    steps = np.linspace(-1, 1, 300)[:, None]
    with np.errstate(over="ignore", invalid="ignore"):
        q, k, v = (np.asarray(a, dtype) for a in (steps[:7] * length, steps * length, np.cos(9 * steps)))
        found = mg.scaled_dot_product_attention(*map(mg.tensor, (q, k, v)), scale=1.0).numpy()
        wide_q, wide_k, wide_v = (a.astype("float64") for a in (q, k, v))
        expected = attend(wide_q, wide_k, wide_v, False, 1.0)
    np.testing.assert_allclose(found, expected, rtol=1e-3 if dtype == "float16" else 1e-5, atol=1e-3)


def test_attention_with_a_scale_and_a_single_query() -> None:
    q, k, v = spread(2, 1, 3), spread(2, 4, 3), spread(2, 4, 3)
    found = mg.scaled_dot_product_attention(*map(mg.tensor, (q, k, v)), is_causal=True, scale=0.1)
    np.testing.assert_allclose(found.numpy(), attend(q, k, v, False, 0.1), rtol=1e-12)


@pytest.mark.parametrize("block", [1, 5, 7])
def test_blocks_of_any_size_give_the_same(block: int) -> None:
    x, w, b = spread(6, 3), spread(3), spread(3)
    with mock.patch.object(blocks, "BLOCK", block):
        same(mg.layer_norm, x, w, b)
        same(lambda x: mg.gelu(x, approximate="tanh"), x)


@given(st.sampled_from(["float32", "float16"]), st.data())
def test_small_dtypes(dtype, data) -> None:
    x, w, b = (data.draw(arrays(s)) for s in [(4, 3), (3, 3), (3,)])
    tolerance = 1e-5 if dtype == "float32" else 0.1
    for f in (
        mg.linear,
        lambda x, w, b: mg.layer_norm(x, b, b),
        lambda x, w, b: mg.cross_entropy(x, TARGETS),
    ):
        same(f, x, w, b, dtype=dtype, tolerance=tolerance)


def test_mixtures_of_dtypes_are_promoted_as_in_the_composition() -> None:
    x, w = mg.tensor(spread(2, 3), dtype="float32"), mg.tensor(np.ones(3), requires_grad=True)
    for enabled in (True, False):
        with mg.fused_operations(enabled):
            assert mg.layer_norm(x, w, None).dtype == np.float64
            assert mg.linear(x, mg.tensor(spread(2, 3))).dtype == np.float64
            assert mg.layer_norm(np.arange(6).reshape(2, 3), None, None).dtype == np.float64
    mg.layer_norm(x, w, None).sum().backward()
    assert w.grad is not None


def test_ignored_targets_count_for_nothing() -> None:
    logits = mg.tensor(spread(4, 3), requires_grad=True)
    each = mg.cross_entropy(logits, TARGETS, reduction="none")
    assert each.numpy()[2] == 0.0
    mean = mg.cross_entropy(logits, TARGETS)
    assert mean.item() == pytest.approx(each.numpy().sum() / 3)
    mean.backward()
    assert logits.grad is not None
    np.testing.assert_array_equal(logits.grad.numpy()[2], np.zeros(3))
    other = mg.cross_entropy(logits, np.where(TARGETS == -100, 7, TARGETS), ignore_index=7)
    assert other.item() == mean.item()
    masked = spread(2, 3)
    masked[0, 0] = -np.inf  # the class that stands in for an ignored target
    same(lambda x: mg.cross_entropy(x, np.array([-100, 1]), reduction="sum"), masked)


def test_extreme_logits_do_not_overflow() -> None:
    logits = mg.tensor(np.array([[1e4, -1e4, 0.0]]), requires_grad=True)
    loss = mg.cross_entropy(logits, np.array([2]))
    assert loss.item() == 1e4
    loss.backward()
    assert logits.grad is not None
    np.testing.assert_allclose(logits.grad.numpy(), [[1.0, 0.0, -1.0]])
    big = np.full((1, 2, 2), 1e3)
    assert np.isfinite(mg.scaled_dot_product_attention(*[mg.tensor(big)] * 3).numpy()).all()


def test_gelu_in_both_forms() -> None:
    check_gradients(mg.gelu, spread(2, 3))
    x = spread(5)
    right = [0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x]
    np.testing.assert_allclose(mg.gelu(mg.tensor(x)).numpy(), right, rtol=1e-12)
    with pytest.raises(UsageError, match='approximate is "none" or "tanh", not'):
        mg.gelu(x, approximate="sigmoid")


def test_misuse_has_its_sentence() -> None:
    x, w = mg.tensor(spread(2, 3)), mg.tensor(spread(4, 5))
    with pytest.raises(ShapeError, match=r"x has shape \(2, 3\), and the weight takes 5 features"):
        mg.linear(x, w)
    with pytest.raises(ShapeError, match=r"weight \(out, in\) and a bias \(out,\), got \(4, 3\) and \(3,\)"):
        mg.linear(x, mg.tensor(spread(4, 3)), mg.tensor(spread(3)))
    with pytest.raises(ShapeError, match=r"weight \(out, in\).*got \(3,\) and None"):
        mg.linear(x, mg.tensor(spread(3)))
    with pytest.raises(
        ShapeError, match=r"layer_norm: x \(2, 3\) needs a weight of shape \(3,\), got \(1,\)"
    ):
        mg.layer_norm(x, mg.tensor(spread(1)), None)
    with pytest.raises(ShapeError, match=r"layer_norm.*bias of shape \(3,\), got \(2,\)"):
        mg.layer_norm(x, None, mg.tensor(spread(2)))
    with pytest.raises(DTypeError, match="integers; got float64"):
        mg.cross_entropy(x, np.array([0.0, 1.0]))
    with pytest.raises(ShapeError, match=r"expected logits \(\.\.\., classes\)"):
        mg.cross_entropy(np.float32(1.0), np.array(0))
    with pytest.raises(ShapeError, match=r"logits \(2, 3\) need targets \(2,\), got \(3,\)"):
        mg.cross_entropy(x, np.array([0, 1, 2]))
    with pytest.raises(UsageError, match="'average'"):
        mg.cross_entropy(x, np.array([0, 1]), reduction="average")
    for wrong in (3, -1):
        with pytest.raises(UsageError, match=f"target {wrong} is none of 3 classes"):
            mg.cross_entropy(x, np.array([0, wrong]))
    q = mg.tensor(spread(1, 3, 2))
    with pytest.raises(ShapeError, match="do not fit"):
        mg.scaled_dot_product_attention(q, q[..., :1], q)
    with pytest.raises(ShapeError, match="3 causal queries cannot be the last of 2 keys"):
        mg.scaled_dot_product_attention(q, q[:, :2], q[:, :2], is_causal=True)
    with pytest.raises(ShapeError, match="multiple of the heads"):
        mg.self_attention(mg.tensor(spread(1, 2, 9)), heads=2)
