"""Compiled kernels, and sums into tables: against the primitives that define them, at any shape and dtype."""

from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import backend, backend_cupy

SAME_FIXTURE = settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
TOLERANCES = {"float16": 2e-2, "float32": 1e-5, "float64": 1e-12}

PATHS: dict[str, tuple[set[str], Callable[[mg.Tensor], mg.Tensor]]] = {
    "gelu": ({"gelu", "gelu_pull"}, mg.gelu),
    "gelu by tanh": ({"gelu_tanh", "gelu_tanh_pull"}, lambda x: mg.gelu(x, approximate="tanh")),
    "layer norm": (
        {"scaled", "layer_norm_terms", "layer_norm_pull"},
        lambda x: mg.layer_norm(x, line(x, 0.5, 2.0), line(x, -1.0, 1.0)),
    ),
    "layer norm, bare": (
        {"scaled", "layer_norm_terms", "layer_norm_pull"},
        lambda x: mg.layer_norm(x, None, None),
    ),
    "cross-entropy": (
        {"softmax_pull"},
        lambda x: mg.cross_entropy(x, labels(x), reduction="none"),
    ),
    "cross-entropy, summed": ({"softmax_pull"}, lambda x: mg.cross_entropy(x, labels(x), reduction="sum")),
}
"""Fused operations, and the kernels that one forward and backward walk of each must call."""


def labels(x: mg.Tensor) -> mg.Tensor:
    numbers = np.arange(len(x)) * 3 % x.shape[1]
    numbers[::4] = -100  # ignored
    return mg.tensor(numbers, device=x.device)


def line(x: mg.Tensor, start: float, stop: float) -> mg.Tensor:
    return mg.linspace(start, stop, x.shape[1], dtype=x.dtype, device=x.device)


def walked(
    f: Callable[[mg.Tensor], mg.Tensor], x: np.ndarray, device: str, *, fused: bool
) -> list[np.ndarray]:
    """The result and the gradient, with fast paths or without."""
    t = mg.tensor(x, device=device, requires_grad=True)
    with mg.fused_operations(fused):
        y = f(t)
    y.backward(mg.tensor(np.cos(np.arange(y.size)).reshape(y.shape).astype(x.dtype), device=device))
    assert t.grad is not None
    assert (y.dtype, t.grad.dtype) == (x.dtype, x.dtype)
    return [y.numpy(), t.grad.numpy()]


def calls(kernels: Any) -> tuple[Any, set[str]]:
    """The compiled kernels, noting the names of those that are called."""
    seen: set[str] = set()

    def noting(name: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arrays: Any) -> Any:
            seen.add(name)
            return kernel(*arrays)

        return called

    made = {name: noting(name, kernel) for name, kernel in kernels._made.items()}
    patched = mock.patch.object(backend.gpu(), "kernels", backend_cupy.Kernels.__new__(backend_cupy.Kernels))
    return (patched, made), seen


def test_every_kernel_is_some_paths():
    named = set().union(*(kernels for kernels, _ in PATHS.values()))
    assert named | {"segment_sum"} == set(backend_cupy.KERNELS)  # that one: scatter-adds, below


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("name", PATHS)
def test_a_kernel_is_its_composition(name: str, dtype: str, device: str):
    expected_kernels, f = PATHS[name]
    (patched, made), seen = calls(backend.gpu().kernels)

    @SAME_FIXTURE
    @given(st.integers(0, 7), st.integers(3, 9), st.integers(0, 1000), st.booleans())
    def holds(rows: int, columns: int, seed: int, transposed: bool) -> None:
        x = np.random.default_rng(seed).normal(size=(rows, columns)).astype(dtype) * 3
        if transposed:
            x = np.asfortranarray(x)
        fast, plain = (walked(f, x, device, fused=fused) for fused in (True, False))
        for a, b in zip(fast, plain, strict=True):
            np.testing.assert_allclose(a, b, rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype])

    with patched as kernels:
        kernels._made = made
        holds()
    assert seen == expected_kernels


