"""The perceptron as one operation: its composition, what each leaf gets, when, and into which memory."""

from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import backend_linalg
from minigrad.backend import host
from minigrad.errors import GraphError, ShapeError, UsageError
from minigrad.ops.perceptron import perceptron
from minigrad.testing import arrays, check_gradients, shapes
from minigrad.walk import pull
from tests.minigrad.examples import spread
from tests.minigrad.test_fused import masks, same


def parameters(widths: Any, biases: Any, draw: Any = spread) -> list[np.ndarray | None]:
    """A weight and a bias, or None, of each layer."""
    found: list[np.ndarray | None] = []
    for inner, outer, has_bias in zip(widths[:-1], widths[1:], biases, strict=True):
        found += [draw(outer, inner), draw(outer) if has_bias else None]
    return found


def gradient(leaf: mg.Tensor) -> np.ndarray:
    assert leaf.grad is not None
    return leaf.grad.data


@given(shapes(dimensions=3), st.lists(st.integers(1, 4), min_size=2, max_size=5), st.data())
def test_it_is_its_layers_one_after_the_other(lead, widths, data) -> None:
    depth = len(widths) - 1
    biases, rectified = (data.draw(masks(depth)) for _ in range(2))
    needs = data.draw(masks(2 * depth + 1))
    x = data.draw(arrays((*lead, widths[0])))
    layers = parameters(widths, biases, lambda *s: data.draw(arrays(s)))
    same(lambda *t: perceptron(*t, rectified=tuple(rectified)), x, *layers, needs=needs)


def test_higher_derivatives_go_through_the_layers() -> None:
    inputs = [mg.tensor(a, dtype="float64") for a in (spread(3, 2), spread(4, 2), spread(4), spread(2, 4))]
    check_gradients(
        lambda x, w, b, u: perceptron(x, w, b, u, None, rectified=(True, False)).sum() ** 2, *inputs
    )


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("rows", [1, 5, 300])
@pytest.mark.parametrize("apart", [False, True])
def test_gradients_add_up_in_given_memory(dtype, rows, apart) -> None:
    """Of several walks, and where the entries of a buffer do not adjoin."""
    layers = [a for a in parameters((3, 4, 2), (True, True)) if a is not None]
    leaves = [mg.tensor(a, dtype=dtype, requires_grad=True) for a in layers]
    plain = [mg.tensor(a, dtype=dtype, requires_grad=True) for a in layers]
    for leaf in leaves:
        room = np.full((*leaf.shape[:-1], 2 * leaf.shape[-1]), np.nan, dtype)
        leaf.grad_buffer = room[..., ::2] if apart else room[..., : leaf.shape[-1]].copy()
    for turn in range(3):
        x = np.roll(spread(rows, 3), turn).astype(dtype)
        for own in (leaves, plain):
            with mg.fused_operations(own is leaves):
                perceptron(mg.tensor(x), *own, rectified=(True, False)).sum().backward()
    for leaf, other in zip(leaves, plain, strict=True):
        assert gradient(leaf) is leaf.grad_buffer
        size = np.abs(gradient(other)).max()
        tolerance = {"float16": 0.02, "float32": 1e-5, "float64": 1e-13}[dtype] * size
        np.testing.assert_allclose(gradient(leaf), gradient(other), rtol=0, atol=tolerance)


@pytest.mark.parametrize("walks", [1, 2])
def test_a_weight_used_twice_gets_both_parts_in_its_memory_and_is_final_once(walks) -> None:
    grads, seen = [], []
    for enabled in (True, False):
        w = mg.tensor(spread(3, 3), requires_grad=True)
        w.grad_buffer = np.full((3, 3), np.nan)
        w.register_post_accumulate_grad_hook(lambda own: seen.append(gradient(own).copy()))
        with mg.fused_operations(enabled):
            for _ in range(walks):
                y = perceptron(spread(2, 3), w, None, w, None, rectified=(True, False))
                (y.sum() + (w * w).sum()).backward()
        grads.append(gradient(w))
    np.testing.assert_allclose(grads[0], grads[1], rtol=1e-12)
    assert len(seen) == 2 * walks
    np.testing.assert_array_equal(seen[walks - 1], grads[0])


