"""The two walks over recorded graphs: broadcasting, start and stop, postponed parts, release."""

import gc
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad.errors import GraphError, ShapeError
from minigrad.testing import Program, arrays, broadcastable_shapes, programs
from minigrad.walk import gather, pull, push
from tests.minigrad.declared import declaring, polar
from tests.minigrad.leaves import leaf

# ----- Values -------------------------------------------------------------------------------------


def test_zero_dimensional_results_stay_in_the_graph() -> None:
    # A NumPy scalar mistaken for a constant gave 16 here instead of 24.
    x = mg.tensor(2.0, dtype="float64", requires_grad=True)
    y = 2 * (x * x * x)
    assert type(y.data) is np.ndarray
    assert y.shape == ()
    y.backward()
    assert x.grad is not None
    assert type(x.grad.data) is np.ndarray
    assert x.grad.item() == 24.0
    assert type(mg.grad(lambda x: 2 * x**3)(x.detach()).data) is np.ndarray


@given(broadcastable_shapes(3), st.data())
def test_broadcasting_is_undone_in_the_walk(shapes, data) -> None:
    leaves = [mg.tensor(data.draw(arrays(shape)), requires_grad=True) for shape in shapes]
    x, y, z = leaves
    out = x * y + z
    weights = np.asarray(np.cos(np.arange(out.size)).reshape(out.shape))
    out.backward(weights)
    expected = (weights * y.data, weights * x.data, weights)
    for tensor, terms in zip(leaves, expected, strict=True):
        terms = np.broadcast_to(terms, out.shape)
        extra = terms.ndim - tensor.ndim
        ones = tuple(extra + i for i, n in enumerate(tensor.shape) if n == 1)
        summed = terms.sum(axis=(*range(extra), *ones)).reshape(tensor.shape)
        assert tensor.grad is not None
        np.testing.assert_allclose(tensor.grad.numpy(), summed, rtol=1e-12, atol=1e-12)


def test_gradients_keep_the_dtype_of_the_leaf() -> None:
    x, w = leaf(3, dtype="float32"), mg.tensor(np.ones(3), requires_grad=True)
    (x * w).sum().backward()
    assert x.grad is not None
    assert w.grad is not None
    assert (x.grad.dtype, w.grad.dtype) == (np.float32, np.float64)
    half = mg.tensor(np.ones(3, "float16"), requires_grad=True)
    (half * x).sum().backward()
    assert half.grad is not None
    assert half.grad.dtype == np.float16


# ----- Start and stop -----------------------------------------------------------------------------


def test_gradients_of_tensors_inside_a_graph() -> None:
    x = leaf(3)
    h = mg.exp(x)
    y = (h * h * x).sum()
    dh, dx = mg.gradients(y, (h, x), retain_graph=True)
    np.testing.assert_allclose(dh.numpy(), 2 * h.data * x.data)
    np.testing.assert_allclose(dx.numpy(), 2 * h.data**2 * x.data + h.data**2)
    assert x.grad is None
    assert mg.gradients(y, {"h": [h]}, retain_graph=True)["h"][0].shape == (3,)
    np.testing.assert_array_equal(mg.gradients(h, h, cotangents=np.full(3, 2.0)).numpy(), np.full(3, 2.0))


def test_gradients_say_which_input_is_not_used() -> None:
    x, z = leaf(3), leaf(3)
    y = (x * x).sum()
    with pytest.raises(GraphError, match="input 1; pass allow_unused"):
        mg.gradients(y, [x, z], retain_graph=True)
    used, unused = mg.gradients(y, [x, z], allow_unused=True)
    assert used is not None
    assert unused is None
    with pytest.raises(GraphError, match="requires no gradient"):
        mg.gradients(y, [mg.tensor(1.0)])


