"""Large arrays on the host: functions that go through them in blocks, sums that are products with ones."""

import math
from unittest import mock

import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import backend_selecting, backend_special
from minigrad.backend import host
from minigrad.errors import DTypeError
from minigrad.ops import blocks, shape

source = np.random.default_rng(11)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64"])
@pytest.mark.parametrize("size", [1, 7, 8, 23])
def test_sigmoid_and_polynomials_by_blocks(size, dtype):
    x = (4 * source.normal(size=(size, 1, 2))).astype(dtype)[:, :, ::-1]  # nor in order
    coefficients = (0.5, -1.0, 0.0, 0.25)
    with (
        mock.patch.object(backend_special, "BLOCK", 8),
        mock.patch.object(backend_selecting, "BLOCK", 8),
    ):
        found = host.sigmoid(x), host.polynomial(x, coefficients=coefficients)
    exact = scipy.special.expit(x), np.polynomial.polynomial.polyval(x.astype("float64"), coefficients)
    for a, b in zip(found, exact, strict=True):
        assert a.shape == x.shape
        assert a.dtype == (x.dtype if x.dtype.kind == "f" else "float64")
        limit = 8 * float(np.finfo(a.dtype).eps)
        np.testing.assert_allclose(a, b, rtol=limit, atol=limit * np.abs(b).max())


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint32", "int8"])
def test_sigmoid_of_what_cannot_be_negated(dtype):
    x = np.array([0, 1, 1, 0]).astype(dtype)
    np.testing.assert_allclose(mg.sigmoid(x).numpy(), scipy.special.expit(x), rtol=1e-3)


@pytest.mark.parametrize("axis", [1.0, (0.0,), True, [0]])
@pytest.mark.parametrize("rows", [2, 1 << 11])
def test_sums_refuse_what_is_no_axis(rows, axis):
    with pytest.raises(DTypeError, match="integer"):
        mg.sum(mg.ones((rows, 3)), axis=axis)


@pytest.mark.parametrize("block", [1, 5, 12, 1 << 16])
@pytest.mark.parametrize("axis", [-1, 2, 0])
def test_softmax_by_blocks(axis, block):
    x, v = 3 * source.normal(size=(3, 5, 4)), source.normal(size=(3, 5, 4))
    x[0, 0], x[1, 2, 3], x[2, 1] = 800.0, -np.inf, -800.0
    leaf = mg.tensor(x.transpose(0, 2, 1).copy(), requires_grad=True)
    with mock.patch.object(blocks, "BLOCK", block):
        out = mg.softmax(mg.matrix_transpose(leaf), axis=axis)
        out.backward(v)
    expected = scipy.special.softmax(x, axis=axis)
    np.testing.assert_allclose(out.numpy(), expected, rtol=1e-12, atol=1e-300)
    assert leaf.grad is not None
    slope = expected * (v - (v * expected).sum(axis=axis, keepdims=True))
    np.testing.assert_allclose(leaf.grad.numpy().transpose(0, 2, 1), slope, rtol=1e-10, atol=1e-15)


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=4),
    st.data(),
    st.booleans(),
    st.sampled_from(["float32", "float64", "int64", "bool"]),
)
def test_sums_of_large_arrays_over_any_axes(sizes, data, keepdims, dtype):
    axes = data.draw(st.lists(st.integers(0, len(sizes) - 1), max_size=len(sizes), unique=True))
    axis = tuple(a - len(sizes) if data.draw(st.booleans()) else a for a in axes)
    x = (8 * source.normal(size=sizes)).astype(dtype)
    if data.draw(st.booleans()):
        x = np.asfortranarray(x)
    with mock.patch.object(backend_selecting, "_LARGE", 1), mock.patch.object(backend_selecting, "_ONES", 20):
        found = host.sum(x, axis=axis, keepdims=keepdims)
    expected = np.sum(x, axis=axis, keepdims=keepdims)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    np.testing.assert_allclose(found, expected, rtol=1e-4 if dtype == "float32" else 1e-10, atol=1e-4)


@pytest.mark.parametrize("axis", [0, 1])
def test_large_sums_keep_what_is_not_finite_where_it_is(axis):
    x = np.ones((100, 90), "float32")
    x[3, 4], x[5, 6], x[7, 8], x[8, 8], x[7, 9] = np.nan, np.inf, np.inf, -np.inf, -np.inf
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(host.sum(x, axis=axis), np.sum(x, axis=axis))


@pytest.mark.parametrize("axis", [2, -3, (0, 0), (0, 2)])
def test_large_sums_refuse_axes_that_are_not_there(axis):
    with pytest.raises((ValueError, IndexError)):
        host.sum(np.ones((100, 90)), axis=axis)


def test_long_lines_are_still_added_up_by_halves():
    x = np.full((2, 1 << 20), 0.1, "float32")
    assert abs(float(host.sum(x, axis=1)[0]) / (0.1 * (1 << 20)) - 1) < 1e-6


def test_the_cotangent_of_parts_has_its_entries_in_order():
    x = source.normal(size=(3, 2, 4))
    v = tuple(np.ascontiguousarray(part.T).T for part in (x[:, 0], x[:, 1]))
    (joined,) = shape._pull_cut(host, v, (True,), x.shape, axis=1, sizes=(1, 1), dropped=True)
    assert joined.flags.c_contiguous
    np.testing.assert_array_equal(joined, x)


def test_polynomials_have_derivatives_of_any_order():
    def f(x):
        return mg.polynomial(x, coefficients=(1.0, 2.0, 3.0, 4.0))

    for expected in (1 + 3 + 6.75 + 13.5, 2 + 9 + 27, 6 + 36, 24, 0):
        assert math.isclose(float(f(mg.tensor(1.5)).item()), expected)
        f = mg.grad(f)
