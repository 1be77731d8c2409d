"""The sweep: every operation, in every respect that all of them share."""

import numpy as np
import pytest

import minigrad as mg
from minigrad.testing import check_gradients
from tests.minigrad.examples import ALL, ALL_CONSTANTS, CONSTANTS, DECLARED, EXAMPLES, Example, ids
from tests.minigrad.strict import registered

everything = pytest.mark.parametrize(("name", "example"), ALL, ids=ids(ALL))


def test_every_operation_has_an_example() -> None:
    # `pick` hands one of several outputs on; test_transforms.py has operations with several outputs.
    assert EXAMPLES.keys() | CONSTANTS.keys() | {"pick", "checkpoint", "checkpoint_step"} == DECLARED.keys()
    for name, operation in DECLARED.items():
        has_derivative = operation.rules is None or any(operation.rules) or name == "pick"
        assert has_derivative == (name not in CONSTANTS), name


@pytest.mark.parametrize(("name", "example"), ALL + ALL_CONSTANTS, ids=ids(ALL + ALL_CONSTANTS))
def test_forward_is_what_numpy_says(name: str, example: Example) -> None:
    result = example.call(*map(mg.tensor, example.inputs))
    expected = np.asarray(example.expected(*example.inputs))
    assert type(result.data) is np.ndarray
    assert result.shape == expected.shape
    assert result.dtype == expected.dtype
    np.testing.assert_allclose(result.numpy(), expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(("name", "example"), ALL_CONSTANTS, ids=ids(ALL_CONSTANTS))
def test_constants_leave_the_graph(name: str, example: Example) -> None:
    assert not example.call(*example.leaves()).requires_grad


@everything
def test_derivatives_by_both_walks_to_second_order(name: str, example: Example) -> None:
    check_gradients(example.call, *example.inputs)


def gradients(example: Example, leaves: list[mg.Tensor]) -> tuple[np.ndarray, list[np.ndarray]]:
    """The result, and the gradients of its sum against fixed weights, by the recorded graph."""
    result = example.call(*leaves)
    weights = np.cos(np.arange(result.size)).reshape(result.shape).astype(result.dtype)
    result.backward(weights)
    grads = [leaf.grad for leaf in leaves]
    assert all(g is not None and type(g.data) is np.ndarray for g in grads)
    return result.numpy(), [g.numpy() for g in grads if g is not None]


@everything
def test_float32_stays_float32(name: str, example: Example) -> None:
    if name == "astype":
        pytest.skip("casting is what it is for")
    result, grads = gradients(example, example.leaves("float32"))
    exact, exact_grads = gradients(example, example.leaves())
    assert {a.dtype for a in (result, *grads)} == {np.dtype("float32")}
    for found, expected in zip([result, *grads], [exact, *exact_grads], strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5)


@everything
def test_gradients_have_the_dtype_of_their_leaf(name: str, example: Example) -> None:
    for place, leaf in enumerate(example.leaves("float32")):
        inputs = [leaf if k == place else mg.tensor(x) for k, x in enumerate(example.inputs)]
        result = example.call(*inputs)
        result.backward(np.ones(result.shape))
        assert leaf.grad is not None
        assert leaf.grad.dtype == np.float32
        moved = mg.jvp(example.call, tuple(x.detach() for x in inputs), tuple(map(mg.ones_like, inputs)))[1]
        assert moved.dtype == result.dtype


def fortran(x: np.ndarray) -> np.ndarray:
    return np.asfortranarray(x) if x.ndim else x


def strided(x: np.ndarray) -> np.ndarray:
    if not x.ndim:
        return np.stack([x, x])[1]
    return np.repeat(x, 2, axis=-1)[..., ::2][::-1][::-1] if x.size else x


def read_only(x: np.ndarray) -> np.ndarray:
    twin = x.copy()
    twin.flags.writeable = False
    return twin


@pytest.mark.parametrize("layout", [fortran, strided, read_only])
@everything
def test_the_layout_of_memory_does_not_matter(name: str, example: Example, layout) -> None:
    expected, expected_grads = gradients(example, example.leaves())
    inputs = [layout(x) for x in example.inputs]
    before = [x.tobytes() for x in inputs]
    result, grads = gradients(example, [mg.tensor(x, requires_grad=True) for x in inputs])
    for found, right in zip([result, *grads], [expected, *expected_grads], strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-13, atol=1e-14)
    assert [x.tobytes() for x in inputs] == before


@everything
def test_nothing_depends_on_numpy(name: str, example: Example) -> None:
    """The same declarations run on the arrays of another library, by both walks and lifted."""
    if example.not_strict:
        pytest.skip(example.not_strict)
    expected, expected_grads = gradients(example, example.leaves())
    weights = np.cos(np.arange(expected.size)).reshape(expected.shape)
    with registered() as strict:

        def moved(x: np.ndarray, *, leaf: bool = False) -> mg.Tensor:
            return mg.tensor(strict.from_host(x), requires_grad=leaf)

        for create_graph in (False, True):
            leaves = [moved(x, leaf=True) for x in example.inputs]
            result = example.call(*leaves)
            result.backward(moved(weights), create_graph=create_graph)
            assert result.device == "strict"
            np.testing.assert_allclose(result.numpy(), expected, rtol=1e-13, atol=1e-13)
            for leaf, right in zip(leaves, expected_grads, strict=True):
                assert leaf.grad is not None
                assert leaf.grad.device == "strict"
                np.testing.assert_allclose(leaf.grad.numpy(), right, rtol=1e-12, atol=1e-13)
        points = tuple(map(moved, example.inputs))
        tangent = mg.jvp(example.call, points, points)[1]
        plain = tuple(map(mg.tensor, example.inputs))
        np.testing.assert_allclose(tangent.numpy(), mg.jvp(example.call, plain, plain)[1].numpy(), atol=1e-12)


@pytest.mark.parametrize(("name", "example"), ALL_CONSTANTS, ids=ids(ALL_CONSTANTS))
def test_constants_do_not_depend_on_numpy(name: str, example: Example) -> None:
    if example.not_strict:
        pytest.skip(example.not_strict)
    expected = example.call(*map(mg.tensor, example.inputs))
    with registered() as strict:
        result = example.call(*(mg.tensor(strict.from_host(x)) for x in example.inputs))
        assert result.device == "strict"
        assert result.dtype == expected.dtype
        np.testing.assert_array_equal(result.numpy(), expected.numpy())


@everything
def test_one_input_at_a_time(name: str, example: Example) -> None:
    """A rule may be asked for one input only, with constants beside it: by both walks it says the same."""
    points = tuple(map(mg.tensor, example.inputs))
    _, whole = gradients(example, example.leaves())
    for place, point in enumerate(points):
        t = mg.tensor(np.cos(np.arange(point.size)).reshape(point.shape))
        still = tuple(t if k == place else mg.zeros_like(x) for k, x in enumerate(points))
        expected = mg.jvp(example.call, points, still)[1].numpy()

        def alone(x: mg.Tensor, place: int = place) -> mg.Tensor:
            return example.call(*(x if k == place else y for k, y in enumerate(points)))

        np.testing.assert_allclose(mg.jvp(alone, point, t)[1].numpy(), expected, rtol=1e-12, atol=1e-13)
        leaf = mg.tensor(example.inputs[place], requires_grad=True)
        result = alone(leaf)
        result.backward(np.cos(np.arange(result.size)).reshape(result.shape))
        assert leaf.grad is not None
        np.testing.assert_allclose(leaf.grad.numpy(), whole[place], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("join", [mg.concat, mg.stack])
def test_zeros_of_forward_derivatives_are_made_where_the_data_is(join) -> None:
    """Where one part of a join moves and another stands still, recorded, on the arrays of another library."""
    with registered() as strict:
        x, still = (mg.tensor(strict.from_host(np.arange(1.0, 4.0))) for _ in range(2))

        def moved(x: mg.Tensor) -> mg.Tensor:
            return mg.sum(mg.jvp(lambda z: join([still, z * z * z]), x, still)[1])

        found = mg.grad(moved)(x)
        assert found.device == "strict"
        np.testing.assert_allclose(found.numpy(), 6 * np.arange(1.0, 4.0) ** 2)
