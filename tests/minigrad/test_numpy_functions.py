"""NumPy's functions on Tensors do what NumPy does on arrays, and gradients flow through them; sets."""

from typing import Any

import array_api_strict
import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad.errors import DTypeError, GraphError, UsageError
from minigrad.testing import arrays, check_gradients, shapes
from tests.minigrad.examples import spread
from tests.minigrad.strict import registered

np: Any = numpy  # to a type checker its functions take arrays only


def leaf(*shape: int) -> mg.Tensor:
    return mg.tensor(spread(*shape), requires_grad=True)


CALLS: dict[str, Any] = {
    "sort of all": lambda x: np.sort(x, axis=None),
    "squeeze of all": lambda x: np.squeeze(x[:, :1], axis=None),
    "squeeze": lambda x: np.squeeze(x[None]),
    "expand_dims": lambda x: np.expand_dims(x, (0, 2)),
    "expand_dims behind": lambda x: np.expand_dims(x, (-1, 1)),
    "tensordot": lambda x: np.tensordot(x, x, axes=(0, 0)),
    "roll": lambda x: np.roll(x, (1, 2), 0),
    "roll on both": lambda x: np.roll(x, (1, 2), (0, 1)),
    "roll one on both": lambda x: np.roll(x, 1, (0, 1)),
    "roll of all": lambda x: np.roll(x, (1, 3)),
    "norm of matrices": lambda x: np.linalg.norm(x, 1, axis=(0, 1)),
    "norm of turned matrices": lambda x: np.linalg.norm(np.stack([x, 2 * x]), np.inf, axis=(2, 0)),
    "norm that keeps": lambda x: np.linalg.norm(np.stack([x, 2 * x]), "nuc", axis=(0, 2), keepdims=True),
    "einsum of numbers": lambda x: np.einsum(x, [0, 1], [1, 0]),
    "einsum of more": lambda x: np.einsum(x, [0, 1], x, [2, 1]),
    "einsum with dots": lambda x: np.einsum(x, [0, ...], [..., 0], optimize=True),
    "split at places": lambda x: np.split(x, [1, 2], axis=1)[1],
    "split at a place": lambda x: np.split(x, [-1], axis=1)[1],
    "split": lambda x: np.split(x, 3, axis=1)[2],
    "array_split": lambda x: np.array_split(x, 2, axis=1)[0],
    "diff": lambda x: np.diff(x),
    "diff twice": lambda x: np.diff(x, 2, axis=1),
    "svd": lambda x: np.linalg.svd(x, full_matrices=False).S,
    "full svd": lambda x: np.linalg.svd(x)[1],
    "svd of a square": lambda x: np.linalg.svd(x @ x.T).S,
    "svd without vectors": lambda x: np.linalg.svd(x, compute_uv=False),
}


@pytest.mark.parametrize("name", CALLS)
def test_ordinary_calls_are_recorded(name) -> None:
    f, x = CALLS[name], spread(2, 3)
    result = f(leaf(2, 3))
    assert isinstance(result, mg.Tensor)
    assert result.requires_grad
    np.testing.assert_allclose(result.numpy(), f(x), rtol=1e-12)
    check_gradients(f, x, order=1)


def test_argsort_of_all() -> None:
    np.testing.assert_array_equal(
        np.argsort(leaf(2, 3), axis=None).numpy(), np.argsort(spread(2, 3), axis=None)
    )


TRIANGLES: dict[str, Any] = {
    "eigh": lambda x: np.linalg.eigh(x).eigenvalues,
    "eigh, upper": lambda x: np.linalg.eigh(x, UPLO="U")[0],
    "eigvalsh": lambda x: np.linalg.eigvalsh(x),
    "eigvalsh, upper": lambda x: np.linalg.eigvalsh(x, "u"),
    "cholesky": lambda x: np.linalg.cholesky(x),
    "cholesky, upper": lambda x: np.linalg.cholesky(x, upper=True),
}


@pytest.mark.parametrize("name", TRIANGLES)
@settings(max_examples=10, deadline=None)
@given(arrays((3, 3)))
def test_one_triangle_of_a_matrix_is_read_as_numpy_reads_it(name, rest) -> None:
    f, x = TRIANGLES[name], rest + 8 * np.diag([1.0, 2.0, 3.0])  # far from symmetric
    result = f(mg.tensor(x, requires_grad=True))
    np.testing.assert_allclose(result.numpy(), f(x), rtol=1e-12, atol=1e-12)
    check_gradients(f, x, order=1)