def test_each_gradient_is_final_before_those_of_the_layer_below() -> None:
    leaves = [
        mg.tensor(a, requires_grad=True) for a in parameters((2, 3, 3, 1), (True,) * 3) if a is not None
    ]
    x = mg.tensor(spread(4, 2), requires_grad=True)
    seen: list[int] = []
    for number, leaf in enumerate([x, *leaves]):
        if number % 2:
            leaf.grad_buffer = np.zeros(leaf.shape)
        below = [x, *leaves][: number - (number % 2 == 0)] if number else []

        def hook(own: mg.Tensor, number: int = number, below: Any = below) -> None:
            seen.append(number)
            assert own.grad is not None
            assert all(other.grad is None for other in below)

        leaf.register_post_accumulate_grad_hook(hook)
    perceptron(x, *leaves, rectified=(True, True, False)).sum().backward()
    assert seen == [6, 5, 4, 3, 2, 1, 0]


def overwrite(own: mg.Tensor) -> None:
    own.assign(7.0)


@pytest.mark.parametrize("buffered", [False, True])
def test_a_hook_may_overwrite_its_weight(buffered) -> None:
    """An optimizer may take its step there: gradients below come from the values of the forward."""
    layers = [a for a in parameters((2, 3, 3, 1), (True,) * 3) if a is not None]
    grads = []
    for stepping in (False, True):
        leaves = [mg.tensor(a, requires_grad=True) for a in (spread(4, 2), *layers)]
        for own in leaves:
            if buffered:
                own.grad_buffer = np.zeros(own.shape)
            if stepping:
                own.register_post_accumulate_grad_hook(overwrite)
        perceptron(*leaves, rectified=(True, True, False)).sum().backward()
        grads.append([gradient(own) for own in leaves])
    for one, other in zip(*grads, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_gradient_that_is_shown_and_used_is_not_written_over_unnoticed() -> None:
    w = mg.tensor(spread(3, 2), requires_grad=True)
    w.grad_buffer = np.zeros((3, 2))
    for _ in range(2):
        perceptron(spread(4, 2), w, None, rectified=(False,)).sum().backward()
    assert w.grad is not None
    scaled = w.grad * mg.tensor(spread(3, 2), requires_grad=True)
    perceptron(spread(4, 2), w, None, rectified=(False,)).sum().backward()
    with pytest.raises(GraphError, match="changed in place"):
        scaled.sum().backward()


def test_what_it_saved_is_not_written_over_by_its_own_gradients() -> None:
    w, u = (mg.tensor(spread(3, 3), requires_grad=True) for _ in range(2))
    for leaf in (w, u):
        leaf.grad_buffer = np.zeros((3, 3))
    perceptron(spread(3, 3), w, None, u, None, rectified=(False, False)).sum().backward()
    for enabled in (True, False):
        with mg.fused_operations(enabled):
            y = perceptron(u.grad, w, None, u, None, rectified=(False, False)).sum()
        with pytest.raises(GraphError, match="changed in place"):
            y.backward()
    assert u.grad is not None
    u.grad_buffer = None  # which was shown; there is nothing to be written over any more
    perceptron(spread(3, 3), w, None, u, None, rectified=(False, False)).sum().backward()


def test_a_walk_may_be_retained_or_postponed() -> None:
    layers = [a for a in parameters((2, 3, 2), (True, True)) if a is not None]
    leaves = [mg.tensor(a, requires_grad=True) for a in layers]
    x = mg.tensor(spread(4, 2), requires_grad=True)
    loss = perceptron(x, *leaves, rectified=(True, True)).sum()
    loss.backward(retain_graph=True)
    once = [gradient(leaf).copy() for leaf in (x, *leaves)]
    loss.backward(retain_graph=True)
    for leaf, expected in zip((x, *leaves), once, strict=True):
        np.testing.assert_allclose(gradient(leaf), 2 * expected, rtol=1e-12)
        leaf.zero_grad()
    assert loss.node is not None
    assert x.node is not None
    found, later = pull([loss.node], [np.ones(())], targets=[x.node], postpone=True)
    np.testing.assert_array_equal(found[x.node], once[0])
    assert all(leaf.grad is None for leaf in leaves)
    assert later is not None
    later.run()
    for leaf, expected in zip(leaves, once[1:], strict=True):
        np.testing.assert_array_equal(gradient(leaf), expected)
    with pytest.raises(GraphError, match="released"):
        loss.backward()


def test_the_cotangent_stays_as_it_is() -> None:
    w = mg.tensor(spread(2, 2), requires_grad=True)
    for rows in (1, 4):
        y = perceptron(spread(rows, 2), w, None, w * 2.0, None, rectified=(True, True))
        for cotangent in (spread(rows, 2), np.asarray(spread(rows, 2), order="F")):
            before = cotangent.copy()
            y.backward(cotangent, retain_graph=True)
            np.testing.assert_array_equal(cotangent, before)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"x has shape \(2, 4\), and the weight takes 3 features"):
        perceptron(spread(2, 3), spread(4, 3), None, spread(2, 3), None, rectified=(True, False))
    with pytest.raises(ShapeError, match="expected a weight"):
        perceptron(spread(2, 3), spread(4, 3), spread(1), rectified=(True,))
    for enabled in (True, False):
        with mg.fused_operations(enabled), pytest.raises(UsageError, match="no layers"):
            perceptron(spread(2, 3), rectified=())


