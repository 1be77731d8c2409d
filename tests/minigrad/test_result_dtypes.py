"""Dtypes of results that are easily got wrong: of tangents, of nothing, of tensors as fill values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad.operation import general


@pytest.mark.parametrize("join", [mg.concat, mg.stack])
@pytest.mark.parametrize("order", [1, -1])
def test_a_tangent_has_the_dtype_of_its_value(join, order) -> None:
    x, y = (mg.ones(2, dtype="float32"), mg.ones(2, dtype="float64"))[::order]
    for f, points in (
        (lambda a, b: join([a, b]), (x, y)),
        (lambda a: join([a, y]), (x,)),
        (lambda b: join([x, b]), (y,)),
    ):
        value, tangent = mg.jvp(f, points, points)
        assert value.dtype == tangent.dtype == "float64"
    recorded = mg.grad(lambda a: mg.sum(mg.jvp(lambda b: join([b * b, y]), a, a)[1]))(x)
    assert recorded.dtype == x.dtype


def test_tangents_of_general_operations_are_cast() -> None:
    @general(pull=lambda xp, v, needs: (v,), push=lambda xp, tangents: tangents[0].astype("float64"))
    def widening_push(xp, x, /):
        return xp.positive(x)

    x = mg.ones(2)
    assert mg.jvp(widening_push, x, x)[1].dtype == "float32"


def test_nothing_is_of_the_default_dtype() -> None:
    several: list[Any] = [[], [[], []], ()]
    for data in several:
        assert mg.tensor(data).dtype == "float32"
    assert mg.tensor(np.array([])).dtype == "float64"
    assert mg.ones(3)[[]].shape == (0,)
    assert mg.take(mg.ones(3), []).shape == (0,)


def test_integers_become_the_default_dtype() -> None:
    whole = mg.tensor([1, 2])
    for f in (mg.softmax, mg.log_softmax, mg.logsumexp):
        assert f(whole).dtype == "float32"


def test_a_tensor_filled_in_takes_the_dtype_of_the_rest() -> None:
    mask = mg.tensor([True, False])
    for value in (
        mg.tensor(2.0, dtype="float64"),
        np.float64(2.0),
        np.array(2.0),
        np.array([2.0, 3.0]),
        2.0,
        2,
    ):
        found = mg.masked_fill(mg.ones(2), mask, value)
        assert (found.dtype, found.tolist()) == ("float32", [2.0, 1.0])
    value = mg.tensor(2.0, dtype="float64", requires_grad=True)
    mg.sum(mg.masked_fill(mg.ones(2), mask, value)).backward()
    assert value.grad is not None
    assert (value.grad.dtype, value.grad.item()) == ("float64", 1.0)


@pytest.mark.parametrize("order", [">", "<"])
def test_dtypes_are_of_this_machine(order) -> None:
    for made in (
        mg.ones(2, dtype=f"{order}f4"),
        mg.tensor([1.0], dtype=f"{order}f4"),
        mg.ones(2).astype(f"{order}f4"),
        mg.tensor(np.ones(2, f"{order}f4")),
    ):
        assert made.dtype.isnative
        assert made.dtype == np.float32