def test_the_walk_stops_at_its_targets() -> None:
    visited = []
    with declaring():
        from minigrad.operation import elementwise

        def slope(xp, v, name):
            visited.append(name)
            return v

        @elementwise(x=slope)
        def watched(xp, x, /, *, name):
            return x

        x, w = leaf(3), leaf(3)
        h = watched(x, name="before")
        y = (watched(h, name="after") * watched(w, name="aside")).sum()
        mg.gradients(y, [h])
    assert visited == ["after"]


def chain(w: list[mg.Tensor], x: mg.Tensor) -> mg.Tensor:
    """Weights used once, one tied, one seen through a cast, and a fused layer."""
    h = mg.tanh(x @ w[0])
    h = mg.linear(h, w[1].astype("float64"), w[2])
    return (mg.layer_norm(h, None, w[2]) @ w[0]) * w[2]


def make_chain() -> tuple[list[mg.Tensor], mg.Tensor]:
    return [leaf(3, 3, seed=1), leaf(3, 3, seed=2, dtype="float32"), leaf(3, seed=3)], leaf(4, 3, seed=4)


def test_postponed_gradients_have_the_same_bits() -> None:
    w, x = make_chain()
    chain(w, x).sum().backward()
    whole = [t.grad.numpy().tobytes() for t in (*w, x) if t.grad is not None]

    w, x = make_chain()
    y = chain(w, x).sum()
    assert x.node is not None
    assert y.node is not None
    found, later = pull([y.node], [np.asarray(1.0)], targets=[x.node], postpone=True)
    assert all(t.grad is None for t in (*w, x))
    assert later is not None
    later.run()
    parts = [t.grad.numpy().tobytes() for t in w if t.grad is not None] + [found[x.node].tobytes()]
    assert parts == whole
    with pytest.raises(GraphError, match="the postponed part of this walk was run already"):
        later.run()


@given(programs(leaves=3), st.data())
def test_any_graph_can_be_walked_in_two_phases(program: Program, data) -> None:
    values = [data.draw(arrays((2, 2))) for _ in range(3)]

    def leaves() -> list[mg.Tensor]:
        return [mg.tensor(v, requires_grad=True) for v in values]

    def loss(xs: list[mg.Tensor]) -> mg.Tensor:
        return (program(*xs) * program(*xs[::-1])).sum()

    whole, split = leaves(), leaves()
    y = loss(whole)
    y.backward()
    z = loss(split)
    target = split[data.draw(st.integers(0, 2))]
    assert z.node is not None
    assert target.node is not None
    found, later = pull([z.node], [np.ones(())], targets=[target.node], postpone=True)
    assert later is not None
    later.run()
    for a, b in zip(whole, split, strict=True):
        right = None if a.grad is None else a.grad.numpy()
        got = found[target.node] if b is target else None if b.grad is None else b.grad.numpy()
        assert (right is None) == (got is None)
        if right is not None:
            assert np.asarray(got).tobytes() == right.tobytes()


def test_an_output_that_reaches_no_target_is_postponed_too() -> None:
    x, w = leaf(3), leaf(3, seed=1)
    first, second = (x * w).sum(), (w * w).sum()
    assert first.node is not None
    assert second.node is not None
    assert x.node is not None
    one = np.asarray(1.0)
    _, later = pull([first.node, second.node], [one, one], targets=[x.node], postpone=True)
    assert later is not None
    later.run()
    assert w.grad is not None
    np.testing.assert_allclose(w.grad.numpy(), x.data + 2 * w.data)


def test_postponing_with_several_outputs() -> None:
    with declaring():
        operation = polar()
        x, w = leaf(3), mg.tensor(np.arange(1.0, 4.0), requires_grad=True)
        h = mg.exp(x)
        product, ratio, _ = operation(h, w)
        y = (product * ratio).sum()  # = h²
        assert h.node is not None
        assert y.node is not None
        found, later = pull([y.node], [np.ones(())], targets=[h.node], postpone=True)
        assert later is not None
        later.run()
    np.testing.assert_allclose(found[h.node], 2 * h.data)
    assert w.grad is not None
    assert x.grad is not None
    np.testing.assert_allclose(w.grad.numpy(), np.zeros(3), atol=1e-12)
    np.testing.assert_allclose(x.grad.numpy(), 2 * h.data**2)


