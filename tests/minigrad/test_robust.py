"""What a NumPy user may do by mistake or at the edge: every misuse has its sentence, every kink its rule."""

import gc
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import testing
from minigrad.errors import DeviceError, DTypeError, GraphError, IndexRangeError, ShapeError, UsageError
from minigrad.testing import arrays, shapes
from tests.minigrad.examples import spread


def leaf(values: Any, dtype: str = "float64") -> mg.Tensor:
    return mg.tensor(np.asarray(values, dtype), requires_grad=True)


def slope(f: Any, *points: float) -> list[float]:
    """The derivatives of f at these points, by both walks, which must agree."""
    x = leaf(points)
    f(x).sum().backward()
    assert x.grad is not None
    pushed = mg.jvp(f, x.detach(), mg.ones_like(x.detach()))[1]
    if pushed.shape == x.shape:
        np.testing.assert_array_equal(pushed.numpy(), x.grad.numpy())
    assert mg.sum(pushed).item() == mg.sum(x.grad).item()
    return list(x.grad.tolist())


# ----- Misuse -------------------------------------------------------------------------------------

MISUSE: list[tuple[Any, type[Exception], str]] = [
    (lambda: (leaf([1.0, 2.0]) * 2).backward(), GraphError, r"one number, and this output has shape \(2,\)"),
    (lambda: mg.tensor([1.0]).backward(), GraphError, "no graph to walk"),
    (lambda: leaf([1.0, 2.0]).sum().backward(np.ones(2)), ShapeError, r"cotangent has shape \(2,\), but"),
    (lambda: mg.ones((2, 3)) + mg.ones((4,)), ShapeError, r"add\(x \(2, 3\), y \(4,\)\)"),
    (lambda: mg.where(mg.ones(2) > 0, mg.ones(3), 0.0), ShapeError, r"where\(condition \(2,\), x \(3,\)"),
    (lambda: mg.ones((2, 3)) @ mg.ones((2, 3)), ShapeError, "did you mean to transpose"),
    (lambda: mg.ones(2) + mg.ones(2, device="shapes"), DeviceError, "arrays on .*move them together"),
    (lambda: mg.linear(mg.ones((2, 2)), mg.ones((2, 2), device="shapes")), DeviceError, "arrays on"),
    (lambda: mg.ones(2, device="tpu"), DeviceError, "unknown device 'tpu'; expected \"cpu\""),
    (lambda: mg.ones(2).to("disk"), DeviceError, "unknown device 'disk'"),
    (lambda: mg.tensor([1, 2], requires_grad=True), DTypeError, "only floating-point tensors have gradients"),
    (lambda: mg.grad(lambda x: x.sum())(mg.tensor([1, 2])), DTypeError, r"floating-point.*use x.astype"),
    (lambda: mg.grad(lambda x: x)(leaf([1.0, 2.0])), GraphError, "returns one number.*use vjp or jacobian"),
    (
        lambda: mg.grad(lambda x: x.sum(), argnums=1)(leaf(1.0)),
        GraphError,
        "argument 1, but only 1 were given",
    ),
    (
        lambda: mg.vjp(lambda x: (x, x), leaf(1.0))[1]([leaf(1.0)]),
        ShapeError,
        r"cotangents nested as \[\*\] cannot be",
    ),
    (lambda: mg.jvp(mg.exp, leaf([1.0, 2.0]), leaf(1.0)), ShapeError, r"tangents \[\(\)\] do not fit"),
    (lambda: mg.ones((2, 2)).item(), ShapeError, "exactly one element"),
    (lambda: bool(mg.ones(2)), ShapeError, "ambiguous"),
    (lambda: len(mg.ones(())), ShapeError, "0-d tensor has no length"),
    (lambda: list(mg.ones(())), ShapeError, "0-d tensor has no length"),
    (lambda: mg.ones((2, 3)).reshape(4), ShapeError, r"reshape\(x \(2, 3\)\)"),
    (lambda: mg.sum(mg.ones((2, 3)), axis=2), ShapeError, r"sum\(x \(2, 3\)\)"),
    (lambda: mg.concat([mg.ones((2, 3)), mg.ones((2, 2))]), ShapeError, "concat"),
    (lambda: mg.stack([mg.ones(2), mg.ones(3)]), ShapeError, r"stack joins arrays of one shape.*\(3,\)"),
    (lambda: mg.stack([]), ShapeError, "at least one of them"),
    (lambda: mg.ones((2, 3))[5], IndexRangeError, "getitem"),
    (lambda: mg.ones(3).__setitem__(0, 1.0), mg.errors.MinigradError, r"x.at\[index\].set"),
    (lambda: mg.take(mg.ones((2, 3)), [[0, 7]], axis=1), ShapeError, "take_rows"),
    (
        lambda: mg.ones((2, 3)) + mg.ones((4,)),
        ShapeError,
        r"lengths are equal or 1.*insert axes, as in x\[:, None",
    ),
    (lambda: mg.ones(3)[7], IndexError, "index 7 is out of bounds for axis 0 with size 3"),
    (lambda: mg.ones(3)["a"], IndexError, "only integers, slices"),
    (lambda: mg.take(mg.ones((2, 3)), [[0, 7]], axis=1), IndexError, "index 7 is out of bounds"),
    (lambda: mg.ones(3).at[5].add(1.0), IndexError, "index 5 is out of bounds"),
    (lambda: mg.ones(3).at[[True, False]].add(1.0), IndexError, "boolean index did not match"),
    (lambda: mg.tensor([1, 2]) ** -1, UsageError, r"integer powers.*x.astype\('float64'\)"),
    (lambda: mg.concat([]), ShapeError, "concat joins at least one array, and got none"),
    (lambda: mg.repeat(mg.ones(2), [-1, 1]), UsageError, r"whole and at least 0, got \[-1, 1\]"),
    (lambda: mg.expand_dims(mg.ones(2), axis=(0, 0)), ShapeError, r"cannot insert axis \(0, 0\).*each once"),
    (lambda: mg.expand_dims(mg.ones(2), axis=1.0), UsageError, "an axis is a whole number, got 1.0"),  # type: ignore[arg-type]
    (lambda: mg.softmax(mg.ones((2, 3)), axis=1.0), UsageError, "an axis is a whole number, got 1.0"),  # type: ignore[arg-type]
    (lambda: mg.split(mg.ones(2), 1.5), DTypeError, "whole number or a list of them, got 1.5"),  # type: ignore[arg-type]
    (lambda: mg.tile(mg.ones(2), 1.5), DTypeError, "repetitions are whole numbers, got"),  # type: ignore[arg-type]
    (lambda: mg.arange(0, 1, 0), UsageError, "a step of 0"),
    (lambda: mg.matrix_power(mg.ones((2, 2)), 1.5), DTypeError, "whole powers, got 1.5"),  # type: ignore[arg-type]
    (lambda: mg.tensor([[1.0, 2.0], [3.0]]), ShapeError, "no array can be made of this: .*inhomogeneous"),
    (lambda: mg.grad(lambda x: x, argnums=())(leaf(1.0)), GraphError, "no argument, but only 1 were given"),
    (lambda: mg.ones(2).to(Ellipsis), DeviceError, "unknown device 'Ellipsis'"),  # type: ignore[arg-type]
    (
        lambda: setattr(leaf(1.0), "grad", np.ones(())),
        DTypeError,
        "a gradient is a tensor, or None, not ndarray",
    ),
    (
        lambda: setattr(leaf(1.0), "grad", mg.ones(())),
        DTypeError,
        "gradient is float32, and the tensor float64",
    ),
    (lambda: setattr(leaf([1.0]), "grad_buffer", [0.0]), DTypeError, "buffer is a raw array.* not list"),
    (lambda: setattr(leaf([1.0]), "grad_buffer", leaf([1.0]).numpy()), GraphError, "this one is read-only"),
    (lambda: pickle.dumps(leaf(1.0) * 2), GraphError, r"with a graph cannot be pickled.*x.detach\(\)"),
    (lambda: testing.check_gradients(lambda x: mg.argmax(x), [1.0, 2.0]), DTypeError, "f returned int64"),
    (lambda: testing.check_gradients(lambda d: d["a"], {"a": 1.0}), UsageError, "give the leaves of a nest"),
    (
        lambda: mg.gradients((x := leaf(2.0)) * x, [x], cotangents=[leaf(1.0), leaf(1.0)]),
        ShapeError,
        r"cotangents nested as \[\*, \*\] cannot be paired with outputs nested as \[\*\]",
    ),
    (
        lambda: mg.weighted_rows(mg.ones((2, 3)), np.zeros((4, 2), int), mg.ones((4, 1))),
        ShapeError,
        r"\(4, 1\)",
    ),
]


