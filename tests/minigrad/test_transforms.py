"""Derivatives of functions: every nesting of the two modes, and nothing confused with anything else."""

import itertools
import math
import tracemalloc
import weakref
from collections import namedtuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad.errors import DTypeError, GraphError, ShapeError
from minigrad.graph import Dual, state
from minigrad.testing import Program, arrays, check_gradients, programs
from tests.minigrad.declared import declaring, polar


def number(value: float) -> mg.Tensor:
    return mg.tensor(value, dtype="float64")


def forward(f):
    """d/dx f by the forward walk, of one number."""
    return lambda x: mg.jvp(f, x, mg.ones_like(x.detach()))[1]


MODES = {"reverse": mg.grad, "forward": forward}


# ----- Nesting ------------------------------------------------------------------------------------


@pytest.mark.parametrize("modes", [m for k in (1, 2, 3, 4) for m in itertools.product(MODES, repeat=k)])
def test_any_nesting_of_modes(modes) -> None:
    def f(x):
        return mg.sin(x) * mg.exp(2.0 * x)

    derivative = f
    for mode in modes:
        derivative = MODES[mode](derivative)
    z = (2 + 1j) ** len(modes) * np.exp((2 + 1j) * 0.3)  # f is the imaginary part of e^((2+i)x)
    assert derivative(number(0.3)).item() == pytest.approx(z.imag, rel=1e-12)
    with mg.no_grad():
        assert derivative(number(0.3)).item() == pytest.approx(z.imag, rel=1e-12)


@pytest.mark.parametrize(("outer", "inner"), list(itertools.product(MODES.values(), repeat=2)))
def test_perturbations_are_not_confused(outer, inner) -> None:
    def f(x):
        return x * inner(lambda y: x + y)(number(1.0))

    assert outer(f)(number(1.0)).item() == 1.0

    def g(x):  # the inner function does not depend on its own variable
        return x * x + inner(lambda y: x * 3.0 + 0.0 * y)(number(2.0))

    assert outer(g)(number(1.0)).item() == 2.0

    def h(x):  # the inner derivative is taken at the outer variable
        return inner(lambda y: x * y * y)(x)

    assert outer(h)(number(3.0)).item() == pytest.approx(12.0)
    with mg.no_grad():
        assert outer(f)(number(1.0)).item() == 1.0
        assert outer(g)(number(1.0)).item() == 2.0
        assert outer(h)(number(3.0)).item() == pytest.approx(12.0)


@pytest.mark.parametrize("inner", MODES.values())
def test_a_result_of_the_outer_variable_alone_stands_still_within(inner) -> None:
    def f(x):
        moved = mg.jvp(lambda y: (x * 2.0, y * x), number(3.0), number(1.0))[1]
        return moved[0] + moved[1]

    assert inner(f)(number(5.0)).item() == 1.0
    with mg.no_grad():
        assert inner(f)(number(5.0)).item() == 1.0


def test_leftovers_of_one_forward_derivative_do_not_move_in_the_next() -> None:
    w = mg.tensor(3.0, dtype="float64", requires_grad=True)
    a, slope = mg.jvp(lambda x: x * w, number(2.0), number(1.0))
    assert slope.item() == 3.0
    assert mg.jvp(lambda z: z * a, number(5.0), number(1.0))[1].item() == 6.0
    with mg.no_grad():
        nested = mg.jvp(lambda z: mg.grad(lambda y: y * z * a)(z), number(5.0), number(1.0))[1]
    assert nested.item() == 6.0


def test_a_dual_number_that_escapes_is_a_constant_afterwards() -> None:
    kept = []

    def f(x):
        kept.append(x * 2.0)
        return x

    mg.jvp(f, number(1.0), number(1.0))
    assert isinstance(kept[0].node, Dual)
    assert mg.jvp(lambda z: z * kept[0], number(5.0), number(1.0))[1].item() == 2.0
    assert (
        mg.jvp(
            lambda z: mg.layer_norm(kept[0] * mg.ones(2, dtype="float64"), None, None).sum() * z,
            number(5.0),
            number(1.0),
        )[1].item()
        == 0.0
    )


@given(programs(length=8), arrays((2, 2)), arrays((2, 2)))
def test_random_graphs_to_second_order(program: Program, a, b) -> None:
    check_gradients(program, a, b)


@given(programs(length=5), arrays((2, 2)))
def test_all_third_derivatives_agree(program: Program, a) -> None:
    direction = mg.tensor(np.cos(np.arange(4.0)).reshape(2, 2))
    point = mg.tensor(a)

    def along(mode, f):
        if mode == "forward":
            return lambda x: mg.jvp(f, x, direction)[1]
        return lambda x: (mg.grad(f)(x) * direction).sum()

    found = []
    for modes in itertools.product(MODES, repeat=3):
        f = lambda x: program(x, x.mT).sum()  # noqa: E731
        for mode in modes:
            f = along(mode, f)
        found.append(f(point).item())
    np.testing.assert_allclose(found, found[0], rtol=1e-9, atol=1e-11)


