"""Random numbers as a function of what they are for, never of who draws them.

Starting values come from NumPy generators keyed by (seed, name). Masks drawn while a model runs are a hash of
(seed, step, stream, sample, position in the sample): recomputation replays them, and any split of the batch
over ranks or microbatches draws the same ones. The hash is SplitMix64 (Steele, Lea, Flood 2014, Fast
Splittable Pseudorandom Number Generators, §4), computed with array operations, so it is the same on every
backend.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy

from minigrad.backend import Array, Namespace
from minigrad.errors import ShapeError


class _State(threading.local):
    seed = 0
    draws = 0  # how many unkeyed draws this thread has made
    step: int | None = None
    samples: Sequence[int] | None = None
    replays = False

    def __init__(self) -> None:
        self.calls: dict[str, int] = {}  # of each stream within the scope


_state = _State()


def key(*parts: Any) -> int:
    """A 64-bit number for any parts that print: the same parts give the same number, on every machine."""
    text = "\x1f".join(map(str, parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def generator(*parts: Any) -> numpy.random.Generator:
    """A NumPy generator (Philox) for these parts alone."""
    return numpy.random.Generator(numpy.random.Philox(key=key(*parts)))


def manual_seed(seed: int) -> None:
    """Start this thread's unkeyed draws anew from `seed`."""
    _state.seed, _state.draws = seed, 0


def next_key() -> tuple[Any, ...]:
    """The parts for `generator` of one unkeyed draw of this thread: the seed, and how many came before."""
    _state.draws += 1
    return (_state.seed, "draw", _state.draws)


def next_generator() -> numpy.random.Generator:
    """A generator for one unkeyed draw of this thread."""
    return generator(*next_key())


@contextmanager
def scope(
    *, seed: int, step: int, samples: Sequence[int], calls: Mapping[str, int] | None = None
) -> Iterator[None]:
    """Say what a model is run for: masks drawn inside belong to this seed, step and these global sample
    numbers.

    `samples[i]` is the number, within the whole batch of the step, of row i of what this rank computes. A
    stream that is drawn from again inside the block, by a layer that is used twice, gives other numbers.
    `calls` says how often each stream was drawn from before, by parts of the model that run elsewhere.
    """
    before = (_state.seed, _state.step, _state.samples, _state.calls)
    _state.seed, _state.step, _state.samples, _state.calls = seed, step, samples, dict(calls or {})
    try:
        yield
    finally:
        _state.seed, _state.step, _state.samples, _state.calls = before


def snapshot() -> tuple[Any, ...]:
    """Where this thread's random numbers are now, for `restored`."""
    return (_state.seed, _state.draws, _state.step, _state.samples, dict(_state.calls))


@contextmanager
def restored(moment: tuple[Any, ...]) -> Iterator[None]:
    """Draw again, inside the block, what was drawn after `snapshot`; afterwards go on as before."""
    now, replays = snapshot(), _state.replays
    _restore(moment, True)
    try:
        yield
    finally:
        _restore(now, replays)


def _restore(moment: tuple[Any, ...], replays: bool) -> None:
    _state.seed, _state.draws, _state.step, _state.samples, calls = moment
    _state.calls, _state.replays = dict(calls), replays


def replaying() -> bool:
    """Whether what runs now ran before and is only computed again: statistics of batches count it once."""
    return _state.replays


_GAMMA, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def _mixed(xp: Namespace, z: Array) -> Array:
    """SplitMix64's finaliser: a bijection of 64-bit numbers that leaves no pattern of its input."""
    z ^= z >> xp.uint64(30)
    z *= xp.uint64(_MIX_1)
    z ^= z >> xp.uint64(27)
    z *= xp.uint64(_MIX_2)
    z ^= z >> xp.uint64(31)
    return z


def uniform(xp: Namespace, shape: tuple[int, ...], stream: str) -> Array:
    """Uniform float64 numbers in [0, 1) of `shape`; the first axis counts samples.

    `stream` names the layer and role. Inside `scope` the numbers are a function of what it says; outside,
    every call draws new ones. Raises ShapeError if the scope names another number of samples.
    """
    step, samples, again = _state.step, _state.samples, 0
    if step is not None and samples is not None:
        again = _state.calls.get(stream, 0)
        _state.calls[stream] = again + 1
    if xp.name == "shapes":
        return xp.empty(shape, dtype=numpy.float64)
    rows = shape[0] if shape else 1
    if step is None or samples is None:
        _state.draws += 1
        step, samples = -_state.draws, range(rows)
    if len(samples) != rows:
        raise ShapeError(
            f"the scope names {len(samples)} samples, but {rows} rows are drawn; the first axis is samples"
        )
    start = numpy.uint64(key(_state.seed, step, stream, *([again] if again else [])))
    keys = numpy.asarray(samples, numpy.uint64) * numpy.uint64(_GAMMA) + start
    keys = xp.asarray(_mixed(_HOST, keys))
    width = 1
    for n in shape[1:]:
        width *= n
    positions = xp.arange(1, width + 1, dtype=xp.uint64) * xp.uint64(_GAMMA)
    bits = _mixed(xp, keys[:, None] + positions[None, :])
    return ((bits >> xp.uint64(11)) * 2.0**-53).reshape(shape)


_HOST: Any = numpy
