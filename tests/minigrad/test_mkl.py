"""Products by another BLAS than NumPy's: the same values, however the matrices lie in memory."""

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import metadata
from typing import Any

import numpy as np
import pytest
import threadpoolctl
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import backend_mkl
from minigrad.backend import host
from minigrad.backend_mkl import Products
from minigrad.errors import UsageError

# NumPy's own BLAS by the names that its builds give it, so that the calls are tested without MKL as well.
NAMES = (
    ("scipy_cblas_{}64_", ctypes.c_int64),
    ("cblas_{}64_", ctypes.c_int64),
    ("cblas_{}", ctypes.c_int),
)


class OneByOne:
    """NumPy's BLAS with batches made of single products: OpenBLAS 0.3.31 ends in a segmentation fault where
    the matrices of a batch are small (mended in its pull request 5980).
    """

    def __init__(self, library: Any, name: str) -> None:
        for letter in "sd":
            one = getattr(library, name.format(f"{letter}gemm"))
            setattr(self, name.format(f"{letter}gemm"), one)
            setattr(self, name.format(f"{letter}gemm_batch"), self.batch(one))

    @staticmethod
    def batch(one: Any) -> Callable[..., None]:
        def many(order: int, *rest: Any) -> None:
            *given, groups, count = rest
            assert groups == 1
            for n in range(count._obj.value):
                # a list of addresses is given by its own, and a number by a reference to it
                one(
                    order,
                    *(
                        ctypes.c_void_p.from_address(value + 8 * n).value
                        if isinstance(value, int)
                        else value._obj.value
                        for value in given
                    ),
                )

        return many


def libraries() -> list[Callable[..., Products]]:
    found: list[Callable[..., Products]] = []
    for pool in threadpoolctl.threadpool_info():
        if pool["user_api"] == "blas" and "numpy" in pool["filepath"]:
            library = ctypes.CDLL(pool["filepath"])
            known = [pair for pair in NAMES if hasattr(library, pair[0].format("sgemm"))]
            found += [
                lambda pair=pair, library=library, **more: Products(
                    OneByOne(library, pair[0]), name=pair[0], integer=pair[1], **more
                )
                for pair in known[:1]
            ]
    if backend_mkl.where() is not None:
        found.append(lambda **more: Products(backend_mkl.load(), **more))
    return found


LIBRARIES = libraries()
needs_library = pytest.mark.skipif(
    not LIBRARIES, reason="neither MKL (pip install 'minigrad[mkl]') nor the BLAS of NumPy's wheels is here"
)
needs_mkl = pytest.mark.skipif(
    backend_mkl.where() is None, reason="MKL is not here: pip install 'minigrad[mkl]'"
)


@st.composite
def matrices(draw: st.DrawFn, rows: int, columns: int, dtype: str) -> np.ndarray:
    """A matrix that lies in memory in some way: transposed, a part of another, backwards, broadcast."""
    steps = draw(st.sampled_from([(1, 1), (2, 1), (1, 2), (-1, 1), (1, -1), (0, 1), (1, 0)]))
    around = (rows * max(1, abs(steps[0])) + 1, columns * max(1, abs(steps[1])) + 2)
    values = np.random.default_rng(rows * 31 + columns).normal(size=around).astype(dtype)
    if draw(st.booleans()):
        values = np.asfortranarray(values)
    if 0 in steps:
        one = values[:1, :columns] if steps[0] == 0 else values[:rows, :1]
        return np.broadcast_to(one, (rows, columns))
    return values[:: steps[0], :: steps[1]][:rows, :columns]