def test_what_has_no_counterpart_is_numpys_on_values_and_refused_in_a_graph() -> None:
    x = spread(3, 3)
    assert [part.shape for part in np.linalg.svd(mg.tensor(x), hermitian=True)] == [(3, 3), (3,), (3, 3)]
    with pytest.raises(GraphError, match=r"numpy\.linalg\.svd with these arguments has no counterpart"):
        np.linalg.svd(leaf(3, 3), hermitian=True)
    with pytest.raises(GraphError, match=r"numpy\.split with these arguments"):
        np.split(leaf(4), [3, 1])
    assert [part.shape for part in np.split(mg.ones(4), [3, 1])] == [(3,), (0,), (3,)]
    with pytest.raises(ValueError, match=r"axis of length 3 cannot be cut into 2 equal parts"):
        np.split(leaf(3), 2)
    with pytest.raises(UsageError, match=r"norm with ord=1 is of vectors or matrices.*not \(0, 1, 2\)"):
        np.linalg.norm(leaf(1, 2, 3), 1)


WHOLE: dict[str, Any] = {
    **{f"norm, {ord}": lambda x, ord=ord: np.linalg.norm(x, ord) for ord in (None, 1, 2, np.inf, 3, 0)},
    "norm of matrices": lambda x: np.linalg.norm(x[:, None], "fro"),
    "vector_norm": lambda x: np.linalg.vector_norm(x),
    "matrix_norm": lambda x: np.linalg.matrix_norm(x[:, None]),
    "logaddexp": lambda x: np.logaddexp(x, -x),
    "logaddexp of a pair": lambda x: np.logaddexp(x[:1], x[-1:]),
    "det": lambda x: np.linalg.det(np.stack([x[:2], x[1:3]])),
    "inv": lambda x: np.linalg.inv(np.eye(2) + 0 * x[:2]),
    "svd": lambda x: np.linalg.svd(x[:, None], compute_uv=False),
    "eigvalsh": lambda x: np.linalg.eigvalsh(np.stack([x[:2], x[1:3]])),
    "mean": np.mean,
    "var": np.var,
    "sum": np.sum,
    "prod": np.prod,
    "cumsum": np.cumsum,
    "exp": np.exp,
    "hypot": lambda x: np.hypot(x, x),
    "arctan2": lambda x: np.arctan2(x, x),
    "divide": lambda x: np.divide(x, 2),
    "square": np.square,
    "dot": lambda x: np.dot(x, x),
    "einsum": lambda x: np.einsum("i,i", x, x),
    "diff": np.diff,
}


@pytest.mark.parametrize("name", WHOLE)
@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from(["int8", "int16", "int32", "int64", "uint8"]).flatmap(
        lambda dtype: st.lists(
            st.integers(max(np.iinfo(dtype).min, -(2**20)), min(np.iinfo(dtype).max, 2**20)),
            min_size=3,
            max_size=3,
        ).map(lambda values: np.array(values, dtype))
    )
)
def test_whole_numbers_become_what_numpy_makes_of_them(name, x) -> None:
    with np.errstate(all="ignore"):
        found, right = WHOLE[name](mg.tensor(x)), np.asarray(WHOLE[name](x))
    assert found.dtype == right.dtype
    np.testing.assert_allclose(
        np.asarray(found), right, rtol=1e-3 if right.dtype == "float16" else 1e-9, atol=1e-6
    )


# ----- The array API's object and namespace -------------------------------------------------------


def test_what_an_array_of_the_standard_can_do() -> None:
    x = mg.tensor([1, 2])
    assert (1 << x).tolist() == [2, 4]
    assert (8 >> x).tolist() == [4, 2]
    assert x.to_device("cpu").tolist() == [1, 2]
    with pytest.raises(UsageError, match="stream is None"):
        x.to_device("cpu", stream=1)  # type: ignore[arg-type]
    theirs = {name for name in dir(array_api_strict.ones(1)) if name.startswith("__")}
    in_place = {name for name in theirs if name.startswith("__i") and hasattr(mg.Tensor, f"__{name[3:]}")}
    assert {name for name in theirs - in_place if not hasattr(mg.Tensor, name)} <= {
        "__complex__",
        "__buffer__",
    }
    linalg = {name for name in array_api_strict.linalg.__all__ if not name.startswith("eig")}
    assert {name for name in linalg if not hasattr(mg.linalg, name)} == set()


