"""Attention layers and transformers: against loops over queries and heads; masks; no leak from the future."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from minigrad import random
from minigrad.errors import MinigradError
from minigrad.nn import functional as F
from minigrad.nn import layers as L
from minigrad.nn import models as M
from minigrad.nn.module import Module
from minigrad.ops import tensor
from minigrad.tensor import Tensor

source = np.random.default_rng(7)


def array(*shape: int) -> np.ndarray:
    return source.normal(size=shape)


def attended(
    layer: L.MultiheadAttention, q: np.ndarray, k: np.ndarray, v: np.ndarray, seen: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One sequence, head by head and query by query; `seen` (heads, queries, keys) is true
    where one may look."""
    assert layer.in_proj_bias is not None
    weight, bias = layer.in_proj_weight.numpy(), layer.in_proj_bias.numpy()  # type: ignore[attr-defined]
    width, heads = layer.embed_dim, layer.num_heads
    size = width // heads
    out, weights = np.zeros((len(q), width)), np.zeros((heads, len(q), len(k)))
    for head in range(heads):
        parts = []
        for number, x in enumerate((q, k, v)):
            rows = slice(number * width + head * size, number * width + (head + 1) * size)
            parts.append(x @ weight[rows].T + bias[rows])
        for i, query in enumerate(parts[0]):
            where = np.flatnonzero(seen[head, i])
            if len(where):
                weights[head, i, where] = softmax(parts[1][where] @ query / math.sqrt(size))
            out[i, head * size : (head + 1) * size] = weights[head, i] @ parts[2]
    projected = layer.out_proj
    assert projected.bias is not None
    return out @ projected.weight.numpy().T + projected.bias.numpy(), weights


@settings(max_examples=40, deadline=None)
@given(
    heads=st.integers(1, 3),
    size=st.integers(1, 3),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)),
    batch_first=st.booleans(),
    masks=st.sampled_from(["none", "attn", "padding", "both", "numbers", "heads"]),
    need_weights=st.booleans(),
)
def test_heads_attend_as_a_loop_over_queries_does(heads, size, shape, batch_first, masks, need_weights):
    batch, queries, keys = shape
    width = heads * size
    layer = L.MultiheadAttention(width, heads, batch_first=batch_first, dtype="float64")
    for parameter in layer.parameters():
        parameter.assign(array(*parameter.shape))
    q, k = array(batch, queries, width), array(batch, keys, width)
    v = array(batch, keys, width)
    hidden = source.random((queries, keys)) < 0.4 if masks in ("attn", "both", "numbers") else None
    per_head = source.random((batch * heads, queries, keys)) < 0.4 if masks == "heads" else None
    padding = source.random((batch, keys)) < 0.4 if masks in ("padding", "both") else None
    seen = np.ones((batch, heads, queries, keys), dtype=bool)
    if hidden is not None:
        seen &= ~hidden
    if per_head is not None:
        seen &= ~per_head.reshape(seen.shape)
    if padding is not None:
        seen &= ~padding[:, None, None]
    attn_mask = hidden if per_head is None else per_head
    if masks == "numbers" and hidden is not None:
        attn_mask = np.where(hidden, -np.inf, 0.0)
    inputs = (tensor(x if batch_first else x.transpose(1, 0, 2)) for x in (q, k, v))
    out, weights = layer(*inputs, padding, need_weights, attn_mask)
    out = out.numpy() if batch_first else out.numpy().transpose(1, 0, 2)
    for i in range(batch):
        expected, shares = attended(layer, q[i], k[i], v[i], seen[i])
        np.testing.assert_allclose(out[i], expected, rtol=1e-10, atol=1e-12)
        if need_weights:
            np.testing.assert_allclose(weights.numpy()[i], shares.mean(axis=0), rtol=1e-10, atol=1e-12)
    if need_weights:
        assert (weights.numpy()[~seen.any(axis=1)] == 0.0).all()  # exactly
    assert np.isfinite(out).all()