@given(st.integers(0, 5), st.integers(0, 4), st.integers(0, 4), st.data())
def test_a_product_is_added_whatever_its_factors_strides(samples, m, n, data) -> None:
    dtype = data.draw(st.sampled_from(["float16", "float32", "float64"]))

    def drawn(*shape: int) -> np.ndarray:
        room = data.draw(arrays((2 * shape[0], 2 * shape[1]))).astype(dtype)
        kind = data.draw(st.sampled_from(["rows", "columns", "apart"]))
        part = room[: shape[0], : shape[1]]
        return room[::2, ::2] if kind == "apart" else np.asarray(part, order="C" if kind == "rows" else "F")

    v, x, out = drawn(m, samples), drawn(n, samples), drawn(m, n)
    pairs = [(x, out)]
    if n:  # and with vectors
        pairs.append((drawn(n, samples)[0], drawn(m, n)[:, 0]))
    for factor, place in pairs:
        expected = place + v @ factor.T
        host.adding(place.dtype, samples)(v, factor, place)
        np.testing.assert_allclose(place, expected, rtol=1e-2 if dtype == "float16" else 1e-5, atol=1e-3)


@pytest.mark.parametrize(
    ("threads", "by_blas"), [((1, 1), True), ((2, 1), True), ((2, 2), False), ((2,), True)]
)
def test_two_libraries_with_threads_do_not_take_turns(threads, by_blas) -> None:
    products = {
        letter: (mock.Mock(side_effect=gemm), gemv)
        for letter, (gemm, gemv) in backend_linalg._PRODUCTS.items()
    }
    asked = mock.Mock()
    asked.return_value.select.return_value.lib_controllers = [mock.Mock(num_threads=n) for n in threads]
    out = np.ones((2, 3))
    backend_linalg._get_along.cache_clear()
    with (
        mock.patch("threadpoolctl.ThreadpoolController", asked),
        mock.patch.object(backend_linalg, "_PRODUCTS", products),
    ):
        host.adding(out.dtype, 4)(spread(2, 4), spread(3, 4), out)
    backend_linalg._get_along.cache_clear()
    np.testing.assert_allclose(out, 1 + spread(2, 4) @ spread(3, 4).T, rtol=1e-14)
    assert products["d"][0].called == by_blas
