"""Data types: what can be made, what is promoted to what, and what is refused."""

import inspect
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad.errors import DTypeError, ShapeError, UnsupportedError, UsageError
from tests.minigrad.examples import spread


def leaf(*shape: int) -> mg.Tensor:
    return mg.tensor(spread(*shape), requires_grad=True)


IMAGINARY: Any = 1j


# ----- Complex numbers ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "enter",
    [
        lambda: mg.tensor(1j),
        lambda: mg.tensor([1.0, 2j]),
        lambda: mg.tensor(np.ones(2, complex)),
        lambda: mg.tensor(1.0, dtype="complex64"),
        lambda: mg.tensor([1.0], dtype=complex),
        lambda: mg.asarray(np.ones(1, "complex64")),
        lambda: mg.zeros(2, dtype="complex128"),
        lambda: mg.full(2, IMAGINARY),
        lambda: mg.full(2, 1.0, dtype=complex),
        lambda: mg.arange(3, dtype=complex),
        lambda: mg.linspace(0.0, IMAGINARY, 3),
        lambda: mg.eye(3, 4, dtype=complex),
        lambda: mg.zeros_like(leaf(2), dtype=complex),
        lambda: mg.full_like(leaf(2), IMAGINARY),
        lambda: leaf(2).astype("complex64"),
        lambda: mg.astype(leaf(2), complex),
        lambda: leaf(2) * 1j,
        lambda: 1j + leaf(2),
        lambda: leaf(2) + np.ones(2, complex),
        lambda: np.ones(2, complex) * leaf(2),
        lambda: leaf(2) == 1j,
        lambda: mg.where(leaf(2) > 0, leaf(2), 1j),
        lambda: leaf(2).at[0].set(1j),
        lambda: leaf(2).assign(1j),
        lambda: mg.concat([leaf(2), np.ones(1, complex)]),
        lambda: mg.jvp(mg.exp, mg.tensor(1.0), 1j),
        lambda: mg.result_type(mg.float32, 1j),
        lambda: mg.isdtype("complex64", "complex floating"),
        lambda: leaf(1).backward(np.ones(1, complex)),
        lambda: mg.from_dlpack(np.ones(2, complex)),
    ],
)
def test_complex_numbers_are_refused_wherever_they_could_enter(enter) -> None:
    with pytest.raises(DTypeError, match="real numbers"):
        enter()


@pytest.mark.parametrize("name", ["fft", "complex64", "complex128", "real", "imag", "conj"])
def test_what_is_left_out_is_named(name) -> None:
    with pytest.raises(
        UnsupportedError, match=f"minigrad.{name}: complex numbers and Fourier transforms are"
    ):
        getattr(mg, name)
    assert not hasattr(mg, name)
    with pytest.raises(AttributeError, match="has no attribute 'foo'"):
        getattr(mg, "foo")  # noqa: B009


# ----- Types --------------------------------------------------------------------------------------


def test_creation_of_the_standard() -> None:
    np.testing.assert_array_equal(mg.eye(2, 3, k=1).numpy(), np.eye(2, 3, k=1))
    np.testing.assert_array_equal(mg.eye(2).numpy(), np.eye(2))
    assert mg.eye(3).dtype == mg.float32
    np.testing.assert_allclose(mg.linspace(0, 1, 5, dtype="float64").numpy(), np.linspace(0, 1, 5))
    np.testing.assert_allclose(mg.linspace(0, 1, 4, endpoint=False).tolist(), [0, 0.25, 0.5, 0.75])
    assert mg.empty((2, 0)).shape == (2, 0)
    assert mg.empty_like(leaf(2)).dtype == mg.float64
    assert mg.full(2, True).dtype == mg.bool
    assert mg.full(2, 3).dtype == mg.int64
    assert mg.full(2, 3.0).dtype == mg.float32
    assert mg.full_like(mg.tensor([1, 2]), 3).dtype == mg.int64
    assert mg.ones_like(leaf(2), device="shapes").device == "shapes"
    np.testing.assert_allclose(mg.arange(0.0, 1.0, 0.25).tolist(), [0, 0.25, 0.5, 0.75])
    assert mg.arange(3.0).dtype == mg.float32
    with pytest.raises(UsageError, match="linspace: num is at least 0, got -1"):
        mg.linspace(0, 1, -1)
    with pytest.raises(DTypeError, match="there is no dtype 'float33'"):
        mg.zeros(2, dtype="float33")


