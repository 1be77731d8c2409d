"""A model built of shapes only, and filled later, begins to the bit as one that was built whole."""

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import nn, random
from minigrad.errors import DeviceError, GraphError, UsageError
from minigrad.nn import init
from minigrad.nn import layers as L
from minigrad.nn import models as M
from minigrad.nn.gpt import GPT, GPTConfig
from minigrad.nn.materialize import unfilled
from minigrad.nn.models.resnet import BasicBlock, ResNet
from minigrad.nn.module import Module
from minigrad.nn.summary import shape_only, summary
from tests.nn.test_layer_sweep import LAYERS

Make = Callable[..., Module]


def encoder(**where: Any) -> Module:
    layer = L.TransformerEncoderLayer(4, 1, 2, 0.0, "gelu", **where)
    return L.TransformerEncoder(layer, 2, L.LayerNorm(4, **where))


def decoder(**where: Any) -> Module:
    return L.TransformerDecoder(L.TransformerDecoderLayer(4, 2, 2, **where), 2)


def moved(**where: Any) -> Module:
    """Converted twice on the way: what float16 rounds off stays off."""
    return L.Linear(5, 3, **where).to(dtype="float16").to(dtype="float64")


# Every layer that has parameters or buffers; the dtype is given to all.
MAKES: dict[str, Make] = {
    "Linear": partial(L.Linear, 3, 2),
    "Bilinear": partial(L.Bilinear, 3, 2, 4),
    "Conv1d": partial(L.Conv1d, 2, 4, 3, groups=2),
    "Conv2d": partial(L.Conv2d, 2, 3, 2),
    "ConvTranspose1d": partial(L.ConvTranspose1d, 2, 3, 3),
    "ConvTranspose2d": partial(L.ConvTranspose2d, 2, 2, 2, groups=2),
    "BatchNorm1d": partial(L.BatchNorm1d, 3),
    "BatchNorm2d": partial(L.BatchNorm2d, 2),
    "LayerNorm": partial(L.LayerNorm, (2, 3)),
    "RMSNorm": partial(L.RMSNorm, 3),
    "GroupNorm": partial(L.GroupNorm, 2, 4),
    "InstanceNorm1d": partial(L.InstanceNorm1d, 2, affine=True, track_running_stats=True),
    "InstanceNorm2d": partial(L.InstanceNorm2d, 2, track_running_stats=True),
    "RNN": partial(L.RNN, 2, 3, bidirectional=True),
    "LSTM": partial(L.LSTM, 2, 3, 2, proj_size=2),
    "GRU": partial(L.GRU, 2, 2),
    "RNNCell": partial(L.RNNCell, 2, 3),
    "LSTMCell": partial(L.LSTMCell, 2, 3),
    "GRUCell": partial(L.GRUCell, 2, 3),
    "AdditiveAttention": partial(L.AdditiveAttention, 2, 3, 2),
    "MultiheadAttention": partial(L.MultiheadAttention, 4, 2, add_bias_kv=True, kdim=3),
    "TransformerEncoderLayer": partial(L.TransformerEncoderLayer, 4, 2, 3),
    "TransformerDecoderLayer": partial(L.TransformerDecoderLayer, 4, 2, 3),
    "TransformerEncoder": encoder,
    "TransformerDecoder": decoder,
    "Transformer": partial(L.Transformer, 4, 2, 1, 1, 3),
    "SinusoidalPositions": partial(L.SinusoidalPositions, 4, 9),
    "LearnedPositions": partial(L.LearnedPositions, 2, 5),
    "RotaryPositions": partial(L.RotaryPositions, 4, 9),
    "SqueezeExcitation": partial(L.SqueezeExcitation, 4, 2),
    "PReLU": partial(L.PReLU, 3),
    "Embedding": partial(L.Embedding, 7, 3, padding_idx=-2),
}
LATER: dict[str, Make] = {
    **MAKES,
    "converted": moved,
    "GPT": partial(GPT, GPTConfig(7, 5, 2, 2, 4), seed=3),
    "LeNet": M.LeNet,
    "ResNet": partial(ResNet, BasicBlock, (1, 1, 1, 1), 3, True, squeeze=8),
    "BERT": partial(M.BERT, 9, 2, 2, 4, 6),
    "ViT": partial(M.ViT, 8, 4, 1, 2, 4, 6, num_classes=3),
    "Mixer": partial(M.Mixer, 8, 4, 1, 4, 3, 5, 2),
    "MLP": partial(M.MLP, (4, 300, 300)),  # more numbers than are drawn at a time
    "Seq2Seq": partial(M.Seq2Seq, 5, 6, 3, 4),
    "TranslationTransformer": partial(M.TranslationTransformer, 7, 4, 2, 1, 5, longest=6, padding=1),
}


def state(model: Module) -> dict[str, np.ndarray]:
    """Parameters and all buffers, also those that are not saved."""
    return {name: x.numpy().copy() for name, x in [*model.named_parameters(), *model.named_buffers()]}


