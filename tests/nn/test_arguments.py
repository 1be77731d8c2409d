"""Arguments of layers: a sweep over the parameters of every constructor, by their annotations and names."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigrad.errors import ShapeError, UsageError
from minigrad.nn import functional
from minigrad.nn import layers as L
from minigrad.nn.containers import Sequential
from minigrad.nn.functional.arguments import POSITIVE, flags, one_of, real, sizes, whole
from minigrad.ops import ones

WITHOUT_ARGUMENTS = {"Identity", "LogSigmoid", "Sigmoid", "Softsign", "Tanh", "Tanhshrink"}
CHECKED_ELSEWHERE = {"device", "dtype", "weight", "pos_weight"}
"""By the engine, for all tensors."""

NO_SIZES: list[Any] = [3.5, "3", 0, -1, True, (2, 2, 2), (2.5, 2), (0, 1), [], [True], np.array([2, 2])]
WRONG: dict[str, list[Any]] = {
    "int": [3.5, "3", True, np.True_, [2], np.array([2]), float("nan")],
    "float": ["0.5", True, np.False_, [0.5], 1j, float("nan"), np.array([0.5])],
    "bool": ["yes", 2, 0.5, [True], np.array([True, False])],
    "str": ["sam", 1, ["mean"], True],
    "stream": [3, True, ["a"]],
    "Sizes": NO_SIZES,
    "of any length": [3.5, "3", True, (2.5, 2), [True], []],
    "scale": ["0.5", True, 1j, float("nan"), [1.0, True], ["2"]],
    "Module": [3, "layer", L.Linear],
    "ActivationFunction": ["selu", 3, ["relu"]],
    "None": [],
}
"""By the annotation of a parameter, what it does not take."""
KINDS: dict[str, str] = {
    "stream": "stream",
    "output_size": "Sizes | None",
    "size": "of any length | None",
    "scale_factor": "scale | None",
    "normalized_shape": "of any length",
    "unflattened_size": "of any length",
}
"""By the name of a parameter, where its annotation does not say enough."""

BEYOND: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(["dropout", "label_smoothing", "momentum"], (-0.1, 1.1, float("inf"))),
    **dict.fromkeys(["eps", "layer_norm_eps", "p", "lambd", "gamma", "std"], (-1e-5,)),
    **dict.fromkeys(["temperature", "delta", "base"], (0.0, -1.0)),
    **dict.fromkeys(["groups", "num_heads", "nhead", "num_groups"], (0, -2, 3)),
    **dict.fromkeys(["num_layers", "num_encoder_layers", "num_decoder_layers"], (0, -1)),
    **dict.fromkeys(["width", "longest", "num_features", "num_parameters", "channels"], (0, -1)),
    **dict.fromkeys(["in_features", "embedding_dim", "input_size", "hidden_size", "in_channels"], (0, -1)),
    **dict.fromkeys(["d_model", "dim_feedforward", "embed_dim", "kdim", "vdim", "query_size"], (0, -1)),
    "divisor_override": (0,),
    "max_val": (-2.0,),
    "normalized_shape": (0, (2, 0)),
    "out_features": (-1,),
    "output_padding": (1,),  # with a stride of 1
    "padding": (-1, "sam", "same", 2),  # "same" for a transpose, and 2 for a pool of kernel 2
    "padding_idx": (7, -8),
    "padding_mode": ("mirror",),
    "proj_size": (-1, 2, 3),
    "reduction": (0, 99, "average"),
    "scale_factor": (0.0, -2.0, [0.0, 1.0]),
    "unflattened_size": ((-1, -1), (-2, 3)),
    "upper": (-1.0,),
}
"""By the name of a parameter, what is of the right kind and means nothing."""

MADE: dict[str, dict[str, Any]] = {
    "Linear": {"in_features": 3, "out_features": 2},
    "Bilinear": {"in1_features": 3, "in2_features": 2, "out_features": 4},
    "Unflatten": {"dim": 1, "unflattened_size": (2, -1)},
    "Embedding": {"num_embeddings": 7, "embedding_dim": 2},
    "Threshold": {"threshold": 0.1, "value": 3.0},
    "LayerNorm": {"normalized_shape": (2, 3)},
    "RMSNorm": {"normalized_shape": 3},
    "GroupNorm": {"num_groups": 2, "num_channels": 4},
    "AdditiveAttention": {"query_size": 2, "key_size": 3, "hidden_size": 2},
    "MultiheadAttention": {"embed_dim": 4, "num_heads": 2},
    "TransformerEncoder": {"encoder_layer": L.Linear(2, 2), "num_layers": 2},
    "TransformerDecoder": {"decoder_layer": L.Linear(2, 2), "num_layers": 2},
    "SinusoidalPositions": {"width": 4, "longest": 9},
    "LearnedPositions": {"width": 2, "longest": 5},
    "RotaryPositions": {"width": 4, "longest": 9},
    "SqueezeExcitation": {"channels": 4, "reduction": 2},
    "Upsample": {"size": 2},
}
for start, arguments in {
    "BatchNorm": {"num_features": 2},
    "InstanceNorm": {"num_features": 2},
    "Conv": {"in_channels": 4, "out_channels": 2, "kernel_size": 2},
    "MaxPool": {"kernel_size": 2},
    "AvgPool": {"kernel_size": 2},
    "Adaptive": {"output_size": 2},
    "RNN": {"input_size": 2, "hidden_size": 2},
    "LSTM": {"input_size": 2, "hidden_size": 2},
    "GRU": {"input_size": 2, "hidden_size": 2},
}.items():
    MADE |= {name: arguments for name in L.__all__ if name.startswith(start)}
for name in ("Transformer", "TransformerEncoderLayer", "TransformerDecoderLayer"):
    MADE[name] = {"d_model": 4, "nhead": 2, "dim_feedforward": 3}
"""Arguments that a class needs, or with which it is small."""

EVERY = [
    (name, key)
    for name in L.__all__
    if name not in WITHOUT_ARGUMENTS
    for key in inspect.signature(getattr(L, name)).parameters
    if key not in CHECKED_ELSEWHERE
]
MEANT: list[tuple[str, str, Any]] = [
    ("", "padding", 0),
    ("", "output_padding", 0),
    ("", "padding", (0, 1)),
    ("Linear", "out_features", 0),
    ("Conv1d", "padding", "same"),
    ("Conv2d", "padding", "same"),
    ("Conv", "padding", 2),
]
"""What is wrong elsewhere and right for layers whose names begin so."""


def wrong_values(name: str, key: str) -> Iterator[Any]:
    """What a parameter has to refuse."""
    parameter = inspect.signature(getattr(L, name)).parameters[key]
    kinds = KINDS.get(key, str(parameter.annotation)).split(" | ")
    if kinds == ["Sizes", "str"]:
        kinds = ["Sizes"]
    values = [*(value for kind in kinds for value in WRONG[kind]), *BEYOND.get(key, ())]
    if "None" not in kinds and parameter.default is not None:
        values.append(None)
    for value in values:
        meant = [v for start, k, v in MEANT if name.startswith(start) and key == k]
        if not any(type(value) is type(v) and value == v for v in meant):
            yield value


@pytest.mark.parametrize(("name", "key"), EVERY)
def test_a_wrong_argument_is_refused_at_once_by_name(name: str, key: str):
    kind, made = getattr(L, name), MADE.get(name, {})
    kind(**made)
    if key == "scale_factor":
        made = {}
    for value in wrong_values(name, key):
        try:
            kind(**{**made, key: value})
        except UsageError as error:
            message = str(error)
            assert message.startswith((name, "MultiheadAttention: embed_dim")), message
            assert key in message or f"{value} heads" in message, message
        else:
            pytest.fail(f"{name}({key}={value!r}) was taken")


def test_the_sweep_leaves_no_layer_out():
    assert {name for name, _ in EVERY} == set(L.__all__) - WITHOUT_ARGUMENTS
    assert set(BEYOND) | set(KINDS) <= {key for _, key in EVERY}


@pytest.mark.parametrize("name", sorted(MADE))
@pytest.mark.parametrize("kind", [np.int64, np.uint8])
def test_numpys_integers_are_integers(name: str, kind: Any):
    """They make the same layer, that says the same of itself and is of Python's integers."""

    def of_numpy(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(of_numpy, value))
        return kind(value) if type(value) is int and value >= 0 else value

    layer, other = (
        getattr(L, name)(**arguments)
        for arguments in (MADE[name], {key: of_numpy(value) for key, value in MADE[name].items()})
    )
    assert repr(other) == repr(layer)
    assert [p.shape for p in other.parameters()] == [p.shape for p in layer.parameters()]
    kinds = {key: type(value) for key, value in vars(layer).items()}
    assert {key: type(value) for key, value in vars(other).items()} == kinds


