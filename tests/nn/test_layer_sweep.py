"""The sweep: every layer, in every respect that all of them share."""

import copy

import numpy as np
import pytest

from minigrad.errors import MinigradError
from minigrad.nn import layers as L
from minigrad.nn.containers import Sequential
from minigrad.nn.module import Module
from minigrad.nn.summary import shape_only
from minigrad.ops import tensor
from minigrad.tensor import Tensor
from minigrad.testing import check_gradients
from tests.minigrad.strict import registered
from tests.nn.functional_call import with_parameters

LAYERS: dict[str, tuple[Module, tuple[tuple[int, ...], ...]]] = {
    "Linear": (L.Linear(3, 2), ((2, 3),)),
    "Bilinear": (L.Bilinear(3, 2, 4), ((2, 3), (2, 2))),
    "Identity": (L.Identity(), ((2, 3),)),
    "Flatten": (L.Flatten(), ((2, 3, 2),)),
    "Unflatten": (L.Unflatten(1, (2, -1)), ((2, 6),)),
    "Conv1d": (L.Conv1d(2, 4, 3, 2, 1, groups=2), ((2, 2, 6),)),
    "Conv2d": (L.Conv2d(2, 3, 2, padding=1, padding_mode="reflect"), ((2, 2, 3, 3),)),
    "ConvTranspose1d": (L.ConvTranspose1d(2, 3, 3, 2, 1, 1), ((2, 2, 3),)),
    "ConvTranspose2d": (L.ConvTranspose2d(2, 2, 2, 2, groups=2), ((2, 2, 2, 2),)),
    "MaxPool1d": (L.MaxPool1d(2), ((2, 2, 4),)),
    "MaxPool2d": (L.MaxPool2d(2, padding=1), ((2, 2, 3, 3),)),
    "AvgPool1d": (L.AvgPool1d(2, 1), ((2, 2, 4),)),
    "AvgPool2d": (L.AvgPool2d(2, padding=1, count_include_pad=False), ((2, 2, 3, 3),)),
    "AdaptiveAvgPool1d": (L.AdaptiveAvgPool1d(3), ((2, 2, 5),)),
    "AdaptiveAvgPool2d": (L.AdaptiveAvgPool2d((2, None)), ((2, 2, 3, 3),)),
    "AdaptiveMaxPool1d": (L.AdaptiveMaxPool1d(3), ((2, 2, 5),)),
    "AdaptiveMaxPool2d": (L.AdaptiveMaxPool2d(2), ((2, 2, 3, 3),)),
    "Upsample": (L.Upsample(scale_factor=1.5, mode="bilinear"), ((2, 2, 3, 3),)),
    "BatchNorm1d": (L.BatchNorm1d(2), ((3, 2, 2),)),
    "BatchNorm2d": (L.BatchNorm2d(2), ((2, 2, 2, 2),)),
    "LayerNorm": (L.LayerNorm((2, 3)), ((2, 2, 3),)),
    "RMSNorm": (L.RMSNorm(3), ((2, 3),)),
    "GroupNorm": (L.GroupNorm(2, 4), ((2, 4, 3),)),
    "InstanceNorm1d": (L.InstanceNorm1d(2, affine=True, track_running_stats=True), ((2, 2, 3),)),
    "InstanceNorm2d": (L.InstanceNorm2d(2), ((2, 2, 2, 2),)),
    "Dropout": (L.Dropout(), ((2, 3),)),
    "Dropout1d": (L.Dropout1d(), ((2, 3, 2),)),
    "Dropout2d": (L.Dropout2d(), ((2, 3, 2, 2),)),
    "AlphaDropout": (L.AlphaDropout(), ((2, 3),)),
    "StochasticDepth": (L.StochasticDepth(), ((2, 3),)),
    "RNN": (L.RNN(2, 3, bidirectional=True), ((2, 2, 2),)),
    "LSTM": (L.LSTM(2, 2, 2, batch_first=True), ((2, 3, 2),)),
    "LSTM, projected": (L.LSTM(2, 3, 1, batch_first=True, proj_size=2), ((2, 3, 2),)),
    "GRU": (L.GRU(2, 2, batch_first=True, bidirectional=True), ((2, 2, 2),)),
    "RNNCell": (L.RNNCell(2, 3), ((2, 2),)),
    "LSTMCell": (L.LSTMCell(2, 3), ((2, 2),)),
    "GRUCell": (L.GRUCell(2, 3), ((2, 2),)),
    "AdditiveAttention": (L.AdditiveAttention(2, 3, 2), ((2, 2, 2), (2, 3, 3))),
    "MultiheadAttention": (L.MultiheadAttention(4, 2, add_bias_kv=True, batch_first=True), ((2, 2, 4),) * 3),
    "TransformerEncoderLayer": (
        L.TransformerEncoderLayer(4, 2, 3, 0.0, "gelu", batch_first=True),
        ((2, 2, 4),),
    ),
    "TransformerDecoderLayer": (
        L.TransformerDecoderLayer(4, 2, 3, 0.0, "gelu", batch_first=True, norm_first=True),
        ((2, 2, 4), (2, 3, 4)),
    ),
    "TransformerEncoder": (
        L.TransformerEncoder(
            L.TransformerEncoderLayer(4, 1, 2, 0.0, "gelu", batch_first=True), 2, L.LayerNorm(4)
        ),
        ((2, 2, 4),),
    ),
    "TransformerDecoder": (
        L.TransformerDecoder(L.TransformerDecoderLayer(4, 2, 2, 0.0, "gelu", batch_first=True), 2),
        ((2, 2, 4), (2, 3, 4)),
    ),
    "Transformer": (
        L.Transformer(4, 2, 1, 1, 3, 0.0, "gelu", batch_first=True, norm_first=True),
        ((2, 3, 4), (2, 2, 4)),
    ),
    "SinusoidalPositions": (L.SinusoidalPositions(4, 9), ((2, 3, 4),)),
    "LearnedPositions": (L.LearnedPositions(2, 5), ((2, 3, 2),)),
    "RotaryPositions": (L.RotaryPositions(4, 9), ((2, 3, 4),)),
    "SqueezeExcitation": (L.SqueezeExcitation(4, 2), ((2, 4, 2, 2),)),
    "PReLU": (L.PReLU(3), ((2, 3, 2),)),
    "RReLU": (L.RReLU(), ((2, 4),)),
    "Softmax2d": (L.Softmax2d(), ((2, 3, 2, 2),)),
}
LAYERS |= {
    name: (getattr(L, name)(*arguments), ((2, 4),))
    for name, arguments in {
        "CELU": (1.5,), "ELU": (0.5,), "GELU": ("tanh",), "GLU": (), "SELU": (), "Hardshrink": (),
        "Hardsigmoid": (), "Hardswish": (), "Hardtanh": (), "LeakyReLU": (), "LogSigmoid": (),
        "LogSoftmax": (), "Mish": (), "ReLU": (), "ReLU6": (), "Sigmoid": (), "SiLU": (), "Softmax": (),
        "Softmin": (), "Softplus": (), "Softshrink": (), "Softsign": (), "Tanh": (), "Tanhshrink": (),
        "Threshold": (0.1, 3.0),
    }.items()
}  # fmt: skip
WITHOUT_FLOATS_IN = {"Embedding"}

