"""A norm that is the same to the bit however its entries are shared out, and how exact it is."""

import math
from fractions import Fraction
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigrad import backend, dist
from minigrad.dist.world import World
from minigrad.errors import UsageError
from minigrad.nn.norms import joint_norm, reproducible_norm


def entries(count: int, seed: int, dtype: str, spread: float) -> np.ndarray:
    generator = np.random.default_rng(seed)
    sizes = 10.0 ** (generator.uniform(-spread, spread, count))
    return (generator.normal(size=count) * sizes).astype(dtype)


@given(
    count=st.integers(0, 300),
    seed=st.integers(0, 999),
    dtype=st.sampled_from(["float16", "float32", "float64"]),
    spread=st.sampled_from([0.0, 2.0]),
    parts=st.integers(1, 9),
    block=st.sampled_from([1, 7, 1 << 15]),
)
@settings(max_examples=200, deadline=None)
def test_any_order_and_any_split_give_the_same_bits(count, seed, dtype, spread, parts, block):
    flat = entries(count, seed, dtype, spread)
    norm = float(reproducible_norm([flat]))
    generator = np.random.default_rng(seed)
    edges = sorted(generator.integers(0, count + 1, parts - 1))
    pieces = np.split(flat[generator.permutation(count)], edges)
    with patch("minigrad.nn.norms.BLOCK", block):
        assert float(reproducible_norm(pieces)) == norm
    exact = sum((Fraction(float(x)) ** 2 for x in flat), Fraction(0))
    if exact:
        error = abs(Fraction(norm) ** 2 / exact - 1)
        assert error <= count * 2.0**-61 + 6 * 2.0**-53


def test_plain_sums_do_not_have_this_property():
    """Otherwise the test above would show nothing."""
    flat = entries(1000, 0, "float64", 2.0)
    generator = np.random.default_rng(1)
    assert len({float(joint_norm([flat[generator.permutation(1000)]])) for _ in range(20)}) > 1


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("on_device", [False, True])
def test_ranks_find_the_same_bits_as_one(ranks, on_device):
    flat = entries(500, 3, "float32", 1.0)
    expected = float(reproducible_norm([flat]))

    def main(world: World) -> float:
        generator = np.random.default_rng(ranks)
        edges = sorted(generator.integers(0, 501, ranks - 1))
        own = np.split(flat, edges)[world.rank]
        calls: list[str] = []

        def combine(array: Any, operation: Literal["max", "sum"]) -> None:
            calls.append(operation)
            world.all_reduce(array, operation=operation, purpose="control")

        arrays = [] if not own.size else [own[: own.size // 2], own[own.size // 2 :]]
        norm = reproducible_norm(arrays, combine=combine, like=own)
        assert calls == ["max", "sum"]
        return float(norm)

    with patch.object(backend, "host", object() if on_device else backend.host):
        assert dist.spawn(main, ranks=ranks) == [expected] * ranks


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], 0.0),
        ([0.0, -0.0], 0.0),
        ([3.0, -4.0], 5.0),
        ([3e300, 4e300], 5e300),
        ([3e-300, 4e-300], 5e-300),
        ([1.0, math.inf], math.inf),
        ([math.nan, 1.0], math.inf),
        ([-math.inf, math.nan], math.inf),
        ([2.0**1023], 2.0**1023),
    ],
)
@pytest.mark.parametrize("on_device", [False, True])
def test_extreme_values(values, expected, on_device):
    with patch.object(backend, "host", object() if on_device else backend.host), np.errstate(all="ignore"):
        norm = reproducible_norm([np.array(values, "float64")])
    assert norm.shape == ()
    assert float(norm) == pytest.approx(expected, rel=1e-15)


def test_one_rank_with_a_value_that_is_not_finite_is_heard_by_all():
    def main(world: World) -> float:
        own = np.array([1.0, math.nan if world.rank == 1 else 2.0])
        return float(
            reproducible_norm(
                [own], combine=lambda array, operation: world.all_reduce(array, operation=operation)
            )
        )

    assert dist.spawn(main, ranks=3) == [math.inf] * 3


def test_many_equal_entries_are_counted_exactly():
    assert float(reproducible_norm([np.full(1 << 20, 3.0, "float32")])) == 3.0 * 1024


def test_arrays_without_values_have_a_norm_without_value():
    shapes = backend.of_device("shapes")
    assert reproducible_norm([shapes.empty((3, 4)), shapes.empty((5,), dtype="float32")]).shape == ()
    assert joint_norm([shapes.empty((3, 4))]).shape == ()


def test_types_of_norms_that_make_no_sense_are_refused():
    with pytest.raises(UsageError, match="got 0"):
        joint_norm([np.ones(2)], 0)
