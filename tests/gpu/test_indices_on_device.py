"""Indices of arrays on a device: those on the host are put there, however they are written down.

Values are not indices: `assign` moves them, for it says that it writes, and all other operations refuse them
(test_gpu.py).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import backend, nn
from minigrad.errors import DeviceError, DTypeError, GraphError
from minigrad.graph import Node

X = np.random.default_rng(0).normal(size=(3, 4))

READS: dict[str, tuple[Callable[[mg.Tensor, Any], mg.Tensor], Any]] = {
    "getitem": (lambda x, i: x[i], [2, 0, -1, 2]),
    "getitem, behind": (lambda x, i: x[1:, i], [3, 3]),
    "getitem, with another": (lambda x, i: x[i, [1, 0, 1]], [2, -3, 2]),
    "getitem, of nothing": (lambda x, i: x[i], []),
    "getitem, a mask": (lambda x, i: x[i], [True, False, True]),
    "getitem, a mask of entries": (lambda x, i: x[i], (X > 0).tolist()),
    "take": (lambda x, i: mg.take(x, i), [[2, 0], [2, 2]]),
    "take, behind": (lambda x, i: mg.take(x, i, axis=1), [3, -1, 0]),
    "take, of nothing": (lambda x, i: mg.take(x, i), []),
    "take, one": (lambda x, i: mg.take(x, i), 1),
    "take_along_axis": (lambda x, i: mg.take_along_axis(x, i, axis=1), [[0], [3], [-1]]),
    "gather": (lambda x, i: mg.gather(x, i, axis=0), [[2, 0, 2, 1]]),
    "scatter": (lambda x, i: mg.scatter(x, i, x[:, 1:2] * 2, axis=1), [[0], [3], [1]]),
    "scatter, a number": (lambda x, i: mg.scatter(x, i, 7.0, axis=1), [[0], [3], [1]]),
    "scatter_add": (lambda x, i: mg.add_rows(x, i, rows=5), [4, 0, 4]),
    "scatter_along_axis": (
        lambda x, i: mg.scatter_along_axis(x, i, axis=1, length=3),
        [[0, 2, 2, 1], [1, 1, 1, 1], [0, 1, 2, -1]],
    ),
    "index_add": (lambda x, i: mg.index_add(x, i, x[:2], axis=0), [1, 1]),
    "index_add, written down": (lambda x, i: mg.index_add(x, i, np.ones((3, 2)), axis=1), [1, 1]),
    "index_set": (lambda x, i: mg.index_set(x, i, x[0]), [2, 1]),
    "at, set": (lambda x, i: x.at[i].set(x[:2]), [2, 1]),
    "at, set, behind": (lambda x, i: x.at[:, i].set(1.5), [2, 1]),
    "at, add": (lambda x, i: x.at[i].add(x[:2]), [1, 1]),
    "at, add, a mask": (lambda x, i: x.at[i].add(2.0), [True, False, True]),
    "weighted_rows": (lambda x, i: mg.weighted_rows(x, i, x[:2, :2]), [[0, 2], [1, 1]]),
    "masked_fill": (lambda x, i: mg.masked_fill(x, i, 0.5), [[True, False, False, True]]),
    "embedding": (lambda x, i: nn.functional.embedding(i, x), [[2, 0], [1, 2]]),
    "embedding, padded": (lambda x, i: nn.functional.embedding(i, x, 0), [[2, 0], [1, 2]]),
    "searchsorted": (lambda x, i: mg.searchsorted(x[0], x[1], sorter=i), np.argsort(X[0]).tolist()),
}
"""Functions of an array and of indices into it."""


def both_ways(read: Callable[[mg.Tensor, Any], mg.Tensor], index: Any, device: str) -> tuple[Any, Any]:
    """What is read, and the gradient of the sum of its squares (nothing where there is none)."""
    x = mg.tensor(X, device=device, requires_grad=True)
    found = read(x, index)
    assert found.device.partition(":")[0] == device
    if not found.requires_grad:
        return found.numpy(), np.zeros(0)
    mg.sum(found * found).backward()
    assert x.grad is not None
    return found.numpy(), x.grad.numpy()


@pytest.mark.parametrize("name", READS)
def test_indices_are_put_where_the_array_is(name: str, device: str):
    read, index = READS[name]
    array = np.asarray(index) if np.size(index) else np.zeros(np.shape(index), "int64")
    expected = both_ways(read, index, "cpu")
    kinds: dict[str, Any] = {"list": index, "array": array, "tensor": mg.tensor(array, device=device)}
    kinds |= {"tensor of the host": mg.tensor(array), "raw array": kinds["tensor"].data}
    if array.dtype.kind == "i":
        kinds["narrow"] = array.astype("int8")
    for kind, given in kinds.items():
        for a, b in zip(both_ways(read, given, device), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, err_msg=kind)


@pytest.mark.parametrize("name", READS)
def test_indices_on_a_device_are_refused_by_arrays_of_the_host(name: str, device: str):
    """Reading them would wait for the device."""
    read, index = READS[name]
    there = mg.tensor(np.asarray(index, "int64" if index == [] else None), device=device)
    for given in (there, there.data):
        with pytest.raises(DeviceError, match=r"gpu:0.* and cpu|cpu and gpu:0"):
            read(mg.tensor(X), given)


def test_an_index_is_moved_once(device: str):
    """The graph keeps the index that was moved already, for the derivative to read by."""
    x = mg.tensor(X, device=device, requires_grad=True)
    for index in ([2, 0], np.array([2, 0]), (slice(1), [1, 1]), np.array([True, False, True])):
        node = x[index].node
        assert isinstance(node, Node)
        parts = node.parameters["index"]
        last = parts[-1] if isinstance(parts, tuple) else parts
        assert isinstance(last, backend.gpu().array_type)


@pytest.mark.parametrize("place", ["cpu", "gpu"])
@pytest.mark.parametrize("read", [mg.take, lambda x, i: mg.gather(x, i, axis=0), mg.index_add])
@pytest.mark.parametrize("index", [[0.5], [[True, False, True, True]]])
def test_indices_are_whole_numbers(read: Any, index: Any, place: str, device: str):
    x = mg.tensor(X, device=device if place == "gpu" else "cpu")
    with pytest.raises(DTypeError, match="indices are integers"):
        read(x, index, x) if read is mg.index_add else read(x, index)


# ----- Writing ----------------------------------------------------------------------------------------------

VALUES: dict[str, Callable[[str], Any]] = {
    "a number": lambda device: 2.5,
    "a number of NumPy's": lambda device: np.float32(2.5),
    "a list": lambda device: X.tolist(),
    "an array": lambda device: X,
    "a narrow array": lambda device: X.astype("float32"),
    "an array of one number": lambda device: np.array(2.5),
    "a tensor of the host": lambda device: mg.tensor(X),
    "a tensor of one number on the host": lambda device: mg.tensor(2.5),
    "a tensor of the device": lambda device: mg.tensor(X, device=device),
    "a tensor of one number on the device": lambda device: mg.tensor(2.5, device=device),
}


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("place", ["cpu", "gpu"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_assign_writes_values_from_wherever_they_lie(name: str, place: str, dtype: str, device: str):
    values = VALUES[name](device)
    x = mg.zeros(X.shape, dtype=dtype, device=device if place == "gpu" else "cpu")
    memory = x.data
    assert x.assign(values) is x
    assert x.data is memory
    expected = np.broadcast_to(
        np.asarray(values.numpy() if isinstance(values, mg.Tensor) else values), X.shape
    )
    np.testing.assert_array_equal(x.numpy(), expected.astype(dtype))


def test_a_graph_notices_what_was_assigned_from_the_host(device: str):
    x = mg.tensor(X, device=device, requires_grad=True)
    y = mg.sum(x * x)
    x.assign(X + 1)
    with pytest.raises(GraphError, match="changed in place"):
        y.backward()


@pytest.mark.usefixtures("two_devices")
def test_assign_moves_from_one_device_to_another():
    x = mg.zeros(X.shape, dtype="float64", device="gpu:0")
    x.assign(mg.tensor(X, device="gpu:1"))
    assert x.device == "gpu:0"
    np.testing.assert_array_equal(x.numpy(), X)
