"""What a Tensor is to somebody who knows NumPy."""

import copy
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import backend
from minigrad.errors import DeviceError, DTypeError, GraphError, ShapeError
from tests.minigrad.examples import spread


def leaf(*shape: int) -> mg.Tensor:
    return mg.tensor(spread(*shape), requires_grad=True)


# ----- Making one ---------------------------------------------------------------------------------


def test_dtypes_of_what_it_is_made_of() -> None:
    cases = [
        (1.0, "float32"),
        ([1, 2.5], "float32"),
        ([[1.0], [2.0]], "float32"),
        (3, "int64"),
        ([True, False], "bool"),
        (np.float64(1.0), "float64"),
        ([np.float64(1.0)], "float64"),
        (np.float16(1.0), "float16"),
        (np.ones(2), "float64"),
        (np.ones(2, "uint8"), "uint8"),
        (mg.ones(2, dtype="float16"), "float16"),
    ]
    for data, dtype in cases:
        assert mg.tensor(data).dtype == np.dtype(dtype), data
    assert mg.tensor([1, 2], dtype="float64").dtype == np.float64
    assert (mg.float32, mg.bool) == (np.dtype("float32"), np.dtype("bool"))


def test_arrays_of_any_kind_are_taken() -> None:
    x = np.arange(6.0).reshape(2, 3)
    assert np.shares_memory(mg.tensor(x).data, x)
    foreign = mg.tensor(x.astype(">f8"), requires_grad=True)
    assert foreign.dtype.isnative
    np.testing.assert_array_equal(foreign.numpy(), x)
    (foreign * 2.0).sum().backward()
    matrix = mg.tensor(np.ma.masked_array(x))
    assert type(matrix.data) is np.ndarray
    assert type(mg.tensor(np.float64(1.0)).data) is np.ndarray
    assert mg.tensor(mg.tensor(x, requires_grad=True)).requires_grad is False


@pytest.mark.parametrize(
    "data", [1j, np.ones(2, complex), "text", [None], np.array([object()]), np.array(["a"])]
)
def test_only_real_numbers_are_taken(data) -> None:
    with pytest.raises(DTypeError, match="expected real numbers or booleans, got data of type"):
        mg.tensor(data)


def test_integers_have_no_gradient() -> None:
    with pytest.raises(DTypeError, match="only floating-point tensors have gradients, and this one is int64"):
        mg.tensor([1, 2], requires_grad=True)
    with pytest.raises(DTypeError, match="bool"):
        mg.tensor(True, requires_grad=True)
    x = leaf(3)
    for cast in ("int64", "bool"):
        assert not x.astype(cast).requires_grad
    assert x.astype("float32").requires_grad
    assert x.astype("float64") is x


def test_devices() -> None:
    with pytest.raises(DeviceError, match="unknown device 'tpu'; expected"):
        mg.tensor(1.0, device="tpu")
    assert mg.tensor(1.0, device="cpu").device == "cpu"
    with pytest.raises(DTypeError, match="expected an array that minigrad knows, got list"):
        backend.namespace([1.0])


def test_creation() -> None:
    assert mg.zeros(3).tolist() == [0.0] * 3
    assert mg.ones((2, 1)).dtype == np.float32
    assert mg.full((2,), 7.0, dtype="float64").tolist() == [7.0, 7.0]
    assert mg.arange(3).tolist() == [0, 1, 2]
    assert mg.arange(1, 6, 2).tolist() == [1, 3, 5]
    assert mg.zeros_like(leaf(2, 2), dtype="int8").dtype == np.int8
    assert mg.ones_like(np.zeros(2)).tolist() == [1.0, 1.0]
    x = leaf(3)
    assert mg.asarray(x) is x
    assert not np.shares_memory(mg.asarray(x, copy=True).data, x.data)
    assert mg.asarray([1.0], dtype="float64").dtype == np.float64


# ----- Out of it ----------------------------------------------------------------------------------


def test_numpy_gives_a_read_only_view() -> None:
    x = leaf(3)
    view = x.numpy()
    assert np.shares_memory(view, x.data)
    assert not view.flags.writeable
    assert x.data.flags.writeable
    with pytest.raises(GraphError, match=r"use x.detach\(\) or x.numpy\(\)"):
        np.asarray(x)
    np.testing.assert_array_equal(np.asarray(x.detach()), x.data)
    assert np.array(x.detach(), dtype="float32", copy=True).dtype == np.float32
    with mg.no_grad():
        assert np.asarray(x).shape == (3,)