everything = pytest.mark.parametrize("name", sorted(LAYERS))


def made(name: str) -> tuple[Module, list[np.ndarray]]:
    """A copy of the layer in float64, and inputs away from kinks: entries of different sizes."""
    layer, shapes = LAYERS[name]
    source = np.random.default_rng(3)
    inputs = []
    for shape in shapes:
        size = int(np.prod(shape))
        values = np.linspace(0.15, 1.9, size) * source.choice([-1.0, 1.0], size)
        inputs.append(source.permutation(values).reshape(shape))
    return copy.deepcopy(layer).to(dtype="float64"), inputs


def outputs(result: object) -> list[Tensor]:
    if isinstance(result, tuple):
        return [x for part in result for x in outputs(part)]
    return [result] if isinstance(result, Tensor) else []


def test_no_layer_is_left_out():
    losses = {name for name in L.__all__ if name.endswith("Loss")}
    swept = {name.partition(",")[0] for name in LAYERS}
    assert set(L.__all__) == swept | losses | WITHOUT_FLOATS_IN


@everything
@pytest.mark.parametrize("training", [True, False])
def test_derivatives_by_both_walks_to_second_order(name, training):
    layer, inputs = made(name)
    layer.train(training)
    function, parameters = with_parameters(layer, len(inputs))
    order = 1 if len(parameters) > 6 else 2
    check_gradients(function, *inputs, *parameters, order=order, tolerance=1e-5)


