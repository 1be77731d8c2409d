"""Random numbers: functions of what they are for."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigrad import backend, random
from minigrad.errors import ShapeError
from minigrad.random import generator, key, manual_seed, next_generator, scope, uniform

HOST = backend.host


def draw(shape, stream="dropout", *, seed=0, step=0, samples=None):
    with scope(seed=seed, step=step, samples=range(shape[0]) if samples is None else samples):
        return uniform(HOST, shape, stream)


@given(st.integers(1, 12), st.data())
def test_any_split_of_the_batch_draws_the_same(batch: int, data) -> None:
    whole = draw((batch, 3, 2))
    order = data.draw(st.permutations(range(batch)))
    cuts = sorted(data.draw(st.lists(st.integers(0, batch), max_size=3)))
    for start, stop in zip([0, *cuts], [*cuts, batch], strict=True):
        part = order[start:stop]
        np.testing.assert_array_equal(draw((len(part), 3, 2), samples=part), whole[part])


def test_what_it_is_for_decides() -> None:
    base = draw((4, 5))
    np.testing.assert_array_equal(draw((4, 5)), base)
    np.testing.assert_array_equal(draw((4, 20))[:, :5], base)  # position by position
    others = [
        draw((4, 5), "other"),
        draw((4, 5), seed=1),
        draw((4, 5), step=1),
        draw((4, 5), samples=[4, 5, 6, 7]),
    ]
    for other in others:
        assert not np.any(other == base)
    for i, a in enumerate(others):
        assert not any(np.any(a == b) for b in others[:i])


@pytest.mark.parametrize("by", ["position", "sample", "step"])
def test_rough_uniformity_and_independence(by: str) -> None:
    count = 20_000
    if by == "position":
        x = draw((1, count)).ravel()
    elif by == "sample":
        x = draw((count, 1)).ravel()
    else:
        x = np.concatenate([draw((1, 20), step=k).ravel() for k in range(count // 20)])
    assert x.dtype == np.float64
    assert 0.0 <= x.min() < x.max() < 1.0
    assert len(np.unique(x)) == count
    observed = np.histogram(x, bins=50, range=(0, 1))[0]
    chi_square = float(((observed - count / 50) ** 2 / (count / 50)).sum())
    assert 20 < chi_square < 90  # 49 degrees of freedom: both ends beyond 1 in 5000
    for lag in (1, 2, 3, 20):
        assert abs(np.corrcoef(x[:-lag], x[lag:])[0, 1]) < 0.035  # five standard deviations
    low = np.floor(x * 2**53).astype(np.uint64) & np.uint64(1)
    assert 0.48 < low.mean() < 0.52


def test_shapes() -> None:
    assert draw((3,)).shape == (3,)
    assert draw((0, 4)).shape == (0, 4)
    assert draw((4, 0)).shape == (4, 0)
    assert uniform(HOST, (), "x").shape == ()
    with pytest.raises(ShapeError, match="names 3 samples, but 4 rows are drawn"):
        draw((4, 2), samples=[0, 1, 2])


def test_outside_a_scope_every_draw_is_new_and_the_seed_repeats_them() -> None:
    manual_seed(3)
    first, second = uniform(HOST, (2, 3), "x"), uniform(HOST, (2, 3), "x")
    number = next_generator().normal()
    assert not np.any(first == second)
    manual_seed(3)
    np.testing.assert_array_equal(uniform(HOST, (2, 3), "x"), first)
    np.testing.assert_array_equal(uniform(HOST, (2, 3), "x"), second)
    assert next_generator().normal() == number
    manual_seed(4)
    assert not np.any(uniform(HOST, (2, 3), "x") == first)


def test_scopes_nest_and_belong_to_a_thread() -> None:
    with scope(seed=1, step=2, samples=[0]):
        inside = uniform(HOST, (1, 3), "x")
        with scope(seed=1, step=3, samples=[0]):
            assert not np.any(uniform(HOST, (1, 3), "x") == inside)
        moment = random.snapshot()
        second = uniform(HOST, (1, 3), "x")
        with random.restored(moment):
            np.testing.assert_array_equal(uniform(HOST, (1, 3), "x"), second)
        seen = []
        thread = threading.Thread(target=lambda: seen.append(random._state.step))
        thread.start()
        thread.join()
        assert seen == [None]
    assert random._state.step is None


def test_a_stream_drawn_from_again_in_one_scope_gives_new_numbers_and_its_replay_the_same() -> None:
    def drawn() -> list[np.ndarray]:
        with scope(seed=1, step=2, samples=[4, 7]):
            return [uniform(HOST, (2, 3), stream) for stream in "xxyx"]

    first = drawn()
    assert all(not np.any(a == b) for i, a in enumerate(first) for b in first[:i])
    np.testing.assert_array_equal(first, drawn())
    with scope(seed=1, step=2, samples=[7]):
        for whole in first[0], first[1]:  # each call is split over ranks alike
            np.testing.assert_array_equal(uniform(HOST, (1, 3), "x"), whole[1:])
        moment = random.snapshot()
        after = uniform(HOST, (1, 3), "x")
        with random.restored(moment):
            assert random.replaying()
            np.testing.assert_array_equal(uniform(HOST, (1, 3), "x"), after)
        assert not random.replaying()


def test_generators_are_keyed() -> None:
    assert generator("w", 0).normal() == generator("w", 0).normal()
    assert len({generator(*parts).normal() for parts in [("w", 0), ("w", 1), ("w0",), (0, "w")]}) == 4
    assert key("a", 1) == key("a", 1) != key("a1")
    assert 0 <= key("x") < 2**64
