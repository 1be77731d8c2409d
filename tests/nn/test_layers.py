"""Layers: shapes, defaults, starting values and names, as torch documents them."""

import math
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import erf

from minigrad import nn, random
from minigrad.errors import DTypeError, ShapeError, UsageError
from minigrad.nn import layers as L
from minigrad.ops import tensor
from minigrad.tensor import Tensor


def shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: value.shape for name, value in module.state_dict().items()}


def array(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


# ----- Names and defaults ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (lambda: nn.Linear(3, 4), {"weight": (4, 3), "bias": (4,)}),
        (lambda: nn.Linear(3, 4, bias=False), {"weight": (4, 3)}),
        (lambda: nn.Linear(3, 4, False), {"weight": (4, 3)}),
        (lambda: nn.Embedding(5, 3), {"weight": (5, 3)}),
        (lambda: nn.LayerNorm(4), {"weight": (4,), "bias": (4,)}),
        (lambda: nn.LayerNorm((2, 4)), {"weight": (2, 4), "bias": (2, 4)}),
        (lambda: nn.LayerNorm([4], bias=False), {"weight": (4,)}),
        (lambda: nn.LayerNorm(4, 1e-5, False), {}),
        (nn.Dropout, {}),
        (nn.GELU, {}),
        (nn.ReLU, {}),
        (nn.Tanh, {}),
    ],
)
def test_parameters_have_torchs_names_order_and_shapes(module, expected):
    assert list(shapes(module()).items()) == list(expected.items())


def test_defaults():
    assert nn.LayerNorm(3).eps == 1e-5
    assert nn.Dropout().p == 0.5
    assert nn.GELU().approximate == "none"
    assert {str(p.dtype) for p in nn.Linear(2, 2).parameters()} == {"float32"}
    assert {str(p.dtype) for p in nn.Linear(2, 2, dtype="float64").parameters()} == {"float64"}


# ----- Linear ----------------------------------------------------------------------------------------


@given(
    lead=st.lists(st.integers(0, 3), max_size=3),
    inputs=st.integers(1, 4),
    outputs=st.integers(1, 4),
    bias=st.booleans(),
)
def test_linear_is_an_affine_map_of_the_last_axis(lead, inputs, outputs, bias):
    layer = nn.Linear(inputs, outputs, bias=bias, dtype="float64")
    x = array(*lead, inputs)
    expected = np.einsum("...i,oi->...o", x, layer.weight.numpy())
    if layer.bias is not None:
        expected = expected + layer.bias.numpy()
    out = layer(tensor(x))
    assert out.shape == (*lead, outputs)
    np.testing.assert_allclose(out.numpy(), expected, rtol=1e-12, atol=1e-14)


def test_linear_starts_uniform_within_one_over_the_root_of_its_inputs():
    layer = nn.Linear(64, 1000)
    for parameter in (layer.weight, layer.bias):
        assert parameter is not None
        spread = parameter.numpy() * math.sqrt(64)
        assert np.abs(spread).max() <= 1.0
        assert np.abs(spread).max() > 0.99
        assert abs(spread.mean()) < 6 / math.sqrt(3 * spread.size)
        assert spread.var() == pytest.approx(1 / 3, abs=6 * math.sqrt(4 / 45 / spread.size))


@pytest.mark.parametrize("sizes", [(0, 1), (-1, 1), (1, -1)])
def test_linear_refuses_sizes(sizes):
    with pytest.raises(UsageError, match="Linear"):
        nn.Linear(*sizes)


def test_linear_refuses_another_width():
    with pytest.raises(ShapeError, match=r"\(2, 4\).*takes 3"):
        nn.Linear(3, 2)(tensor(array(2, 4)))


# ----- Embedding -------------------------------------------------------------------------------------


@given(shape=st.lists(st.integers(0, 3), max_size=3), dtype=st.sampled_from(["uint8", "int32", "int64"]))
def test_embedding_looks_rows_up(shape, dtype):
    layer = nn.Embedding(5, 3)
    indices = np.random.default_rng(0).integers(0, 5, shape).astype(dtype)
    for given_as in (tensor(indices), indices):
        np.testing.assert_array_equal(layer(given_as).numpy(), layer.weight.numpy()[indices])


def test_embedding_adds_up_gradients_of_repeated_rows():
    layer = nn.Embedding(4, 2)
    layer(tensor([[1, 1], [3, 1]])).backward(np.arange(8, dtype="float32").reshape(2, 2, 2))
    assert layer.weight.grad is not None
    assert layer.weight.grad.tolist() == [[0, 0], [0 + 2 + 6, 1 + 3 + 7], [0, 0], [4, 5]]