@everything
@pytest.mark.parametrize("training", [True, False])
def test_derivatives_of_a_sample_alone(name, training):
    layer, inputs = made(name)
    layer.train(training)
    alone = [x.take([1], 1 if name == "RNN" else 0) for x in inputs]
    function, parameters = with_parameters(layer, len(alone))
    check_gradients(function, *alone, *parameters, order=1, tolerance=1e-5)


@everything
def test_a_sample_does_not_depend_on_the_others_in_evaluation(name):
    layer, inputs = made(name)
    layer.eval()
    axis = 1 if name == "RNN" else 0
    whole = outputs(layer(*map(tensor, inputs)))[0].numpy()
    alone = outputs(layer(*(tensor(x.take([1], axis)) for x in inputs)))[0].numpy()
    np.testing.assert_allclose(alone, whole.take([1], axis), rtol=1e-12, atol=1e-12)


@everything
@pytest.mark.parametrize("training", [True, False])
def test_an_empty_batch_comes_out_empty(name, training):
    layer, inputs = made(name)
    layer.train(training)
    axis = 1 if name == "RNN" else 0
    leaves = [tensor(x.take([], axis), requires_grad=True) for x in inputs]
    out = outputs(layer(*leaves))[0]
    assert 0 in out.shape
    out.sum().backward()
    assert all(not p.grad.numpy().any() for p in layer.parameters() if p.grad is not None)


@everything
def test_float32_stays_float32(name):
    layer, inputs = made(name)
    layer.to(dtype="float32")
    results = outputs(layer(*(tensor(x.astype("float32")) for x in inputs)))
    assert {x.dtype for x in results} == {np.dtype("float32")}


@everything
def test_shape_only_arrays_go_through_and_come_out_in_shape(name):
    layer, inputs = made(name)
    twin = shape_only(layer)
    real = outputs(layer(*map(tensor, inputs)))
    shapes = outputs(twin(*(tensor(x, device="shapes") for x in inputs)))
    assert [(x.shape, x.dtype) for x in shapes] == [(x.shape, x.dtype) for x in real]


@everything
@pytest.mark.parametrize("training", [True, False])
def test_nothing_depends_on_numpy(name, training):
    """The same layers on the arrays of another library, which knows the array API standard and no more."""
    layer, inputs = made(name)
    drops = "Drop" in name or name in (
        "StochasticDepth",
        "RReLU",
    )
    # The standard has no integers that wrap around, which counted random numbers need.
    layer.train(training and not drops)
    expected = outputs(layer(*map(tensor, inputs)))
    twin, _ = made(name)
    twin.train(layer.training)
    with registered():
        twin.to(device="strict")
        leaves = [tensor(x, device="strict", requires_grad=True) for x in inputs]
        found = outputs(twin(*leaves))
        for ours, wanted in zip(found, expected, strict=True):
            assert ours.device == "strict"
            np.testing.assert_allclose(ours.numpy(), wanted.numpy(), rtol=1e-11, atol=1e-12)
        found[0].sum().backward()
        assert all(leaf.grad is not None and leaf.grad.device == "strict" for leaf in leaves)


