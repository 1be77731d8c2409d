"""Leaves: they own their gradients, take buffers for them, and run hooks when they are final."""

from functools import partial

import numpy as np
import pytest

import minigrad as mg
from minigrad.errors import DeviceError, GraphError, ShapeError
from minigrad.walk import pull
from tests.minigrad.declared import declaring
from tests.minigrad.leaves import copied, filled, leaf

# ----- Leaves own their gradients -----------------------------------------------------------------


def separate(*tensors: mg.Tensor | None) -> bool:
    data = [t.data for t in tensors if t is not None]
    pairs = [(a, b) for i, a in enumerate(data) for b in data[:i]]
    return all(a.flags.writeable for a in data) and not any(np.shares_memory(a, b) for a, b in pairs)


def test_leaves_do_not_share_a_gradient() -> None:
    a, b = leaf(3), leaf(3)
    mg.sum(a + b).backward()
    assert separate(a.grad, b.grad)


def test_nor_one_with_a_graph() -> None:
    a, b = leaf(3), leaf(3)
    mg.sum(mg.square(a + b)).backward(create_graph=True)
    assert separate(a.grad, b.grad)
    c, v = leaf(3), mg.ones(3, dtype="float64")
    (c + 1).backward(v, create_graph=True)
    assert separate(c.grad, v)
    assert a.grad is not None
    a.grad.sum().backward()  # it is part of the graph as before
    np.testing.assert_allclose(copied(b), 2 * (a.data + b.data) + 2)


def test_leaves_do_not_share_the_gradient_of_a_general_operation() -> None:
    with declaring():
        from minigrad.operation import general

        def same(xp, v, needs):
            twice = 2 * v
            return twice, twice

        @general(pull=same, push=lambda xp, t: 2 * (t[0] + t[1]))
        def twice_the_sum(xp, x, y, /):
            return 2 * (x + y)

        a, b = leaf(3), leaf(3)
        twice_the_sum(a, b).sum().backward()
        assert separate(a.grad, b.grad)


def test_a_cotangent_stays_the_callers() -> None:
    for make in (lambda x: x, lambda x: x + 0.0, lambda x: x.reshape(3, 1).reshape(3), mg.ops.alias):
        x, start = leaf(3), np.ones(3)
        make(x).backward(start)
        assert x.grad is not None
        assert not np.shares_memory(x.grad.data, start)


def test_transforms_hand_out_arrays_of_their_own() -> None:
    a, b = leaf(3).detach(), leaf(3).detach()
    assert separate(*mg.grad(lambda a, b: mg.sum(a + b), argnums=(0, 1))(a, b))
    start = mg.ones(3, dtype="float64")
    assert separate(start, *mg.vjp(lambda a, b: a + b, a, b)[1](start))
    x = leaf(3)
    assert separate(start, *mg.gradients(x + 0.0, [x], cotangents=[start]))


def test_gradients_add_up_over_walks() -> None:
    x = leaf(3)
    (2 * x).sum().backward()
    first = x.grad
    (3 * x).sum().backward()
    assert first is not None
    assert x.grad is not None
    np.testing.assert_array_equal(first.numpy(), np.full(3, 2.0))
    np.testing.assert_array_equal(x.grad.numpy(), np.full(3, 5.0))
    x.zero_grad()
    assert x.grad is None


# ----- Gradient buffers ---------------------------------------------------------------------------


def test_a_gradient_lies_where_its_tensor_does() -> None:
    x = leaf(3)
    with pytest.raises(DeviceError, match="shapes and cpu"):
        x.grad = mg.zeros(3, device="shapes")
    assert x.grad is None


def test_gradients_are_written_into_a_given_buffer() -> None:
    flat = np.full(9, np.nan)
    x, w = leaf(3, 2), leaf(2)
    x.grad_buffer, w.grad_buffer = flat[:6].reshape(3, 2), flat[6:8]
    assert not filled(x)
    (x * w).sum().backward()
    np.testing.assert_array_equal(flat[:6].reshape(3, 2), np.broadcast_to(w.data, (3, 2)))
    np.testing.assert_array_equal(flat[6:8], x.data.sum(axis=0))
    assert np.isnan(flat[8])
    (x * w).sum().backward()  # added, not overwritten
    np.testing.assert_array_equal(flat[6:8], 2 * x.data.sum(axis=0))
    x.zero_grad()
    assert not filled(x)
    (x * 1.0).sum().backward()
    np.testing.assert_array_equal(flat[:6], np.ones(6))
    assert x.grad is not None
    assert np.shares_memory(x.grad.data, flat)