@pytest.mark.parametrize(
    "name", ["MaxPool1d", "AvgPool1d", "AdaptiveAvgPool1d", "AdaptiveMaxPool1d", "Conv1d"]
)
def test_numpys_integers_work_in_forward(name: str):
    arguments = {key: np.int64(value) for key, value in MADE[name].items()}
    x = ones((1, 4, 6))
    assert getattr(L, name)(**arguments)(x).shape == getattr(L, name)(**MADE[name])(x).shape


@pytest.mark.parametrize("sizes", [2, (2, 3), [2, 3], (None, 3), None])
def test_pools_keep_sizes_as_they_were_given(sizes: Any):
    layer = L.AdaptiveAvgPool2d(sizes)
    assert layer.output_size == (tuple(sizes) if isinstance(sizes, list) else sizes)
    if sizes and None not in np.atleast_1d(np.array(sizes, dtype=object)):
        assert L.MaxPool2d(sizes).kernel_size == layer.output_size
        assert L.MaxPool2d(4, sizes).stride == layer.output_size


def test_a_table_of_vectors_has_two_axes():
    with pytest.raises(ShapeError, match=r"expected vectors .*got \(3,\)"):
        L.Embedding.from_pretrained([1.0, 2.0, 3.0])


def test_an_encoder_of_no_layers_is_an_encoder():
    """An empty container counts as false, and was replaced."""
    encoder = Sequential()
    assert L.Transformer(4, 2, 1, 1, 3, custom_encoder=encoder).encoder is encoder