def test_embedding_in_every_respect_of_the_sweep():
    """Its inputs are numbers of rows, so the derivatives are those by its table."""
    layer, indices = L.Embedding(5, 3, padding_idx=1, dtype="float64"), np.array([[0, 4, 4], [1, 2, 0]])
    plain = L.Embedding(5, 3, dtype="float64")
    check_gradients(lambda table: looked_up(plain, table, indices), plain.weight.numpy(), tolerance=1e-6)
    whole = layer(indices).numpy()
    np.testing.assert_array_equal(layer(indices[1:]).numpy(), whole[1:])
    for empty in (indices[:0], indices[:, :0]):
        out = layer(empty)
        assert out.shape == (*empty.shape, 3)
        out.sum().backward()
        assert layer.weight.grad is not None
        assert not layer.weight.grad.numpy().any()
    assert copy.deepcopy(layer).to(dtype="float32")(indices).dtype == np.float32
    twin = shape_only(layer)
    assert twin(tensor(indices, device="shapes")).shape == (2, 3, 3)
    with registered():
        other = copy.deepcopy(layer).to(device="strict")
        out = other(tensor(indices, device="strict"))
        np.testing.assert_array_equal(out.numpy(), whole)
        other.zero_grad()
        out.sum().backward()
        assert other.weight.grad.device == "strict"
        assert other.weight.grad.numpy().sum(axis=1).tolist() == [6, 0, 3, 0, 6]


def looked_up(layer: L.Embedding, table: Tensor, indices: np.ndarray) -> Tensor:
    own = layer.weight
    object.__setattr__(layer, "weight", table)
    try:
        found: Tensor = layer(indices)
        return found
    finally:
        object.__setattr__(layer, "weight", own)


@everything
def test_printing_names_the_class_and_the_state_goes_round(name):
    layer, inputs = made(name)
    assert repr(layer).startswith(type(layer).__name__ + "(")
    twin = copy.deepcopy(layer)
    for parameter in twin.parameters():
        parameter.assign(0.0)
    twin.load_state_dict(layer.state_dict())
    layer.eval()
    twin.eval()
    for ours, others in zip(
        outputs(layer(*map(tensor, inputs))), outputs(twin(*map(tensor, inputs))), strict=True
    ):
        np.testing.assert_array_equal(ours.numpy(), others.numpy())


