"""Functions of layers: against short formulas in NumPy, and fast paths against their compositions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, logsumexp, softmax

from minigrad.errors import DTypeError, ShapeError, UsageError
from minigrad.graph import fused_operations
from minigrad.nn import functional
from minigrad.ops import tensor
from minigrad.tensor import Tensor


def array(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


# ----- Cross-entropy ---------------------------------------------------------------------------------


def cross_entropy(logits: np.ndarray, targets: np.ndarray, ignored: int, reduction: str) -> np.ndarray:
    """Loop over everything: classes on axis 1."""
    losses = np.zeros(targets.shape)
    for place in np.ndindex(targets.shape):
        if targets[place] != ignored:
            row = logits[(place[0], slice(None), *place[1:])]
            losses[place] = logsumexp(row) - row[targets[place]]
    if reduction == "none":
        return losses
    return losses.sum() / (1 if reduction == "sum" else (targets != ignored).sum())


@given(
    batch=st.integers(1, 4),
    classes=st.integers(2, 5),
    rest=st.lists(st.integers(1, 3), max_size=2),
    reduction=st.sampled_from(["mean", "sum", "none"]),
    ignored=st.sampled_from([-100, 0, 1]),
    seed=st.integers(0, 99),
)
def test_cross_entropy_and_its_gradient(batch, classes, rest, reduction, ignored, seed):
    generator = np.random.default_rng(seed)
    values = 5 * generator.normal(size=(batch, classes, *rest))
    targets = generator.integers(0, classes, (batch, *rest))
    targets.reshape(-1)[0] = (ignored + 1) % classes if ignored >= 0 else 0  # at least one counts
    logits = tensor(values, requires_grad=True)
    loss = functional.cross_entropy(logits, tensor(targets), ignore_index=ignored, reduction=reduction)
    expected = cross_entropy(values, targets, ignored, reduction)
    np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-12, atol=1e-12)

    weights = generator.normal(size=loss.shape)
    loss.backward(weights)
    one_hot = np.moveaxis(np.eye(classes)[targets], -1, 1)
    counted = (targets != ignored) * weights / ((targets != ignored).sum() if reduction == "mean" else 1)
    gradient = (softmax(values, axis=1) - one_hot) * counted[:, None]
    assert logits.grad is not None
    np.testing.assert_allclose(logits.grad.numpy(), gradient, rtol=1e-10, atol=1e-12)


def test_cross_entropy_of_huge_logits_is_finite():
    loss = functional.cross_entropy(tensor([[1e4, -1e4], [-1e4, 1e4]]), tensor([0, 0]), reduction="none")
    assert loss.tolist() == [0.0, 2e4]


def test_cross_entropy_that_counts_nothing():
    logits = tensor(array(2, 3), requires_grad=True)
    total = functional.cross_entropy(logits, tensor([-100, -100]), reduction="sum")
    assert total.item() == 0.0
    total.backward()
    assert logits.grad is not None
    assert not logits.grad.numpy().any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy_keeps_the_dtype(dtype, reduction):
    loss = functional.cross_entropy(tensor(array(2, 3).astype(dtype)), tensor([1, -100]), reduction=reduction)
    assert loss.dtype == dtype


@pytest.mark.parametrize(
    ("targets", "options", "error", "message"),
    [
        ([0, 1, 2], {}, ShapeError, r"\(3,\)"),
        ([0.0, 1.0], {}, DTypeError, "integers"),
        ([0, 1], {"reduction": "max"}, UsageError, "max"),
        ([0, 3], {}, (ShapeError, UsageError), "3"),
    ],
)
def test_cross_entropy_refuses(targets, options, error, message):
    with pytest.raises(error, match=message):
        functional.cross_entropy(tensor(array(2, 3)), tensor(targets), **options)


# ----- Attention -------------------------------------------------------------------------------------


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, *, causal: bool, scale: float) -> np.ndarray:
    """Query by query: softmax over the keys that it may see, which for the last query are all."""
    out = np.zeros((*q.shape[:-1], v.shape[-1]))
    for place in np.ndindex(q.shape[:-1]):
        lead, index = place[:-1], place[-1]
        seen = k.shape[-2] - q.shape[-2] + index + 1 if causal else k.shape[-2]
        out[place] = softmax(k[lead][:seen] @ q[place] * scale) @ v[lead][:seen]
    return out


@given(
    lead=st.lists(st.integers(1, 3), max_size=3),
    queries=st.integers(1, 4),
    more=st.integers(0, 3),
    width=st.integers(1, 4),
    width_of_values=st.integers(1, 4),
    causal=st.booleans(),
    scale=st.sampled_from([None, 0.3]),
)
def test_attention(lead, queries, more, width, width_of_values, causal, scale):
    q, k = array(*lead, queries, width), array(*lead, queries + more, width, seed=1)
    v = array(*lead, queries + more, width_of_values, seed=2)
    expected = attention(q, k, v, causal=causal, scale=1 / math.sqrt(width) if scale is None else scale)
    results = []
    for fused in (True, False):
        inputs = [tensor(a, requires_grad=True) for a in (q, k, v)]
        with fused_operations(fused):
            out = functional.scaled_dot_product_attention(
                inputs[0], inputs[1], inputs[2], is_causal=causal, scale=scale
            )
            out.backward(np.cos(np.arange(out.size)).reshape(out.shape))
        np.testing.assert_allclose(out.numpy(), expected, rtol=1e-10, atol=1e-12)
        results.append([x.grad.numpy() for x in inputs if x.grad is not None])
    for fast, plain in zip(*results, strict=True):
        np.testing.assert_allclose(fast, plain, rtol=1e-9, atol=1e-11)


def test_attention_beyond_the_length_up_to_which_scores_are_kept():
    arrays = [array(2, 1, 300, 4, seed=seed) for seed in range(3)]
    gradients = []
    for fused in (True, False):
        inputs = [tensor(a, requires_grad=True) for a in arrays]
        with fused_operations(fused):
            out = functional.scaled_dot_product_attention(inputs[0], inputs[1], inputs[2], is_causal=True)
            np.testing.assert_allclose(
                out.numpy(), attention(*arrays, causal=True, scale=0.5), rtol=1e-10, atol=1e-12
            )
            out.backward(array(*out.shape, seed=3))
        gradients.append([x.grad.numpy() for x in inputs if x.grad is not None])
    for fast, plain in zip(*gradients, strict=True):
        np.testing.assert_allclose(fast, plain, rtol=1e-9, atol=1e-11)


def test_heads_side_by_side_are_separate_attentions():
    heads, width = 3, 4
    packed = array(2, 5, 3 * heads * width)
    q, k, v = (
        packed[..., part * heads * width : (part + 1) * heads * width].reshape(2, 5, heads, width)
        for part in range(3)
    )
    out = functional.self_attention(tensor(packed), heads=heads, is_causal=True).numpy()
    for head in range(heads):
        expected = attention(*(part[:, :, head] for part in (q, k, v)), causal=True, scale=0.5)
        np.testing.assert_allclose(out[..., head * width : (head + 1) * width], expected, rtol=1e-10)


def test_attention_refuses():
    def call(q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...], causal: bool = False) -> Tensor:
        query, key, value = (tensor(np.ones(shape)) for shape in (q, k, v))
        return functional.scaled_dot_product_attention(query, key, value, is_causal=causal)

    for shapes in [
        ((2, 3, 4), (2, 3, 5), (2, 3, 4)),
        ((2, 3, 4), (2, 3, 4), (2, 2, 4)),
        ((2, 3, 4), (1, 3, 4), (1, 3, 4)),
    ]:
        with pytest.raises(ShapeError, match="do not fit"):
            call(*shapes)
    with pytest.raises(ShapeError, match=r"4 causal queries.* 3 keys"):
        call((1, 4, 2), (1, 3, 2), (1, 3, 2), causal=True)
    with pytest.raises(ShapeError, match="5 heads"):
        functional.self_attention(tensor(np.ones((1, 2, 12))), heads=5)


# ----- The others ------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax_and_its_logarithm(axis):
    x = 10 * array(2, 3, 4)
    np.testing.assert_allclose(functional.softmax(tensor(x), dim=axis).numpy(), softmax(x, axis), rtol=1e-12)
    logarithm = functional.log_softmax(tensor(x), dim=axis).numpy()
    np.testing.assert_allclose(logarithm, log_softmax(x, axis), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_has_the_slope_of_its_values(approximate):
    x = np.linspace(-5, 5, 101)
    h = 1e-6
    up, down = (functional.gelu(tensor(x + step), approximate=approximate).numpy() for step in (h, -h))
    leaf = tensor(x, requires_grad=True)
    functional.gelu(leaf, approximate=approximate).sum().backward()
    assert leaf.grad is not None
    np.testing.assert_allclose(leaf.grad.numpy(), (up - down) / (2 * h), atol=1e-8)


def test_gelu_refuses_other_approximations():
    with pytest.raises(UsageError, match="sigmoid"):
        functional.gelu(tensor([1.0]), approximate="sigmoid")


@given(rows=st.integers(0, 3), width=st.integers(2, 5), gain=st.booleans(), shift=st.booleans())
def test_layer_norm_has_the_gradient_of_its_composition(rows, width, gain, shift):
    given = [
        tensor(array(rows, width), requires_grad=True),
        tensor(array(width, seed=1), requires_grad=True) if gain else None,
        tensor(array(width, seed=2), requires_grad=True) if shift else None,
    ]
    gradients = []
    for fused in (True, False):
        for x in given:
            if x is not None:
                x.zero_grad()
        with fused_operations(fused):
            out = functional.layer_norm(given[0], width, given[1], given[2])  # type: ignore[arg-type]
            out.backward(array(rows, width, seed=3))
        gradients.append(
            [out.numpy(), *(x.grad.numpy() for x in given if x is not None and x.grad is not None)]
        )
    assert len(gradients[0]) == 2 + gain + shift
    for fast, plain in zip(*gradients, strict=True):
        np.testing.assert_allclose(fast, plain, rtol=1e-9, atol=1e-10)


def test_layer_norm_over_several_axes_takes_gain_and_shift_of_that_shape():
    x, gain, shift = array(5, 2, 3), array(2, 3, seed=1), array(2, 3, seed=2)
    leaves = tensor(gain, requires_grad=True), tensor(shift, requires_grad=True)
    out = functional.layer_norm(tensor(x), (2, 3), leaves[0], leaves[1], eps=0.1)
    normal = (x - x.mean((1, 2), keepdims=True)) / np.sqrt(x.var((1, 2), keepdims=True) + 0.1)
    np.testing.assert_allclose(out.numpy(), normal * gain + shift, rtol=1e-12, atol=1e-12)
    out.sum().backward()
    for leaf, expected in zip(leaves, (normal.sum(0), np.full((2, 3), 5.0)), strict=True):
        assert leaf.grad is not None
        np.testing.assert_allclose(leaf.grad.numpy(), expected, rtol=1e-10, atol=1e-12)


def test_dropout_refuses_what_is_no_probability():
    with pytest.raises(UsageError, match=r"1\.5"):
        functional.dropout(tensor([1.0]), 1.5)


def test_cross_entropy_of_bytes_and_of_classes_that_are_none():
    logits = tensor(array(2, 3))
    as_bytes = functional.cross_entropy(logits, tensor(np.array([0, 2], np.uint8)))
    assert as_bytes.item() == functional.cross_entropy(logits, tensor([0, 2])).item()
    with pytest.raises(UsageError, match="target -1 is none of 3 classes"):
        functional.cross_entropy(logits, tensor([0, -1]))
