"""Gathering, updating, sorting, products and statistics: against NumPy, and to second order."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad.errors import DTypeError, ShapeError, UsageError
from minigrad.testing import arrays, check_gradients
from tests.minigrad.examples import ALL_CONSTANTS, spread
from tests.minigrad.examples_selecting import CONSTANTS, TIES, with_zeros
from tests.minigrad.strict import registered
from tests.minigrad.test_rearranging import agrees

X = spread(3, 4)

# ----- Functional updates -------------------------------------------------------------------------

INDICES = [1, -1, (slice(None), 2), (..., slice(0, 3, 2)), [0, 2], (np.array([0, 2, 0]), np.array([1, 1, 1]))]


@pytest.mark.parametrize("index", [*INDICES, X > 0], ids=str)
def test_updates_are_functional(index):
    x, before = mg.tensor(X), X.copy()
    values = np.asarray(spread(*X[index].shape) * 1.1)
    expected = X.copy()
    expected[index] = values
    np.testing.assert_array_equal(x.at[index].set(values).numpy(), expected)
    expected = X.copy()
    np.add.at(expected, index, values)
    np.testing.assert_allclose(x.at[index].add(values).numpy(), expected)
    np.testing.assert_array_equal(X, before)
    check_gradients(lambda x, v: x.at[index].add(v), X, values)
    check_gradients(lambda x, v: x.at[index].set(v), X, values)
    check_gradients(lambda x, v: x.at[index].set(v), X, 0.3)


def test_updates_take_tensors_as_indices_and_keep_the_dtype():
    x = mg.tensor(X, dtype="float32")
    for y in (
        x.at[mg.tensor([0, 1])].set(1),
        x.at[0].add(np.ones(4)),
        x.at[0].set(mg.ones(4, dtype="float64")),
    ):
        assert y.shape == (3, 4)
    assert x.at[0].set(np.ones(4)).dtype == np.float32
    np.testing.assert_array_equal(mg.arange(3).at[1].set(7).numpy(), [0, 7, 2])
    assert mg.zeros((3, 2)).at[1].set(np.ones((1, 2))).numpy().sum() == 2


def test_of_values_for_one_place_the_last_stays_and_has_the_derivative():
    x, values = mg.zeros(3), mg.tensor([1.0, 2.0, 3.0], requires_grad=True)
    y = x.at[[1, 0, 1]].set(values)
    np.testing.assert_array_equal(y.numpy(), [2, 3, 0])
    y.sum().backward()
    assert values.grad is not None
    np.testing.assert_array_equal(values.grad.numpy(), [0, 1, 1])


def test_updates_of_shape_only_arrays():
    x = mg.zeros((3, 4), device="shapes").requires_grad_()
    x.at[[0, 0]].set(mg.zeros((2, 4), device="shapes")).at[1].add(1.0).sum().backward()
    assert x.grad is not None
    assert x.grad.shape == (3, 4)
    with pytest.raises(DTypeError, match="mask"):
        x.at[X > 0].set(0.0)


def test_updates_that_do_not_fit():
    with pytest.raises(ShapeError, match="index_set"):
        mg.tensor(X).at[0].set(np.ones(3))
    with pytest.raises(ShapeError):
        mg.tensor(X).at[5].set(0.0)
    with pytest.raises(mg.errors.MinigradError, match=r"x\.at\[index\]\.set"):
        mg.tensor(X)[0] = 1.0


# ----- Along an axis ------------------------------------------------------------------------------

# torch's documentation of gather and scatter: what the loops over all places give.


def gathered(x: np.ndarray, indices: np.ndarray, axis: int) -> np.ndarray:
    out = np.zeros(indices.shape)
    for place in np.ndindex(*indices.shape):
        out[place] = x[(*place[:axis], indices[place], *place[axis + 1 :])]
    return out


def scattered(x: np.ndarray, indices: np.ndarray, source: np.ndarray, axis: int) -> np.ndarray:
    out = x.copy()
    for place in np.ndindex(*indices.shape):
        out[(*place[:axis], indices[place], *place[axis + 1 :])] = source[place]
    return out


ALONG = [(np.array([[2, 0], [0, 1]]), 0), (np.array([[3, 0, 1], [0, 1, 2]]), 1), (np.zeros((3, 0), int), 1)]


@pytest.mark.parametrize(("indices", "axis"), ALONG, ids=["0", "1", "none"])
def test_gather_and_scatter(indices, axis):
    source = spread(3, 4) * 1.1
    agrees(lambda x: mg.gather(x, _beside(x, indices), axis=axis), lambda x: gathered(x, indices, axis), X)
    agrees(
        lambda x, s: mg.scatter(x, _beside(x, indices), s, axis=axis),
        lambda x, s: scattered(x, indices, s, axis),
        X,
        source,
    )
    number = mg.scatter(X, indices, 7.0, axis=axis)
    np.testing.assert_array_equal(number.numpy(), scattered(X, indices, np.full((3, 4), 7.0), axis))


def _beside(x: mg.Tensor, indices: np.ndarray) -> mg.Tensor:
    return mg.tensor(indices, device=x.device)


def test_adding_along_an_axis_is_the_transpose_of_taking():
    indices = np.array([[2, 0, 0], [1, 1, 1]])
    v, x = spread(2, 3), spread(2, 4)
    added = mg.scatter_along_axis(v, indices, axis=1, length=4).numpy()
    np.testing.assert_allclose((added * x).sum(), (v * np.take_along_axis(x, indices, 1)).sum())
    assert mg.scatter_along_axis(v.astype("float16"), indices, axis=1, length=4).dtype == np.float16


def test_indices_along_an_axis_that_do_not_fit():
    for f in (mg.take_along_axis, mg.gather):
        with pytest.raises(DTypeError, match="float64"):
            f(X, X, axis=0)
        with pytest.raises(ShapeError, match="number of axes"):
            f(X, np.array([1]), axis=0)
        with pytest.raises(ShapeError):
            f(X, np.full((3, 4), 9), axis=1)
    with pytest.raises(ShapeError, match="more than"):
        mg.gather(X, np.zeros((4, 4), int), axis=1)
    with pytest.raises(ShapeError, match="0 to 4 on an axis of length 4"):
        mg.scatter_along_axis(spread(2, 2), np.array([[0, 1], [1, 4]]), axis=1, length=4)
    with pytest.raises(ShapeError, match="differ"):
        mg.scatter_along_axis(X, np.zeros((3, 3), int), axis=1, length=4)
    with pytest.raises(ShapeError, match="source"):
        mg.scatter(X, np.zeros((3, 4), int), spread(4), axis=1)


def test_slices_added():
    indices = np.array([2, 0, 2, -1])

    def expected(x, s, axis, alpha=1.0):
        out = np.moveaxis(x.copy(), axis, 0)
        np.add.at(out, indices, alpha * np.moveaxis(s, axis, 0))
        return np.moveaxis(out, 0, axis)

    for axis, shape in [(0, (4, 4)), (1, (3, 4))]:
        x, s = spread(3, 4), spread(*shape) * 1.1
        found = mg.index_add(x, indices, s, axis=axis, alpha=0.5)
        np.testing.assert_allclose(found.numpy(), expected(x, s, axis, 0.5))
        check_gradients(lambda x, s, axis=axis: mg.index_add(x, indices, s, axis=axis), x, s)
    with pytest.raises(ShapeError, match="index_add"):
        mg.index_add(X, indices, X)
    for wrong in (3, -4):  # nothing is written beyond the array
        with pytest.raises(ShapeError, match=f"from {wrong} to {wrong} on an axis of length 3"):
            mg.index_add(X, [wrong], X[:1])
    with pytest.raises(DTypeError, match="float64"):
        mg.index_add(X, np.array([0.5]), X[:1])


def test_masks():
    mask = np.array([True, False, False, True])
    agrees(lambda x: mg.masked_fill(x, _beside(x, mask), -9.0), lambda x: np.where(mask, -9.0, x), X)
    with pytest.raises(DTypeError, match="booleans"):
        mg.masked_fill(X, np.ones(4), 0.0)


# ----- Order --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("axis", "shape"), [(-1, (2, 5)), (0, (4, 2)), (0, (1,)), (1, (2, 0))])
def test_sorting(axis, shape):
    x = spread(*shape)
    agrees(lambda x: mg.sort(x, axis=axis), lambda x: np.sort(x, axis), x)
    agrees(lambda x: mg.sort(x, axis=axis, descending=True), lambda x: np.flip(np.sort(x, axis), axis), x)


def test_sorting_with_ties():
    np.testing.assert_array_equal(mg.sort(TIES, descending=True).numpy(), np.sort(TIES)[:, ::-1])
    with pytest.raises(ShapeError, match="axis"):
        mg.sort(1.0)


@given(st.lists(st.sampled_from([1.0, 2.0, 3.0, np.nan, np.inf]), min_size=1, max_size=12), st.data())
def test_the_largest_are_the_last_of_the_sorted(values, data):
    x = np.array(values)
    k = data.draw(st.integers(0, len(x)))
    for largest, expected in [(True, np.sort(x)[::-1][:k]), (False, np.sort(x)[:k])]:
        top, indices = mg.topk(x, k, largest=largest)
        np.testing.assert_array_equal(top.numpy(), expected)
        np.testing.assert_array_equal(x[indices.numpy()], expected)
        assert len(set(indices.tolist())) == k


def test_derivatives_of_the_largest():
    check_gradients(lambda x: mg.topk(x, 2, axis=0)[0], spread(5, 2))
    x = mg.zeros((4, 7), device="shapes")
    assert [a.shape for a in mg.topk(x, 3)] == [(4, 3), (4, 3)]
    with pytest.raises(ShapeError, match="no 5 entries"):
        mg.topk(X, 5)


def test_searching():
    line, x = np.array([3.0, 1.0, 2.0]), np.array([1.5, 3.0])
    found = mg.searchsorted(line, x, side="right", sorter=np.argsort(line))
    np.testing.assert_array_equal(found.numpy(), [1, 3])
    with pytest.raises(ShapeError, match="one line"):
        mg.searchsorted(X, x)
    with pytest.raises(UsageError, match="middle"):
        mg.searchsorted(x, x, side="middle")


def test_what_is_not_zero():
    for found, right in zip(mg.nonzero(np.eye(2)), np.nonzero(np.eye(2)), strict=True):
        np.testing.assert_array_equal(found.numpy(), right)
    with pytest.raises(DTypeError, match="nonzero is not available on shape-only arrays"):
        mg.nonzero(mg.zeros(3, device="shapes"))
    with pytest.raises(ShapeError, match="0-d"):
        mg.nonzero(1.0)


# ----- Products, statistics -----------------------------------------------------------------------


@settings(max_examples=15)
@given(st.integers(1, 6).flatmap(lambda n: st.tuples(arrays((n,)), st.sets(st.integers(0, n - 1)))))
def test_products_are_right_with_any_zeros(case):
    x = with_zeros(case[0], *case[1])
    check_gradients(mg.prod, x)
    check_gradients(mg.cumulative_prod, x)


def test_products_to_third_order_at_two_zeros():
    check_gradients(mg.prod, np.array([0.0, 0.7, 0.0]), order=3)
    check_gradients(mg.cumulative_prod, np.array([0.7, 0.0, 0.4]), order=3)


def test_products_of_integers_and_of_nothing():
    assert mg.prod(mg.arange(1, 5)).item() == 24
    assert mg.prod(mg.zeros((0, 2)), axis=0).tolist() == [1, 1]
    assert mg.prod(mg.zeros(()), axis=None).shape == ()


def test_cumulative_reductions_with_the_empty_one():
    x = spread(2, 3)
    agrees(
        lambda x: mg.cumulative_sum(x, axis=1, include_initial=True),
        lambda x: np.concatenate([np.zeros((2, 1)), np.cumsum(x, 1)], 1),
        x,
    )
    agrees(
        lambda x: mg.cumulative_prod(x, axis=0, include_initial=True),
        lambda x: np.concatenate([np.ones((1, 3)), np.cumprod(x, 0)]),
        x,
    )
    for f in (mg.cumulative_sum, mg.cumulative_prod):
        with pytest.raises(ShapeError, match="needs an axis"):
            f(x)


@pytest.mark.parametrize("correction", [0.0, 1.0, 0.5])
@pytest.mark.parametrize(("axis", "keepdims"), [(None, False), (0, True), ((0, 1), False), (-1, False)])
def test_variances(axis, keepdims, correction):
    options = {"axis": axis, "keepdims": keepdims}
    for f, expected in [(mg.var, np.var), (mg.std, np.std)]:
        found = f(X, correction=correction, **options)
        np.testing.assert_allclose(found.numpy(), expected(X, ddof=correction, **options), rtol=1e-13)
        check_gradients(lambda x, f=f: f(x, correction=correction, **options), X)
        assert f(X.astype("float32"), **options).dtype == np.float32
        assert f(mg.zeros((3, 4), device="shapes"), **options).shape == found.shape


def test_the_deviation_of_equal_numbers_has_derivative_zero():
    x = mg.tensor([[1.0, 1.0], [1.0, 2.0]], requires_grad=True)
    mg.std(x, axis=1).sum().backward()
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), np.array([[0.0, 0.0], [-0.5, 0.5]]))
    assert np.isnan(mg.std(np.array([1.0, np.nan])).item())


def test_medians():
    cases: list[tuple[np.ndarray, Any, Any]] = [
        (spread(5), None, np.median(spread(5))),
        (spread(2, 3), 1, np.median(spread(2, 3), axis=1)),
        (spread(2, 4), 1, np.sort(spread(2, 4))[:, 1]),  # of two the lower one, as in torch
        (spread(3, 2, 3), (0, -1), np.median(spread(3, 2, 3), axis=(0, 2))),
        (spread(), None, spread()),
    ]
    for x, axis, right in cases:
        agrees(lambda x, axis=axis: mg.median(x, axis=axis), lambda x, right=right: np.asarray(right), x)
    assert mg.median(X, axis=0, keepdims=True).shape == (1, 4)
    assert np.isnan(mg.median(np.array([1.0, np.nan, 2.0])).item())
    with pytest.raises(ShapeError, match="none"):
        mg.median(mg.zeros((2, 0)), axis=1)


# ----- Other libraries ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(CONSTANTS))
def test_without_numpy(name):
    with registered() as strict:
        for example in [e for n, e in ALL_CONSTANTS if n == name]:
            found = example.call(*(mg.tensor(strict.from_host(x)) for x in example.inputs))
            np.testing.assert_array_equal(found.numpy(), example.expected(*example.inputs))


@pytest.mark.parametrize("name", sorted(set(CONSTANTS) - {"nonzero"}))
def test_shapes(name):
    for example in CONSTANTS[name]:
        found = example.call(*(mg.zeros(x.shape, dtype=x.dtype, device="shapes") for x in example.inputs))
        expected = np.asarray(example.expected(*example.inputs))
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)


@given(st.data(), st.integers(0, 1))
def test_scatter_add_is_torchs(data, axis) -> None:
    x = data.draw(arrays((3, 4)))
    lines = [data.draw(st.integers(1, n)) for n in (3, 4)]
    lines[axis] = data.draw(st.integers(0, 5))
    indices = np.asarray(data.draw(st.lists(st.integers(0, x.shape[axis] - 1), min_size=20, max_size=20)))
    indices = np.resize(indices, lines)
    source = data.draw(arrays(tuple(n + 1 for n in lines)))
    right = x.copy()
    for i, j in np.ndindex(*lines):
        right[(indices[i, j], j) if axis == 0 else (i, indices[i, j])] += source[i, j]
    found = mg.scatter_add(mg.tensor(x), indices, mg.tensor(source), axis=axis)
    np.testing.assert_allclose(found.numpy(), right, rtol=1e-12)
    check_gradients(lambda x, source: mg.scatter_add(x, indices, source, axis=axis), x, source)


def test_scatter_add_refuses_what_does_not_fit() -> None:
    x, i = mg.ones((2, 3)), np.zeros((2, 2), int)
    for wrong, message in [
        (
            lambda: mg.scatter_add(x, i, mg.ones((2, 1)), axis=1),
            r"indices \(2, 2\) are more than shape \(2, 1\)",
        ),
        (lambda: mg.scatter_add(x, i, mg.ones(4), axis=1), "differ in their number of axes"),
        (
            lambda: mg.scatter_add(x, np.zeros((3, 1), int), mg.ones((3, 1)), axis=1),
            r"indices \(3, 1\) are more",
        ),
    ]:
        with pytest.raises(ShapeError, match=message):
            wrong()
