"""Shape-only arrays refuse exactly what NumPy refuses, and have its shapes and dtypes otherwise.

Arguments are drawn good and bad: axes that are not there, twice, or no numbers; shapes that nearly fit.
"""

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad.backend_shape_rules import indexed_shape
from minigrad.errors import IndexRangeError, MinigradError, ShapeError

SHAPES = st.lists(st.integers(0, 3), max_size=3).map(tuple)
AXIS: Any = st.integers(-4, 3)
AXES: Any = AXIS | st.none() | st.lists(AXIS, max_size=3).map(tuple)
LENGTHS = st.lists(st.integers(-2, 6), max_size=3).map(tuple)
BOOLEANS = st.booleans()
QUARTERS = st.integers(-12, 12).map(lambda n: n / 4)
COUNTS = st.integers(-1, 4)


def arrays(*dtypes: str) -> Any:
    return st.builds(
        lambda shape, dtype: np.ones(shape, dtype), SHAPES, st.sampled_from(dtypes or ("float32", "float64"))
    )


ANY = arrays("float32", "float64", "int64", "int8", "bool")
FLOATS = arrays()
FILLED = st.lists(st.integers(1, 3), max_size=2).map(np.ones)
WHOLE = st.builds(lambda shape, value: np.full(shape, value), SHAPES, st.integers(-4, 3))
ALIKE: Any = st.lists(FLOATS, min_size=1, max_size=3) | st.builds(
    lambda x, count: [x] * count, FLOATS, st.integers(1, 3)
)


def over_axes(name: str, **more: Any) -> Any:
    return st.tuples(
        st.just(lambda x, **k: getattr(mg, name)(x, **k)), st.tuples(ANY), st.fixed_dictionaries(more)
    )


def case(function: Any, *arguments: Any, **keywords: Any) -> Any:
    return st.tuples(st.just(function), st.tuples(*arguments), st.fixed_dictionaries(keywords))


