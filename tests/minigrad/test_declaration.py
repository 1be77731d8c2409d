"""Declaring operations: the three forms and fused ones, as a user writes them, and what is refused."""

import inspect

import numpy as np
import pytest

import minigrad as mg
from minigrad.errors import DeviceError, DTypeError, MinigradError, ShapeError
from minigrad.fused import fused
from minigrad.operation import constant, elementwise, general, linear
from minigrad.rules import OPERATIONS
from minigrad.testing import check_gradients
from tests.minigrad.declared import declaring
from tests.minigrad.examples import DECLARED, spread
from tests.minigrad.strict import registered


@pytest.fixture(autouse=True)
def _forgotten():
    with declaring():
        yield


def test_an_elementwise_operation() -> None:
    @elementwise(x=lambda xp, v, x, out: v * (xp.exp(x) + out))
    def x_exp_x(xp, x, /):
        """x eˣ"""
        return x * xp.exp(x)

    check_gradients(x_exp_x, spread(2, 3), order=3)
    assert x_exp_x.__name__ == "x_exp_x"
    assert x_exp_x.__doc__ == "x eˣ"
    assert list(inspect.signature(x_exp_x).parameters) == ["x"]
    assert repr(OPERATIONS["x_exp_x"]) == "<operation x_exp_x(x)>"


def test_an_elementwise_operation_with_parameters() -> None:
    @elementwise(x=lambda xp, v, slope: v * slope, y=lambda xp, v: v)
    def scaled_sum(xp, x, y, /, *, slope=2.0):
        return x * slope + y

    check_gradients(lambda x, y: scaled_sum(x, y), spread(2, 1), spread(3))
    check_gradients(lambda x, y: scaled_sum(x, y, slope=-3.0), spread(2), spread())
    with pytest.raises(TypeError, match=r"scaled_sum takes \['slope'\], got \['slop', 'slope'\]"):
        scaled_sum(1.0, 2.0, slop=3.0)  # type: ignore[call-arg]


def test_a_linear_operation() -> None:
    @linear(x=lambda xp, v, x_shape, width: xp.broadcast_to(v[..., None] / width, x_shape))
    def average(xp, x, /, *, width):
        return xp.sum(x, axis=-1) / width

    check_gradients(lambda x: average(x, width=3), spread(2, 3))
    with pytest.raises(TypeError, match=r"average takes \['width'\], got \[\]"):
        average(spread(3))  # type: ignore[call-arg]


def test_a_general_operation_with_any_number_of_inputs() -> None:
    def pull(xp, v, needs, xs, xs_shape, xs_dtype):
        total = xs[0] + xs[1]
        for x in xs[2:]:
            total = total + x
        assert len(xs_shape) == len(xs_dtype) == len(needs)
        return [2 * v * total if need else None for need in needs]

    def push(xp, tangents, xs):
        total = xs[0] + xs[1]
        for x in xs[2:]:
            total = total + x
        moved = [t for t in tangents if t is not None]
        return 2 * total * (moved[0] if len(moved) == 1 else moved[0] + moved[1])

    @general(pull=pull, push=push)
    def squared_sum(xp, /, *xs):
        total = xs[0]
        for x in xs[1:]:
            total = total + x
        return total * total

    check_gradients(lambda x, y: squared_sum(x, mg.tensor(spread(3)), y), spread(3), spread(3) * 2)


def test_a_fused_operation() -> None:
    def forward(xp, x, *, power):
        return x**power, None

    def pull(xp, v, needs, arrays, kept, into, *, power):
        return [power * v * arrays[0] ** (power - 1)]

    @fused(forward=forward, pull=pull)
    def to_the(x, /, *, power=3):
        out = x
        for _ in range(power - 1):
            out = out * x
        return out

    check_gradients(to_the, spread(2, 3), order=3)
    check_gradients(lambda x: to_the(x, power=2), spread(2, 3))


