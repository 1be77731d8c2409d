"""Stage 3 goes through units in one order on all ranks, also through those that the first pass left out."""

from dataclasses import replace

import numpy as np
import pytest

from minigrad.dist.unit_order import with_guesses
from tests.dist.zero_training import Case, close, reference, run


@pytest.mark.parametrize(
    ("turns", "order"),
    [
        ([0.0, None, 1.0], [0, 1, 2]),
        ([None, 0.0, 1.0], [0, 1, 2]),
        ([0.0, 1.0, None, None], [0, 1, 2, 3]),
        ([None, 1.0, 0.0], [2, 1, 0]),  # the last is used first: so the first, if it is used, will come last
        ([3.0, None, None, 0.0], [3, 2, 1, 0]),
        ([None, 1.0, 0.0, None], [3, 2, 1, 0]),
        ([None, 0.0, None], [0, 1, 2]),
        ([2.0, 0.0, 1.0, None], [1, 2, 3, 0]),
    ],
)
def test_units_that_were_not_used_get_a_place_between_those_that_were(turns, order):
    found = with_guesses(turns)
    assert all(turn is None or turn == guess for turn, guess in zip(turns, found, strict=True))
    assert np.argsort(np.array(found)).tolist() == order
    assert with_guesses([None, None]) == [None, None]


def test_a_block_that_is_used_late_and_for_the_first_time_in_a_later_step():
    """Rank 1 has no samples, and gathers in the order that rank 0 had found out before it used that block."""
    case = Case(samples=1, steps=5, parts=1, seed=1, width=1, tied=frozenset(), turned=True, seldom=0)
    for actual in run(replace(case, zero={"stage": 3}), 2):
        close(actual, reference(case))
