"""Jacobians, Hessians and products with vectors, of functions over nests and of several arguments."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad.errors import GraphError
from minigrad.testing import check_gradients
from minigrad.tree import flatten


@pytest.mark.parametrize(("rows", "columns"), [(2, 5), (5, 2), (0, 3), (3, 0), (1, 1)])
def test_jacobian_of_a_linear_map_is_the_map(rows: int, columns: int) -> None:
    matrix = np.random.default_rng(0).normal(size=(rows, columns))
    found = mg.jacobian(lambda x: mg.tensor(matrix) @ x)(mg.tensor(np.ones(columns)))
    np.testing.assert_allclose(found.numpy(), matrix)
    cubes = mg.jacobian(lambda x: mg.reshape(x * x * x, (2, 1)))(mg.tensor(np.array([[1.0, 2.0]])))
    np.testing.assert_allclose(cubes.numpy().reshape(2, 2), np.diag([3.0, 12.0]))
    assert cubes.shape == (2, 1, 1, 2)


def test_hessian_and_its_product_with_a_vector() -> None:
    def f(x):
        return (mg.exp(x) * x[::-1]).sum()

    x, v = mg.tensor(np.array([0.1, -0.4, 0.7])), mg.tensor(np.array([1.0, 2.0, -1.0]))
    h = mg.hessian(f)(x).numpy()
    e = np.exp(x.numpy())
    mirrored = e[:, None] * np.eye(3)[::-1]
    np.testing.assert_allclose(h, np.diag(e * x.numpy()[::-1]) + mirrored + mirrored.T, rtol=1e-12)
    np.testing.assert_allclose(mg.hvp(f, x, v).numpy(), h @ v.numpy(), rtol=1e-12)
    assert mg.hessian(lambda x: x**3)(number(2.0)).item() == pytest.approx(12.0)


# ----- Nests and several arguments ----------------------------------------------------------------


def number(value: float) -> mg.Tensor:
    return mg.tensor(value, dtype="float64")


def shapes() -> Any:
    return st.sampled_from([(), (1,), (3,), (2, 2), (0,)])


def apart(flat: Any, points: dict[str, Any]) -> dict[str, mg.Tensor]:
    """One vector cut into a dict like `points`."""
    parts, start = {}, 0
    for key, point in points.items():
        parts[key] = flat[start : start + point.size].reshape(point.shape)
        start += point.size
    return parts


@settings(max_examples=30, deadline=None)
@given(st.lists(shapes(), min_size=1, max_size=3), st.integers(1, 12))
def test_blocks_of_nests_are_those_of_the_flat_jacobian(several, rows) -> None:
    points = {f"x{i}": np.cos(np.arange(float(np.prod(s))) + i).reshape(s) for i, s in enumerate(several)}
    size = sum(point.size for point in points.values())
    matrix = mg.tensor(np.sin(np.arange(float(rows * size))).reshape(rows, size))

    def f(nest: dict[str, mg.Tensor]) -> Any:
        line = mg.concat([mg.reshape(part, (-1,)) for part in nest.values()])
        out = mg.tanh(matrix @ (line * line))
        return [out[: rows // 2], {"rest": out[rows // 2 :] * line.sum()}]

    def joined(flat: mg.Tensor) -> mg.Tensor:
        return mg.concat(flatten(f(apart(flat, points))))

    flat = mg.tensor(np.concatenate([point.reshape(-1) for point in points.values()]))
    whole = mg.jacobian(joined)(flat).numpy()
    assert whole.shape == (rows, size)
    found = mg.jacobian(f)({key: mg.tensor(point) for key, point in points.items()})
    outputs = [(found[0], slice(rows // 2)), (found[1]["rest"], slice(rows // 2, rows))]
    for nest, lines in outputs:
        start = 0
        for key, point in points.items():
            right = whole[lines, start : start + point.size].reshape(nest[key].shape)
            assert nest[key].shape[1:] == point.shape
            np.testing.assert_allclose(nest[key].numpy(), right, rtol=1e-12, atol=1e-13)
            start += point.size

    def total(nest: dict[str, mg.Tensor]) -> mg.Tensor:
        return mg.sum(mg.concat(flatten(f(nest))))

    blocks = mg.hessian(total)({key: mg.tensor(point) for key, point in points.items()})
    h = mg.hessian(lambda flat: total(apart(flat, points)))(flat).numpy()
    stops = np.cumsum([point.size for point in points.values()])
    spans = {key: slice(stop - points[key].size, stop) for key, stop in zip(points, stops, strict=True)}
    for row, column in itertools.product(points, repeat=2):
        shape = (*points[row].shape, *points[column].shape)
        right = h[spans[row], spans[column]].reshape(shape)
        np.testing.assert_allclose(blocks[row][column].numpy(), right, rtol=1e-11, atol=1e-12)


def test_several_arguments_give_all_blocks() -> None:
    x, y = mg.tensor(np.array([1.0, 2.0])), mg.tensor(np.array([3.0, 5.0]))
    u, v = mg.tensor(np.array([7.0, 11.0])), mg.tensor(np.array([13.0, 17.0]))

    def f(a: mg.Tensor, b: mg.Tensor) -> mg.Tensor:
        return mg.sum(a * a * b)

    first, second = mg.hvp(f, (x, y), (u, v))  # 2bu + 2av, and 2au
    np.testing.assert_allclose(first.numpy(), [2 * 3 * 7 + 2 * 1 * 13, 2 * 5 * 11 + 2 * 2 * 17])
    np.testing.assert_allclose(second.numpy(), [2 * 1 * 7, 2 * 2 * 11])
    product = mg.hvp(lambda d: f(d["a"], d["b"]), {"a": x, "b": y}, {"b": v, "a": u})
    np.testing.assert_array_equal(product["a"].numpy(), first.numpy())
    np.testing.assert_array_equal(product["b"].numpy(), second.numpy())
    blocks = mg.hessian(f, argnums=(0, 1))(x, y)
    whole = np.block([[blocks[i][j].numpy() for j in range(2)] for i in range(2)])
    np.testing.assert_allclose(
        whole @ [7.0, 11.0, 13.0, 17.0], np.concatenate([first.numpy(), second.numpy()])
    )
    along = mg.jacobian(lambda a, b, scale: scale * a * b, argnums=1)(x, y, scale=2.0)
    np.testing.assert_allclose(along.numpy(), np.diag([2.0, 4.0]))
    pair = mg.jacobian(lambda a, b: (a * b, b), argnums=(0, 1))(x, y)
    np.testing.assert_allclose(pair[0][1].numpy(), np.diag(x.numpy()))
    np.testing.assert_allclose(pair[1][0].numpy(), np.zeros((2, 2)))
    for wrong in ((), (2,), 5):
        with pytest.raises(GraphError, match=r"gradient with respect to .*argument.* but only 2 were given"):
            mg.jacobian(f, argnums=wrong)(x, y)


@pytest.mark.parametrize(("inputs", "outputs"), [((2, 3), (4, 2)), ((4, 4), (1, 2))])
def test_the_cheaper_walk_is_taken_for_nests_too(inputs, outputs) -> None:
    runs = []

    def f(*parts: mg.Tensor) -> list[mg.Tensor]:
        runs.append(1)
        total = sum((mg.sum(part) for part in parts), number(0.0))
        return [total * mg.ones(n, dtype="float64") for n in outputs]

    places = tuple(range(len(inputs)))
    mg.jacobian(f, argnums=places)(*(mg.ones(n, dtype="float64") for n in inputs))
    forward = sum(inputs) < sum(outputs)
    assert len(runs) == 1 + (sum(inputs) if forward else 0)  # rows come from one run and a walk for each


def test_blocks_have_the_dtype_of_their_input_by_either_walk() -> None:
    single, double = mg.ones(2), mg.ones(3, dtype="float64")
    for copies in (1, 4):  # by rows, by columns
        f = lambda a, b: mg.concat([mg.sum(a) * b] * copies)  # noqa: B023, E731
        one, other = mg.jacobian(f, argnums=(0, 1))(single, double)
        assert (one.dtype, other.dtype) == (mg.float32, mg.float64)
        assert (one.shape, other.shape) == ((3 * copies, 2), (3 * copies, 3))


@pytest.mark.parametrize("rows", [1, 5])  # by the reverse walk, by the forward walk
def test_jacobians_are_differentiated_again(rows: int) -> None:
    weights = mg.tensor(np.sin(np.arange(3.0 * rows)).reshape(rows, 3))

    def f(p: dict[str, mg.Tensor]) -> list[mg.Tensor]:
        return [mg.tanh(weights @ p["x"]) * p["scale"]]

    def total(x: mg.Tensor, scale: mg.Tensor) -> mg.Tensor:
        blocks = mg.jacobian(f)({"x": x, "scale": scale})[0]
        return mg.sum(mg.sin(blocks["x"])) + mg.sum(blocks["scale"] ** 2)

    check_gradients(total, np.array([0.1, -0.4, 0.7]), 1.3, order=1)
