"""Indices of every integer dtype, on axes longer than the dtype can count."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from tests.gpu import stand_in
from tests.minigrad.strict import registered

LENGTHS = {
    "int8": 256,
    "uint8": 256,
    "int16": 70_000,
    "uint16": 70_000,
    "int32": 300,
    "uint32": 300,
    "uint64": 300,
}

READERS: dict[str, Callable[[Any, Any], Any]] = {
    "x[i]": lambda x, i: x[i],
    "x[i, j]": lambda x, i: mg.reshape(x, (-1, 2))[i, i * 0 + 1],
    "x[:, i]": lambda x, i: mg.reshape(x, (1, -1))[:, i],
    "take": lambda x, i: mg.take(x, i),
    "take, axis 1": lambda x, i: mg.take(mg.reshape(x, (1, -1)), i, axis=1),
    "take_along_axis": lambda x, i: mg.take_along_axis(x, i, axis=0),
    "gather": lambda x, i: mg.gather(x, i, axis=0),
    "at.add": lambda x, i: x.at[i].add(x[:3] * x[:3]),
    "at.set": lambda x, i: x.at[i].set(x[:3] * x[:3]),
    "scatter": lambda x, i: mg.scatter(x, i, x[:3] * x[:3], axis=0),
    "scatter_add": lambda x, i: mg.scatter_add(x, i, x[:3] * x[:3], axis=0),
    "index_add": lambda x, i: mg.index_add(x, i, x[:3] * x[:3]),
    "weighted_rows": lambda x, i: mg.ops.indexing.weighted_rows(
        mg.reshape(x, (-1, 1)), mg.reshape(i, (3, 1)), mg.reshape(x[:3], (3, 1))
    ),
}


@pytest.mark.parametrize("device", ["cpu", "gpu"])
@pytest.mark.parametrize("name", READERS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_every_integer_dtype_is_an_index(name: str, device: str, data: st.DataObject) -> None:
    """Both walks say what they say of int64, negative indices and repeated ones included."""
    dtype = data.draw(st.sampled_from(sorted(LENGTHS)))
    f, length = READERS[name], LENGTHS[dtype]
    limits = np.iinfo(dtype)
    low, high = max(int(limits.min), -length // 2), min(int(limits.max), length // 2 - 1)
    places = data.draw(st.lists(st.integers(low, high), min_size=3, max_size=3))
    if name in ("at.set", "scatter"):  # at one place, any could win on a GPU
        places = [0, 1, max(low, -2)]
    with stand_in.installed():
        x = mg.tensor(np.cos(np.arange(float(length))), device=device)
        results = []
        for kind in (dtype, "int64"):
            i = mg.tensor(np.array(places, dtype).astype(kind), device=device)
            leaf = x.detach().requires_grad_()
            y = f(leaf, i)
            v = mg.tensor(np.sin(np.arange(y.size)).reshape(y.shape), device=device)
            y.backward(v)
            assert leaf.grad is not None
            moved = mg.jvp(lambda z, i=i: f(z, i), x, x)[1]
            results.append([y.numpy(), leaf.grad.numpy(), moved.numpy()])
        for found, expected in zip(*results, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-13)


def test_repeated_indices_on_a_foreign_library() -> None:
    """What it lacks to add at indices (NumPy's ufunc.at) is made of a scatter-add."""
    with registered() as strict:
        x = mg.tensor(strict.from_host(np.arange(4.0)), requires_grad=True)
        mg.sum(x[[0, 0, 1]] * mg.tensor(strict.from_host(np.array([1.0, 2.0, 4.0])))).backward()
        assert x.grad is not None
        assert x.grad.numpy().tolist() == [3.0, 4.0, 0.0, 0.0]
        at = (
            mg.tensor(strict.from_host(np.zeros(3)))
            .at[mg.tensor(strict.from_host(np.array([1, 1])))]
            .add(2.0)
        )
        assert at.numpy().tolist() == [0.0, 4.0, 0.0]


def test_gradients_of_mixed_indices_are_sums() -> None:
    """Arrays, slices, masks and None side by side, against adding one by one."""
    x = np.random.default_rng(0).normal(size=(4, 3, 5))
    rows = np.array([0, 2, 0])
    indices: list[Any] = [
        (slice(None), rows),
        (..., np.array([4, -1, 4])),
        (rows, slice(1, 3), np.array([0, 0, 0])),
        (None, rows, ..., 1),
        (np.array([True, False, True, True]), 0),
        (slice(None), np.array([[0, 1], [1, 1]])),
    ]
    for index in indices:
        leaf = mg.tensor(x, requires_grad=True)
        out = leaf[index]
        v = np.sin(np.arange(out.size)).reshape(out.shape)
        out.backward(v)
        expected = np.zeros_like(x)
        np.add.at(expected, index, v)
        assert leaf.grad is not None
        np.testing.assert_allclose(leaf.grad.numpy(), expected, rtol=1e-13, atol=1e-14)