def test_the_fast_path_and_the_steps_agree():
    layer = L.MultiheadAttention(6, 2, batch_first=True, dtype="float64")
    x = tensor(array(2, 5, 6))
    for causal in (False, True):
        fast, none = layer(x, x, x, need_weights=False, is_causal=causal)
        steps, weights = layer(x, x, x, is_causal=causal, average_attn_weights=False)
        assert none is None
        assert weights.shape == (2, 2, 5, 5)
        np.testing.assert_allclose(fast.numpy(), steps.numpy(), rtol=1e-12, atol=1e-12)
        if causal:
            assert not np.triu(weights.numpy(), 1).any()


def test_a_head_that_may_look_nowhere_gets_zeros_and_no_nan():
    q, k, v = (tensor(array(1, 2, 3), requires_grad=True) for _ in range(3))
    mask = np.array([[True, False], [False, False]])
    out = F.scaled_dot_product_attention(q, k, v, mask)
    assert not out.numpy()[0, 1].any()
    np.testing.assert_allclose(out.numpy()[0, 0], v.numpy()[0, 0])
    out.sum().backward()
    assert all(x.grad is not None and np.isfinite(x.grad.numpy()).all() for x in (q, k, v))


def test_products_of_normal_vectors_have_the_variance_of_their_width():
    q, k = array(2000, 64), array(2000, 64)
    assert (q * k).sum(axis=1).var() == pytest.approx(64, rel=0.15)


def test_additive_attention_is_the_papers_formula():
    layer = L.AdditiveAttention(2, 3, 4, dtype="float64")
    s, h = array(1, 2, 2), array(1, 5, 3)
    mask = np.array([[True, True, False, True, False]])
    context, weights = layer(tensor(s), tensor(h), mask=mask)
    state = layer.state_dict()
    w, u, b, v = (state[name].numpy() for name in ("query.weight", "key.weight", "key.bias", "score.weight"))
    for i in range(2):
        scores = np.array([v[0] @ np.tanh(w @ s[0, i] + u @ h[0, j] + b) for j in range(5)])
        shares = np.zeros(5)
        shares[mask[0]] = softmax(scores[mask[0]])
        np.testing.assert_allclose(weights.numpy()[0, i], shares, rtol=1e-12)
        np.testing.assert_allclose(context.numpy()[0, i], shares @ h[0], rtol=1e-12)
    assert (weights.numpy()[:, :, ~mask[0]] == 0.0).all()


# ----- Causality --------------------------------------------------------------------------------------


def decoder(norm_first: bool) -> Module:
    layer = L.TransformerDecoderLayer(8, 2, 16, 0.0, batch_first=True, norm_first=norm_first)
    stack = L.TransformerDecoder(layer, 2)
    memory = tensor(array(2, 3, 8).astype("float32"))

    class Decoder(Module):
        def forward(self, x: Tensor) -> Tensor:
            return stack(x, memory, tgt_is_causal=True)

    return Decoder()


def encoder(masked: bool) -> Module:
    stack = L.TransformerEncoder(L.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True), 2)

    class Encoder(Module):
        def forward(self, x: Tensor) -> Tensor:
            if masked:
                mask = L.Transformer.generate_square_subsequent_mask(x.shape[1], dtype="float32")
                return stack(x, mask)
            return stack(x, is_causal=True)

    return Encoder()


@pytest.mark.parametrize("model", [decoder(False), decoder(True), encoder(True), encoder(False)])
@pytest.mark.parametrize("place", [1, 4, 6])
def test_nothing_leaks_from_the_future_to_the_bit(model, place):
    x = array(2, 7, 8).astype("float32")
    other = x.copy()
    other[:, place:] = array(2, 7 - place, 8) * 100
    before, after = model(tensor(x)).numpy(), model(tensor(other)).numpy()
    np.testing.assert_array_equal(before[:, :place], after[:, :place])
    assert (before[:, place:] != after[:, place:]).any()