@pytest.mark.parametrize("case", MISUSE, ids=[message[:30] for _, _, message in MISUSE])
def test_every_misuse_has_its_sentence(case: tuple[Any, type[Exception], str]) -> None:
    wrong, error, message = case
    with pytest.raises(error, match=message) as found:
        wrong()
    assert isinstance(found.value, mg.errors.MinigradError)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-5, 4)), min_size=1, max_size=3))
def test_an_index_out_of_range_is_an_index_error_for_every_way_of_reading(pairs) -> None:
    for length, index in pairs:
        x, inside = mg.ones(length), -length <= index < length
        for read in (
            lambda x, i: x[i],
            lambda x, i: x[[i]],
            lambda x, i: mg.take(x, [i]),
            lambda x, i: mg.gather(x, [i], axis=0),
            lambda x, i: x.at[i].set(0.0),
            lambda x, i: x.at[[i]].add(1.0),
            lambda x, i: x.to_device("cpu")[mg.tensor(i)],
        ):
            if inside:
                read(x, index)
                continue
            with pytest.raises(ShapeError) as found:
                read(x, index)
            assert isinstance(found.value, IndexError)


def test_a_grad_mode_can_be_entered_again() -> None:
    quiet, loud = mg.no_grad(), mg.enable_grad()
    assert mg.is_grad_enabled()
    with quiet:
        with quiet, loud, quiet:
            assert not mg.is_grad_enabled()
        assert not mg.is_grad_enabled()
        with loud:
            assert mg.is_grad_enabled()
    assert mg.is_grad_enabled()

    @quiet
    def count(n: int) -> int:
        assert not mg.is_grad_enabled()
        return 0 if n == 0 else 1 + count(n - 1)

    assert count(3) == 3
    assert mg.is_grad_enabled()


