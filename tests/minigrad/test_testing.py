"""minigrad.testing: classic mistakes planted in rules are caught and named; strategies do what they say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad.errors import DTypeError, UsageError
from minigrad.fused import fused
from minigrad.operation import elementwise, general, linear
from minigrad.testing import arrays, broadcastable_shapes, check_gradients, programs, shapes
from tests.minigrad.declared import declaring
from tests.minigrad.examples import spread


def sine(rule):
    @elementwise(x=rule)
    def mutant(xp, x, /):
        return xp.sin(x)

    return mutant, [spread(2, 3)]


def quotient(x_rule, y_rule):
    @elementwise(x=x_rule, y=y_rule)
    def mutant(xp, x, y, /):
        return x / y

    return mutant, [spread(2, 3), spread(3)]


def product(x_rule, y_rule):
    @linear(x=x_rule, y=y_rule)
    def mutant(xp, x, y, /):
        return xp.matmul(x, y)

    return mutant, [spread(3, 3), spread(3, 3) + 0.1]


def total(rule):
    @linear(x=rule)
    def mutant(xp, x, /, *, axis):
        return xp.sum(x, axis=axis)

    return lambda x: mutant(x, axis=1), [spread(3, 3)]


def transpose(rule):
    @linear(x=rule)
    def mutant(xp, x, /, *, axes):
        return xp.permute_dims(x, axes)

    return lambda x: mutant(x, axes=(1, 2, 0)), [spread(2, 2, 2)]


def largest(pull, push):
    @general(pull=pull, push=push)
    def mutant(xp, x, /):
        return xp.max(x, axis=0)

    return mutant, [spread(3, 2)]


def hit(xp, x, out):
    return (x == out).astype(x.dtype)


def affine(pull):
    def forward(xp, x, w):
        return x @ w, None

    @fused(forward=forward, pull=pull)
    def mutant(x, w, /):
        return mg.matmul(x, w)

    return mutant, [spread(2, 3), spread(3, 3)]


def constant_part(rule):
    @elementwise(x=rule)
    def mutant(xp, x, /):
        return x * x * x

    return mutant, [spread(4)]


MUTANTS = {
    "sign flipped": lambda: sine(lambda xp, v, x: -v * xp.cos(x)),
    "factor missing": lambda: sine(lambda xp, v, x: v),
    "cotangent forgotten": lambda: sine(lambda xp, v, x: xp.cos(x)),
    "output taken for input": lambda: sine(lambda xp, v, out: v * xp.cos(out)),
    "factor a little wrong": lambda: sine(lambda xp, v, x: v * xp.cos(x) * 1.0001),
    "inputs swapped": lambda: quotient(lambda xp, v, x: v / x, lambda xp, v, y, out: -v * out / y),
    "sign of a quotient": lambda: quotient(lambda xp, v, y: v / y, lambda xp, v, y, out: v * out / y),
    "one input without rule": lambda: quotient(lambda xp, v, y: v / y, None),
    "transpose missing": lambda: product(
        lambda xp, v, y: xp.matmul(v, y), lambda xp, v, x: xp.matmul(xp.matrix_transpose(x), v)
    ),
    "product in the wrong order": lambda: product(
        lambda xp, v, y: xp.matmul(v, xp.matrix_transpose(y)),
        lambda xp, v, x: xp.matmul(v, xp.matrix_transpose(x)),
    ),
    "axis not given back": lambda: total(lambda xp, v, x_shape: xp.broadcast_to(v, x_shape)),
    "mean for sum": lambda: total(lambda xp, v, x_shape: xp.broadcast_to(v[:, None], x_shape) / 3),
    "permutation not inverted": lambda: transpose(lambda xp, v, axes: xp.permute_dims(v, axes)),
    "mask of the extreme forgotten": lambda: largest(
        lambda xp, v, needs, x, out: [v + 0.0 * x],
        lambda xp, t, x, out: xp.sum(t[0] * hit(xp, x, out), axis=0),
    ),
    "forward rule wrong alone": lambda: largest(
        lambda xp, v, needs, x, out: [v * hit(xp, x, out)], lambda xp, t, x, out: xp.max(t[0], axis=0)
    ),
    "fast path wrong alone": lambda: affine(
        lambda xp, v, needs, arrays, kept, into: [v @ arrays[1], arrays[0].T @ v]
    ),
    "only the second derivative wrong": lambda: constant_part(
        lambda xp, v, x: v * 3 * (x.detach() if isinstance(x, mg.Tensor) else x) ** 2
    ),
    "only lifted in v wrong": lambda: constant_part(
        lambda xp, v, x: (v.detach() if isinstance(v, mg.Tensor) else v) * 3 * x**2
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_mistake_is_caught(name: str) -> None:
    with declaring():
        f, x = MUTANTS[name]()
        with pytest.raises(AssertionError):
            check_gradients(f, *x)


def test_without_a_mistake_the_same_declarations_pass() -> None:
    with declaring():
        check_gradients(*flat(sine(lambda xp, v, x: v * xp.cos(x))))
    with declaring():
        check_gradients(*flat(quotient(lambda xp, v, y: v / y, lambda xp, v, y, out: -v * out / y)))
    with declaring():
        rules = (
            lambda xp, v, y: xp.matmul(v, xp.matrix_transpose(y)),
            lambda xp, v, x: xp.matmul(xp.matrix_transpose(x), v),
        )
        check_gradients(*flat(product(*rules)))
    with declaring():
        check_gradients(*flat(total(lambda xp, v, x_shape: xp.broadcast_to(v[:, None], x_shape))))
    with declaring():
        check_gradients(*flat(transpose(lambda xp, v: xp.permute_dims(v, (2, 0, 1)))))
    with declaring():
        right = largest(
            lambda xp, v, needs, x, out: [v * hit(xp, x, out)],
            lambda xp, t, x, out: xp.sum(t[0] * hit(xp, x, out), axis=0),
        )
        check_gradients(*flat(right))
    with declaring():
        check_gradients(*flat(affine(lambda xp, v, needs, a, kept, into: [v @ a[1].T, a[0].T @ v])))


def flat(pair):
    f, x = pair
    return f, *x


def test_the_report_names_derivative_argument_and_entry() -> None:
    def f(weight, x):
        return weight * x.detach()

    def wrong_at_one_entry(x):
        return mg.where(np.array([True, False, True]), x * x, (x * x).detach())

    with pytest.raises(
        AssertionError, match=r"^reverse, argument 1 \(x\): worst at entry \(\d+,\): got -?0, central"
    ):
        check_gradients(f, spread(3), spread(3))
    with pytest.raises(
        AssertionError, match=r"entry \(1,\): got -?0, central differences say \S+ \(1 of 3 entries"
    ):
        check_gradients(wrong_at_one_entry, spread(3))
    with pytest.raises(
        AssertionError, match=r"^forward, argument 0 \(x\), output 0, along a random direction"
    ):
        check_gradients(wrong_at_one_entry, spread(3), modes=("forward",))
    with declaring():
        mutant, x = MUTANTS["only the second derivative wrong"]()
        with pytest.raises(AssertionError, match=r"^reverse over reverse, argument 0 \(x\)"):
            check_gradients(mutant, *x)
        check_gradients(mutant, *x, order=1)


def test_a_function_need_not_tell_what_its_arguments_are_called() -> None:
    check_gradients(min, np.array(2.0), np.array(1.0))  # nor do ufuncs of an older NumPy tell


def test_the_walks_are_held_to_each_other_more_tightly_than_to_differences() -> None:
    with declaring():
        nearly = largest(
            lambda xp, v, needs, x, out: [v * hit(xp, x, out) * (1 + 1e-7)],
            lambda xp, t, x, out: xp.sum(t[0] * hit(xp, x, out), axis=0),
        )
        with pytest.raises(AssertionError, match=r"both walks, argument 0.*the reverse walk gives"):
            check_gradients(*flat(nearly))


def test_it_refuses_what_it_cannot_check() -> None:
    with pytest.raises(UsageError, match="modes"):
        check_gradients(mg.sin, 1.0, modes=("backward",))
    with pytest.raises(UsageError, match="modes"):
        check_gradients(mg.sin, 1.0, modes=())
    with pytest.raises(DTypeError, match="argument 1 is int64; close over"):
        check_gradients(mg.take, spread(3), np.array([0]))


def test_it_takes_nests_constants_and_empty_arrays() -> None:
    check_gradients(lambda x, y: {"a": [x * y, mg.argmax(x)], "b": 3.0}, spread(3), mg.tensor(spread(3)))
    check_gradients(mg.sin, np.zeros((0, 3)), order=3)
    check_gradients(mg.sin, 0.3, order=4)
    check_gradients(lambda *x: x[0] * x[1], 0.3, 0.4, modes=("reverse",))


# ----- Strategies ---------------------------------------------------------------------------------


@given(st.integers(1, 4).flatmap(lambda n: broadcastable_shapes(n, shortest=0)))
def test_shapes_broadcast_together(several) -> None:
    np.broadcast_shapes(*several)


@given(shapes(dimensions=2, shortest=1, longest=3))
def test_shapes_keep_their_bounds(shape) -> None:
    assert len(shape) <= 2
    assert all(1 <= n <= 3 for n in shape)


@given(arrays(shapes()), arrays((4,), positive=True, dtype="float32"))
def test_arrays_keep_clear_of_kinks(x, y) -> None:
    assert ((abs(x) >= 0.2) & (abs(x) <= 2.0)).all()
    sizes = np.sort(abs(x), axis=None)
    assert (np.diff(sizes) > 0.05 / max(x.size, 1)).all()
    assert (y > 0).all()
    assert y.dtype == np.float32


@given(programs(leaves=2, length=6), arrays((3, 3)))
def test_programs_run_and_print(program, x) -> None:
    y = program(mg.tensor(x), mg.tensor(x))
    assert y.shape == (3, 3)
    assert np.abs(y.numpy()).max() < 20
    lines = repr(program).strip().splitlines()
    assert len(lines) == 2 + len(program.chosen)
    assert lines[0] == "v0 = leaf"
