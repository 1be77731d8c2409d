"""Tensors among other libraries' arrays: NumPy's functions, DLPack, einops, copies, threads."""

import copy
import operator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import interop
from minigrad.errors import DeviceError, DTypeError, GraphError, UsageError
from minigrad.testing import arrays, check_gradients
from tests.minigrad.examples import spread

np: Any = numpy  # to a type checker its functions take arrays only


def leaf(*shape: int) -> mg.Tensor:
    return mg.tensor(spread(*shape), requires_grad=True)


# ----- NumPy's universal functions ----------------------------------------------------------------

SMOOTH = ["exp", "expm1", "log1p", "sin", "cos", "tan", "tanh", "sinh", "cosh", "arctan", "arcsinh", "square"]
SMOOTH += ["negative", "reciprocal", "absolute"]
PAIRS = ["add", "subtract", "multiply", "divide", "maximum", "minimum", "hypot", "arctan2", "logaddexp"]


@pytest.mark.parametrize("name", SMOOTH)
def test_a_function_of_numpy_is_recorded(name) -> None:
    f, x = getattr(np, name), spread(2, 3) * 0.4
    result = f(mg.tensor(x, requires_grad=True))
    assert isinstance(result, mg.Tensor)
    assert result.requires_grad
    np.testing.assert_allclose(result.numpy(), f(x), rtol=1e-14)
    check_gradients(f, x)


@pytest.mark.parametrize("name", PAIRS)
def test_a_tensor_may_stand_on_either_side_of_an_array(name) -> None:
    f, x, y = getattr(np, name), spread(2, 3), 1.1 * spread(3)
    for a, b in ((leaf(2, 3), y), (x, mg.tensor(y, requires_grad=True))):
        result = f(a, b)
        assert result.requires_grad
        np.testing.assert_allclose(result.numpy(), f(x, y), rtol=1e-14)
    check_gradients(lambda b: f(x, b), y)


def test_a_nested_list_may_stand_on_the_left_of_a_product() -> None:
    product = [[1.0, 2.0], [0.0, 1.0]] @ leaf(2, 2)
    np.testing.assert_allclose(product.numpy(), np.array([[1, 2], [0, 1]]) @ spread(2, 2))
    assert product.requires_grad


OPERATORS = ["add", "sub", "mul", "truediv", "pow", "matmul", "floordiv", "mod", "lt", "le", "gt", "ge", "eq"]
OPERATORS += ["ne"]


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_are_those_of_numpy_on_both_sides(name) -> None:
    f = getattr(operator, name)
    x, y = spread(2, 2, positive=True), 1.1 * spread(2, 2, positive=True)
    for a, b in ((mg.tensor(x), y), (x, mg.tensor(y)), (mg.tensor(x), mg.tensor(y))):
        result = f(a, b)
        assert isinstance(result, mg.Tensor)
        np.testing.assert_allclose(result.numpy(), f(x, y), rtol=1e-14)
    if name != "matmul":
        for result, expected in ((f(mg.tensor(x), 2), f(x, 2)), (f(2, mg.tensor(x)), f(2, x))):
            assert result.dtype == expected.dtype
            np.testing.assert_allclose(result.numpy(), expected, rtol=1e-14)


def test_operators_of_bits() -> None:
    x, y = np.array([5, 1, 7]), np.array([3, 1, 2])
    a, b = mg.tensor(x), mg.tensor(y)
    for found, expected in [
        (a & b, x & y),
        (a | 8, x | 8),
        (1 ^ a, 1 ^ x),
        (12 & a, 12 & x),
        (8 | a, 8 | x),
        (a ^ b, x ^ y),
        (a << b, x << y),
        (a >> 1, x >> 1),
        (~a, ~x),
        (~(a > 2) & (a > 0), ~(x > 2) & (x > 0)),
        (x & b, x & y),
    ]:
        np.testing.assert_array_equal(found.numpy(), expected)
        assert found.dtype == expected.dtype
    with pytest.raises(DTypeError, match="bitwise_and works on integers or booleans, got float64"):
        leaf(2) & leaf(2)
    with pytest.raises(DTypeError, match="bitwise_left_shift works on integers, got bool"):
        mg.tensor(True) << mg.tensor(True)


def test_reductions_of_universal_functions() -> None:
    x = spread(2, 3)
    for f in (np.add, np.multiply, np.maximum, np.minimum):
        np.testing.assert_allclose(f.reduce(leaf(2, 3)).numpy(), f.reduce(x), rtol=1e-14)
        check_gradients(lambda a, f=f: f.reduce(a, axis=1, keepdims=True), x)
    with pytest.raises(GraphError, match=r"numpy\.hypot\.reduce with these arguments has no counterpart"):
        np.hypot.reduce(leaf(2, 3))
    with pytest.raises(GraphError, match=r"numpy\.add\.accumulate"):
        np.add.accumulate(leaf(2, 3))
    np.testing.assert_array_equal(np.add.accumulate(leaf(3).detach()), np.add.accumulate(spread(3)))