# ----- Closures over a graph ----------------------------------------------------------------------


def test_gradients_flow_to_what_a_function_closes_over() -> None:
    w = mg.tensor(3.0, dtype="float64", requires_grad=True)
    for derivative in MODES.values():
        w.zero_grad()
        derivative(lambda x: x * x * w)(number(2.0)).backward()  # d/dx = 2xw
        assert w.grad is not None
        assert w.grad.item() == 4.0


@pytest.mark.parametrize("transform", [lambda f, x: mg.vjp(f, x)[0], lambda f, x: mg.jvp(f, x, x)[0]])
def test_values_stay_in_the_graph_of_what_they_close_over(transform) -> None:
    w = mg.tensor(3.0, dtype="float64", requires_grad=True)
    for f in (lambda x: w * w, lambda x: w, lambda x: x * w * w):
        w.zero_grad()
        transform(f, number(1.0)).backward()
        assert w.grad is not None
        assert w.grad.item() in (1.0, 6.0)
    assert not transform(lambda x: x * 2.0, number(1.0)).requires_grad
    with mg.no_grad():
        assert not transform(lambda x: x * w, number(1.0)).requires_grad


def test_inputs_with_history_pass_it_on() -> None:
    w = mg.tensor(2.0, dtype="float64", requires_grad=True)
    mg.grad(lambda x: x**3)(w * w).backward()  # 3 w⁴
    assert w.grad is not None
    assert w.grad.item() == 96.0
    w.zero_grad()
    mg.jvp(lambda x: x**3, w * 1.0, w * 1.0)[1].backward()  # 3 w³
    assert w.grad is not None
    assert w.grad.item() == 36.0
    w.zero_grad()
    mg.vjp(lambda x: x * x, number(5.0))[1](w * 1.0)[0].backward()  # 10 w
    assert w.grad is not None
    assert w.grad.item() == 10.0


# ----- Modes of the thread ------------------------------------------------------------------------


def test_no_grad_inside_a_function_means_the_same_to_both_walks() -> None:
    def f(x):
        with mg.no_grad():
            y = x * x
            z = mg.layer_norm(x * mg.tensor([1.0, 2.0], dtype="float64"), None, None).sum()
        return y * x + z

    assert [derivative(f)(number(2.0)).item() for derivative in MODES.values()] == [4.0, 4.0]


def test_no_grad_and_enable_grad() -> None:
    x = mg.tensor(2.0, requires_grad=True)

    def recorded() -> bool:
        return (x * x).requires_grad

    with mg.no_grad():
        assert (mg.is_grad_enabled(), recorded()) == (False, False)
        with mg.enable_grad():
            assert recorded()
    assert (mg.is_grad_enabled(), recorded()) == (True, True)
    decorated = mg.no_grad()(recorded)
    assert [decorated(), decorated(), recorded()] == [False, False, True]

    def fails() -> None:
        with mg.no_grad():
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert recorded()
    assert (state.recording, state.streaming, state.ordinary) == (True, 0, True)


def test_an_error_inside_a_transform_leaves_the_mode_as_it_was() -> None:
    def f(x):
        raise RuntimeError

    for derivative in MODES.values():
        with pytest.raises(RuntimeError):
            derivative(f)(number(1.0))
        assert (state.recording, state.streaming, state.ordinary) == (True, 0, True)


# ----- Forward mode keeps nothing -----------------------------------------------------------------


def test_a_streamed_derivative_keeps_no_intermediate_array() -> None:
    size, steps, seen = 1 << 15, 50, []

    def f(x):
        for _ in range(steps):
            x = mg.sin(x) * 1.5
            seen.append(weakref.ref(x.data))
        return x

    x = mg.tensor(np.linspace(-1, 1, size))
    tracemalloc.start()
    try:
        mg.jvp(f, x, x)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 * x.data.nbytes  # recorded, it would be 100
    assert sum(ref() is not None for ref in seen) == 0
    mg.jvp(lambda x: mg.jvp(f, x, x)[1], x, x)  # and nested it is right all the same


# ----- Several outputs ----------------------------------------------------------------------------


def test_operations_with_several_outputs() -> None:
    with declaring():
        operation = polar()
        x, y = np.array([1.0, -2.0, 0.5]), np.array([0.7, 1.5, -1.0])
        check_gradients(lambda x, y: operation(x, y)[:2], x, y, order=3)
        check_gradients(lambda x, y: operation(x, y)[1], x, y)  # one output unused
        check_gradients(lambda x: operation(x, mg.tensor(y))[0] * operation(mg.tensor(y), x)[1], x)
        product, ratio, seven = operation(mg.tensor(x, requires_grad=True), y)
        assert (product.requires_grad, ratio.requires_grad, seven.requires_grad) == (True, True, False)
        assert seven.item() == 7
        outputs, moved = mg.jvp(operation, (mg.tensor(x), mg.tensor(y)), (mg.tensor(x), mg.tensor(y)))
        np.testing.assert_allclose(moved[0].numpy(), 2 * x * y)
        np.testing.assert_allclose(moved[1].numpy(), 0 * x, atol=1e-12)
        assert moved[2].item() == 0
        assert outputs[2].item() == 7
        z = operation(mg.tensor(x), y)
        assert not any(part.requires_grad for part in z)