def test_a_grad_mode_entered_by_two_threads_ends_in_each_as_it_began() -> None:
    quiet, entered, left = mg.no_grad(), Event(), Event()

    def beside() -> bool:
        with mg.no_grad():
            with quiet:
                entered.set()
                assert left.wait(10)
            return mg.is_grad_enabled()

    with ThreadPoolExecutor(1) as pool:
        with quiet:
            ended = pool.submit(beside)
            assert entered.wait(10)
        assert mg.is_grad_enabled()
        left.set()
        assert not ended.result()


def test_a_hook_can_be_removed_twice() -> None:
    calls: list[mg.Tensor] = []
    x = leaf([1.0])
    remove = x.register_post_accumulate_grad_hook(calls.append)
    remove()
    remove()
    x.sum().backward()
    assert calls == []


def test_what_has_no_graph_is_pickled() -> None:
    for x in (leaf([1.0, 2.0]), mg.ones(2)):
        assert pickle.dumps(x)


def test_a_second_walk_over_a_released_graph_names_what_was_released() -> None:
    x = leaf([1.0, 2.0])
    y = mg.exp(x * x).sum()
    y.backward()
    with pytest.raises(GraphError, match=r"values that sum.*released.*retain_graph=True"):
        y.backward()


# ----- Kinks --------------------------------------------------------------------------------------