def test_numpy_arrays_on_the_left() -> None:
    x, a = leaf(2, 2), np.ones((2, 2))
    for result in (a * x, a + x, a - x, a / x, a @ x, np.float64(2.0) * x, a < x):
        assert isinstance(result, mg.Tensor)
    assert mg.matmul(a, x).requires_grad


def test_one_element_tensors_are_numbers() -> None:
    x = mg.tensor([[2.5]])
    assert (x.item(), float(x), int(x), bool(x)) == (2.5, 2.5, 2, True)
    assert [10, 20, 30][mg.tensor(1)] == 20
    with pytest.raises(DTypeError, match="only integer tensors can be an index, and this one is float32"):
        [10, 20][mg.tensor(1.0)]
    y = leaf(2, 2)
    with pytest.raises(ShapeError, match=r"item\(\) needs exactly one element.*\(2, 2\)"):
        y.item()
    with pytest.raises(ShapeError, match="ambiguous"):
        bool(y)
    with pytest.raises(ShapeError):
        float(y)


def test_length_iteration_hash_and_truth() -> None:
    x = leaf(3, 2)
    assert len(x) == 3
    rows = list(x)
    assert [row.shape for row in rows] == [(2,)] * 3
    rows[1].sum().backward()
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad.numpy(), [[0, 0], [1, 1], [0, 0]])
    with pytest.raises(ShapeError, match="0-d tensor has no length"):
        len(leaf())
    assert len({x, x, leaf(3, 2)}) == 2
    assert (x == x).numpy().all()
    assert (x.ndim, x.size, x.shape, x.is_leaf, x.requires_grad) == (2, 6, (3, 2), True, True)


def test_repr() -> None:
    assert repr(mg.tensor([1.0, 2.0])) == "tensor([1., 2.], dtype=float32)"
    assert repr(mg.tensor(2.0, requires_grad=True)) == "tensor(2., dtype=float32, requires_grad=True)"
    assert repr(mg.tensor(2.0, requires_grad=True) * 2) == "tensor(4., dtype=float32, made by multiply)"
    assert repr(mg.zeros((0, 3), dtype="float64")) == "tensor([], shape=(0, 3), dtype=float64)"
    assert repr(mg.tensor([[1, 2], [3, 4]])) == "tensor([[1, 2],\n        [3, 4]], dtype=int64)"
    assert repr(mg.tensor((1, 2))) == "tensor([1, 2], dtype=int64)"
    assert "shape=(5000,), dtype=float64" in repr(mg.tensor(np.zeros(5000)))
    x = leaf()
    assert repr((x * x).node).endswith(": multiply () float64>")
    assert "leaf () float64" in repr(x.node)


# ----- Copies -------------------------------------------------------------------------------------


def test_copies() -> None:
    x = leaf(3)
    x.sum().backward()
    deep = copy.deepcopy({"a": [x, x]})
    twin, again = deep["a"]
    assert twin is again
    assert twin.requires_grad
    assert twin.grad is not None  # as in torch
    assert x.grad is not None
    assert not np.shares_memory(twin.data, x.data)
    assert not np.shares_memory(twin.grad.data, x.grad.data)
    (twin * 2.0).sum().backward()
    np.testing.assert_array_equal(twin.grad.numpy(), np.full(3, 3.0))
    assert copy.deepcopy(x.detach()).grad is None
    np.testing.assert_array_equal(x.grad.numpy(), np.ones(3))
    shallow = copy.copy(x)
    assert shallow.node is x.node
    with pytest.raises(GraphError, match="only tensors without history can be deep-copied"):
        copy.deepcopy(x * 2.0)
    assert copy.copy(y := x * 2.0).node is y.node
    moved = x.copy()
    assert moved.requires_grad
    assert not moved.is_leaf
    assert not np.shares_memory(moved.data, x.data)
    assert copy.deepcopy(x.detach()).requires_grad is False