# ----- Nests --------------------------------------------------------------------------------------


Pair = namedtuple("Pair", "first second")


def test_gradients_have_the_nesting_of_their_argument() -> None:
    def f(p, scale=1.0):
        return scale * (p["w"] @ p["b"].first).sum() * p["b"].second[0]

    p = {"w": mg.ones((2, 3), dtype="float64"), "b": Pair(mg.ones(3, dtype="float64"), [number(2.0)])}
    value, g = mg.value_and_grad(f)(p, scale=2.0)
    assert value.item() == 24.0
    assert isinstance(g["b"], Pair)
    assert g["b"].second[0].item() == 12.0
    np.testing.assert_array_equal(g["b"].first.numpy(), np.full(3, 8.0))
    outputs, moved = mg.jvp(lambda p: {"y": (p["w"] * 2.0, 3.0)}, p, g)
    np.testing.assert_array_equal(moved["y"][0].numpy(), 2 * g["w"].numpy())
    assert outputs["y"][1].item() == 3.0
    assert moved["y"][1].item() == 0.0
    outputs, transposed = mg.vjp(lambda p: [p["w"] * 2.0, p["b"].second[0] * 1.0], p)
    (back,) = transposed([mg.ones_like(outputs[0]), number(5.0)])
    assert back["b"].second[0].item() == 5.0
    np.testing.assert_array_equal(back["b"].first.numpy(), np.zeros(3))


# ----- Graphs of gradients ------------------------------------------------------------------------


def test_create_graph_gives_gradients_a_graph() -> None:
    x = mg.tensor(2.0, dtype="float64", requires_grad=True)
    (x**3).backward(create_graph=True)
    assert x.grad is not None
    (second,) = mg.gradients(x.grad, [x], retain_graph=True)
    assert second.item() == 12.0
    first = x.grad
    x.zero_grad()
    first.backward()
    assert x.grad.item() == 12.0
    x.zero_grad()
    y = mg.tensor(np.array([1.0, 2.0]), requires_grad=True)
    (g,) = mg.gradients(y**3, [y], cotangents=[x * mg.ones(2, dtype="float64")], create_graph=True)
    g.sum().backward()
    assert y.grad is not None
    assert x.grad is not None
    np.testing.assert_allclose(y.grad.numpy(), 12.0 * y.data)
    assert x.grad.item() == 15.0


# ----- What transforms refuse ---------------------------------------------------------------------


def test_misuse_has_its_sentence() -> None:
    x = mg.tensor(np.ones(3))
    with pytest.raises(GraphError, match=r"returns one number, not \(3,\); use vjp or jacobian"):
        mg.grad(lambda x: x * 2.0)(x)
    with pytest.raises(GraphError, match="not tuple"):
        mg.grad(lambda x: (x.sum(), x))(x)
    with pytest.raises(GraphError, match="argument 2, but only 1 were given"):
        mg.grad(lambda x: x.sum(), argnums=2)(x)
    with pytest.raises(DTypeError, match="floating-point tensors, and this one is int64"):
        mg.grad(lambda x: x)(mg.tensor(3))
    with pytest.raises(DTypeError, match="int64"):
        mg.jvp(lambda x: x, mg.tensor([1, 2]), mg.tensor([1, 2]))
    with pytest.raises(ShapeError, match=r"tangents \[\(2,\)\] do not fit inputs \[\(3,\)\]"):
        mg.jvp(lambda x: x, x, mg.ones(2))
    with pytest.raises(
        ShapeError, match=r"cotangents nested as \[\*, \*\] cannot be paired with outputs nested as \*"
    ):
        mg.vjp(lambda x: x, x)[1]([x, x])
    with pytest.raises(ShapeError, match=r"cotangent has shape \(2,\)"):
        mg.vjp(lambda x: x, x)[1](mg.ones(2))


def test_inputs_nobody_uses_have_zero_derivatives() -> None:
    x = mg.tensor(np.ones(3))
    np.testing.assert_array_equal(mg.grad(lambda x: number(1.0))(x).numpy(), np.zeros(3))
    np.testing.assert_array_equal(mg.grad(lambda x, y: y.sum())(x, x).numpy(), np.zeros(3))
    assert mg.jvp(lambda x: number(1.0), x, x)[1].item() == 0.0
    assert mg.jvp(lambda x: mg.argmax(x), x, x)[1].item() == 0


@given(st.integers(1, 6))
def test_powers_to_every_order(exponent: int) -> None:
    f = lambda x: x**exponent  # noqa: E731
    x = number(1.7)
    for order in range(1, exponent + 2):
        f = mg.grad(f)
        right = math.perm(exponent, order) * 1.7 ** max(exponent - order, 0)
        assert f(x).item() == pytest.approx(right, rel=1e-12, abs=1e-12)
