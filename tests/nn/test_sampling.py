"""Sampling against its definition, and beams against all sequences there are."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax

from minigrad.errors import MinigradError
from minigrad.nn.sampling import beam_search, probabilities, sample
from minigrad.ops import tensor

LOGITS = np.array([1.0, 3.0, 2.0, 3.0, -np.inf])


@given(
    seed=st.integers(0, 99),
    temperature=st.sampled_from([0.25, 1.0, 3.0]),
    k=st.sampled_from([None, 1, 2, 5]),
    p=st.sampled_from([None, 0.01, 0.5, 0.9, 1.0]),
)
def test_what_is_kept_is_softmax_over_the_likeliest(seed, temperature, k, p):
    logits = np.random.default_rng(seed).normal(size=5)
    expected = softmax(logits / temperature)
    order = np.argsort(-logits)
    kept = set(order[: k or 5])
    if p is not None:
        shares = expected[order[: k or 5]] / expected[order[: k or 5]].sum()
        count = next(n for n in range(1, 6) if n == len(shares) or shares[:n].sum() >= p - 1e-12)
        kept = set(order[:count])
    expected[[token for token in range(5) if token not in kept]] = 0.0
    found = probabilities(logits, temperature=temperature, top_k=k, top_p=p)
    np.testing.assert_allclose(found, expected / expected.sum(), rtol=1e-12, atol=1e-15)


def test_ties_are_kept_in_order_and_what_is_impossible_stays_so():
    assert probabilities(LOGITS, temperature=0).tolist() == [0, 1, 0, 0, 0]
    assert np.flatnonzero(probabilities(LOGITS, top_k=2)).tolist() == [1, 3]
    assert np.flatnonzero(probabilities(LOGITS, top_p=0.3)).tolist() == [1]
    assert probabilities(LOGITS)[4] == 0.0


def test_draws_have_the_probabilities_and_follow_the_generator():
    rows = np.tile(LOGITS, (20_000, 1))
    drawn = sample(tensor(rows), np.random.default_rng(1), temperature=1.5, top_k=3)
    counts = np.bincount(drawn, minlength=5) / len(drawn)
    np.testing.assert_allclose(counts, probabilities(LOGITS, temperature=1.5, top_k=3), atol=0.015)
    again = sample(rows, np.random.default_rng(1), temperature=1.5, top_k=3)
    np.testing.assert_array_equal(drawn, again)
    assert sample(rows, np.random.default_rng(1), temperature=0).tolist() == [1] * len(rows)


def test_a_number_next_to_one_draws_no_impossible_token():
    class Last:
        def random(self, shape: object) -> np.ndarray:
            return np.full(shape, np.nextafter(1.0, 0.0))  # type: ignore[call-overload]

    logits = np.pad(
        np.random.default_rng(0).normal(size=(200, 1000)), ((0, 0), (0, 5)), constant_values=-np.inf
    )
    assert sample(logits, Last()).max() < 1000  # type: ignore[arg-type]


class Table:
    """A language model of pairs: logits of the next token by the last one."""

    def __init__(self, seed: int, vocabulary: int) -> None:
        self.logits = np.random.default_rng(seed).normal(size=(vocabulary, vocabulary)) * 2.0

    def __call__(self, tokens: np.ndarray) -> np.ndarray:
        return self.logits[tokens[:, -1]]

    def total(self, tokens: list[int]) -> float:
        log_p = log_softmax(self.logits, axis=1)
        return float(sum(log_p[a, b] for a, b in itertools.pairwise(tokens)))


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 500),
    length=st.integers(1, 4),
    end=st.sampled_from([None, 0]),
    penalty=st.sampled_from([0.0, 0.6]),
)
def test_a_beam_as_wide_as_everything_finds_the_best_of_all_sequences(seed, length, end, penalty):
    model = Table(seed, 3)
    everything = []
    for n in range(1, length + 1):
        for tokens in itertools.product(range(3), repeat=n):
            if end is not None and end in tokens[:-1]:
                continue
            if n == length or (end is not None and tokens[-1] == end):
                total = model.total([1, *tokens])
                everything.append((total / ((5 + n) / 6) ** penalty, list(tokens), total))
    everything.sort(key=lambda entry: -entry[0])
    found = beam_search(model, [1], width=200, length=length, end=end, penalty=penalty)
    assert sorted(tokens for tokens, _ in found) == sorted(tokens for _, tokens, _ in everything)
    for one, total in found:  # sequences of the same pairs in another order tie
        assert total == pytest.approx(model.total([1, *one]))
    np.testing.assert_allclose([total for _, total in found], [total for _, _, total in everything])


@given(seed=st.integers(0, 200))
def test_a_beam_of_one_is_greedy_and_a_wider_one_no_worse_here(seed):
    model = Table(seed, 4)
    tokens = [2]
    for _ in range(5):
        tokens.append(int(model.logits[tokens[-1]].argmax()))
    (narrow,) = beam_search(model, [2], width=1, length=5)
    assert narrow[0] == tokens[1:]
    assert narrow[1] == pytest.approx(model.total(tokens))


def test_a_beam_says_which_sequences_go_on():
    """What a cache would hold, kept by `select` alone, is what every sequence was before its last token."""
    model, kept, calls = Table(3, 4), [np.array([[2]])], [0]

    def score(tokens: np.ndarray) -> np.ndarray:
        if calls[0]:
            np.testing.assert_array_equal(tokens[:, :-1], kept[0])
        kept[0], calls[0] = tokens, calls[0] + 1
        return model(tokens)

    def select(rows: np.ndarray) -> None:
        kept[0] = kept[0][rows]

    found = beam_search(score, [2], width=3, length=5, end=0, penalty=0.6, select=select)
    assert found == beam_search(model, [2], width=3, length=5, end=0, penalty=0.6)
    assert calls[0] == 5


def test_a_beam_does_not_follow_the_greedy_step_into_a_dead_end():
    """1 is likelier at first, but what comes after 2 is sure."""
    table = Table(0, 4)
    table.logits = np.log(
        np.array([[0.0, 0.6, 0.4, 0.0], [0.25] * 4, [0.0, 0.0, 0.0, 1.0], [0.25] * 4]) + 1e-30
    )
    assert beam_search(table, [0], width=1, length=2)[0][0][0] == 1
    assert beam_search(table, [0], width=2, length=2)[0][0] == [2, 3]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: probabilities(LOGITS, temperature=-1), ["-1"]),
        (lambda: probabilities(LOGITS, top_k=6), ["vocabulary's 5", "6"]),
        (lambda: probabilities(LOGITS, top_p=0.0), ["top-p", "0.0"]),
        (lambda: probabilities([np.nan, 1.0]), ["NaN"]),
        (lambda: probabilities(1.0), ["()"]),
        (lambda: beam_search(Table(0, 3), [], width=1, length=1), ["start"]),
        (lambda: beam_search(Table(0, 3), [1], width=0, length=1), ["width"]),
    ],
)
def test_what_is_out_of_range_is_refused(call, words):
    with pytest.raises(MinigradError) as caught:
        call()
    assert all(word in str(caught.value) for word in words), str(caught.value)