# ----- Release ------------------------------------------------------------------------------------


def test_a_second_backward_names_the_operation() -> None:
    x = leaf(3)
    y = mg.exp(x).sum()
    y.backward()
    with pytest.raises(GraphError, match=r"sum \(node \d+\) had saved were released.*retain_graph=True"):
        y.backward()


def test_a_retained_graph_can_be_walked_again() -> None:
    x = leaf(3)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad is not None
    np.testing.assert_allclose(x.grad.numpy(), 4 * x.data)
    with pytest.raises(GraphError, match="released"):
        y.backward()


def test_a_released_graph_cannot_be_pushed_either() -> None:
    x = leaf(3)
    y = mg.exp(x).sum()
    assert x.node is not None
    assert y.node is not None
    (tangent,) = push([y.node], {x.node: np.ones(3)})
    np.testing.assert_allclose(tangent, np.exp(x.data).sum())
    y.backward()
    with pytest.raises(GraphError, match="released"):
        push([y.node], {x.node: np.ones(3)})


def test_saved_arrays_are_dropped_as_the_walk_passes() -> None:
    gc.disable()
    try:
        x = leaf(1000)
        h = mg.exp(x)
        y = mg.tanh(h).sum()
        kept = weakref.ref(h.data)
        del h
        assert kept() is not None
        y.backward()
        assert kept() is None
    finally:
        gc.enable()


def test_an_intermediate_array_nobody_needs_dies_at_once() -> None:
    x = leaf(1000)
    h = x + 1.0  # addition saves nothing
    kept = weakref.ref(h.data)
    y = h + 1.0
    del h
    assert kept() is None
    y.sum().backward()


# ----- What a walk refuses ------------------------------------------------------------------------


def test_backward_wants_one_number_a_graph_and_a_fitting_cotangent() -> None:
    x = leaf(2, 3)
    with pytest.raises(GraphError, match=r"this output has shape \(2, 3\); reduce it first"):
        (x * x).backward()
    with pytest.raises(GraphError, match="no graph to walk"):
        mg.tensor(1.0).backward()
    with pytest.raises(GraphError, match="no graph to walk"):
        x.detach().sum().backward()
    with pytest.raises(ShapeError, match=r"cotangent has shape \(3,\), but the output has shape \(2, 3\)"):
        (x * x).backward(np.ones(3))
    (x * x).sum(axis=0, keepdims=True)[:, 0].backward()  # one element, any shape
    x.zero_grad()
    (x * 2.0).backward(np.ones((2, 3), "float32"))
    assert x.grad is not None
    assert x.grad.dtype == np.float64


def test_a_rule_with_the_wrong_shape_is_named() -> None:
    with declaring():
        from minigrad.operation import elementwise

        @elementwise(x=lambda xp, v: xp.sum(v, axis=0))
        def forgetful(xp, x, /):
            return x * 1.0

        with pytest.raises(
            ShapeError, match=r"forgetful: its derivative rule returned shape \(3,\) for .*\(2, 3\)"
        ):
            forgetful(leaf(2, 3)).sum().backward()


# ----- Order --------------------------------------------------------------------------------------


@given(programs())
def test_every_node_is_newer_than_its_inputs_and_visited_once(program: Program) -> None:
    y = program(leaf(2, 2), leaf(2, 2, seed=1))
    if y.node is None:
        return
    order = gather([y.node])
    assert len(set(order)) == len(order)
    place = {node: k for k, node in enumerate(order)}
    for node in order:
        for edge in node.inputs:
            if edge is not None:
                assert edge.number < node.number
                assert place[edge] > place[node]