# ----- What checks them -------------------------------------------------------------------------------------


@given(st.integers(), st.integers(-3, 3))
def test_whole_numbers_from_a_least_one_up(value: int, least: int):
    if value >= least:
        assert whole("f", least, value=value) == (value,)
    else:
        with pytest.raises(UsageError, match=f"f: value is .*from {least} up"):
            whole("f", least, value=value)
    assert whole("f", None, value=value, other=np.int64(2)) == (value, 2)


@given(st.floats(), st.floats(-2, 2), st.floats(-2, 2))
def test_numbers_between_limits(value: float, least: float, most: float):
    if least <= value <= most:
        real("f", least, most, value=value)
    else:
        with pytest.raises(UsageError, match="f: value is"):
            real("f", least, most, value=value)


def test_numbers_of_all_kinds():
    real("f", a=1, b=2.5, c=np.float32(3), d=np.uint8(4), e=float("inf"))
    real("f", POSITIVE, a=1e-300)
    with pytest.raises(UsageError, match="expected a number above 0"):
        real("f", POSITIVE, a=0)
    flags("f", a=True, b=np.False_, c=0, d=np.int64(1))
    one_of("f", ("a", "b"), value="b")
    assert sizes("f", 2, a=3, b=(1, np.int32(2))) == ((3, 3), (1, 2))
    assert sizes("f", None, a=3, b=[4, 5, 6]) == ((3,), (4, 5, 6))


def test_a_long_value_is_shortened():
    with pytest.raises(UsageError) as caught:
        whole("f", value="x" * 1000)
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize("drop", [functional.dropout, functional.dropout2d, functional.alpha_dropout])
@pytest.mark.parametrize("p", ["0.5", True, -0.1, 1.1, None, float("nan")])
def test_functions_refuse_probabilities_too(drop: Callable[..., Any], p: Any):
    with pytest.raises(UsageError, match=r"dropout: p is .*between 0 and 1"):
        drop(ones((2, 3)), p)