def test_leaves_are_made_and_unmade() -> None:
    x = mg.tensor(spread(2))
    assert not x.requires_grad
    assert x.grad is None
    assert x.requires_grad_() is x
    node = x.node
    assert x.requires_grad_().node is node
    assert x.requires_grad_(False).node is None
    with pytest.raises(GraphError, match="only a tensor without history can be made a leaf"):
        (leaf(2) * 2.0).requires_grad_()
    for use in (
        lambda: x.register_post_accumulate_grad_hook(print),
        lambda: x.zero_grad(),
        lambda: x.grad_buffer,
        lambda: setattr(x, "grad", x),
    ):
        with pytest.raises(GraphError, match="not a leaf that requires a gradient"):
            use()
    y = leaf(2)
    detached = y.detach()
    assert np.shares_memory(detached.data, y.data)
    assert not detached.requires_grad


# ----- Operators and methods ----------------------------------------------------------------------


def test_operators_are_numpys() -> None:
    x, y = spread(3, 3), spread(3, 3)[::-1]
    a, b = mg.tensor(x), mg.tensor(y)
    pairs: list[tuple[Any, Any]] = [
        (a + b, x + y),
        (2 + a, 2 + x),
        (a - 1.5, x - 1.5),
        (1 - a, 1 - x),
        (a * b, x * y),
        (a / b, x / y),
        (1 / a, 1 / x),
        (a @ b, x @ y),
        (y @ a, y @ x),
        (-a, -x),
        (+a, x),
        (abs(a), abs(x)),
        (abs(a) ** b, abs(x) ** y),
        (2.0**a, 2.0**x),
        (a < b, x < y),
        (a <= b, x <= y),
        (a > b, x > y),
        (a >= 0, x >= 0),
        (a == b, x == y),
        (a != 1, x != 1),
        (a.T, x.T),
        (a.mT, x.T),
        (a.sum(axis=0), x.sum(axis=0)),
        (a.mean(), x.mean()),
        (a.mean(axis=(0, -1), keepdims=True), x.mean(axis=(0, 1), keepdims=True)),
        (a.max(axis=1), x.max(axis=1)),
        (a.reshape(9), x.reshape(9)),
        (a.reshape((1, -1)), x.reshape(1, 9)),
        (a.reshape(3, 3, 1), x.reshape(3, 3, 1)),
        (a.reshape(np.int64(9)), x.reshape(9)),
        (a[mg.tensor(1)], x[1]),
        (a[mg.tensor([0, 2]), 1], x[[0, 2], 1]),
        (a[a > 0], x[x > 0]),
    ]
    for found, expected in pairs:
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-14)
    with pytest.raises(ShapeError, match=r"\.T is for matrices.*use .mT or permute_dims"):
        _ = mg.zeros((2, 2, 2)).T


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 4, 0.5, -0.5, -1, -2, 5, 1.5, -3])
def test_powers_with_short_cuts(exponent) -> None:
    x = spread(4, positive=True)
    np.testing.assert_allclose((mg.tensor(x) ** exponent).numpy(), x**exponent, rtol=1e-14)
    mg.testing.check_gradients(lambda x: x**exponent, x)
    y = mg.tensor(x, dtype="float32", requires_grad=True)
    z = y**exponent
    assert z.dtype == np.float32
    if z.requires_grad:
        z.sum().backward()


def test_powers_where_logarithms_do_not_exist() -> None:
    x, y = mg.tensor([0.0, -2.0, 3.0], requires_grad=True), mg.tensor([2.0, 2.0, 0.0], requires_grad=True)
    mg.pow(x, y).sum().backward()
    assert x.grad is not None
    assert y.grad is not None
    assert x.grad.tolist() == [0.0, -4.0, 0.0]
    np.testing.assert_allclose(y.grad.numpy(), [0.0, 0.0, np.log(3.0)], rtol=1e-6)


@pytest.mark.parametrize(
    ("left", "right"),
    [((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 2)), ((2, 2, 3), (3,)), ((3,), (2, 3, 2)), ((2, 2, 3), (3, 4))],
)
def test_matmul_takes_vectors_and_stacks(left, right) -> None:
    x, y = spread(*left), spread(*right)
    np.testing.assert_allclose(mg.matmul(x, y).numpy(), x @ y, rtol=1e-13)
    mg.testing.check_gradients(mg.matmul, x, y)