def test_the_translation_model_sees_no_later_target_and_no_padding():
    model = M.TranslationTransformer(11, 8, 2, 2, 16, dropout=0.0, padding=0)
    sources, targets = source.integers(1, 11, (2, 2, 6))
    sources[1, 4:] = 0
    other = targets.copy()
    other[:, 3:] = 10 - other[:, 3:]
    out = model(sources, targets).numpy()
    np.testing.assert_array_equal(out[:, :3], model(sources, other).numpy()[:, :3])
    np.testing.assert_allclose(out[1], model(sources[1:, :4], targets[1:]).numpy()[0], rtol=1e-4, atol=1e-5)


def test_an_encoder_without_a_mask_does_look_ahead():
    layer = L.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
    x = array(1, 4, 8).astype("float32")
    before = layer(tensor(x)).numpy()
    x[:, 3] += 1.0
    assert (layer(tensor(x)).numpy()[:, 0] != before[:, 0]).any()


# ----- Stacks -----------------------------------------------------------------------------------------


def test_copies_of_a_layer_are_apart_and_drop_entries_of_their_own():
    stack = L.TransformerEncoder(L.TransformerEncoderLayer(4, 2, 8, 0.5), 3, L.LayerNorm(4))
    assert len({id(p) for p in stack.parameters()}) == len(list(stack.parameters())) == 3 * 12 + 2
    streams = [m.stream for m in stack.modules() if hasattr(m, "stream")]
    assert len(streams) == len(set(streams)) == 3 * 4
    names = [name for name, _ in stack.named_parameters()]
    assert names[0] == "layers.0.self_attn.in_proj_weight"
    assert names[-2:] == ["norm.weight", "norm.bias"]


@pytest.mark.parametrize("batch_first", [True, False])
def test_dropout_belongs_to_samples_whichever_axis_is_the_batch(batch_first):
    layer = L.TransformerEncoderLayer(4, 2, 8, 0.3, batch_first=batch_first)
    x = array(3, 5, 4).astype("float32")

    def run(rows: list[int]) -> np.ndarray:
        values = x[rows] if batch_first else x[rows].transpose(1, 0, 2)
        with random.scope(seed=1, step=1, samples=rows):
            out = layer(tensor(values)).numpy()
        return out if batch_first else out.transpose(1, 0, 2)

    np.testing.assert_allclose(run([2, 0]), run([0, 1, 2])[[2, 0]], rtol=1e-4, atol=1e-6)


def test_a_transformer_goes_from_source_to_target():
    model = L.Transformer(8, 2, 1, 1, 16, batch_first=True)
    assert model(
        tensor(array(2, 5, 8).astype("float32")), tensor(array(2, 3, 8).astype("float32"))
    ).shape == (2, 3, 8)
    mask = L.Transformer.generate_square_subsequent_mask(3).numpy()
    np.testing.assert_array_equal(mask, np.triu(np.full((3, 3), -np.inf), 1))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda a, x: a(x, x[:, :, :3], x), ["widths (4, 4, 4)", "(2, 5, 3)"]),
        (lambda a, x: a(x, x, x[:, :4]), ["as many keys as values", "(2, 4, 4)"]),
        (lambda a, x: a(x, x, x, np.zeros((2, 4), bool)), ["key_padding_mask (2, 5)", "(2, 4)"]),
        (lambda a, x: a(x, x, x, attn_mask=np.zeros((3, 5))), ["attn_mask (5, 5) or (4, 5, 5)", "(3, 5)"]),
    ],
)
def test_what_does_not_fit_is_refused(call, words):
    with pytest.raises(MinigradError) as caught:
        call(L.MultiheadAttention(4, 2, batch_first=True), tensor(np.ones((2, 5, 4), "float32")))
    assert all(word in str(caught.value) for word in words), str(caught.value)