@pytest.mark.parametrize(
    ("layer", "shape", "words"),
    [
        (L.Linear(3, 2), (2, 4), ["(2, 4)", "3 features"]),
        (L.Conv2d(3, 2, 3), (2, 4, 5, 5), ["conv2d", "(2, 4, 5, 5)", "3 channels"]),
        (L.BatchNorm1d(3), (2, 3, 2, 2), ["BatchNorm1d", "(N, C) or (N, C, L)", "(2, 3, 2, 2)"]),
        (L.BatchNorm2d(3), (2, 4, 2, 2), ["BatchNorm2d", "C = 3", "(2, 4, 2, 2)"]),
        (L.BatchNorm1d(3), (1, 3), ["one value for each channel", "(1, 3)", "eval()"]),
        (L.LayerNorm((3,)), (2, 4), ["layer_norm over (3,)", "(2, 4)"]),
        (L.GroupNorm(2, 4), (2, 6), ["GroupNorm", "(N, 4, ...)", "(2, 6)"]),
        (L.InstanceNorm2d(3), (2, 2, 2, 2), ["InstanceNorm2d", "(N, 3, H, W)", "(2, 2, 2, 2)"]),
        (L.InstanceNorm1d(3), (2, 3, 1), ["one entry for each channel", "(2, 3, 1)"]),
        (L.Unflatten(1, (4, -1)), (2, 6), ["axis 1 of (2, 6)", "(4, -1)"]),
        (L.Dropout2d(), (4,), ["(N, C, ...)", "(4,)"]),
        (L.LSTM(3, 2), (4, 2, 5), ["LSTM", "(time, batch, 3)", "(4, 2, 5)"]),
        (L.GRU(3, 2, batch_first=True), (4, 5), ["GRU", "(batch, time, 3)", "(4, 5)"]),
        (L.LSTM(3, 2), (0, 2, 3), ["LSTM", "at least one step", "(0, 2, 3)"]),
        (L.GRUCell(3, 2), (4, 2), ["GRUCell", "(batch, 3)", "(4, 2)"]),
        (L.RotaryPositions(4, longest=2), (2, 3, 4), ["at most 2 positions", "(2, 3, 4)"]),
        (L.SqueezeExcitation(4, 2), (2, 3, 2), ["SqueezeExcitation", "(N, 4, ...)", "(2, 3, 2)"]),
    ],
)
def test_what_does_not_fit_is_refused_by_name_with_what_was_expected(layer, shape, words):
    with pytest.raises(MinigradError) as caught:
        layer(tensor(np.ones(shape, "float32")))
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: L.Bilinear(0, 1, 1), ["Bilinear: in1_features is 0", "from 1 up"]),
        (lambda: L.Conv2d(3, 4, 3, groups=2), ["Conv2d(3, 4, groups=2)", "multiples"]),
        (lambda: L.Conv2d(3, 4, 3, stride=2, padding="same"), ["stride 1", "(2, 2)"]),
        (lambda: L.Conv1d(3, 4, 3, padding_mode="mirror"), ["padding_mode", "'mirror'"]),
        (lambda: L.ConvTranspose1d(3, 4, 3, padding_mode="reflect"), ["zeros", "'reflect'"]),
        (lambda: L.Conv2d(3, 4, (3, 3, 3)), ["Conv2d", "kernel_size", "(3, 3, 3)"]),
        (lambda: L.GroupNorm(3, 4), ["num_groups 3", "4 channels"]),
        (lambda: L.Embedding(3, 4, padding_idx=3), ["padding_idx is 3", "3 rows"]),
        (lambda: L.Dropout(1.5), ["between 0 and 1", "1.5"]),
        (lambda: L.LSTM(3, 0), ["LSTM: hidden_size is 0", "from 1 up"]),
        (lambda: L.RNN(3, 2, nonlinearity="sigmoid"), ["RNN", "'sigmoid'"]),
        (lambda: L.MultiheadAttention(5, 2), ["embed_dim 5", "2 heads"]),
        (lambda: L.TransformerEncoderLayer(4, 2, activation="tan"), ["relu", "'tan'"]),
        (lambda: L.SinusoidalPositions(3), ["even", "3"]),
        (lambda: L.RotaryPositions(5), ["even", "5"]),
        (lambda: L.SqueezeExcitation(4, 8), ["reduction 8", "4"]),
        (lambda: L.CrossEntropyLoss(reduction="average"), ["CrossEntropyLoss", "'average'"]),
    ],
)
def test_arguments_that_make_no_layer_are_refused(make, words):
    with pytest.raises(MinigradError) as caught:
        make()
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_layers_print_as_in_torch():
    model = Sequential(L.Conv2d(1, 2, 3, padding=1), L.BatchNorm2d(2), L.ReLU(), L.Flatten(), L.Linear(8, 2))
    assert repr(model) == (
        "Sequential(\n"
        "  (0): Conv2d(1, 2, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))\n"
        "  (1): BatchNorm2d(2, eps=1e-05, momentum=0.1, affine=True, bias=True, track_running_stats=True)\n"
        "  (2): ReLU()\n"
        "  (3): Flatten(start_dim=1, end_dim=-1)\n"
        "  (4): Linear(in_features=8, out_features=2, bias=True)\n"
        ")"
    )
