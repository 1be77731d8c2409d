"""Choosing the next token: temperature, top-k, top-p; and searching for the likeliest sequence with a beam.

All of it runs on the host, on NumPy arrays of logits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

from minigrad import random
from minigrad.errors import ShapeError, UsageError
from minigrad.tensor import Tensor

Floats = NDArray[numpy.float64]
Integers = NDArray[numpy.int64]


def _logits(logits: Any) -> Floats:
    values = numpy.asarray(logits.numpy() if isinstance(logits, Tensor) else logits, dtype=numpy.float64)
    if not values.ndim or not values.shape[-1]:
        raise ShapeError(f"expected logits (..., vocabulary), got shape {values.shape}")
    if numpy.isnan(values).any():
        raise UsageError("these logits are not numbers; the model that made them holds NaN or infinity")
    return values


def check_options(
    vocabulary: int, *, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> None:
    """Raise UsageError for options of `probabilities` that are out of range."""
    if not temperature >= 0:
        raise UsageError(f"temperature must not be negative, got {temperature}")
    if top_k is not None and not 1 <= top_k <= vocabulary:
        raise UsageError(f"top-k must lie between 1 and the vocabulary's {vocabulary}, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise UsageError(f"top-p must lie above 0 and be at most 1, got {top_p}")


def probabilities(
    logits: Any, *, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Floats:
    """softmax(logits / temperature), among the likeliest, (..., vocabulary) → (..., vocabulary).

    `top_k` keeps the k likeliest tokens, `top_p` the fewest whose probabilities (of those that top_k kept)
    add up to at least p; both keep the earlier of equal ones, and at least one. Temperature 0 is all on the
    likeliest. Raises UsageError for what is out of range. Paper for top-p: Holtzman et al. 2020, The Curious
    Case of Neural Text Degeneration, §3.1.
    """
    values = _logits(logits)
    check_options(values.shape[-1], temperature=temperature, top_k=top_k, top_p=top_p)
    if temperature == 0:
        top_k, temperature = 1, 1.0
    if top_k is None and top_p is None:
        return softmax(values / temperature, axis=-1)
    order = numpy.argsort(-values, axis=-1, kind="stable")
    ranked = numpy.take_along_axis(values, order, axis=-1)
    ranked = (ranked - ranked[..., :1]) / temperature
    if top_k is not None:
        ranked[..., top_k:] = -numpy.inf
    shares = softmax(ranked, axis=-1)
    if top_p is not None:
        before = numpy.cumsum(shares, axis=-1) - shares
        shares[before >= top_p] = 0.0
        shares /= shares.sum(axis=-1, keepdims=True)
    out = numpy.empty_like(shares)
    numpy.put_along_axis(out, order, shares, axis=-1)
    return out


def sample(
    logits: Any,
    generator: numpy.random.Generator,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Integers:
    """Draw a token for every row of logits (..., vocabulary) → (...). The options are those of
    `probabilities`.
    """
    shares = probabilities(logits, temperature=temperature, top_k=top_k, top_p=top_p)
    total = numpy.cumsum(shares, axis=-1)
    # Times the total, which rounding leaves next to 1: a number above it would draw a token of probability 0.
    drawn = generator.random(total.shape[:-1])[..., None] * total[..., -1:]
    return (total <= drawn).sum(axis=-1)


def sample_sequence(
    score: Callable[[Integers], Any],
    start: Sequence[int],
    *,
    length: int,
    end: int | None = None,
    seed: int = 0,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> list[int]:
    """Up to `length` tokens that go on from `start`, each drawn as `sample` does, the last of them `end`.

    `score` takes tokens (1, time) and returns logits of what comes next (1, vocabulary). A draw is a function
    of the seed and the token's place. Raises UsageError for no start, and what `probabilities` refuses.
    """
    if length < 1 or not len(start):
        raise UsageError(f"expected a length from 1 up and a start, got {length} and {list(start)}")
    tokens = [int(token) for token in start]
    for _ in range(length):
        logits = _logits(score(numpy.asarray([tokens])))
        source = random.generator(seed, "sample", len(tokens))
        tokens.append(
            int(sample(logits, source, temperature=temperature, top_k=top_k, top_p=top_p).reshape(()))
        )
        if tokens[-1] == end:
            break
    return tokens[len(start) :]


def beam_search(
    score: Callable[[Integers], Any],
    start: Sequence[int],
    *,
    width: int,
    length: int,
    end: int | None = None,
    penalty: float = 0.0,
    select: Callable[[Integers], None] | None = None,
) -> list[tuple[list[int], float]]:
    """Sequences that go on from `start` by up to `length` tokens, best first, with their log-probabilities.

    `score` takes tokens (sequences, time) and returns logits of what comes next (sequences, vocabulary).
    Before every call but the first, `select` is told which of the sequences scored last each one goes on
    from, for caches. At each step the `width` best are kept; what ends in `end` is put aside. The order is
    that of the log-probability over ((5 + n) / 6)^penalty for n new tokens. Returns at most `width`
    sequences, without the start. Paper: Wu et al. 2016, Google's Neural Machine Translation System, eq. 14,
    for the penalty.
    """
    if width < 1 or length < 1 or not len(start):
        raise UsageError(
            f"beam_search: expected width and length from 1 up and a start, got {width}, {length} and "
            f"{list(start)}"
        )
    beams = numpy.asarray([list(start)], dtype=numpy.int64)
    totals = numpy.zeros(1)
    done: list[tuple[float, list[int], float]] = []
    for step in range(1, length + 1):
        steps = totals[:, None] + log_softmax(_logits(score(beams)), axis=-1)
        vocabulary = steps.shape[1]
        best = numpy.argsort(-steps, axis=None, kind="stable")[:width]
        rows, tokens = best // vocabulary, best % vocabulary
        totals = steps[rows, tokens]
        beams = numpy.concatenate([beams[rows], tokens[:, None]], axis=1)
        going = totals > -numpy.inf
        ended = going & ((tokens == end) if end is not None else numpy.zeros(len(tokens), bool))
        for row in numpy.flatnonzero(ended if step < length else going):
            found = beams[row, len(start) :].tolist()
            done.append((float(totals[row]) / ((5 + step) / 6) ** penalty, found, float(totals[row])))
        on = going & ~ended
        beams, totals, rows = beams[on], totals[on], rows[on]
        if not len(beams):
            break
        done.sort(key=lambda entry: -entry[0])
        # Log-probabilities only fall: without a penalty, what still goes on cannot come in among the best.
        if penalty == 0 and len(done) >= width and done[width - 1][0] >= totals.max():
            break
        if select is not None and step < length:
            select(rows)
    done.sort(key=lambda entry: -entry[0])
    return [(tokens_, total) for _, tokens_, total in done[:width]]