@pytest.fixture
def small_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every table is as a large one: no product with a 0/1 matrix."""
    monkeypatch.setattr(backend_cupy, "ONE_HOT_UP_TO", 0)


def rows_added(values: np.ndarray, indices: np.ndarray, rows: int) -> np.ndarray:
    """One after the other, in the order of i, in the dtype of `values`."""
    out = np.zeros((rows, values.shape[1]), values.dtype)
    for value, index in zip(values, indices, strict=True):
        out[index] += value
    return out


drawn_tables = given(
    st.integers(0, 40),
    st.integers(1, 5),
    st.integers(1, 9),
    st.sampled_from(["float32", "float64"]),
    st.randoms(),
)


def drawn(count: int, width: int, rows: int, dtype: str, random: Any) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(random.randrange(1000))
    return generator.normal(size=(count, width)).astype(dtype), generator.integers(-rows, rows, size=count)


def test_deterministic_sums_are_those_in_order_to_the_bit(device: str, small_tables: None):
    xp = backend.gpu()
    mg.use_deterministic()
    try:

        @SAME_FIXTURE
        @drawn_tables
        def holds(count: int, width: int, rows: int, dtype: str, random: Any) -> None:
            values, indices = drawn(count, width, rows, dtype, random)
            found = xp.scatter_add(xp.from_host(values), xp.from_host(indices), rows)
            np.testing.assert_array_equal(xp.to_host(found), rows_added(values, indices, rows))
            column = values[:, :1].copy()
            one = xp.add_at(xp.from_host(column), xp.from_host(indices % rows), rows)
            np.testing.assert_array_equal(xp.to_host(one), rows_added(column, indices % rows, rows))

        holds()
    finally:
        mg.use_deterministic(False)


@pytest.mark.parametrize(("one_hot", "entries"), [(0, 1), (4096, 1 << 24), (4096, 20)])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_sums_into_tables_of_any_size(
    one_hot: int, entries: int, device: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(backend_cupy, "ONE_HOT_UP_TO", one_hot)
    monkeypatch.setattr(backend_cupy, "ONE_HOT_ENTRIES", entries)
    xp = backend.gpu()

    @SAME_FIXTURE
    @drawn_tables
    def holds(count: int, width: int, rows: int, dtype: str, random: Any) -> None:
        values, indices = drawn(count, width, rows, dtype, random)
        for place in range(0, values.size, 7):  # what is not finite stays in its place
            values.reshape(-1)[place] = [np.inf, -np.inf, np.nan][random.randrange(3)]
        found = xp.scatter_add(xp.from_host(values), xp.from_host(indices), rows)
        expected = rows_added(values.astype("float64"), indices, rows)
        np.testing.assert_allclose(xp.to_host(found), expected, rtol=1e-5, atol=1e-5)

    holds()


@pytest.mark.parametrize("deterministic", [False, True])
def test_the_gradient_of_an_embedding(deterministic: bool, device: str, small_tables: None):
    from minigrad import nn

    tokens, table = np.array([[0, 3, 3], [4, 0, 3]]), np.random.default_rng(0).normal(size=(5, 4))
    grads = []
    mg.use_deterministic(deterministic)
    try:
        for place in ("cpu", device):
            weight = mg.tensor(table, device=place, requires_grad=True)
            mg.sum(mg.sin(nn.functional.embedding(mg.tensor(tokens, device=place), weight))).backward()
            assert weight.grad is not None
            grads.append(weight.grad.numpy())
    finally:
        mg.use_deterministic(False)
    np.testing.assert_allclose(grads[1], grads[0], rtol=1e-12)


@pytest.mark.parametrize("deterministic", [False, True])
def test_half_precision_is_summed_in_single(deterministic: bool, device: str, small_tables: None):
    xp, values = backend.gpu(), np.full((3000, 1), 1.0, np.float16)  # 2048 + 1 is 2048 in half precision
    mg.use_deterministic(deterministic)
    try:
        found = xp.scatter_add(xp.from_host(values), xp.from_host(np.zeros(3000, np.int64)), 2)
    finally:
        mg.use_deterministic(False)
    assert xp.to_host(found).tolist() == [[3000.0], [0.0]]
    assert found.dtype == np.float16


@pytest.mark.parametrize("index", [([0, 2, 0],), (slice(None), [1, 1]), ([3, 0, 3], None, [1, 1, 1]), "mask"])
def test_deterministic_gradients_of_reading_by_index(index: Any, device: str):
    x = np.random.default_rng(0).normal(size=(4, 3))
    parts = (x > 0,) if index == "mask" else index
    (patched, made), seen = calls(backend.gpu().kernels)
    mg.use_deterministic()
    try:
        with patched as kernels:
            kernels._made = made
            grads = []
            for place in ("cpu", device):
                leaf = mg.tensor(x, device=place, requires_grad=True)
                own = tuple(
                    mg.tensor(part, device=place) if isinstance(part, (list, np.ndarray)) else part
                    for part in parts
                )
                mg.sum(mg.sin(leaf[own])).backward()
                assert leaf.grad is not None
                grads.append(leaf.grad.numpy())
    finally:
        mg.use_deterministic(False)
    np.testing.assert_allclose(grads[1], grads[0], rtol=1e-12)
    assert seen == {"segment_sum"}


def test_many_runs_give_the_same_bits(real_gpu: None, device: str, small_tables: None):
    xp = backend.gpu()
    generator = np.random.default_rng(0)
    values = xp.from_host(generator.normal(size=(100_000, 8)).astype("float32"))
    indices = xp.from_host(generator.integers(0, 50, size=100_000))
    mg.use_deterministic()
    try:
        first, *others = (xp.to_host(xp.scatter_add(values, indices, 50)) for _ in range(5))
    finally:
        mg.use_deterministic(False)
    for other in others:
        np.testing.assert_array_equal(other, first)
