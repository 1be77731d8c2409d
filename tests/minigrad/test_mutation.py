"""In-place safety: a rule never reads an array that was overwritten behind its back."""

import numpy as np
import pytest

import minigrad as mg
from minigrad import mutation, nn
from minigrad.errors import GraphError
from minigrad.mutation import byte_range, mutated


def leaf(values: np.ndarray | list[float]) -> mg.Tensor:
    return mg.tensor(np.asarray(values, "float64"), requires_grad=True)


def test_overwriting_what_a_rule_needs_is_detected_and_named() -> None:
    x, w = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    y = (x * w).sum()
    w.assign([5.0, 6.0])
    with pytest.raises(
        GraphError, match=r"multiply \(node \d+\) saved an array of shape \(2,\).*changed in place"
    ):
        y.backward()


def test_overwriting_what_no_rule_needs_is_legal() -> None:
    x, w = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    y = (x + w).sum()
    w.assign(0.0)
    y.backward()
    np.testing.assert_array_equal(w.numpy(), [0.0, 0.0])
    z = (x * w).sum()  # newer than the change
    z.backward()
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad.numpy(), [1.0, 1.0])


@pytest.mark.parametrize("fused", [True, False])
def test_fast_paths_are_guarded_too(fused: bool) -> None:
    x, w = leaf(np.ones((2, 3))), leaf(np.ones((4, 3)))
    with mg.fused_operations(fused):
        y = mg.linear(x, w).sum()
    w.assign(2.0)
    with pytest.raises(GraphError, match="linear" if fused else "matmul"):
        y.backward()


def test_views_and_flat_buffers_are_compared_by_their_bytes() -> None:
    flat = np.arange(8.0)
    first, second = mg.tensor(flat[:4], requires_grad=True), mg.tensor(flat[4:], requires_grad=True)
    y, z = (first * first).sum(), (second * second).sum()
    flat[:4] = 0.0
    mutated(flat[:4])
    z.backward()  # its bytes were left alone
    with pytest.raises(GraphError, match="multiply"):
        y.backward()
    whole = mg.tensor(flat, requires_grad=True)
    y = (whole * whole).sum()
    mutated(flat[7:])
    with pytest.raises(GraphError):
        y.backward()


def test_forward_mode_over_a_recorded_graph_checks_too() -> None:
    w = leaf([1.0, 2.0])

    def f(x):
        y = mg.sin(x) * w
        w.assign(7.0)
        return y

    with pytest.raises(GraphError, match="changed in place"):
        mg.jvp(f, mg.tensor(np.ones(2)), mg.tensor(np.ones(2)))


def test_an_optimizer_step_between_two_forward_passes_is_legal() -> None:
    model = nn.Linear(3, 2, dtype="float64")
    optimizer = nn.optim.AdamW(model.parameters(), lr=0.1)
    x = mg.tensor(np.ones((4, 3)))
    for _ in range(3):
        loss = (mg.tanh(model(x)) * model(x)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    stale = (model(x) * model(x)).sum()
    model(x).sum().backward()
    optimizer.step()
    model(x).sum().backward()
    h = leaf(np.ones((4, 3)))
    late = model(h).sum()
    optimizer.step()
    with pytest.raises(GraphError, match="linear"):
        late.backward()
    del stale


def with_buffer(values: list[float]) -> mg.Tensor:
    w = leaf(values)
    w.grad_buffer = np.zeros(len(values))
    return w


def test_a_gradient_in_a_graph_is_not_overwritten_by_another_walk_unnoticed() -> None:
    w, x = with_buffer([1.0, 2.0]), leaf([3.0, 4.0])
    (w * w).sum().backward()
    assert w.grad is not None
    penalty = (mg.reshape(w.grad, (2, 1)) * mg.reshape(x, (2, 1))).sum()  # a view of the buffer is saved
    penalty.backward(retain_graph=True)
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad.numpy(), [2.0, 4.0])
    (w * 3.0).sum().backward()  # adds to the buffer
    with pytest.raises(GraphError, match=r"multiply \(node \d+\) saved.*changed in place"):
        penalty.backward(retain_graph=True)
    x.zero_grad()
    (w.grad * x).sum().backward()  # the new values in a new graph
    np.testing.assert_array_equal(x.grad.numpy(), [5.0, 7.0])
    late = (w.grad * x).sum()
    w.grad = mg.zeros(2, dtype="float64")
    with pytest.raises(GraphError, match="changed in place"):
        late.backward()