def test_kinks_are_as_documented() -> None:
    for f, points, expected in [
        (mg.abs, (-1.0, 0.0, 2.0), [-1.0, 0.0, 1.0]),
        (mg.relu, (-1.0, 0.0, 2.0), [0.0, 0.0, 1.0]),
        (mg.leaky_relu, (-1.0, 0.0, 2.0), [0.01, 0.01, 1.0]),
        (lambda x: mg.leaky_relu(x, negative_slope=1.5), (-1.0, 0.0, 2.0), [1.5, 1.5, 1.0]),
        (mg.elu, (0.0,), [1.0]),
        (mg.hardtanh, (-2.0, -1.0, 1.0, 2.0), [0.0, 1.0, 1.0, 0.0]),
        (mg.hardsigmoid, (-4.0, -3.0, 3.0, 4.0), [0.0, 1 / 6, 1 / 6, 0.0]),
        (mg.hardswish, (-4.0, -3.0, 3.0, 4.0), [0.0, 0.0, 1.0, 1.0]),
        (lambda x: mg.clip(x, 0.0, 1.0), (-1.0, 0.0, 1.0, 2.0), [0.0, 1.0, 1.0, 0.0]),
        (lambda x: mg.maximum(x, 1.0), (0.0, 1.0, 2.0), [0.0, 0.5, 1.0]),
        (lambda x: mg.minimum(x, 1.0), (0.0, 1.0, 2.0), [1.0, 0.5, 0.0]),
        (mg.max, (1.0, 3.0, 3.0), [0.0, 0.5, 0.5]),
        (mg.min, (3.0, 1.0, 1.0, 1.0), [0.0, 1 / 3, 1 / 3, 1 / 3]),
        (mg.floor, (1.0, 1.5), [0.0, 0.0]),
        (mg.vector_norm, (0.0, 0.0), [0.0, 0.0]),
        (lambda x: mg.vector_norm(x, ord=1), (0.0, 2.0), [0.0, 1.0]),
        (lambda x: mg.vector_norm(x, ord=3), (0.0, 0.0), [0.0, 0.0]),
        (mg.std, (2.0, 2.0), [0.0, 0.0]),
        (lambda x: mg.hypot(x, 0.0), (0.0, 3.0), [0.0, 1.0]),
        (lambda x: mg.atan2(x, 0.0), (0.0, 2.0), [0.0, 0.0]),
        (lambda x: mg.xlogy(x, 0.0), (0.0,), [0.0]),
        (mg.prod, (0.0, 2.0, 0.0), [0.0, 0.0, 0.0]),
        (mg.sort, (2.0, 1.0, 1.0), [1.0, 1.0, 1.0]),
    ]:
        if mg.tensor(points).ndim and f is mg.floor:
            assert not f(leaf(points)).requires_grad
            continue
        np.testing.assert_allclose(slope(f, *points), expected, rtol=1e-15, err_msg=str(f))
    with np.errstate(divide="ignore"):
        assert slope(mg.sqrt, 0.0) == [np.inf]


def test_the_untaken_branch_spoils_nothing_once_it_is_finite() -> None:
    x = leaf([0.0, 4.0])
    safe = mg.where(x > 0, x, 1.0)
    mg.where(x > 0, mg.sqrt(safe), 0.0).sum().backward()
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad.numpy(), [0.0, 0.25])