def test_embedding_starts_standard_normal():
    table = nn.Embedding(500, 100).weight.numpy()
    assert abs(table.mean()) < 6 / math.sqrt(table.size)
    assert table.var() == pytest.approx(1.0, abs=6 * math.sqrt(2 / table.size))
    assert (np.abs(table) < 1).mean() == pytest.approx(erf(math.sqrt(0.5)), abs=0.01)


@pytest.mark.parametrize("indices", [[0, 5], [-1, 0]])
def test_embedding_refuses_rows_that_are_not_there(indices):
    with pytest.raises(UsageError, match="table of 5 rows"):
        nn.Embedding(5, 2)(indices)


def test_embedding_refuses_numbers_that_are_no_integers():
    with pytest.raises(DTypeError, match="float32"):
        nn.Embedding(5, 2)(tensor([1.0]))


# ----- LayerNorm -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [4, (4,), (3, 4), [2, 3, 4]])
def test_layer_norm_normalises_the_last_axes(shape):
    layer = nn.LayerNorm(shape, dtype="float64")
    x = 5.0 + 3.0 * array(2, 2, 3, 4)
    axes = tuple(range(4 - len(layer.normalized_shape), 4))
    plain = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-5)
    np.testing.assert_allclose(layer(tensor(x)).numpy(), plain, rtol=1e-12, atol=1e-13)
    gain, shift = array(*layer.normalized_shape, seed=1), array(*layer.normalized_shape, seed=2)
    layer.load_state_dict({"weight": gain, "bias": shift})
    np.testing.assert_allclose(layer(tensor(x)).numpy(), plain * gain + shift, rtol=1e-12, atol=1e-13)


@given(scale=st.floats(0.1, 100), shift=st.floats(-100, 100))
def test_layer_norm_does_not_see_scale_and_shift(scale, shift):
    layer = nn.LayerNorm(8, eps=0.0, dtype="float64")
    x = array(3, 8)
    np.testing.assert_allclose(
        layer(tensor(scale * x + shift)).numpy(), layer(tensor(x)).numpy(), rtol=1e-9, atol=1e-9
    )


def test_layer_norm_starts_as_the_identity_after_normalising():
    layer = nn.LayerNorm(3)
    assert layer.weight is not None
    assert layer.bias is not None
    assert (layer.weight.tolist(), layer.bias.tolist()) == ([1, 1, 1], [0, 0, 0])


def test_layer_norm_refuses_another_shape():
    with pytest.raises(ShapeError, match=r"\(3,\).*\(2, 4\)"):
        nn.LayerNorm(3)(tensor(array(2, 4)))


# ----- Dropout ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", [1, -4])
def test_the_row_of_padding_starts_as_zeros_and_stays(padding):
    layer = nn.Embedding(5, 3, padding_idx=padding)
    assert not layer.weight.numpy()[1].any()
    out = layer(np.array([[0, 1, 1], [4, 1, 0]]))
    np.testing.assert_array_equal(out.numpy()[:, 1], 0.0)
    (out * tensor(array(2, 3, 3).astype("float32"))).sum().backward()
    assert layer.weight.grad is not None
    touched = layer.weight.grad.numpy().any(axis=1)
    assert touched.tolist() == [True, False, False, False, True]


def test_vectors_that_are_given_are_kept_and_frozen_unless_asked():
    table = array(4, 2)
    layer = nn.Embedding.from_pretrained(table)
    np.testing.assert_array_equal(layer.weight.numpy(), table)
    assert not layer.weight.requires_grad
    assert nn.Embedding.from_pretrained(table, freeze=False).weight.requires_grad


def test_dropout_keeps_a_share_of_one_minus_p_and_the_mean():
    layer = nn.Dropout(0.3)
    out = layer(tensor(np.ones((200, 500)))).numpy()
    assert set(np.unique(out)) == {0.0, 1 / 0.7}
    assert (out == 0).mean() == pytest.approx(0.3, abs=6 * math.sqrt(0.21 / out.size))


def test_dropout_passes_through_in_evaluation_and_at_zero():
    x = tensor(array(3, 4))
    assert nn.Dropout(0.9).eval()(x) is x
    assert nn.Dropout(0.0)(x) is x
    assert not nn.Dropout(1.0)(x).numpy().any()


def test_dropout_masks_the_gradient_alike():
    x = tensor(np.ones((50, 4)), requires_grad=True)
    out = nn.Dropout(0.5)(x)
    out.sum().backward()
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad.numpy(), out.numpy())


def test_dropout_differs_by_layer_call_and_step():
    x = tensor(np.ones((8, 64)))
    one, other = nn.Dropout(), nn.Dropout()
    with random.scope(seed=0, step=1, samples=range(8)):
        first, again, beside = one(x).numpy(), one(x).numpy(), other(x).numpy()
    with random.scope(seed=0, step=2, samples=range(8)):
        later = one(x).numpy()
    with random.scope(seed=1, step=1, samples=range(8)):
        elsewhere = one(x).numpy()
    assert all((first != drawn).mean() > 0.3 for drawn in (again, beside, later, elsewhere))
    assert (one(x).numpy() != one(x).numpy()).any()