def test_what_numpy_writes_into_its_own_array() -> None:
    array = np.ones((2, 2))
    array += mg.ones((2, 2), dtype="float64")
    np.testing.assert_array_equal(array, 2 * np.ones((2, 2)))
    for write in (
        lambda: operator.iadd(array, leaf(2, 2)),
        lambda: np.add(array, array, out=mg.zeros((2, 2))),
        lambda: np.frexp(array, out=(leaf(2, 2), mg.zeros((2, 2)))),
    ):
        with pytest.raises(GraphError, match="asked to write in place"):
            write()
    np.testing.assert_array_equal(array, 2 * np.ones((2, 2)))


def test_what_numpy_alone_can_do_is_done_on_values_or_refused() -> None:
    x = leaf(4)
    for f, name in [
        (np.spacing, "spacing"),
        (np.histogram, "histogram"),
        (np.median, "median"),
        (np.fft.rfft, "fft.rfft"),
        (lambda x: np.sum(x, dtype="float32"), "sum"),
        (lambda x: np.exp(x, dtype="float32"), "exp"),
        (lambda x: np.linalg.lstsq(x, x), "linalg.lstsq"),
        (lambda x: np.select([True], [x]), "select"),
    ]:
        with pytest.raises(GraphError, match=f"numpy.{name} with these arguments has no counterpart.*detach"):
            f(x)
    constant = x.detach()
    np.testing.assert_array_equal(np.histogram(constant)[0], np.histogram(x.data)[0])
    assert np.median(constant) == np.median(x.data)
    with mg.no_grad():
        assert np.ptp(x) == np.ptp(x.data)
    with pytest.raises(DTypeError, match="no values"):
        np.spacing(mg.ones(2, device="shapes"))


def test_questions_are_answered_with_a_graph_too() -> None:
    x = leaf(2, 3)
    assert np.allclose(x, x.data)
    assert np.array_equal(x, x.data)
    assert (np.shape(x), np.ndim(x), np.size(x)) == ((2, 3), 2, 6)
    assert "0." in np.array_repr(x)


# ----- NumPy's other functions --------------------------------------------------------------------