def test_a_constant_operation() -> None:
    @constant
    def above(xp, x, /, *, limit=0.0):
        return x > limit

    assert above(mg.tensor([1.0, -1.0], requires_grad=True)).tolist() == [True, False]
    assert above(2.0, limit=3.0).item() is False
    with pytest.raises(DTypeError, match="above"):
        above(2.0, limt=3.0)  # type: ignore[call-arg]


def test_rules_ask_only_for_what_there_is() -> None:
    with pytest.raises(TypeError, match=r"first: a rule asks for 'z', which is no input"):

        @elementwise(x=lambda xp, v, z: v)
        def first(xp, x, /):
            return x

    with pytest.raises(TypeError, match=r"second: rules for \['z'\], but the inputs are \('x',\)"):

        @elementwise(z=lambda xp, v: v)
        def second(xp, x, /):
            return x

    with pytest.raises(TypeError, match=r"third: the transpose for x must ask for \['y'\] too"):

        @linear(x=lambda xp, v: v, y=lambda xp, v, x: v)
        def third(xp, x, y, /):
            return x * y

    with pytest.raises(TypeError, match=r"fourth: a rule asks for 'y_shape'"):

        @general(pull=lambda xp, v, needs, y_shape: [v], push=lambda xp, tangents: tangents[0])
        def fourth(xp, x, /):
            return x

    with pytest.raises(TypeError, match="named 'exp' exists already"):

        @elementwise(x=lambda xp, v: v)
        def exp(xp, x, /):
            return x

    assert not {"first", "second"} & OPERATIONS.keys()  # their names are free for a second try


def test_the_number_of_inputs_is_checked() -> None:
    with pytest.raises(TypeError, match="where takes 3 inputs, got 2"):
        mg.where(True, 1.0)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="concat takes at least one input, got 0"):
        OPERATIONS["concat"].public(axis=0)
    with pytest.raises(TypeError, match="weighted_rows_back takes"):
        mg.weighted_rows_back(spread(2, 2), np.array([[0], [1]]), spread(2, 1))  # type: ignore[call-arg]


def test_complaints_name_operation_and_shapes() -> None:
    x, y = mg.tensor(spread(2, 3)), mg.tensor(spread(4))
    for f in (mg.add, lambda x, y: mg.where(True, x, y), mg.less):
        with pytest.raises(ShapeError, match=r"\((.*, )?x \(2, 3\), y \(4,\)\)"):
            f(x, y)
    with pytest.raises(ShapeError, match=r"reshape\(x \(2, 3\)\)"):
        mg.reshape(x, (4, 2))
    with pytest.raises(ShapeError, match=r"getitem\(x \(2, 3\)\)"):
        x[5]
    with pytest.raises(ShapeError, match="sum"):
        mg.sum(x, axis=2)
    with pytest.raises(ShapeError, match=r"max.*zero-size"):
        mg.max(mg.zeros((0,)))
    with pytest.raises(DTypeError, match="negative"):
        mg.negative(mg.tensor([True]))
    with pytest.raises(DTypeError, match="subtract"):
        mg.subtract(mg.tensor([True]), mg.tensor([True]))
    with pytest.raises(DTypeError, match="got data of type <U1"):
        mg.add(x, "a")
    assert issubclass(ShapeError, ValueError)
    assert issubclass(DTypeError, TypeError)
    assert issubclass(DeviceError, MinigradError)


def test_arrays_of_two_libraries_do_not_mix() -> None:
    with registered() as strict:
        here, there = mg.tensor(spread(3)), mg.tensor(strict.from_host(spread(3)))
        for f in (
            mg.add,
            mg.matmul,
            mg.less,
            lambda x, y: mg.where(x > 0, y, y),
            lambda x, y: mg.concat([x, y]),
        ):
            for x, y in ((here, there), (there, here)):
                with pytest.raises(
                    DeviceError, match=r"arrays on (cpu and strict|strict and cpu); move them"
                ):
                    f(x, y)


