"""Stage 3 goes through units in one order on all ranks, also through those that the first pass left out."""

from dataclasses import replace

import numpy as np
import pytest

from minigrad.dist.partition import with_guesses
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
    assert sorted(with_guesses([None, None])) == with_guesses([None, None])


@pytest.mark.parametrize(("samples", "seed"), [(1, 1), (3, 0)])
def test_a_block_that_is_used_last_and_not_by_all(samples, seed):
    """With one sample, rank 1 gathers in the order that rank 0 had found out before it used that block; with
    three, it alone uses that block in its first pass.
    """
    case = Case(samples, steps=5, parts=1, seed=seed, width=1, tied=frozenset(), turned=True, seldom=0)
    for actual in run(replace(case, zero={"stage": 3}), 2):
        close(actual, reference(case))