def test_a_gradient_overwritten_by_the_walk_that_needs_it_is_noticed() -> None:
    def losses(older: bool) -> tuple[mg.Tensor, mg.Tensor, mg.Tensor]:
        w, x = with_buffer([1.0, 2.0]), leaf([3.0, 4.0])
        (w * w).sum().backward()
        parts = [lambda: (w.grad * x).sum(), lambda: (w * 5.0).sum()]
        first, second = [part() for part in (parts if older else parts[::-1])]
        return first + second, w, x

    loss, w, x = losses(older=False)  # the gradient is used before it is written to
    loss.backward()
    assert w.grad is not None
    assert x.grad is not None
    np.testing.assert_array_equal(w.grad.numpy(), [7.0, 9.0])
    np.testing.assert_array_equal(x.grad.numpy(), [2.0, 4.0])
    with pytest.raises(GraphError, match="changed in place"):
        losses(older=True)[0].backward()


def test_a_buffer_lent_to_a_fast_path_is_watched_too() -> None:
    w, x = leaf(np.ones((2, 3))), leaf(np.ones((2, 3)))
    w.grad_buffer = np.zeros((2, 3))
    mg.linear(np.ones((4, 3)), w).sum().backward()
    assert w.grad is not None
    gradient = w.grad
    w.zero_grad()
    oldest = (w * 2.0).sum()  # the gradient is final here, after the others
    stale = (gradient * x).sum()
    newest = mg.linear(np.ones((4, 3)), w).sum()  # writes straight into the buffer
    with pytest.raises(GraphError, match="changed in place"):
        (oldest + stale + newest).backward()


def test_gradients_nobody_looked_at_are_not_noted() -> None:
    w = with_buffer([1.0, 2.0])
    before = mutation.latest
    for _ in range(3):
        (w * w).sum().backward()
    assert mutation.latest == before


def test_byte_ranges() -> None:
    x = np.zeros((4, 6), "float32")
    start = x.__array_interface__["data"][0]
    assert byte_range(x) == (start, start + 96)
    assert byte_range(x[1]) == (start + 24, start + 48)
    assert byte_range(x[::-1, ::-2]) == (start + 4, start + 96)
    assert byte_range(x.T[2:3]) == (start + 8, start + 8 + 72 + 4)
    assert byte_range(x[:0]) is None
    assert byte_range(np.float64(1.0).reshape(())) is not None

    class Foreign:
        size, shape, strides, dtype = 2, (2,), (4,), np.dtype("float32")

        class data:  # CuPy's spelling
            ptr = 100

    assert byte_range(Foreign()) == (100, 108)

    class Unknown:
        size = 2

    assert byte_range(Unknown()) is None
    mutated(Unknown())
    mutated(np.zeros(0))


def test_notes_die_with_their_memory() -> None:
    def note() -> None:
        x = mg.tensor(np.zeros(3))
        x.assign(1.0)
        mutated(x.data[1:])

    before = len(mutation._ranges)
    for _ in range(20):
        note()
    assert len(mutation._ranges) <= before


def test_assign_refuses_what_it_cannot_do() -> None:
    x = leaf([1.0, 2.0])
    with pytest.raises(GraphError, match="history"):
        (x * x).assign(0.0)
    with pytest.raises(mg.errors.ShapeError, match=r"shape \(3,\) to a tensor of shape \(2,\)"):
        x.assign([1.0, 2.0, 3.0])
    with pytest.raises(mg.errors.MinigradError, match="not written to by index"):
        x[0] = 3.0
    assert x.assign(mg.tensor([7.0, 8.0])) is x
    np.testing.assert_array_equal(x.numpy(), [7.0, 8.0])
    with pytest.raises(ValueError, match="read-only"):
        x.numpy()[0] = 1.0