def same(actual: Module, expected: dict[str, np.ndarray]) -> None:
    found = state(actual)
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        assert found[name].tobytes() == value.tobytes(), name


def test_no_layer_with_a_state_is_left_out() -> None:
    stateful = {name.partition(",")[0] for name, (layer, _) in LAYERS.items() if state(layer)}
    assert set(MAKES) == stateful | {"Embedding", "InstanceNorm2d"}


@pytest.mark.parametrize("dtype", ["float32", ml_dtypes.bfloat16], ids=str)
@pytest.mark.parametrize("name", sorted(LATER))
def test_every_layer_and_model_begins_as_one_that_was_built_whole(name: str, dtype: Any) -> None:
    random.manual_seed(7)
    whole = LATER[name](dtype=dtype)
    random.manual_seed(7)
    later = LATER[name](dtype=dtype, device="shapes")
    assert {x.device for x in (*later.parameters(), *later.buffers())} == {"shapes"}
    same(init.materialize(later), state(whole))


@settings(max_examples=80, deadline=None)
@given(
    names=st.lists(st.sampled_from(sorted(LATER)), min_size=1, max_size=3),
    dtype=st.sampled_from(["float16", "float32", "float64"]),
    seed=st.integers(0, 3),
    without=st.lists(st.booleans(), min_size=3, max_size=3),
    order=st.randoms(use_true_random=False),
)
def test_models_in_a_row_begin_alike_whichever_of_them_have_shapes_only(
    names: list[str], dtype: str, seed: int, without: list[bool], order: Any
) -> None:
    random.manual_seed(seed)
    expected = [state(LATER[name](dtype=dtype)) for name in names]
    after = random.next_key()
    random.manual_seed(seed)
    where = ["shapes" if shapes else "cpu" for shapes in without]
    models = [LATER[name](dtype=dtype, device=place) for name, place in zip(names, where, strict=False)]
    assert random.next_key() == after
    random.manual_seed(seed + 1)  # what is drawn, and when, no longer matters
    tensors = [x for model in models for x in (*model.parameters(), *model.buffers())]
    order.shuffle(tensors)
    for x in tensors:
        held, node = x.data, x.node
        assert init.materialize(x) is x
        assert x.device == "cpu"
        assert x.node is node  # hooks, buffers and optimizers hang on it
        assert (x.data is held) == (type(held) is np.ndarray)
    for model, values in zip(models, expected, strict=True):
        same(model, values)
    assert not any(unfilled(model) for model in models)


def row_zeroed(x: Any) -> Any:
    x.zero_row(-1)
    return x


FILLS: dict[str, Callable[..., Any]] = {
    "zeros": init.zeros_,
    "ones": init.ones_,
    "constant": partial(init.constant_, val=0.1),
    "normal": partial(init.normal_, mean=0.5, std=2.0),
    "uniform": partial(init.uniform_, a=-1.0, b=3.0),
    "truncated": partial(init.trunc_normal_, std=0.5, a=-0.3, b=0.7),
    "kaiming uniform": partial(init.kaiming_uniform_, mode="fan_out"),
    "kaiming normal": init.kaiming_normal_,
    "xavier uniform": init.xavier_uniform_,
    "xavier normal": partial(init.xavier_normal_, gain=2.0),
    "identity": init.eye_,
    "orthogonal": partial(init.orthogonal_, gain=3.0),
    "sparse": partial(init.sparse_, sparsity=0.3),
    "row": lambda x, **how: row_zeroed(init.normal_(x, **how)),
    "assigned": lambda x: x.assign(np.arange(math.prod(x.shape)).reshape(x.shape)),
    "assigned number": lambda x: x.assign(mg.tensor(3.0)),
}


@pytest.mark.parametrize("name", FILLS)
@pytest.mark.parametrize("shape", [(3, 5), (2, 40_000)])
def test_every_function_of_init_fills_later_what_it_fills_now(name: str, shape: tuple[int, int]) -> None:
    shape = (40, 300) if name == "orthogonal" and shape[1] > 5 else shape
    random.manual_seed(1)
    now = FILLS[name](nn.Parameter(mg.zeros(shape)))
    after = random.next_key()
    random.manual_seed(1)
    later = nn.Parameter(mg.zeros(shape, device="shapes"))
    assert FILLS[name](later) is later
    assert random.next_key() == after
    twin, other = copy.deepcopy(later), shape_only(nn.ParameterList([later]))
    for x in (later, twin, next(other.parameters())):
        init.materialize(x)
        np.testing.assert_array_equal(x.numpy(), now.numpy())