CASES: dict[str, Any] = {
    **{name: over_axes(name, axis=AXES, keepdims=BOOLEANS) for name in ("sum", "mean", "prod", "max", "min")},
    **{name: over_axes(name, axis=AXES, keepdims=BOOLEANS) for name in ("any", "all", "count_nonzero")},
    **{name: over_axes(name, axis=AXES, keepdims=BOOLEANS) for name in ("argmax", "argmin")},
    **{name: case(getattr(mg, name), FLOATS, axis=AXIS) for name in ("softmax", "log_softmax", "sort")},
    **{name: case(getattr(mg, name), FLOATS, axis=AXIS) for name in ("argsort", "cumulative_prod", "flip")},
    "cumulative_sum": case(mg.cumulative_sum, ANY, axis=AXIS, include_initial=BOOLEANS),
    "logsumexp": case(mg.logsumexp, FLOATS, axis=AXES, keepdims=BOOLEANS),
    "var": case(mg.var, FLOATS, axis=AXES),
    "std": case(mg.std, FLOATS, axis=AXES),
    "concat": case(lambda *xs, axis: mg.concat(xs, axis=axis), FLOATS, FLOATS, axis=AXIS | st.none()),
    "concat alike": case(lambda xs, axis: mg.concat(xs, axis=axis), ALIKE, axis=AXIS),
    "stack": case(lambda xs, axis: mg.stack(xs, axis=axis), ALIKE, axis=AXIS),
    "unstack": case(mg.unstack, FLOATS, axis=AXIS),
    "reshape": case(mg.reshape, ANY, LENGTHS),
    "broadcast_to": case(mg.broadcast_to, FLOATS, LENGTHS),
    "permute_dims": case(mg.permute_dims, FLOATS, st.lists(AXIS, max_size=3)),
    "matrix_transpose": case(mg.matrix_transpose, FLOATS),
    "expand_dims": case(mg.expand_dims, FLOATS, axis=AXIS | st.lists(AXIS, max_size=3).map(tuple)),
    "squeeze": case(mg.squeeze, FLOATS, axis=AXIS | st.lists(AXIS, max_size=2).map(tuple)),
    "moveaxis": case(mg.moveaxis, FLOATS, AXIS, AXIS),
    "roll": case(mg.roll, FLOATS, COUNTS, axis=AXES),
    "tile": case(mg.tile, FLOATS, st.lists(COUNTS, max_size=3).map(tuple)),
    "repeat": case(mg.repeat, FLOATS, COUNTS, axis=AXIS | st.none()),
    "split": case(mg.split, FLOATS, COUNTS | st.lists(COUNTS, max_size=3), axis=AXIS),
    "chunk": case(mg.chunk, FLOATS, COUNTS, axis=AXIS),
    "tril": case(mg.tril, FLOATS, k=AXIS),
    "diagonal": case(mg.diagonal, FLOATS, offset=AXIS),
    "pad": case(mg.pad, FLOATS, st.lists(COUNTS, max_size=6).map(tuple)),
    "unfold": case(mg.unfold, FLOATS, axis=AXIS, size=COUNTS, step=COUNTS),
    "add": case(mg.add, ANY, ANY),
    "bitwise_and": case(mg.bitwise_and, ANY, ANY),
    "where": case(lambda c, x, y: mg.where(c > 0, x, y), FLOATS, FLOATS, FLOATS),
    "matmul": case(mg.matmul, FLOATS, FLOATS),
    "vecdot": case(mg.vecdot, FLOATS, FLOATS),
    "tensordot": case(mg.tensordot, FLOATS, FLOATS, axes=st.integers(0, 3)),
    "take": case(mg.take, FLOATS, WHOLE, axis=AXIS),
    "take_along_axis": case(mg.take_along_axis, FLOATS, WHOLE, axis=AXIS),
    "gather": case(mg.gather, FLOATS, WHOLE, axis=AXIS),
    "scatter": case(mg.scatter, FLOATS, WHOLE, FLOATS, axis=AXIS),
    "index_add": case(mg.index_add, FLOATS, WHOLE, FLOATS, axis=AXIS),
    "topk": case(mg.topk, FLOATS, COUNTS, axis=AXIS),
    "zeros": case(lambda x, shape: mg.zeros(shape, device=x.device), FLOATS, LENGTHS),
    "eye": case(lambda x, n: mg.eye(n, device=x.device), FLOATS, COUNTS),
    "linspace": case(lambda x, n: mg.linspace(0.0, 1.0, n, device=x.device), FLOATS, COUNTS),
    "arange": case(
        lambda x, start, stop, step: mg.arange(start, stop, step, device=x.device),
        *(FLOATS, COUNTS | QUARTERS, COUNTS | QUARTERS),
        st.sampled_from([1, 2, -1, 0.1, -0.3, 0.7, 3]),
    ),
}
STEP: Any = st.sampled_from([None, 1, 2, -1, -2])
PART: Any = st.one_of(
    st.integers(-4, 3),
    st.builds(slice, st.none() | st.integers(-4, 3), st.none() | st.integers(-4, 3), STEP),
    WHOLE,
    st.lists(st.integers(-3, 2), max_size=2),
    st.sampled_from([None, Ellipsis, 1.5, "a", np.int64(1), np.float64(1), range(2), slice(None, None, 0)]),
    st.sampled_from([np.zeros(0), np.zeros((0, 2), int), slice(0.5), (0, 1)]),
)
INDEX = PART | st.lists(PART, max_size=4).map(tuple)
CASES["getitem"] = case(mg.getitem, FLOATS, INDEX)
CASES["index_set"] = case(lambda x, index, values: x.at[index].set(values), FLOATS, INDEX, FILLED)
CASES["at add"] = case(lambda x, index, values: x.at[index].add(values), FLOATS, INDEX, FILLED)


def outcome(function: Any, arguments: Any, keywords: Any, device: str | None) -> Any:
    """Shapes and dtypes of the results, or what was raised."""

    def at(x: Any) -> Any:
        if isinstance(x, list) and x and isinstance(x[0], np.ndarray):
            return [at(each) for each in x]
        floats = isinstance(x, np.ndarray) and (
            x.dtype.kind != "i" or x.dtype != np.int64 or arguments[0] is x
        )
        return mg.tensor(x, device=device) if floats else x

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            found = function(*map(at, arguments), **keywords)
        except Exception as error:
            return error
    several = found if isinstance(found, tuple) else (found,)
    return [(x.shape, x.dtype) for x in several]