class Counted:
    """`numpy.matmul`, counting how often it was asked instead of the library."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Any, y: Any, *, out: Any = None) -> Any:
        self.calls += 1
        return np.matmul(x, y, out=out)


def assert_multiplies(products: Products, x: np.ndarray, y: np.ndarray, place: np.ndarray | None) -> None:
    """Make and add a product as if it were large."""
    close = partial(np.testing.assert_allclose, rtol=1e-4 if x.dtype == "float32" else 1e-12, atol=1e-5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend_mkl, "SMALL", 0)
        patch.setattr(backend_mkl, "NARROW", 2)
        found = products.matmul(x, y, out=place)
        assert place is None or found is place
        assert found.dtype == x.dtype
        close(found, np.matmul(x, y))
        products.add_matmul(x, y, found)
        close(found, 2 * np.matmul(x, y))


@needs_library
@pytest.mark.parametrize("make", LIBRARIES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(data=st.data())
def test_the_same_values_however_they_lie(make, dtype, data):
    rows, inner, columns = (data.draw(st.integers(1, 9)) for _ in range(3))
    x, y = data.draw(matrices(rows, inner, dtype)), data.draw(matrices(inner, columns, dtype))
    place = None
    if data.draw(st.booleans()):
        place = np.full((rows, 2 * columns), np.nan, dtype)[:, :columns]
        place = np.asfortranarray(place) if data.draw(st.booleans()) else place
    assert_multiplies(make(), x, y, place)


@st.composite
def stacks(draw: st.DrawFn, shape: tuple[int, ...], dtype: str, *ways: str) -> np.ndarray:
    """A stack of matrices as attention takes them out of one array: its axes lie in memory in any order."""
    order = draw(st.permutations(range(len(shape))))
    around = [shape[axis] for axis in order]
    around[-1] *= draw(st.sampled_from([1, 2]))
    values = np.random.default_rng(len(ways)).normal(size=around).astype(dtype)
    found = values[..., : shape[order[-1]]].transpose(np.argsort(order))
    how = draw(st.sampled_from(["plain", *ways]))
    return {"backwards": found[::-1], "repeated": np.broadcast_to(found[:1], shape)}.get(how, found)


@needs_library
@pytest.mark.parametrize("make", LIBRARIES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(data=st.data())
def test_the_same_values_of_stacks_however_they_lie(make, dtype, data):
    lead = tuple(data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)))
    rows, inner, columns = (data.draw(st.integers(1, 9)) for _ in range(3))
    x = data.draw(stacks((*lead, rows, inner), dtype, "backwards", "repeated"))
    y = data.draw(stacks((*lead, inner, columns), dtype, "backwards", "repeated"))
    place = data.draw(st.none() | stacks((*lead, rows, columns), dtype, "backwards"))
    assert_multiplies(make(), x, y, place)


@needs_library
@pytest.mark.parametrize("make", LIBRARIES)
def test_who_multiplies_stacks(make):
    numpys = Counted()
    products = make(otherwise=numpys)
    packed = np.random.default_rng(0).normal(size=(4, 64, 3, 8, 32)).astype("float32")
    q, k, v = packed.transpose(2, 0, 3, 1, 4)  # (4, 8, 64, 32) each, as attention takes them
    scores = q @ k.mT
    result = np.empty((4, 64, 8, 32), "float32").transpose(0, 2, 1, 3)
    np.testing.assert_allclose(products.matmul(q, k.mT), scores, rtol=1e-4, atol=1e-4)
    assert products.matmul(scores, v, out=result) is result
    np.testing.assert_allclose(result, scores @ v, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(products.matmul(scores.mT, v), scores.mT @ v, rtol=1e-4, atol=1e-4)
    products.add_matmul(scores, v, result)
    np.testing.assert_allclose(result, 2 * scores @ v, rtol=1e-4, atol=1e-4)
    assert numpys.calls == 0
    others = [
        (q[:1, :1], k[:1, :1].mT),  # small
        (q[..., :8], k[..., :8].mT),  # narrow
        (q[:1], k.mT),  # repeated for all of the other stack
        (q[..., ::2], k[..., ::2].mT),
        (q, k.mT.astype("float64")),
        (q.astype("float16"), k.mT.astype("float16")),
    ]
    for count, (left, right) in enumerate(others, start=1):
        np.testing.assert_array_equal(products.matmul(left, right), np.matmul(left, right))
        assert numpys.calls == count, (left.shape, left.strides)
    with pytest.raises(ValueError, match="mismatch"):
        products.matmul(q, k)
    result.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        products.matmul(scores, v, out=result)
    with pytest.raises(ValueError, match="read-only"):
        products.add_matmul(scores, v, result)


@needs_library
@pytest.mark.parametrize("make", LIBRARIES)
def test_threads_multiply_their_own_stacks(make):
    products = make()
    stacked = [np.random.default_rng(n).normal(size=(8, 64, 64)) for n in range(4)]

    def often(x: np.ndarray) -> bool:
        expected = products.matmul(x, x)
        return all(np.array_equal(products.matmul(x, x), expected) for _ in range(50))

    with ThreadPoolExecutor(len(stacked)) as pool:
        assert all(pool.map(often, stacked))
    for x in stacked:
        np.testing.assert_allclose(products.matmul(x, x), x @ x, rtol=1e-12, atol=1e-12)


@needs_library
@pytest.mark.parametrize("make", LIBRARIES)
def test_who_multiplies(make):
    numpys = Counted()
    products = make(otherwise=numpys)
    x = np.random.default_rng(0).normal(size=(256, 144)).astype("float32")
    for left, right in ((x, x.T), (x.T, x), (x[:, :120], x[:120]), (x[::2], x.T)):
        np.testing.assert_allclose(products.matmul(left, right), left @ right, rtol=1e-4, atol=1e-4)
    assert numpys.calls == 0
    stacked = np.stack([x, x])
    numbers = np.ones((160, 160), "int64")
    others = [
        (x[:4], x.T),  # small
        (stacked, x.T),
        (numbers, numbers),
        (x.astype("float16"), x.T.astype("float16")),
        (x, x.T.astype("float64")),
        (x[:, ::2], x[:, ::2].T),
        (x[::-1], x.T),
        (x, x[0]),
        (x[:1], x.T),
    ]
    for count, (left, right) in enumerate(others, start=1):
        np.testing.assert_array_equal(products.matmul(left, right), np.matmul(left, right))
        assert numpys.calls == count, (left.shape, left.strides)
    with pytest.raises(ValueError, match="mismatch"):
        products.matmul(x, x)
    with pytest.raises(TypeError):
        products.matmul(x, mg.zeros(x.T.shape, dtype="float32", device="shapes").data)
    place = np.zeros((256, 256), "float32")
    place.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        products.matmul(x, x.T, out=place)
    assert not place.any()


@needs_mkl
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(st.integers(0, 200), st.integers(0, 200), st.floats(-2, 2), st.floats(-2, 2))
def test_an_entry_is_added_alike_in_any_array(dtype, start, length, a, b):
    axpby = backend_mkl.adding(backend_mkl.load(), otherwise=host.axpby)
    x, y, space = (np.random.default_rng(n).normal(size=400).astype(dtype) for n in range(3))
    whole, part = y.copy(), y.copy()
    axpby(a, x, b, whole, space)
    np.testing.assert_allclose(whole, a * x + b * y, rtol=1e-5, atol=1e-5)
    stop = start + length
    axpby(a, x[start:stop], b, part[start:stop], space[start:stop])
    np.testing.assert_array_equal(part[start:stop], whole[start:stop])
    np.testing.assert_array_equal(part[stop:], y[stop:])


@needs_mkl
def test_what_is_added_by_numpy():
    asked = []

    def by_numpy(*arguments: Any) -> None:
        asked.append(arguments)
        host.axpby(*arguments)

    axpby = backend_mkl.adding(backend_mkl.load(), otherwise=by_numpy)
    x, y = np.arange(8.0), np.ones(8)
    for left, right in ((x[::2], y[:4]), (x[:4], y[::2]), (x.astype("float32"), y), (x > 3, y)):
        expected = 2 * left + 3 * right
        axpby(2.0, left, 3.0, right, np.empty_like(right))
        np.testing.assert_array_equal(right, expected)
    assert len(asked) == 4
    with pytest.raises(ValueError, match="broadcast"):
        axpby(1.0, x, 1.0, y[:3], np.empty(3))
    y.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        axpby(1.0, x, 1.0, y, np.empty(8))


@needs_mkl
def test_gradients_with_mkl_and_without():
    def gradient() -> np.ndarray:
        x = mg.tensor(np.random.default_rng(0).normal(size=(160, 160)), requires_grad=True)
        (mg.tanh(x @ x) @ x).sum().backward()
        assert x.grad is not None
        return x.grad.numpy()

    expected = gradient()
    assert not backend_mkl.in_use()
    mg.use_mkl()
    try:
        mg.use_mkl()  # again changes nothing
        assert isinstance(getattr(host.matmul, "__self__", None), Products)
        found = gradient()
    finally:
        mg.use_mkl(False)
    assert not backend_mkl.in_use()
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)
    np.testing.assert_array_equal(gradient(), expected)


def test_where_it_is_not_installed(monkeypatch):
    def missing(name: str) -> Any:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "files", missing)
    assert backend_mkl.where() is None
    monkeypatch.setattr(host, "matmul", host.matmul, raising=False)
    monkeypatch.delattr(host, "matmul")
    with pytest.raises(UsageError, match=r"MKL is not installed here.*: pip install 'minigrad\[mkl\]'"):
        mg.use_mkl()
    mg.use_mkl(False)  # there is nothing to undo
    assert not backend_mkl.in_use()