def test_blocks_hold_the_numbers_of_one_draw() -> None:
    shape = (3, init.BLOCK)
    expected = random.generator("a", 1).normal(0.0, 0.02, shape).astype("float32")
    weight = init.normal_(nn.Parameter(mg.zeros(shape)), std=0.02, generator=random.generator("a", 1))
    np.testing.assert_array_equal(weight.numpy(), expected)
    turned = nn.Parameter(np.zeros(shape[::-1]).T)
    assert not turned.data.flags.c_contiguous
    np.testing.assert_array_equal(
        init.uniform_(turned, generator=("b", 2)).numpy(), random.generator("b", 2).uniform(size=shape)
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["normal", "orthogonal", "sparse"]), st.booleans()), max_size=5))
def test_a_generator_that_is_shared_goes_on_as_if_all_had_drawn(draws: list[tuple[str, bool]]) -> None:
    now, later = np.random.default_rng(5), np.random.default_rng(5)
    pairs = []
    for name, shapes in draws:
        fill = partial(FILLS[name], generator=now)
        whole = fill(nn.Parameter(mg.zeros((3, 4))))
        place = "shapes" if shapes else "cpu"
        pairs.append((whole, FILLS[name](nn.Parameter(mg.zeros((3, 4), device=place)), generator=later)))
    assert now.normal() == later.normal()
    for whole, x in reversed(pairs):
        twin = init.materialize(copy.deepcopy(x))
        np.testing.assert_array_equal(twin.numpy(), whole.numpy())
        np.testing.assert_array_equal(init.materialize(x).numpy(), whole.numpy())


def test_parameters_made_by_hand_begin_as_they_were_made() -> None:
    made = {
        "zeros": mg.zeros((2, 3), device="shapes"),
        "ones": mg.ones((2, 3), dtype="float64", device="shapes"),
        "full": mg.full((2, 3), 0.1, device="shapes"),
        "numbers": np.arange(6.0).reshape(2, 3),
    }
    for name, data in made.items():
        x = nn.Parameter(data, device="shapes")
        assert x.device == "shapes"
        expected: Any = {"zeros": 0.0, "ones": 1.0, "full": np.float32(0.1), "numbers": data}[name]
        np.testing.assert_array_equal(init.materialize(x).numpy(), np.broadcast_to(expected, (2, 3)))


class Unknown(Module):
    """Parameters of which nobody can say how they begin."""

    def __init__(self) -> None:
        self.fine = L.Linear(2, 2, device="shapes")
        written = mg.zeros((2, 2), device="shapes")
        written.assign(np.eye(2))
        self.written = nn.Parameter(written)
        self.empty = nn.Parameter(mg.empty((2, 2), device="shapes"))
        self.computed = nn.Buffer(mg.zeros((2,), device="shapes") + 1.0)
        self.row = row_zeroed(nn.Parameter(mg.empty((2, 2), device="shapes")))


def test_what_has_no_start_is_refused_by_name_and_nothing_is_filled() -> None:
    model = Unknown()
    with pytest.raises(UsageError, match="cannot fill written, empty, row and 1 more: nobody said"):
        init.materialize(model)
    assert {x.device for x in (*model.parameters(), *model.buffers())} == {"shapes"}
    with pytest.raises(UsageError, match=r"^cannot fill Parameter: "):
        init.materialize(model.empty)
    with pytest.raises(DeviceError, match="unknown device 'cup'"):
        init.materialize(model.fine, device="cup")
    assert init.materialize(model, device="shapes") is model
    for x in (model.written, model.empty, model.computed, model.row):
        x.assign(2.0)
    assert init.materialize(model).row.numpy().tolist() == [[2.0, 2.0], [2.0, 2.0]]


def test_a_state_that_is_loaded_is_what_a_model_of_shapes_begins_with() -> None:
    whole, later = L.BatchNorm1d(3), L.BatchNorm1d(3, device="shapes")
    for x in (*whole.parameters(), *whole.buffers()):
        x.assign(np.arange(x.size).reshape(x.shape) + 0.1)
    given_state = whole.state_dict()
    later.load_state_dict(given_state)
    expected = state(whole)
    whole.weight.assign(7.0)  # type: ignore[union-attr]  # it has one
    same(init.materialize(later), expected)


def test_what_is_run_or_moved_without_values_begins_as_before() -> None:
    random.manual_seed(0)
    whole = nn.Sequential(L.Linear(3, 3), L.BatchNorm1d(3))
    random.manual_seed(0)
    later = nn.Sequential(L.Linear(3, 3, device="shapes"), L.BatchNorm1d(3, device="shapes"))
    later(mg.ones((4, 3), device="shapes"))
    summary(later, (4, 3))
    twin = copy.deepcopy(later)
    same(init.materialize(later), state(whole))
    same(twin.to("cpu", "float16"), state(copy.deepcopy(whole).to("float16")))
    gone = whole.to("shapes")  # where its values are forgotten
    with pytest.raises(UsageError, match=r"fill 0\.weight, 0\.bias, 1\.weight and 4 more: "):
        init.materialize(gone)


def test_ties_stay_and_history_is_not_overwritten() -> None:
    first = L.Linear(3, 3, device="shapes")
    model = nn.Sequential(first, nn.ReLU(), first)
    init.materialize(model)
    assert model[0].weight is model[2].weight
    x = mg.ones((2, 2)).requires_grad_() * 2.0
    for fill in (init.normal_, init.eye_, init.zeros_):
        with pytest.raises(GraphError, match="history cannot be overwritten"):
            fill(x)
