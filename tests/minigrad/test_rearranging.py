"""Moving axes, repeating, padding, cutting: against NumPy, and to second order."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad.errors import DTypeError, ShapeError, UsageError
from minigrad.testing import arrays, check_gradients, shapes
from tests.minigrad.examples import spread
from tests.minigrad.strict import registered

X = spread(2, 3, 4)


def agrees(f, expected, *inputs: np.ndarray) -> None:
    """f gives what is expected, keeps float32, and has right derivatives; on shape-only arrays too."""
    found, right = f(*map(mg.tensor, inputs)), expected(*inputs)
    several = isinstance(found, tuple)
    for a, b in zip(found if several else [found], right if several else [right], strict=True):
        assert a.shape == b.shape
        np.testing.assert_array_equal(a.numpy(), b)
    single = f(*(mg.tensor(x, dtype="float32") for x in inputs))
    twins = f(*(mg.zeros(x.shape, dtype="float32", device="shapes") for x in inputs))
    for a, b in zip(*((y if several else (y,)) for y in (single, twins)), strict=True):
        assert a.dtype == b.dtype == np.float32
        assert a.shape == b.shape
    check_gradients(f, *inputs)


def test_axes_are_moved():
    agrees(lambda x: mg.moveaxis(x, 0, -1), lambda x: np.moveaxis(x, 0, -1), X)
    agrees(lambda x: mg.moveaxis(x, (0, 1), (-1, 0)), lambda x: np.moveaxis(x, (0, 1), (-1, 0)), X)
    with pytest.raises(ShapeError, match="twice"):
        mg.moveaxis(X, (0, -3), (0, 1))
    with pytest.raises(ShapeError, match="2 axes"):
        mg.moveaxis(X, (0, 1), 0)


def test_axes_are_joined():
    agrees(mg.flatten, lambda x: x.reshape(-1), X)
    agrees(lambda x: mg.flatten(x, start_axis=1), lambda x: x.reshape(2, 12), X)
    agrees(mg.flatten, lambda x: x.reshape(1), spread())
    agrees(lambda x: mg.flatten(x, end_axis=-2), lambda x: x.reshape(0, 2), spread(0, 3, 2))
    with pytest.raises(ShapeError, match="behind"):
        mg.flatten(X, start_axis=2, end_axis=0)


def test_arrays_are_broadcast_together():
    agrees(mg.broadcast_arrays, np.broadcast_arrays, spread(2, 1), spread(3), spread())
    agrees(mg.broadcast_arrays, np.broadcast_arrays, spread(0, 1), spread(3))
    with pytest.raises(ShapeError, match=r"\(2,\) and \(3,\)"):
        mg.broadcast_arrays(spread(2), spread(3))


@pytest.mark.parametrize("indexing", ["xy", "ij"])
def test_grids(indexing):
    for inputs in (
        [spread(2), spread(3)],
        [spread(2), spread(3), spread(2)],
        [spread(2)],
        [spread(0), spread(2)],
    ):
        agrees(
            lambda *x: mg.meshgrid(*x, indexing=indexing),
            lambda *x: tuple(np.meshgrid(*x, indexing=indexing)),
            *inputs,
        )
    with pytest.raises(UsageError, match="yx"):
        mg.meshgrid(spread(2), indexing="yx")
    with pytest.raises(ShapeError, match="one-dimensional"):
        mg.meshgrid(X)


def test_parts():
    agrees(lambda x: mg.unstack(x, axis=1), lambda x: tuple(np.moveaxis(x, 1, 0)), X)
    agrees(lambda x: mg.chunk(x, 3, axis=-1), lambda x: (x[..., :2], x[..., 2:]), X)  # as torch: not three
    agrees(lambda x: mg.chunk(x, 2), lambda x: (x[:2], x[2:]), spread(3))
    assert mg.unstack(mg.zeros((0, 2))) == ()
    assert [c.shape for c in mg.chunk(mg.zeros((0, 2)), 3)] == [(0, 2)] * 3
    assert all(np.shares_memory(c.data, X) for c in mg.unstack(mg.tensor(X)))
    with pytest.raises(UsageError, match="0"):
        mg.chunk(X, 0)


def test_the_gradient_of_some_parts():
    x = mg.tensor(X, requires_grad=True)
    mg.unstack(x, axis=2)[1].sum().backward()
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad.numpy(), np.broadcast_to([0, 1, 0, 0], X.shape))


@pytest.mark.parametrize(("axis", "size", "step"), [(2, 2, 1), (2, 2, 2), (-2, 3, 1), (0, 1, 2)])
def test_windows(axis, size, step):
    every = (slice(None),) * (axis % 3) + (slice(None, None, step),)
    agrees(
        lambda x: mg.unfold(x, axis=axis, size=size, step=step),
        lambda x: np.lib.stride_tricks.sliding_window_view(x, size, axis)[every],
        X,
    )


def test_windows_are_views():
    x = mg.tensor(X)
    assert np.shares_memory(mg.unfold(x, axis=1, size=2).data, X)
    with pytest.raises(ShapeError, match="window of 5"):
        mg.unfold(x, axis=2, size=5)
    with pytest.raises(UsageError, match="0"):
        mg.unfold(x, axis=2, size=1, step=0)


@pytest.mark.parametrize("repetitions", [(2,), (2, 1, 3), (2, 1, 1, 2), (0, 2), ()])
def test_copies_side_by_side(repetitions):
    for x in (X, spread()):
        agrees(lambda x: mg.tile(x, repetitions), lambda x: np.tile(x, repetitions), x)


def test_copies_fewer_than_none():
    with pytest.raises(UsageError, match="-1"):
        mg.tile(X, (-1,))


@pytest.mark.parametrize(("repeats", "axis"), [(2, None), (3, 1), (0, -1), ([1, 0, 2], 1), ([2], 0)])
def test_entries_repeated(repeats, axis):
    agrees(lambda x: mg.repeat(x, repeats, axis=axis), lambda x: np.repeat(x, repeats, axis), X)


def test_repeats_that_are_arrays():
    agrees(lambda x: mg.repeat(x, 2), lambda x: np.repeat(x, 2), spread())
    counts = mg.tensor([1, 2])
    np.testing.assert_array_equal(mg.repeat(X, counts, axis=0).numpy(), np.repeat(X, [1, 2], axis=0))
    with pytest.raises(DTypeError, match="repeat is not available on shape-only"):
        mg.repeat(mg.zeros(2, device="shapes"), counts.to("shapes"))
    with pytest.raises(ShapeError, match=r"3 entries cannot be repeated \(2,\)"):
        mg.repeat(X, counts, axis=1)
    with pytest.raises(UsageError, match="-2"):
        mg.repeat(X, -2)


def test_rolling_has_a_shift_for_each_axis():
    with pytest.raises(ShapeError, match="2 shifts"):
        mg.roll(X, (1, 2), axis=0)


@pytest.mark.parametrize(
    ("mode", "theirs"),
    [
        ("reflect", "reflect"),
        ("replicate", "edge"),
        ("edge", "edge"),
        ("circular", "wrap"),
        ("constant", "constant"),
    ],
)
@pytest.mark.parametrize("widths", [(1, 2), (2, 0, 0, 1), (0, 0), (1, 1, 2, 2, 1, 1)])
def test_padding(mode, theirs, widths):
    pairs = list(zip(widths[-2::-2], widths[-1::-2], strict=True))
    pairs = [(0, 0)] * (3 - len(pairs)) + pairs
    agrees(lambda x: mg.pad(x, widths, mode=mode), lambda x: np.pad(x, pairs, theirs), X)


@pytest.mark.parametrize(("mode", "theirs"), [("reflect", "reflect"), ("constant", "constant")])
def test_cutting_by_padding(mode, theirs):
    agrees(
        lambda x: mg.pad(x, (-1, 2, 1, -1), mode=mode),
        lambda x: np.pad(x[:, :-1, 1:], [(0, 0), (1, 0), (0, 2)], theirs),
        X,
    )


def test_padding_with_a_value():
    agrees(
        lambda x: mg.pad(x, (1, 2, 0, 1), value=7),
        lambda x: np.pad(x, [(0, 1), (1, 2)], constant_values=7),
        spread(2, 3),
    )
    np.testing.assert_array_equal(mg.pad(mg.ones(1), (0, 1), value=-np.inf).numpy(), [1, -np.inf])
    np.testing.assert_array_equal(mg.pad(mg.arange(2), (1, 1), value=7).numpy(), [7, 0, 1, 7])
    assert mg.pad(mg.zeros((0, 2)), (1, 1, 1, 0)).shape == (1, 4)


def test_padding_that_cannot_be():
    for mode, widths, most in [("reflect", (4, 0), 3), ("circular", (0, 5), 4)]:
        with pytest.raises(ShapeError, match=f"at most {most}"):
            mg.pad(X, widths, mode=mode)
    with pytest.raises(ShapeError, match="no entry"):
        mg.pad(mg.zeros((0,)), (1, 0), mode="replicate")
    with pytest.raises(ShapeError, match="cuts more"):
        mg.pad(X, (-3, -2))
    with pytest.raises(ShapeError, match="before, after"):
        mg.pad(X, (1, 2, 3))
    with pytest.raises(UsageError, match="mirror"):
        mg.pad(X, (1, 1), mode="mirror")


@given(shapes(dimensions=4, longest=4).filter(lambda s: len(s) > 1).flatmap(arrays), st.integers(-5, 5))
def test_diagonals(x, k):
    expected = np.diagonal(x, k, -2, -1)
    np.testing.assert_array_equal(mg.diagonal(x, offset=k).numpy(), expected)
    if x.ndim == 2:
        np.testing.assert_array_equal(mg.diag(x, diagonal=k).numpy(), expected)


@pytest.mark.parametrize("k", [-2, 0, 1])
def test_derivatives_of_diagonals(k):
    agrees(lambda x: mg.diag(x, diagonal=k), lambda x: np.diag(x, k), spread(3))
    agrees(lambda x: mg.diagonal(x, offset=k), lambda x: np.diagonal(x, k, -2, -1), X)


def test_no_diagonals():
    agrees(mg.diag, np.diag, spread(0))
    with pytest.raises(ShapeError, match="vector or a matrix"):
        mg.diag(X)
    for f in (mg.diagonal, mg.tril, mg.triu):
        with pytest.raises(ShapeError, match=r"\(3,\)"):
            f(mg.zeros(3))


def test_without_numpy():
    with registered() as strict:
        x = mg.tensor(strict.from_host(X), requires_grad=True)
        for f in (
            lambda x: mg.pad(x, (1, 2, 1, 0), mode="reflect"),
            lambda x: mg.pad(x, (1, 2), value=3.0),
            lambda x: mg.tile(x, (2, 1, 2)),
            lambda x: mg.repeat(x, 2, axis=1),
            lambda x: mg.diagonal(x, offset=1),
            lambda x: mg.unstack(x, axis=1)[1],
            lambda x: mg.moveaxis(x, 0, 2),
        ):
            found = mg.grad(lambda x, f=f: (f(x) * f(x)).sum())(x)
            expected = mg.grad(lambda x, f=f: (f(x) * f(x)).sum())(mg.tensor(X))
            np.testing.assert_allclose(found.numpy(), expected.numpy())


@given(
    st.integers(0, 7), st.integers(1, 8), st.lists(st.integers(0, 3), max_size=4), st.sampled_from([0, 1, -1])
)
def test_split_takes_the_size_of_a_part_or_a_list_of_sizes(length, size, sizes, axis) -> None:
    x = np.arange(2.0 * length).reshape((length, 2) if axis == 0 else (2, length))
    parts = mg.split(mg.tensor(x), size, axis=axis)
    assert [part.shape[axis] for part in parts[:-1]] == [size] * (len(parts) - 1)
    assert parts[-1].shape[axis] == (length % size or min(size, length))
    np.testing.assert_array_equal(np.concatenate([part.numpy() for part in parts], axis), x)
    if sum(sizes) != length:
        with pytest.raises(ShapeError, match="do not make up axis"):
            mg.split(mg.tensor(x), sizes, axis=axis)
    else:
        parts = mg.split(mg.tensor(x), sizes, axis=axis)
        assert [part.shape[axis] for part in parts] == sizes
        if parts:
            np.testing.assert_array_equal(np.concatenate([part.numpy() for part in parts], axis), x)


def test_split_refuses_parts_that_make_up_nothing() -> None:
    assert [part.shape for part in mg.split(mg.zeros((0, 2)), 0)] == [(0, 2)]
    for wrong in (0, -1):
        with pytest.raises(ShapeError, match=f"parts of {wrong} entries cannot make up an axis of length 3"):
            mg.split(mg.zeros(3), wrong)