def test_nan_and_infinity_go_where_numpy_sends_them() -> None:
    special = np.array([np.nan, np.inf, -np.inf, 0.0, 1.0])
    with np.errstate(all="ignore"):
        for name in (
            "exp",
            "log",
            "sqrt",
            "tanh",
            "sin",
            "abs",
            "square",
            "negative",
            "log1p",
            "floor",
            "sign",
        ):
            np.testing.assert_array_equal(getattr(mg, name)(special).numpy(), getattr(np, name)(special))
        for name in ("add", "multiply", "divide", "maximum", "minimum", "less", "hypot"):
            found, expected = (getattr(m, name)(special, special[::-1].copy()) for m in (mg, np))
            np.testing.assert_array_equal(found.numpy(), expected)
        for name in ("sum", "prod", "max", "min", "mean"):
            np.testing.assert_array_equal(getattr(mg, name)(special).numpy(), getattr(np, name)(special))
        for dtype in ("float32", "float64"):
            ends = special.astype(dtype)
            np.testing.assert_array_equal(mg.erf(ends).numpy()[:4], [np.nan, 1.0, -1.0, 0.0])
        assert np.isnan(mg.softmax(special).numpy()).all()
        for f in (mg.relu, mg.leaky_relu, mg.hardswish, mg.hardsigmoid, mg.gelu, mg.silu):
            assert np.isnan(f(special).numpy()[0])
            assert f(mg.tensor(np.inf)).item() in (np.inf, 1.0)


@given(shapes(), st.sampled_from(["float16", "float32", "float64"]))
def test_erf_of_every_float_is_scipys(shape, dtype) -> None:
    import scipy.special

    x = np.random.default_rng(0).normal(size=shape).astype(dtype) * 2
    found = mg.erf(x).numpy()
    assert (found.shape, found.dtype) == (shape, dtype)
    exact = scipy.special.erf(x.astype("float64"))
    assert np.all(np.abs(found - exact) <= 4 * np.finfo(dtype).eps * np.abs(exact))


# ----- Memory -------------------------------------------------------------------------------------


def test_a_loop_of_100_000_steps_keeps_no_memory_and_leaves_no_cycles() -> None:
    w, x = leaf([0.5, -0.5]), mg.tensor([1.0, 2.0], dtype="float64")

    def step() -> None:
        w.zero_grad()
        d = mg.tanh(w * x).sum()
        d.backward()
        assert w.grad is not None
        w.assign(w.data - 1e-6 * w.grad.data)

    gc.collect()
    gc.disable()
    try:
        for _ in range(5000):  # fills the free lists of the interpreter, which `collect` had emptied
            step()
        before = sys.getallocatedblocks()
        for _ in range(100_000):
            step()
        assert sys.getallocatedblocks() - before < 100
        assert gc.collect() == 0
    finally:
        gc.enable()


@given(st.data())
def test_memory_in_any_order_gives_the_same_bits(data) -> None:
    """Fortran order, negative steps, gaps, read-only, and bytes in the other order."""
    x = data.draw(arrays((3, 4)))
    gaps = np.zeros((6, 8))
    gaps[::2, ::2] = x
    backwards = x[::-1, ::-1].copy()[::-1, ::-1]
    locked = x.copy()
    locked.flags.writeable = False
    results = []
    for twin in (x, np.asfortranarray(x), gaps[::2, ::2], backwards, locked, x.astype(">f8")):
        t = mg.tensor(twin, requires_grad=True)
        (mg.tanh(t * 2.0) + mg.sin(t)).backward(np.cos(x))
        assert t.grad is not None
        results.append(t.grad.numpy().tobytes())
    assert len(set(results)) == 1


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (2, 0, 3), (1,)])
def test_nothing_and_one_thing_are_arrays_too(shape) -> None:
    x = mg.tensor(spread(*shape), requires_grad=True)
    y = mg.exp(x * x - mg.mean(x, keepdims=True) if x.size else x * x)
    y.backward(np.ones(shape))
    assert x.grad is not None
    assert x.grad.shape == shape
    assert type(x.grad.data) is np.ndarray
    assert mg.sum(y).shape == ()
    assert mg.grad(lambda x: (x * x).sum())(x.detach()).shape == shape
    assert mg.hvp(lambda x: (x * x * x).sum(), x.detach(), x.detach()).shape == shape