def test_a_number_is_formatted_and_rounded() -> None:
    assert f"{mg.tensor(1.25):.1f} {mg.tensor([1, 2])}" == "1.2 tensor([1, 2], dtype=int64)"
    assert round(mg.tensor(2.6)) == 3
    assert round(mg.tensor(2.0), 1) == 2.0
    with pytest.raises(
        UsageError, match=r"format '\.3f' is for one number, and this tensor has shape \(2,\)"
    ):
        f"{mg.ones(2):.3f}"
    whole, rest = divmod(mg.tensor(7.0), 2)
    assert (whole.item(), rest.item()) == (3.0, 1.0)
    assert [part.item() for part in divmod(7, mg.tensor(2))] == [3, 1]


def test_none_equals_no_entry() -> None:
    x = mg.ones((2, 3))
    assert (x == None).tolist() == [[False] * 3] * 2  # noqa: E711
    assert (x != None).tolist() == [[True] * 3] * 2  # noqa: E711
    assert (mg.zeros(2, device="shapes") == None).shape == (2,)  # noqa: E711


# ----- Sets ---------------------------------------------------------------------------------------

LINES = st.builds(
    lambda shape, seed, dtype: np.random.default_rng(seed).integers(0, 4, shape).astype(dtype),
    *(shapes(), st.integers(0, 99), st.sampled_from(["int64", "float32", "uint8", "bool"])),
)


@given(LINES, st.booleans())
def test_sets_are_numpys(x, with_nan) -> None:
    if with_nan and x.dtype.kind == "f":
        x = np.where(x == 3, np.nan, x)
    for name in ("unique_all", "unique_counts", "unique_inverse"):
        for found, right in zip(getattr(mg, name)(mg.tensor(x)), getattr(np, name)(x), strict=True):
            np.testing.assert_array_equal(found.numpy(), right)
    values = mg.unique_values(mg.tensor(x, requires_grad=x.dtype.kind == "f"))
    assert values.dtype == x.dtype
    assert not values.requires_grad
    np.testing.assert_array_equal(values.numpy(), np.sort(np.unique_values(x)))


@given(LINES, LINES, st.booleans())
def test_membership_is_numpys(x, y, invert) -> None:
    found = mg.isin(mg.tensor(x), mg.tensor(y), invert=invert)
    np.testing.assert_array_equal(found.numpy(), np.isin(x, y, invert=invert))


@given(LINES.filter(lambda x: x.size and x.dtype.kind != "b"))  # of these the standard leaves much open
def test_sets_of_another_library(x) -> None:
    with registered() as strict:
        theirs = mg.tensor(strict.from_host(x))
        for found, right in zip(mg.unique_all(theirs), np.unique_all(x), strict=True):
            assert found.device == theirs.device
            np.testing.assert_array_equal(found.numpy(), right)
        assert mg.all(mg.isin(theirs, theirs)).item()


@settings(max_examples=30)
@given(arrays(shapes().filter(len)), st.integers(0, 3), st.data())
def test_differences_are_numpys(x, n, data) -> None:
    axis = data.draw(st.integers(-x.ndim, x.ndim - 1))
    ends = {key: 2.0 for key in ("prepend", "append") if data.draw(st.booleans())}
    np.testing.assert_array_equal(
        mg.diff(mg.tensor(x), n=n, axis=axis, **ends).numpy(), np.diff(x, n, axis=axis, **ends)
    )
    check_gradients(lambda x: mg.diff(x, n=n, axis=axis, **ends), x, order=1)


def test_sets_have_no_shape_without_values() -> None:
    x = mg.ones(3, device="shapes")
    for name in ("unique_all", "unique_counts", "unique_inverse", "unique_values"):
        with pytest.raises(DTypeError, match=f"^{name} is not available on shape-only arrays"):
            getattr(mg, name)(x)
    assert mg.isin(x, x).shape == (3,)
    assert mg.diff(x).shape == (2,)


@given(st.integers(0, 4), st.integers(1, 4), st.integers(0, 4))
def test_matrix_rank(rank, rows, columns) -> None:
    random = np.random.default_rng(rank + 5 * rows + 25 * columns)
    x = random.normal(size=(2, rows, rank)) @ random.normal(size=(2, rank, columns))
    assert mg.linalg.matrix_rank(mg.tensor(x)).tolist() == [min(rank, rows, columns)] * 2