strict = pytest.mark.skipif(
    np.lib.NumpyVersion(np.__version__) < "2.4.0", reason="NumPy took some indices of empty arrays until 2.4"
)


@strict
@pytest.mark.parametrize("name", CASES)
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_what_numpy_refuses_is_refused_and_nothing_else(name, data) -> None:
    function, arguments, keywords = data.draw(CASES[name])
    real = outcome(function, arguments, keywords, None)
    imagined = outcome(function, arguments, keywords, "shapes")
    if isinstance(real, Exception):
        assert isinstance(imagined, Exception), (real, imagined)
        if isinstance(real, MinigradError):
            assert isinstance(imagined, MinigradError), (real, imagined)
    else:
        assert imagined == real


def test_what_an_audit_found_is_refused_with_its_sentence() -> None:
    def z(*shape: int) -> mg.Tensor:
        return mg.zeros(shape, device="shapes")

    wrong: list[tuple[Any, type[Exception], str]] = [
        (
            lambda: mg.sum(z(2, 3), axis=5),
            ShapeError,
            r"there is no axis 5 in 2 dimensions; expected -2 to 1",
        ),
        (lambda: mg.sum(z(2, 3), axis=(0, 0)), ShapeError, "names an axis twice"),
        (lambda: mg.concat([z(2, 3), z(4, 5)]), ShapeError, "differ on another axis than 0"),
        (lambda: mg.permute_dims(z(2, 3), (0, 0)), ShapeError, "does not name each axis"),
        (lambda: z(3)[7], IndexRangeError, r"index 7 on axis 0 of shape \(3,\): its length is 3"),
        (lambda: z(3)[1.5], IndexRangeError, "an index is made of integers.*float64"),
        (lambda: z(3)["a"], IndexRangeError, "an index is made of integers"),
        (lambda: z(3)[..., ...], IndexRangeError, "at most one ellipsis"),
        (lambda: mg.take(z(3), [0, 9]), IndexRangeError, "indices from 0 to 9 on axis 0"),
        (lambda: mg.max(z(0)), ShapeError, "nothing has no max"),
        (lambda: mg.reshape(z(4), (-1, -1)), ShapeError, r"cannot reshape \(4,\) into \(-1, -1\)"),
    ]
    for ask, error, message in wrong:
        with pytest.raises(error, match=message):
            ask()
    with pytest.raises(IndexRangeError, match=r"index 9 on axis 0 of shape \(4, 2\)"):
        mg.cost(lambda tokens: mg.take(z(4, 2), tokens), np.array([9]))
    assert z(3)[range(2)].shape == (2,)
    assert mg.arange(0, 1, 0.1, device="shapes").shape == (10,)
    assert repr(z(3)) == "tensor(shape=(3,), dtype=float32, device='shapes')"
    assert repr(z(0, 2)) == "tensor(shape=(0, 2), dtype=float32, device='shapes')"


@strict
@given(SHAPES.filter(len), st.data())
@settings(max_examples=100, deadline=None)
def test_an_index_has_numpys_shape_or_its_error(shape, data) -> None:
    index = data.draw(INDEX)
    try:
        right = np.zeros(shape)[index].shape
    except (IndexError, TypeError, ValueError):
        with pytest.raises((IndexError, TypeError, ValueError)):
            indexed_shape(shape, index)
    else:
        assert indexed_shape(shape, index)[0] == right


@pytest.mark.parametrize(
    "name",
    [
        "sum",
        "mean",
        "prod",
        "any",
        "var",
        "logsumexp",
        "median",
        "softmax",
        "cumulative_sum",
        "squeeze",
        "flip",
    ],
)
@pytest.mark.parametrize("rows", [1, 3000])
def test_what_is_no_axis(name, rows):
    with pytest.raises(MinigradError, match=r"an axis is a whole number.*several are a tuple of them"):
        getattr(mg, name)(mg.ones((rows, 2)), axis=[0])