X, SQUARE = spread(2, 3), spread(3, 3) + 2 * np.eye(3)
FUNCTIONS: dict[str, Any] = {
    "sum": lambda x: np.sum(x, axis=0),
    "mean": lambda x: np.mean(x, 1, keepdims=True),
    "prod": np.prod,
    "max": lambda x: np.max(x, axis=(0, 1)),
    "amin": lambda x: np.amin(x, axis=0),
    "var": lambda x: np.var(x, axis=1, ddof=1),
    "std": np.std,
    "cumsum": np.cumsum,
    "cumprod": lambda x: np.cumprod(x, axis=1),
    "concatenate": lambda x: np.concatenate([x, np.ones((1, 3)), x]),
    "stack": lambda x: np.stack((x, x), axis=-1),
    "where": lambda x: np.where(x > 0, x, 0.5),
    "clip": lambda x: np.clip(x, -1.0, 1.0),
    "clip of one side": lambda x: np.clip(x, 0.0, None),
    "reshape": lambda x: np.reshape(x, (3, 2)),
    "ravel": np.ravel,
    "transpose": np.transpose,
    "swapaxes": lambda x: np.swapaxes(x, 0, 1),
    "moveaxis": lambda x: np.moveaxis(x, 0, -1),
    "expand_dims": lambda x: np.expand_dims(x, 1),
    "squeeze": lambda x: np.squeeze(x[:, :1], 1),
    "broadcast_to": lambda x: np.broadcast_to(x, (2, 2, 3)),
    "broadcast_arrays": lambda x: np.broadcast_arrays(x, x[0])[1],
    "tile": lambda x: np.tile(x, (2, 1)),
    "tile once": lambda x: np.tile(x, 2),
    "repeat": lambda x: np.repeat(x, 2, axis=0),
    "roll": lambda x: np.roll(x, 1, axis=1),
    "flip": lambda x: np.flip(x, 0),
    "tril": np.tril,
    "triu": lambda x: np.triu(x, 1),
    "diagonal": lambda x: np.diagonal(x, 1),
    "diag": lambda x: np.diag(x[0], 1),
    "trace": np.trace,
    "take": lambda x: np.take(x, np.array([0, 4, 4])),
    "take on an axis": lambda x: np.take(x, np.array([2, 0]), axis=1),
    "take_along_axis": lambda x: np.take_along_axis(x, np.array([[0], [2]]), axis=1),
    "sort": np.sort,
    "split": lambda x: np.split(x, 3, axis=1)[1],
    "outer": lambda x: np.outer(x, x),
    "kron": lambda x: np.kron(x, x),
    "dot": lambda x: np.dot(x, np.ones((3, 2))),
    "dot of vectors": lambda x: np.dot(x[0], x[1]),
    "dot with a number": lambda x: np.dot(x, 2.0),
    "dot of stacks": lambda x: np.dot(x, np.ones((2, 3, 2))),
    "tensordot": lambda x: np.tensordot(x, x, axes=((0,), (0,))),
    "einsum": lambda x: np.einsum("ij,kj->ik", x, x),
    "matmul": lambda x: np.matmul(x, np.ones((3, 2))),
    "copy": np.copy,
    "norm": np.linalg.norm,
    "norm of vectors": lambda x: np.linalg.norm(x, ord=1, axis=1),
    "norm of matrices": lambda x: np.linalg.norm(x, np.inf, keepdims=True),
    "linalg.vector_norm": lambda x: np.linalg.vector_norm(x, axis=0),
    "linalg.trace": lambda x: np.linalg.trace(x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_numpy_are_minigrads(name) -> None:
    f = FUNCTIONS[name]
    result = f(leaf(2, 3))
    assert isinstance(result, mg.Tensor)
    assert result.requires_grad
    np.testing.assert_allclose(result.numpy(), f(X), rtol=1e-13)
    check_gradients(f, X, order=1)


def test_linear_algebra_of_numpy() -> None:
    for f in (
        np.linalg.inv,
        np.linalg.det,
        lambda x: np.linalg.solve(x, np.ones(3)),
        lambda x: np.linalg.cholesky(x @ x.T),
        lambda x: np.linalg.matrix_power(x, 3),
        lambda x: np.linalg.slogdet(x)[1],
        lambda x: np.linalg.eigvalsh(x + x.T),
        np.linalg.pinv,
    ):
        result = f(mg.tensor(SQUARE, requires_grad=True))
        assert result.requires_grad
        np.testing.assert_allclose(result.numpy(), f(SQUARE), rtol=1e-12)


def test_functions_without_a_derivative() -> None:
    x = leaf(2, 3)
    for found, expected in [
        (np.argmax(x, axis=1), np.argmax(X, axis=1)),
        (np.argsort(x), np.argsort(X)),
        (np.any(x > 1), np.any(X > 1)),
        (np.count_nonzero(x), np.count_nonzero(X)),
        (np.zeros_like(x), np.zeros_like(X)),
        (np.ones_like(x, dtype="int8"), np.ones_like(X, dtype="int8")),
        (np.full_like(x, 7), np.full_like(X, 7)),
        (np.nonzero(x > 0)[1], np.nonzero(X > 0)[1]),
        (np.round(x), np.round(X)),
        (np.rint(x), np.rint(X)),
        (np.searchsorted(np.sort(x[0]), 0.5), np.searchsorted(np.sort(X[0]), 0.5)),
        (np.astype(x, np.dtype("int64")), X.astype("int64")),
    ]:
        assert isinstance(found, mg.Tensor)
        assert found.dtype == np.asarray(expected).dtype
        np.testing.assert_array_equal(found.numpy(), expected)
    assert np.empty_like(x).shape == (2, 3)


def test_every_adapted_function_exists() -> None:
    for name in interop._adapted():
        module = np.linalg if name.startswith("linalg.") else np
        assert hasattr(module, name.rpartition(".")[2]), name
    for name, own in interop.UFUNCS.items():
        assert hasattr(np, name)
        assert hasattr(mg, own)


# ----- DLPack -------------------------------------------------------------------------------------


class Foreign:
    """An array of another library that can do nothing but hand itself over."""

    def __init__(self, array: numpy.ndarray, device: tuple[int, int] = (1, 0)) -> None:
        self.array, self.device = array, device

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device


@given(arrays((2, 3)), st.sampled_from(["float32", "float64", "int64", "uint8"]))
def test_dlpack_both_ways(values, dtype) -> None:
    array = values.astype(dtype)
    x = mg.from_dlpack(Foreign(array))
    assert np.shares_memory(x.data, array)
    assert x.dtype == array.dtype
    back = np.from_dlpack(x)
    assert np.shares_memory(back, array)
    copied = mg.from_dlpack(Foreign(array), copy=True)
    assert not np.shares_memory(copied.data, array)
    np.testing.assert_array_equal(copied.numpy(), array)
    assert mg.from_dlpack(x).data is x.data


def test_dlpack_with_torch() -> None:
    torch = pytest.importorskip("torch")
    x = mg.tensor(spread(2, 3))
    theirs = torch.from_dlpack(x)
    theirs[0, 0] = 7.0
    assert x[0, 0].item() == 7.0
    np.testing.assert_array_equal(mg.from_dlpack(theirs).numpy(), x.numpy())
    with pytest.raises(DTypeError, match=r"from_dlpack: Tensor cannot be handed over: .*require"):
        mg.from_dlpack(torch.ones(2, requires_grad=True))


def test_dlpack_is_refused_by_name() -> None:
    x = leaf(2)
    with pytest.raises(GraphError, match=r"requires a gradient cannot be handed over.*x.detach\(\)"):
        np.from_dlpack(x)
    with pytest.raises(GraphError, match="cannot be handed over"):
        (x * 2.0).__dlpack__()
    assert x.__dlpack_device__() == (1, 0)
    with pytest.raises(DeviceError, match="an array on shapes holds nothing"):
        mg.from_dlpack(mg.ones(2, device="shapes"))
    with pytest.raises(DTypeError, match="list has no __dlpack__"):
        mg.from_dlpack([1.0])
    with pytest.raises(DeviceError, match="device type 8 of DLPack is neither"):
        mg.from_dlpack(Foreign(np.ones(2), (8, 0)))


# ----- The array API's namespace ------------------------------------------------------------------


def test_the_namespace_is_minigrad() -> None:
    assert leaf(2).__array_namespace__() is mg
    assert leaf(2).__array_namespace__(api_version="2023.12") is mg
    with pytest.raises(UsageError, match=r"array API version '1999\.12' is unknown"):
        leaf(2).__array_namespace__(api_version="1999.12")


LEFT_OUT = "fft complex64 complex128 conj imag real "
LEFT_OUT += "Device set_array_api_strict_flags get_array_api_strict_flags "
LEFT_OUT += "reset_array_api_strict_flags ArrayAPIStrictFlags __array_namespace_info__ __array_api_version__"


def test_the_namespace_has_the_names_of_the_standard() -> None:
    standard = pytest.importorskip("array_api_strict")
    missing = {name for name in standard.__all__ if not hasattr(mg, name)}
    assert missing == set(LEFT_OUT.split())


def test_einops_runs_on_tensors() -> None:
    einops: Any = pytest.importorskip("einops")
    einops_array_api: Any = pytest.importorskip("einops.array_api")
    x = spread(2, 6, 4)
    for pattern, sizes in [
        ("b (h w) c -> b h w c", {"h": 2}),
        ("b t c -> (b t) c", {}),
        ("b t c -> c t b", {}),
    ]:
        result = einops_array_api.rearrange(mg.tensor(x, requires_grad=True), pattern, **sizes)
        assert result.requires_grad
        np.testing.assert_array_equal(result.numpy(), einops.rearrange(x, pattern, **sizes))
    for how in ("sum", "mean", "max", "min", "prod"):
        result = einops_array_api.reduce(mg.tensor(x), "b (t n) c -> b t c", how, n=2)
        np.testing.assert_allclose(
            result.numpy(), einops.reduce(x, "b (t n) c -> b t c", how, n=2), rtol=1e-14
        )
    check_gradients(lambda x: einops_array_api.repeat(x, "b t c -> b (t r) c", r=2), x, order=1)
    check_gradients(lambda x: einops_array_api.reduce(x, "b (t n) c -> b t", "mean", n=2), x, order=1)
    together: Any
    together, shapes = einops_array_api.pack([leaf(2, 3), leaf(2, 2, 2)], "b *")
    assert together.shape == (2, 7)
    parts = einops_array_api.unpack(together, shapes, "b *")
    assert [part.shape for part in parts] == [(2, 3), (2, 2, 2)]


# ----- Copies and threads -------------------------------------------------------------------------


def test_copies_are_independent() -> None:  # (more of them in test_tensor.py)
    x = leaf(3)
    deep = copy.deepcopy(x)
    deep.assign(deep.data * 0.0)
    np.testing.assert_array_equal(x.numpy(), spread(3))


def test_tensors_are_read_by_many_threads() -> None:
    w = leaf(8, 8)
    expected = mg.grad(lambda w: (mg.tanh(w) @ w).sum())(w).numpy()

    def work(_: int) -> numpy.ndarray:
        return np.asarray(mg.grad(lambda w: np.sum(np.tanh(w) @ w))(w).detach())

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(work, range(16)):
            np.testing.assert_array_equal(found, expected)