@given(cut=st.integers(0, 8), width=st.integers(1, 5), order=st.permutations(range(8)))
def test_dropout_belongs_to_the_sample_and_not_to_its_place_in_the_batch(cut, width, order):
    layer = nn.Dropout(0.5, stream="here")
    x = tensor(np.ones((8, width)))
    with random.scope(seed=3, step=4, samples=range(8)):
        whole = layer(x).numpy()
    parts = [order[:cut], order[cut:]]
    drawn = []
    for part in parts:
        with random.scope(seed=3, step=4, samples=part):
            drawn.append(layer(tensor(np.ones((len(part), width)))).numpy())
    np.testing.assert_array_equal(np.concatenate(drawn), whole[list(order)])


def test_dropout_layers_are_numbered_alike_on_every_thread():
    streams: list[list[str]] = []

    def build() -> None:
        streams.append([nn.Dropout().stream, nn.Dropout().stream])

    threads = [threading.Thread(target=build) for _ in range(2)]
    for thread in threads:
        thread.start()
        thread.join()
    assert streams[0] == streams[1]
    assert len(set(streams[0])) == 2


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
def test_dropout_refuses_what_is_no_probability(p):
    with pytest.raises(UsageError, match="between 0 and 1"):
        nn.Dropout(p)


# ----- Activations -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.ReLU(), lambda x: np.where(x > 0, x, 0)),
        (nn.Tanh(), np.tanh),
        (nn.GELU(), lambda x: x * 0.5 * (1 + erf(x / math.sqrt(2)))),
        (
            nn.GELU(approximate="tanh"),
            lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        ),
    ],
)
def test_activations(layer, expected):
    x = np.linspace(-6, 6, 241).reshape(1, 241)
    np.testing.assert_allclose(layer(tensor(x)).numpy(), expected(x), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("layer", [nn.ReLU(), nn.Tanh(), nn.GELU(), nn.GELU("tanh"), nn.Dropout()])
def test_activations_keep_shape_and_dtype(layer):
    for shape in [(), (0,), (2, 0, 3), (2, 3)]:
        out = layer(Tensor(np.ones(shape, "float32")))
        assert (out.shape, out.dtype) == (shape, np.float32)


def test_slopes_of_rrelu_are_drawn_between_the_bounds_while_training():
    layer, x = L.RReLU(0.2, 0.6), np.random.default_rng(0).normal(size=(50, 40))
    found = layer(tensor(x)).numpy()
    np.testing.assert_array_equal(found[x >= 0], x[x >= 0])
    slopes = (found / x)[x < 0]
    assert (slopes >= 0.2 - 1e-12).all()
    assert (slopes <= 0.6 + 1e-12).all()
    error = 0.4 / np.sqrt(12 * slopes.size)
    assert abs(slopes.mean() - 0.4) < 5 * error  # of uniform numbers, whose deviation is the width / √12
    np.testing.assert_allclose(slopes.std(), 0.4 / np.sqrt(12), rtol=0.1)
    assert (layer(tensor(x)).numpy() != found)[x < 0].any()  # new in every call
    np.testing.assert_allclose(layer.eval()(tensor(x)).numpy(), np.where(x >= 0, x, 0.4 * x), rtol=1e-12)
    with pytest.raises(UsageError, match=r"upper is 0\.2; expected a number from 0\.6 up"):
        L.RReLU(0.6, 0.2)
    with pytest.raises(ShapeError, match=r"Softmax2d.*\(2, 3\)"):
        L.Softmax2d()(tensor(np.ones((2, 3))))


def test_torchs_arguments_without_meaning_here_are_accepted():
    x = tensor(np.ones((2, 3, 2, 2), "float32"))
    for layer in (L.Dropout(0.5, True), L.Dropout2d(0.5, inplace=True), L.ReLU(inplace=True)):
        np.testing.assert_array_equal(layer.eval()(x).numpy(), x.numpy())
    one = L.TransformerEncoderLayer(4, 2, 3, batch_first=True)
    assert len(L.TransformerEncoder(one, 2, None, False, mask_check=False).layers) == 2
    for norm in (L.BatchNorm2d(3, bias=False), L.GroupNorm(3, 3, bias=False)):
        assert next(iter(norm.state_dict())) == "weight"
        assert norm.bias is None
        assert norm(x).shape == x.shape
    assert L.HuberLoss("sum", 2.0)(input=x, target=x - 1).item() == 12.0
