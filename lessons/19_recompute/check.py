"""What the answers of lesson 19 must do."""

import math
import time
import weakref

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from minigrad.lessons.checking import count, exercise, few, require, require_close

ENGINE = [
    "minigrad.checkpoint.checkpoint",
    "minigrad.checkpoint_sequence.checkpoint_sequence",
    "minigrad.checkpoint_schedule.fewest_steps",
    "minigrad.checkpoint_schedule.revolve",
    "minigrad.checkpoint_schedule.distance",
]


class State:
    """A number between two layers; who holds it is counted."""

    alive = most = 0

    def __init__(self, value):
        self.value = value
        State.alive += 1
        State.most = max(State.most, State.alive)
        weakref.finalize(self, State.dropped)

    @classmethod
    def dropped(cls):
        """One is gone."""
        cls.alive -= 1


class Layer:
    """x to sin(x) + a x, counted."""

    def __init__(self, a, calls):
        self.a, self.calls = a, calls

    def forward(self, x):
        """The next state."""
        require(isinstance(x, State), f"forward takes a state, and got a {type(x).__name__}")
        self.calls.append("forward")
        return State(math.sin(x.value) + self.a * x.value)

    def backward(self, x, cotangent):
        """The cotangent of x."""
        require(
            isinstance(x, State),
            f"backward takes the state that entered the layer, and got a {type(x).__name__}",
        )
        self.calls.append("backward")
        return (math.cos(x.value) + self.a) * cotangent


def chain(number):
    """Layers that differ, and the list of their calls."""
    calls = []
    return [Layer(0.1 * (k % 7) - 0.2, calls) for k in range(number)], calls


def derivative(layers, x):
    """The product of all slopes."""
    product = 1.0
    for layer in layers:
        product *= math.cos(x) + layer.a
        x = math.sin(x) + layer.a * x
    return product


@exercise("19.1", "a gradient in segments", points=3, rebuilds=ENGINE)
@given(sizes=st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))))
def check_gradient_in_segments(answer, sizes):
    number, segments = sizes
    layers, calls = chain(number)
    State.alive = State.most = 0
    found = answer.gradient_in_segments(layers, State(0.7), -3.0, segments)
    what = f"{count(number, 'layer')} in {count(segments, 'segment')}"
    require_close(found, -3.0 * derivative(layers, 0.7), f"{what}: the cotangent of x, for -3 at the end")
    longest = -(-number // segments)
    require(
        State.most <= segments + longest + 1,
        f"{what}: {State.most} states were alive at one time; {segments} + {longest} + 1 are enough",
    )
    forward = calls.count("forward")
    require(forward <= 2 * number, f"{what}: {forward} forward steps; each layer needs two at most")
    require(
        calls.count("backward") == number, f"{what}: {calls.count('backward')} backward steps; one a layer"
    )


@exercise("19.2", "replayed randomness", points=3)
@given(seed=st.integers(0, 99), before=st.integers(0, 3), between=st.integers(0, 3))
def check_segment(answer, seed, before, between):
    masks, pulls = [], []

    def dropout(x, random):
        mask = random.random(x.shape) < 0.5
        masks.append(mask)

        def pull(cotangent):
            return cotangent * mask * 2.0

        pulls.append(weakref.ref(pull))
        return x * mask * 2.0, pull

    random, twin = np.random.default_rng(seed), np.random.default_rng(seed)
    random.random(before)
    twin.random(before)
    x = np.arange(1.0, 9.0)
    segment = answer.Segment(dropout)
    output = segment.forward(x, random)
    expected = twin.random(8) < 0.5
    require_close(output, x * expected * 2.0, "the output of the first run")
    require(
        pulls[0]() is None,
        "your segment keeps the way back of the first run; keep x and the generator's state",
    )
    random.random(between)
    twin.random(between)
    cotangent = np.arange(-3.0, 5.0)
    found = segment.backward(cotangent)
    require(len(masks) == 2, "backward must run the function again")
    same = np.array_equal(masks[0], masks[1])
    require(same, "the second run drew another mask: begin where the generator stood before the first")
    require_close(found, cotangent * expected * 2.0, "the cotangent of x")
    require(random.random() == twin.random(), "backward moved the program's own generator")


def proven(layers, snapshots):
    """The theorem's value (Griewank and Walther 2000, theorem 1)."""
    repeats = 0
    while math.comb(snapshots + repeats, snapshots) < layers:
        repeats += 1
    return repeats * layers - math.comb(snapshots + repeats, repeats - 1) if repeats else 0


@exercise("19.3", "the least work", points=2, rebuilds=ENGINE)
@given(layers=st.integers(1, 30), snapshots=st.integers(1, 8))
def check_fewest_extra_steps(answer, layers, snapshots):
    found = answer.fewest_extra_steps(layers, snapshots)
    expected = proven(layers, snapshots)
    require(
        found == expected,
        f"{count(layers, 'layer')}, {count(snapshots, 'snapshot')}: at least {expected}, yours is {found}",
    )


@exercise("19.3", "the least work", points=0, rebuilds=ENGINE)
def check_that_it_is_fast(answer):
    started = time.process_time()
    found = answer.fewest_extra_steps(100, 10)
    seconds = time.process_time() - started
    require(found == 222, f"100 layers, 10 snapshots: the least is 222, and yours is {found}")
    require(
        seconds < 5, f"100 layers, 10 snapshots took {seconds:.1f} seconds; remember what was computed before"
    )


@exercise("19.4", "a gradient with snapshots", points=3, rebuilds=ENGINE)
@few()
@given(number=st.integers(1, 14), snapshots=st.integers(1, 5))
def check_gradient_with_snapshots(answer, number, snapshots):
    layers, calls = chain(number)
    State.alive = State.most = 0
    found = answer.gradient_with_snapshots(layers, State(0.7), -3.0, snapshots)
    what = f"{count(number, 'layer')}, {count(snapshots, 'snapshot')}"
    require_close(found, -3.0 * derivative(layers, 0.7), f"{what}: the cotangent of x, for -3 at the end")
    require(
        State.most <= snapshots + 2,
        f"{what}: {State.most} states were alive at one time; {snapshots} + 2 are allowed",
    )
    forward = calls.count("forward")
    least = proven(number, snapshots)
    require(forward <= least, f"{what}: {forward} forward steps, and {least} are possible")
    require(
        forward == least,
        f"{what}: only {forward} forward steps, which needs more snapshots: {least} is the least",
    )
