"""How a GPT goes on with a text: the cache, the window, the draws, and what is refused."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from minigrad import nn, random
from minigrad.errors import ShapeError, UsageError
from minigrad.graph import no_grad
from minigrad.nn.gpt import Cache, _draw
from tests.nn.tiny_gpt import build, gradients, tokens


@pytest.fixture(scope="module")
def model() -> nn.GPT:
    return build().eval()


# ----- Generation ------------------------------------------------------------------------------------


def plainly(
    model: nn.GPT, start: list[int], count: int, temperature: float, top_k: int | None, seed: int
) -> list[int]:
    """Read everything again for every token."""
    history = list(start)
    for _ in range(count):
        logits = model(np.array([history])).numpy()[0, -1]
        history.append(_draw(logits, temperature, top_k, random.generator(seed, "sample", len(history))))
    return history[len(start) :]


@given(
    start=st.lists(st.integers(0, 10), min_size=1, max_size=8),
    temperature=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    top_k=st.sampled_from([None, 1, 3, 11]),
    seed=st.integers(0, 99),
)
def test_the_cache_changes_nothing(model, start, temperature, top_k, seed):
    count = 8 - len(start) + 1  # the last one is drawn from a full context
    expected = plainly(model, start, count, temperature, top_k, seed)
    assert model.generate(start, count, temperature=temperature, top_k=top_k, seed=seed) == expected


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
    drawn = [_draw(values, temperature, top_k, source) for _ in range(count)]
    frequency = np.bincount(drawn, minlength=len(logits)) / count
    assert not frequency[expected == 0].any()
    assert (np.abs(frequency - expected) <= 6 * np.sqrt(expected * (1 - expected) / count) + 1 / count).all()


def test_cold_draws_take_the_likeliest():
    logits = np.array([0.0, 2.0, 2.0, 1.0])
    source = np.random.default_rng(0)
    assert _draw(logits, 0.0, None, source) == 1
    assert {_draw(logits, 1e-3, None, source) for _ in range(50)} == {1, 2}
    assert {_draw(logits * 1e6, 1.0, 1, source) for _ in range(50)} == {1}


@pytest.mark.parametrize("number", [0.0, math.nextafter(1.0, 0.0)])
def test_what_cannot_be_drawn_is_not_drawn_by_the_most_extreme_number_either(number):
    class Stub(np.random.Generator):
        def random(self, *arguments: Any) -> Any:  # type: ignore[override]
            return number

    logits = np.array([-5.0, 1.0, 2.0, -5.0])
    assert _draw(logits, 1.0, 2, Stub(np.random.PCG64())) == (1 if number == 0.0 else 2)


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
    model(tokens(1, 6), caches)
    with pytest.raises(ShapeError, match="after 6 cached ones"):
        model(tokens(1, 3), caches)