def test_kinds_and_limits() -> None:
    assert mg.isdtype(mg.float32, "real floating")
    assert mg.isdtype("int8", ("unsigned integer", "signed integer"))
    assert not mg.isdtype("uint8", "signed integer")
    assert mg.isdtype("float16", mg.float16)
    assert not mg.isdtype("float16", "complex floating")
    assert mg.finfo(leaf(2)).eps == np.finfo("float64").eps
    assert mg.iinfo("int8").max == 127
    assert mg.can_cast("float32", "float64")
    assert not mg.can_cast(mg.ones(2, dtype="float64"), "float32")
    assert not mg.can_cast("int64", "float32")
    assert mg.broadcast_shapes((2, 1), (3,)) == (2, 3)
    assert (mg.newaxis, mg.inf, mg.isnan(mg.nan).item()) == (None, float("inf"), True)
    for wrong, error, message in [
        (lambda: mg.isdtype("int8", "whole"), UsageError, "unknown kind 'whole'; expected one of bool,"),
        (lambda: mg.finfo("int8"), DTypeError, "finfo is about floating-point dtypes, and got int8"),
        (lambda: mg.iinfo("float32"), DTypeError, "iinfo is about integer dtypes, and got float32"),
        (lambda: mg.broadcast_shapes((2,), (3,)), ShapeError, r"shapes \(2,\) and \(3,\) do not broadcast"),
        (lambda: mg.result_type(), DTypeError, "expected real numbers, tensors or dtypes"),
    ]:
        with pytest.raises(error, match=message):
            wrong()


def test_functions_take_what_the_standard_says() -> None:
    standard = pytest.importorskip("array_api_strict")
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    named = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    checked = 0
    for module in (standard, standard.linalg):
        for name in dir(module):
            theirs, ours = getattr(module, name), getattr(mg, name, None)
            if name.startswith("_") or not callable(theirs) or not callable(ours):
                continue
            a, b = (inspect.signature(f).parameters.values() for f in (theirs, ours))
            names = [{p.name for p in each if p.kind in named} for each in (a, b)]
            assert names[0] <= names[1], f"{name} lacks {names[0] - names[1]}"
            if not any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in b):
                counts = [sum(p.kind in positional for p in each) for each in (a, b)]
                assert counts[0] <= counts[1], name
            checked += 1
    assert checked > 120


def test_parameters_of_the_standard() -> None:
    x = mg.tensor([[1, 2], [3, 4]], dtype="int8")
    for f in (mg.sum, mg.prod, mg.trace):
        assert f(x, dtype="float32").dtype == np.float32
    for running in (mg.cumulative_sum, mg.cumulative_prod):
        assert running(x, axis=0, dtype="float64").dtype == np.float64
    assert mg.concat([x, x[0]], axis=None).tolist() == [1, 2, 3, 4, 1, 2]
    assert mg.astype(x, "int8", copy=False) is x
    assert mg.astype(x, "int8") is not x
    assert mg.astype(x, "float32", device="cpu").dtype == np.float32
    assert not np.shares_memory(mg.reshape(x, (4,), copy=True).data, x.data)
    with pytest.raises(UsageError, match="copy=False cannot be promised"):
        mg.reshape(x, (4,), copy=False)
    assert mg.expand_dims(x, -1).shape == (2, 2, 1)
    assert mg.roll(x, shift=1, axis=1).tolist() == [[2, 1], [4, 3]]


# ----- Promotion ----------------------------------------------------------------------------------

# The standard's tables (2024.12, "Type promotion rules"), real numbers only.
SIGNED, UNSIGNED = ("int8", "int16", "int32", "int64"), ("uint8", "uint16", "uint32", "uint64")
FLOATS = ("float16", "float32", "float64")  # (float16 is not in the standard, and follows the same rule)


def table() -> list[tuple[str, str, str]]:
    rows = [("bool", "bool", "bool")]
    for kind in (SIGNED, UNSIGNED, FLOATS):
        rows += [(a, b, max(a, b, key=kind.index)) for a in kind for b in kind]
    for i, a in enumerate(SIGNED):
        for j, b in enumerate(UNSIGNED[:3]):
            rows += [(a, b, SIGNED[max(i, j + 1)]), (b, a, SIGNED[max(i, j + 1)])]
    return rows


