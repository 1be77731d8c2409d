"""Norms of vectors where their derivatives are easily got wrong. Figures are those of torch 2.13."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad.errors import UsageError

TORCH = {
    0.5: (13.928203230275509, [0.0, 2.154700538379252, 1.8660254037844386]),
    0.25: (55.569126618342644, [0.0, 8.928617889411182, 7.1958182375272735]),
    -1: (0.0, [0.0, 0.0, 0.0]),
    -2: (0.0, [0.0, 0.0, 0.0]),
    1.5: (5.584250376480029, [0.0, 0.7329564758289748, 0.8463452372482761]),
    3: (4.497941445275415, [0.0, 0.4448513517305356, 0.7908468475209521]),
}


@pytest.mark.parametrize("order", TORCH)
def test_an_entry_that_is_0_beside_torch(order: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for points, (value, slope) in (([0.0, 3.0, 4.0], TORCH[order]), ([0.0, 0.0], (0.0, [0.0, 0.0]))):
            x = mg.tensor(np.array(points), requires_grad=True)
            norm = mg.vector_norm(x, ord=order)
            norm.backward()
            assert x.grad is not None
            np.testing.assert_allclose(norm.numpy(), value, rtol=1e-14)
            np.testing.assert_allclose(x.grad.numpy(), slope, rtol=1e-14)


@settings(max_examples=60, deadline=None)
@given(
    order=st.sampled_from([-2, -1, -0.5, 0.25, 0.5, 1, 1.5, 2, 3, np.inf, -np.inf]),
    dtype=st.sampled_from(["float16", "float32", "float64"]),
    seed=st.integers(0, 99),
)
def test_norms_are_numpys_in_every_precision(order: float, dtype: str, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=(3, 5)).astype(dtype)
    x *= 100 if abs(order) <= 3 and order >= 1 else 1
    found = mg.vector_norm(mg.tensor(x), axis=1, ord=order)
    exact = np.linalg.norm(x.astype("float64"), ord=order, axis=1)
    assert found.dtype == dtype
    np.testing.assert_allclose(found.numpy(), exact, rtol=16 * float(np.finfo(dtype).eps))


def test_norms_of_half_precision_and_of_integers_do_not_overflow() -> None:
    assert mg.vector_norm(mg.tensor(np.array([300, 400], "float16"))).item() == 500.0
    assert mg.vector_norm(mg.tensor(np.array([50_000, 50_000], "int32"))).item() == pytest.approx(70_710.678)
    assert mg.vector_norm(mg.tensor(np.array([-128, 1], "int8")), ord=1).item() == 129.0


@pytest.mark.parametrize("order", [-0.5, -1, -2])
def test_a_norm_of_negative_order_is_infinite_where_all_entries_are(order):
    x = mg.tensor([[np.inf, -np.inf], [np.inf, 2.0]], requires_grad=True, dtype="float64")
    norm = mg.vector_norm(x, axis=1, ord=order)
    np.testing.assert_allclose(norm.numpy(), [np.inf, 2.0])
    norm[1].backward()
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy()[1], [0.0, 1.0], atol=1e-15)


@pytest.mark.parametrize("order", ["fro", float("nan"), None])
def test_what_is_no_order(order):
    with pytest.raises(UsageError, match="ord is a number"):
        mg.vector_norm([1.0, 2.0], ord=order)
