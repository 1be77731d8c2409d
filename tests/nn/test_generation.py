"""How a GPT goes on with a text: the cache, the window, the draws, and what is refused."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

import minigrad as mg
from minigrad import nn, random
from minigrad.errors import ShapeError, UsageError
from minigrad.graph import no_grad
from minigrad.nn.cache import Cache, DecoderCache
from minigrad.nn.sampling import beam_search, sample
from tests.nn.tiny_gpt import build, gradients, tokens


@pytest.fixture(scope="module")
def model() -> nn.GPT:
    return build().eval()


# ----- Generation ------------------------------------------------------------------------------------


def plainly(model: nn.GPT, start: list[int], count: int, seed: int, **options: Any) -> list[int]:
    """Read everything again for every token."""
    history = list(start)
    for _ in range(count):
        logits = model(np.array([history])).numpy()[0, -1]
        history.append(int(sample(logits, random.generator(seed, "sample", len(history)), **options)))
    return history[len(start) :]


@given(
    start=st.lists(st.integers(0, 10), min_size=1, max_size=8),
    temperature=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    top_k=st.sampled_from([None, 1, 3, 11]),
    top_p=st.sampled_from([None, 0.3, 0.9]),
    seed=st.integers(0, 99),
)
def test_the_cache_changes_nothing(model, start, temperature, top_k, top_p, seed):
    count = 8 - len(start) + 1  # the last one is drawn from a full context
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    expected = plainly(model, start, count, seed, **options)
    assert model.generate(start, count, seed=seed, **options) == expected


@given(cuts=st.lists(st.integers(1, 3), min_size=1, max_size=5))
def test_reading_in_pieces_gives_the_logits_of_reading_at_once(model, cuts):
    numbers = tokens(2, min(sum(cuts), 8))
    caches = [Cache(8) for _ in model.h]
    with no_grad():
        whole = model(numbers).numpy()
        start = 0
        for length in cuts:
            part = numbers[:, start : start + length]
            if part.shape[1] == 0:
                break
            logits = model(part, caches).numpy()
            np.testing.assert_allclose(
                logits, whole[:, start : start + part.shape[1]], rtol=1e-10, atol=1e-11
            )
            start += part.shape[1]
    assert all(cache.length == numbers.shape[1] for cache in caches)


@pytest.mark.parametrize("context", [1, 2, 3, 8])
@pytest.mark.parametrize("length", [1, 8, 20])
def test_generation_goes_on_beyond_the_context(context, length):
    """When the context is full, what follows is what the newer half of it alone would give."""
    config = nn.GPTConfig(vocabulary=11, context=context, layers=1, heads=1, width=4)
    model = build(config)
    start = tokens(1, length)[0].tolist()
    found = model.generate(start, 25, temperature=0.0)
    history, read = list(start), min(length, context)
    expected = []
    for _ in range(25):
        if read > context:
            read = max(1, context // 2)
        expected.append(int(model(np.array([history[-read:]])).numpy()[0, -1].argmax()))
        history.append(expected[-1])
        read += 1
    assert found == expected


def test_generation_is_a_function_of_the_seed(model):
    one, again, other = (model.generate([1], 7, temperature=2.0, seed=seed) for seed in (0, 0, 1))
    assert one == again
    assert one != other


def test_generation_can_be_taken_up_where_it_stopped(model):
    whole = model.generate([1, 2], 6, seed=5)
    first = model.generate([1, 2], 2, seed=5)
    assert first + model.generate([1, 2, *first], 4, seed=5) == whole


def test_streaming_yields_the_same_tokens_one_by_one(model):
    stream = model.stream([1], 6, seed=2)
    assert next(stream) == model.generate([1], 1, seed=2)[0]
    assert [model.generate([1], 1, seed=2)[0], *stream] == model.generate([1], 6, seed=2)


@pytest.mark.parametrize("training", [True, False])
def test_generation_leaves_the_model_as_it_was(training):
    config = nn.GPTConfig(vocabulary=11, context=8, layers=1, heads=1, width=4, dropout=0.5)
    model = build(config).train(training)
    assert model.generate([1], 5, seed=0) == model.generate([1], 5, seed=0)  # no dropout
    assert all(part.training is training for part in model.modules())
    assert not gradients(model)
    stream = model.stream([1], 5)
    next(stream)
    stream.close()  # given up half-way
    assert all(part.training is training for part in model.modules())


@given(
    logits=st.lists(st.floats(-3, 3), min_size=2, max_size=6),
    temperature=st.sampled_from([0.3, 1.0, 2.0]),
    data=st.data(),
)
@settings(max_examples=10)
def test_tokens_are_drawn_as_often_as_their_probability_says(logits, temperature, data):
    values = np.array(logits)
    top_k = data.draw(st.sampled_from([None, *range(1, len(logits) + 1)]))
    kept = np.argsort(-values, kind="stable")[:top_k]
    expected = np.zeros(len(logits))
    expected[kept] = softmax(values[kept] / temperature)
    source, count = np.random.default_rng(0), 1000
    drawn = [int(sample(values, source, temperature=temperature, top_k=top_k)) for _ in range(count)]
    frequency = np.bincount(drawn, minlength=len(logits)) / count
    assert not frequency[expected == 0].any()
    assert (np.abs(frequency - expected) <= 6 * np.sqrt(expected * (1 - expected) / count) + 1 / count).all()


def test_cold_draws_take_the_likeliest():
    logits = np.array([0.0, 2.0, 2.0, 1.0])
    source = np.random.default_rng(0)
    assert sample(logits, source, temperature=0.0) == 1
    assert {int(sample(logits, source, temperature=1e-3)) for _ in range(50)} == {1, 2}
    assert {int(sample(logits * 1e6, source, top_k=1)) for _ in range(50)} == {1}


@pytest.mark.parametrize("number", [0.0, math.nextafter(1.0, 0.0)])
def test_what_cannot_be_drawn_is_not_drawn_by_the_most_extreme_number_either(number):
    class Stub(np.random.Generator):
        def random(self, *arguments: Any) -> Any:  # type: ignore[override]
            return np.array(number)

    logits = np.array([-5.0, 1.0, 2.0, -5.0])
    assert sample(logits, Stub(np.random.PCG64()), top_k=2) == (1 if number == 0.0 else 2)


# ----- Misuse ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "options", "message"),
    [
        ([], {}, "at least one token between 0 and 10"),
        ([11], {}, "between 0 and 10"),
        ([0, -1], {}, "between 0 and 10"),
        ([0], {"temperature": -1.0}, "temperature"),
        ([0], {"temperature": math.nan}, "temperature"),
        ([0], {"top_k": 0}, "top-k must lie between 1 and the vocabulary's 11, got 0"),
        ([0], {"top_k": 12}, "top-k must lie between 1 and the vocabulary's 11, got 12"),
        ([0], {"top_p": 0.0}, "top-p must lie above 0 and be at most 1, got 0.0"),
    ],
)
def test_generation_refuses(model, start, options, message):
    with pytest.raises(UsageError, match=message):
        model.generate(start, 1, **options)


def test_generation_from_a_broken_model_is_refused():
    model = build()
    model.ln_f.weight.assign(math.nan)  # type: ignore[union-attr]
    with pytest.raises(UsageError, match="NaN"):
        model.generate([1], 3)


def test_a_full_cache_is_refused(model):
    caches = [Cache(8) for _ in model.h]
    with no_grad():
        model(tokens(1, 6), caches)
        with pytest.raises(ShapeError, match="after 6 cached ones"):
            model(tokens(1, 3), caches)
        with pytest.raises(ShapeError, match=r"a cache of 1 sequences got keys of 2; select\(\)"):
            model(tokens(2, 1), caches)


def test_a_cache_through_which_derivatives_would_be_lost_is_refused(model):
    with pytest.raises(UsageError, match=r"h.0.attn .*no history.*no_grad\(\)"):
        model(tokens(1, 2), [Cache(8) for _ in model.h])


# ----- Beams -----------------------------------------------------------------------------------------


@given(
    start=st.lists(st.integers(0, 10), min_size=1, max_size=4),
    width=st.integers(1, 5),
    end=st.sampled_from([None, 3]),
    penalty=st.sampled_from([0.0, 0.6]),
)
@settings(max_examples=20, deadline=None)
def test_a_beam_that_reads_each_token_once_finds_what_reading_everything_finds(
    model, start, width, end, penalty
):
    with no_grad():
        expected = beam_search(
            lambda beams: model(beams)[:, -1], start, width=width, length=4, end=end, penalty=penalty
        )
    found = model.beam(start, 4, width=width, end=end, penalty=penalty)
    assert [sequence for sequence, _ in found] == [sequence for sequence, _ in expected]
    np.testing.assert_allclose([x for _, x in found], [x for _, x in expected], rtol=1e-9)


def test_a_beam_beyond_the_context_is_refused(model):
    assert len(model.beam([1, 2, 3], 6, width=2)[0][0]) == 6
    with pytest.raises(UsageError, match=r"reads 4 tokens and up to 5 .* context is 8; give at most 3"):
        model.beam([1, 2, 3, 4], 6, width=2)


# ----- Decoders that look at something ----------------------------------------------------------------


def translator(**options: Any) -> nn.models.TranslationTransformer:
    random.manual_seed(3)
    sizes = {"vocabulary": 13, "width": 8, "heads": 2, "layers": 2, "inner": 12, "longest": 32}
    model = nn.models.TranslationTransformer(**{**sizes, **options}, dtype="float64").eval()
    for parameter in model.parameters():
        parameter.assign(parameter.numpy() * 2.0)
    return model


@given(cuts=st.lists(st.integers(1, 3), min_size=1, max_size=4), padding=st.booleans())
@settings(max_examples=20, deadline=None)
def test_a_decoder_with_a_cache_computes_what_it_computes_without(cuts, padding):
    model = translator(padding=0 if padding else None)
    source, target = tokens(2, 5, vocabulary=13), tokens(2, sum(cuts), seed=1, vocabulary=13)
    source[0, 3:], cache, start = 0, DecoderCache(2, 12, 5), 0
    with no_grad():
        whole = model(source, target).numpy()
        memory, hidden = model.encode(source)
        for length in cuts:
            part = model.decode(target[:, start : start + length], memory, hidden, cache=cache).numpy()
            np.testing.assert_allclose(part, whole[:, start : start + length], rtol=1e-9, atol=1e-11)
            start += length
    assert cache.length == start


def test_the_memory_is_read_once():
    model, cache = translator(), DecoderCache(2, 4, 3)
    with no_grad():
        memory, hidden = model.encode(tokens(1, 3))
        first = model.decode([[1]], memory, hidden, cache=cache)
        twin = DecoderCache(2, 4, 3)
        model.decode([[1]], memory, hidden, cache=twin)
        same = model.decode([[2]], memory * 0.0, hidden, cache=cache).numpy()
        np.testing.assert_array_equal(same, model.decode([[2]], memory, hidden, cache=twin).numpy())
        assert (first.numpy() != model.decode([[1]], memory * 0.0, hidden).numpy()).any()


@pytest.mark.parametrize("padding", [None, 0])
@pytest.mark.parametrize("width", [1, 3])
def test_a_translation_is_the_beam_over_the_whole_model(padding, width):
    model = translator(padding=padding)
    source = tokens(1, 6, seed=4, vocabulary=13)[0]
    with no_grad():
        expected = beam_search(
            lambda beams: model(np.tile(source, (len(beams), 1)), beams)[:, -1],
            [1], width=width, length=7, end=2, penalty=0.6,
        )  # fmt: skip
    found = model.translate(source, start=1, end=2, length=7, width=width)
    assert [sequence for sequence, _ in found] == [sequence for sequence, _ in expected]
    np.testing.assert_allclose([x for _, x in found], [x for _, x in expected], rtol=1e-9)
    with pytest.raises(ShapeError, match=r"one source .* got shape \(1, 6\)"):
        model.translate(source[None], start=1, end=2, length=7)


def seq2seq() -> nn.models.Seq2Seq:
    random.manual_seed(4)
    model = nn.models.Seq2Seq(13, 9, width=5, hidden=4, dropout=0.5, dtype="float64")
    for parameter in model.parameters():
        parameter.assign(parameter.numpy() * 3.0)
    return model


@pytest.mark.parametrize("width", [1, 3, 20])
@pytest.mark.parametrize("training", [True, False])
def test_a_recurrent_translation_is_the_beam_over_the_whole_model(width, training):
    model = seq2seq().eval()
    source = tokens(1, 6, seed=4, vocabulary=13)[0]
    with no_grad():
        expected = beam_search(
            lambda beams: model(np.tile(source, (len(beams), 1)), beams)[:, -1],
            [1], width=width, length=5, end=2, penalty=0.6,
        )  # fmt: skip
    found = model.train(training).translate(source, start=1, end=2, length=5, width=width, penalty=0.6)
    assert [sequence for sequence, _ in found] == [sequence for sequence, _ in expected]
    np.testing.assert_allclose([x for _, x in found], [x for _, x in expected], rtol=1e-9)
    assert model.training is training
    with pytest.raises(ShapeError, match=r"one source .* got shape \(1, 6\)"):
        model.translate(source[None], start=1, end=2, length=7)


@pytest.mark.parametrize("make", [translator, seq2seq])
@given(
    seed=st.integers(0, 99),
    temperature=st.sampled_from([0.0, 0.7, 2.0]),
    top_k=st.sampled_from([None, 1, 4]),
    top_p=st.sampled_from([None, 0.6]),
    end=st.sampled_from([None, 2]),
)
@settings(max_examples=15, deadline=None)
def test_a_drawn_translation_is_drawn_from_the_whole_model(make, seed, temperature, top_k, top_p, end):
    model = make().eval()
    source = tokens(1, 5, seed=seed, vocabulary=13)[0]
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    expected: list[int] = []
    while len(expected) < 6 and (end is None or end not in expected):
        logits = model(source[None], np.array([[1, *expected]])).numpy()[0, -1]
        generator = random.generator(seed, "sample", 1 + len(expected))
        expected.append(int(sample(logits, generator, **options)))
    assert model.sample(source, start=1, end=end, length=6, seed=seed, **options) == expected


@pytest.mark.parametrize(
    "options",
    [{}, {"kdim": 4, "vdim": 3}, {"add_bias_kv": True}, {"add_zero_attn": True}, {"bias": False}],
)
@pytest.mark.parametrize("weights", [False, True])
def test_attention_with_a_cache_is_attention_to_everything_so_far(options, weights):
    random.manual_seed(0)
    layer = nn.MultiheadAttention(6, 3, batch_first=True, dtype="float64", **options)
    source = np.random.default_rng(1)
    q, k, v = (mg.tensor(source.normal(size=(2, 5, n))) for n in (6, layer.kdim, layer.vdim))
    cache, cuts = Cache(5), ((0, 2), (2, 3), (3, 5))
    with no_grad():
        whole = layer(q, k, v, is_causal=True, need_weights=weights)[0].numpy()
        for start, stop in cuts:
            parts = (x[:, start:stop] for x in (q, k, v))
            found = layer(*parts, is_causal=True, need_weights=weights, cache=cache)[0].numpy()
            np.testing.assert_allclose(found, whole[:, start:stop], rtol=1e-10, atol=1e-12)