@pytest.mark.parametrize(("first", "second", "expected"), table())
def test_promotion_of_arrays_is_the_standards(first, second, expected) -> None:
    a, b = (mg.ones(n, dtype=d) for n, d in ((2, first), (1, second)))
    if expected != "bool":
        results = [a + b, a * b, mg.maximum(a, b), mg.concat([a, b])]
    else:
        results = [a & b, mg.logical_or(a, b), mg.concat([a, b])]
    results += [mg.where(mg.tensor([True, False]), a, b)]
    assert {x.dtype.name for x in results} == {expected}
    assert mg.result_type(a, second) == mg.result_type(first, b) == np.dtype(expected)
    twins = [mg.ones(n, dtype=d, device="shapes") for n, d in ((2, first), (1, second))]
    if expected != "bool":
        assert (twins[0] + twins[1]).dtype == expected
    assert mg.concat(twins).dtype == expected


NUMBERS: list[tuple[str, Any]] = [(d, 2) for d in (*SIGNED, *UNSIGNED, *FLOATS)] + [(d, 0.5) for d in FLOATS]
NUMBERS += [(d, True) for d in (*SIGNED, *UNSIGNED, *FLOATS)]


@pytest.mark.parametrize(("dtype", "number"), NUMBERS)
def test_a_python_number_takes_the_dtype_beside_it(dtype, number) -> None:
    x = mg.ones((2,), dtype=dtype)
    for result in (x + number, number * x, mg.maximum(x, number), mg.where(x > 0, x, number)):
        assert result.dtype == dtype
    assert mg.result_type(x, number) == dtype
    with mg.no_grad():
        assert (x.detach() - number).dtype == dtype


def test_where_the_standard_is_silent_numpy_decides() -> None:
    for a, b in [("int32", "float32"), ("uint64", "int64"), ("bool", "int8"), ("bool", "float16")]:
        expected = np.result_type(np.dtype(a), np.dtype(b))
        assert (mg.ones(2, dtype=a) + mg.ones(2, dtype=b)).dtype == expected
    assert (mg.ones(2, dtype="int64") * 0.5).dtype == np.float64
    assert (mg.ones(2) * np.float64(0.5)).dtype == np.float64  # its scalars are arrays
    assert (np.float64(0.5) * mg.ones(2)).dtype == np.float64
    assert (mg.ones(2) * np.ones(1)).dtype == np.float64


def test_integers_divide_to_floats() -> None:
    x = mg.tensor([1, 2])
    assert (x / 2).dtype == np.float64
    assert mg.mean(x).dtype == np.float64
    for f in (mg.exp, mg.sqrt, mg.tanh):
        assert f(x).dtype == np.float64
    assert (x // 2).dtype == (x**2).dtype == mg.sum(x).dtype == np.int64
    assert mg.sum(mg.tensor([True, True])).dtype == np.int64


# ----- bfloat16 -----------------------------------------------------------------------------------


def test_bfloat16_is_a_float() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    bfloat16 = np.dtype(ml_dtypes.bfloat16)
    x = mg.tensor(np.array([1.0, 2.0], bfloat16), requires_grad=True)
    for number in (2, 0.5, True):
        assert (x * number).dtype == bfloat16
        assert mg.result_type(x, number) == bfloat16
    assert (x + mg.ones(2)).dtype == mg.result_type(bfloat16, "float32") == np.float32
    assert (x + mg.ones(2, dtype="float64")).dtype == np.float64
    assert (x * mg.tensor([1, 2], dtype="int8")).dtype == mg.result_type(bfloat16, "int8")
    mg.tanh(x * x).sum().backward()
    assert x.grad is not None
    assert x.grad.dtype == bfloat16
    assert mg.isdtype(bfloat16, "real floating")
    assert not mg.isdtype(bfloat16, "integral")
    assert mg.finfo(x).bits == 16
    assert mg.zeros(2, dtype=bfloat16).dtype == bfloat16
    with pytest.raises(DTypeError, match="bfloat16 and float16 have none in common; cast one"):
        mg.result_type(bfloat16, "float16")