@pytest.mark.parametrize("uses", [1, 2, 3])
def test_buffers_lent_to_fast_paths_hold_the_same_gradient(uses: int) -> None:
    """A weight used once has its gradient computed into the buffer; used more often, it is added there."""

    def run(with_buffer: bool) -> list[np.ndarray]:
        x, w, b = leaf(4, 3, seed=1), leaf(3, 3, seed=2), leaf(3, seed=3)
        if with_buffer:
            for tensor in (w, b):
                tensor.grad_buffer = np.full(tensor.shape, np.nan)
        found = []
        for _ in range(2):  # the second walk adds
            h = x
            for _ in range(uses):
                h = mg.tanh(mg.linear(h, w, b))
            h.sum().backward()
            found += [t.grad.numpy().copy() for t in (x, w, b) if t.grad is not None]
        return found

    for found, expected in zip(run(True), run(False), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_asking_for_a_gradient_leaves_the_buffer_alone() -> None:
    x, w = leaf(4, 3).detach(), leaf(2, 3)
    w.grad_buffer = np.zeros((2, 3))
    (g,) = mg.gradients(mg.linear(x, w).sum(), [w])
    right = g.numpy().copy()
    assert not filled(w)
    (5 * mg.linear(x, w)).sum().backward()
    np.testing.assert_array_equal(g.numpy(), right)
    assert w.grad is not None
    np.testing.assert_allclose(w.grad.numpy(), 5 * right)
    w.zero_grad()
    mg.linear(x, w).sum().backward()
    np.testing.assert_array_equal(w.grad_buffer, right)


def test_a_buffer_given_late_takes_the_gradient_over() -> None:
    x = leaf(2)
    (3 * x).sum().backward()
    x.grad_buffer = np.zeros(2)
    np.testing.assert_array_equal(x.grad_buffer, [3.0, 3.0])
    x.grad = mg.tensor(np.array([1.0, 2.0]))
    np.testing.assert_array_equal(x.grad_buffer, [1.0, 2.0])
    x.grad_buffer = None
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad.numpy(), [1.0, 2.0])
    with pytest.raises(ShapeError, match="buffer"):
        x.grad_buffer = np.zeros(3)
    with pytest.raises(ShapeError, match="float32"):
        x.grad_buffer = np.zeros(2, "float32")
    with pytest.raises(ShapeError):
        x.grad = mg.zeros(3)


# ----- Hooks --------------------------------------------------------------------------------------


def test_hooks_fire_as_soon_as_a_gradient_is_final() -> None:
    """The hook of a late layer's weight runs before the walk comes to early layers."""
    events = []
    with declaring():
        from minigrad.operation import elementwise

        def slope(xp, v, layer):
            events.append(f"layer {layer}")
            return v

        @elementwise(x=slope)
        def watched(xp, x, /, *, layer):
            return x

        weights = [leaf(3, seed=k) for k in range(4)]
        h = leaf(3, seed=9)
        for k, w in enumerate(weights):
            w.register_post_accumulate_grad_hook(partial(lambda k, w: events.append(f"weight {k}"), k))
            h = watched(h, layer=k) * w
        h.sum().backward()
    assert events == [f"{what} {k}" for k in (3, 2, 1, 0) for what in ("weight", "layer")]


def test_a_tied_weight_is_final_after_its_earliest_use() -> None:
    seen = []
    w, x = leaf(3), leaf(3, seed=1)
    w.register_post_accumulate_grad_hook(lambda w: seen.append(copied(w)))
    ((x * w) * w).sum().backward()
    assert len(seen) == 1
    np.testing.assert_allclose(seen[0], 2 * x.data * w.data)


def overwrite(w: mg.Tensor) -> None:
    w.assign(0.0)


@pytest.mark.parametrize("product", [mg.matmul, mg.multiply, mg.linear], ids=lambda f: f.__name__)
@pytest.mark.parametrize("turned", [False, True])
def test_a_hook_may_overwrite_its_leaf(product, turned) -> None:
    """An optimizer may take its step there: other gradients come from the values of the forward."""
    grads = []
    for stepping in (False, True):
        w, x = leaf(3, 3), leaf(3, 3, seed=1)
        if stepping:
            w.register_post_accumulate_grad_hook(overwrite)
        inputs = (w, x * 1.0)
        mg.square(product(*(inputs[::-1] if turned else inputs))).sum().backward()
        grads.append([copied(w), copied(x)])
    np.testing.assert_array_equal(grads[0], grads[1])


def test_hooks_can_be_removed_even_while_they_run() -> None:
    x, seen = leaf(3), []

    def once(x: mg.Tensor) -> None:
        seen.append("once")
        remove()

    remove = x.register_post_accumulate_grad_hook(once)
    x.register_post_accumulate_grad_hook(lambda x: seen.append("always"))
    x.sum().backward()
    x.sum().backward()
    assert seen == ["once", "always", "always"]


def test_a_leaf_that_is_an_output_too_is_final_last() -> None:
    x = leaf(3)
    seen = []
    x.register_post_accumulate_grad_hook(lambda x: seen.append(copied(x)))
    y = (2 * x).sum()
    assert x.node is not None
    assert y.node is not None
    pull([x.node, y.node], [np.ones(3), np.asarray(1.0)])
    np.testing.assert_array_equal(seen, [np.full(3, 3.0)])


def test_a_gradient_with_a_graph_does_not_fit_into_a_buffer():
    x = mg.tensor([1.0, 2.0], requires_grad=True)
    x.grad_buffer = np.zeros(2, np.float32)
    with pytest.raises(GraphError, match=r"create_graph.*mg\.gradients"):
        (x * x * x).sum().backward(create_graph=True)
    (x * x).sum().backward()
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad.numpy(), [2.0, 4.0])