def test_matmul_names_the_sizes_that_differ() -> None:
    with pytest.raises(ShapeError, match=r"inner sizes differ: \(2, 3\) @ \(2, 3\), 3 ≠ 2; .*\.mT"):
        leaf(2, 3) @ leaf(2, 3)
    with pytest.raises(ShapeError, match="at least one axis"):
        leaf() @ leaf(2)


def test_shapes_of_other_functions() -> None:
    x = leaf(2, 3)
    assert mg.expand_dims(x, axis=-1).shape == (2, 3, 1)
    assert mg.expand_dims(x.data, axis=1).shape == (2, 1, 3)
    assert mg.squeeze(mg.zeros((1, 2, 1)), (0, -1)).shape == (2,)
    assert mg.squeeze(np.zeros((1, 2)), 0).shape == (2,)
    assert mg.stack([x, x], axis=-1).shape == (2, 3, 2)
    assert mg.stack([x, x]).shape == (2, 2, 3)
    assert [part.shape for part in mg.split(x, 1, axis=-1)] == [(2, 1)] * 3
    assert mg.take(x, mg.tensor([2, 0]), axis=-1).shape == (2, 2)
    assert mg.take(x.data, np.array([[1]])).shape == (1, 1, 3)
    for wrong, message in [
        (lambda: mg.expand_dims(x, axis=3), "there is no axis 3 in 3 dimensions"),
        (lambda: mg.squeeze(x, 0), "its length is not 1"),
        (lambda: mg.squeeze(mg.zeros((1, 2)), 2), "no axis 2 in 2 dimensions"),
        (lambda: mg.squeeze(mg.zeros(()), 0), "no axis 0 in 0 dimensions"),
        (lambda: mg.split(x, (2, 2), axis=1), "do not make up axis 1 of shape"),
        (lambda: mg.split(x, 2, axis=2), "no axis 2"),
        (lambda: mg.take(x, [0], axis=2), "no axis 2"),
    ]:
        with pytest.raises(ShapeError, match=message):
            wrong()


def test_softmax_family() -> None:
    x = np.array([[1e3, 0.0, -1e3], [-np.inf, 0.0, 1.0]])
    total = np.log(1 + np.e)
    np.testing.assert_allclose(mg.logsumexp(x, axis=1).numpy(), [1e3, total])
    np.testing.assert_allclose(mg.softmax(x).numpy()[1], [0.0, np.exp(-total), np.exp(1 - total)])
    np.testing.assert_allclose(mg.log_softmax(x).numpy()[1], [-np.inf, -total, 1 - total])
    with np.errstate(divide="ignore"):
        assert mg.logsumexp(np.full(2, -np.inf)).item() == -np.inf
    assert mg.logsumexp(np.array([np.inf, 0.0])).item() == np.inf
    assert np.isnan(mg.logsumexp(np.array([np.nan, 0.0])).item())
    for f in (
        mg.softmax,
        mg.log_softmax,
        mg.logsumexp,
        lambda x: mg.logsumexp(x, axis=(0, -1), keepdims=True),
    ):
        mg.testing.check_gradients(f, spread(2, 3))


def test_ties_share_the_derivative() -> None:
    x = mg.tensor([1.0, 3.0, 3.0], requires_grad=True)
    mg.max(x).backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 0.5, 0.5]
    x.zero_grad()
    (mg.maximum(x, 3.0) + mg.minimum(x, 3.0)).sum().backward()
    assert x.grad.tolist() == [1.0, 1.0, 1.0]
    x.zero_grad()
    mg.relu(x - 3.0).sum().backward()
    assert x.grad.tolist() == [0.0, 0.0, 0.0]


def test_nan_and_infinity_propagate() -> None:
    x = mg.tensor(np.array([np.nan, np.inf, -np.inf]))
    for name in ("maximum", "minimum", "add", "multiply"):
        np.testing.assert_array_equal(getattr(mg, name)(x, 1.0).numpy(), getattr(np, name)(x.numpy(), 1.0))
    assert np.isnan(mg.max(x).item())
    np.testing.assert_array_equal(mg.relu(x).numpy(), [np.nan, np.inf, 0.0])
    np.testing.assert_array_equal(mg.sigmoid(mg.tensor([-1e4, 1e4])).numpy(), [0.0, 1.0])


def test_memory_kept_by_the_allocator() -> None:
    assert mg.keep_freed_memory() in (True, False)