def test_transfers_are_operations() -> None:
    with registered():
        x = mg.tensor(spread(3), requires_grad=True)
        y = mg.exp(x.to("strict"))
        assert (x.device, y.device, y.to("cpu").device) == ("cpu", "strict", "cpu")
        assert x.to("cpu") is x
        z = (y.to("cpu") * x).sum()
        z.backward(retain_graph=True)
        assert x.grad is not None
        assert x.grad.device == "cpu"
        np.testing.assert_allclose(x.grad.numpy(), np.exp(x.data) * (1 + x.data))
        check_gradients(lambda x: (mg.exp(x.to("strict")) * x.to("strict")).to("cpu"), spread(3))
        assert mg.tensor(x, device="strict").device == "strict"
        np.testing.assert_array_equal(y.numpy(), np.exp(x.data))
        assert mg.zeros((2, 2), device="strict").device == "strict"


def test_transforms_run_on_a_foreign_library() -> None:
    x = spread(2, 2)
    with registered() as strict:
        point = mg.tensor(strict.from_host(x))
        for f in (lambda x: mg.sum(x**3, axis=0), lambda x: mg.concat([x**3, x]), mg.softmax):
            found = mg.jacobian(f)(point)
            assert found.device == "strict"
            np.testing.assert_allclose(found.numpy(), mg.jacobian(f)(mg.tensor(x)).numpy(), atol=1e-13)
        second = mg.hvp(lambda x: mg.sum(mg.exp(x) / 2.0**x), point, point)
        right = np.exp(x) / 2.0**x * (1 - np.log(2)) ** 2 * x
        np.testing.assert_allclose(second.numpy(), right, rtol=1e-12)


def test_numbers_take_the_dtype_beside_them() -> None:
    x = mg.tensor([1.0, 2.0])
    numbers = (2, 2.0, True, 0.0, -0.0)
    assert {(x * n).dtype.name for n in numbers} | {(n - x).dtype.name for n in numbers} == {"float32"}
    assert mg.where(x > 1.0, x, 0.0).dtype == np.float32
    assert mg.where(x > 1.0, mg.tensor([1, 2]), 0).dtype == np.int64
    assert (mg.tensor([1, 2]) * 2).dtype == np.int64
    assert (mg.tensor([1, 2]) * 0.5).dtype == np.float64
    assert (x * np.float64(2)).dtype == np.float64  # NumPy's numbers are strong
    assert (x * np.float32(2)).dtype == np.float32
    assert np.signbit((x * -0.0).numpy()).all()
    assert not np.signbit((x * 0.0).numpy()).any()
    for n in (float("inf"), float("nan"), 1e300):
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal((mg.tensor(np.ones(2)) * n).numpy(), np.full(2, n))


def test_bfloat16() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="needs ml_dtypes: pip install ml_dtypes")
    x = mg.tensor(np.array([1.0, 2.0], ml_dtypes.bfloat16), requires_grad=True)
    y = (x * 2.0 + 1).sum()
    assert y.dtype == x.dtype
    y.backward()
    assert x.grad is not None
    assert x.grad.dtype == x.dtype
    assert x.grad.astype("float32").tolist() == [2.0, 2.0]


def test_the_library_declares_each_operation_once() -> None:
    assert OPERATIONS == DECLARED
    for operation in DECLARED.values():
        assert operation.forward.__doc__ or operation.name in PRIVATE_WITHOUT_DOCSTRING


PRIVATE_WITHOUT_DOCSTRING = {
    *(
        "reshape",
        "permute_dims",
        "broadcast_to",
        "concat",
        "astype",
        "to_device",
        "matmul",
        "getitem",
        "unindex",
    ),
    *("take_rows", "attention", "self_attention", "linear", "gelu_tanh", "cross_entropy"),
}
