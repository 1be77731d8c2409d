"""The GPT: its size, its gradients, its dropout, and that it cannot see the future."""

import copy
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from minigrad import nn, random
from minigrad.errors import DTypeError, ShapeError, UsageError
from minigrad.graph import fused_operations, no_grad
from tests.nn.tiny_gpt import TINY, build, gradients, reference, tokens


@pytest.fixture(scope="module")
def model() -> nn.GPT:
    return build().eval()


# ----- Size and start --------------------------------------------------------------------------------


def test_the_smallest_gpt_2_has_as_many_parameters_as_published():
    config = nn.GPTConfig(vocabulary=50257, context=1024, layers=12, heads=12, width=768)
    model = nn.GPT(config, device="shapes")  # arrays without values: nothing is allocated
    assert sum(parameter.size for parameter in model.parameters()) == 124_439_808


@given(
    vocabulary=st.integers(1, 9),
    context=st.integers(1, 9),
    layers=st.integers(1, 3),
    heads=st.integers(1, 3),
    head=st.integers(1, 3),
)
def test_parameters_are_counted_by_their_formula(vocabulary, context, layers, heads, head):
    width = heads * head
    config = nn.GPTConfig(vocabulary=vocabulary, context=context, layers=layers, heads=heads, width=width)
    model = nn.GPT(config)
    block = 12 * width * width + 13 * width  # 4 matrices of 3 + 1 + 4 + 4 widths squared; biases, two norms
    expected = (vocabulary + context) * width + layers * block + 2 * width
    assert sum(parameter.data.size for parameter in model.parameters()) == expected


def test_names_are_those_of_gpt_2():
    block = ["ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"]
    layers = [f"h.{i}.{name}" for i in range(2) for name in block] + ["ln_f"]
    expected = ["wte.weight", "wpe.weight", *(f"{layer}.{p}" for layer in layers for p in ("weight", "bias"))]
    assert list(nn.GPT(TINY).state_dict()) == expected


def test_starting_values():
    config = nn.GPTConfig(vocabulary=100, context=100, layers=8, heads=4, width=64)
    for name, parameter in nn.GPT(config).named_parameters():
        values = parameter.numpy()
        if parameter.ndim == 1:
            assert np.all(values == (1.0 if name.endswith("weight") else 0.0)), name
            continue
        std = 0.02 / math.sqrt(2 * 8) if name.endswith("c_proj.weight") else 0.02
        assert values.std() == pytest.approx(std, rel=5 / math.sqrt(2 * values.size)), name
        assert abs(values.mean()) < 5 * std / math.sqrt(values.size), name


def test_starting_values_are_a_function_of_seed_and_name_alone():
    first = nn.GPT(TINY, seed=3).state_dict()
    random.next_generator()
    again = nn.GPT(TINY, seed=3).state_dict()
    deeper = nn.GPT(nn.GPTConfig(vocabulary=11, context=8, layers=3, heads=2, width=8), seed=3).state_dict()
    other = nn.GPT(TINY, seed=4).state_dict()
    matrices = [name for name, value in first.items() if value.ndim == 2]
    assert all(np.array_equal(first[name].numpy(), again[name].numpy()) for name in first)
    assert all(
        np.array_equal(first[name].numpy(), deeper[name].numpy()) for name in matrices if "c_proj" not in name
    )
    assert not any(np.array_equal(first[name].numpy(), other[name].numpy()) for name in matrices)
    drawn = [first[name].numpy().reshape(-1)[:8].tobytes() for name in matrices]
    assert len(set(drawn)) == len(drawn)  # no two parameters start alike


def test_a_new_model_knows_nothing():
    config = nn.GPTConfig(vocabulary=64, context=8, layers=2, heads=2, width=32)
    loss = nn.GPT(config, seed=0).loss(tokens(4, 8, vocabulary=64), tokens(4, 8, seed=1, vocabulary=64))
    assert loss.item() == pytest.approx(math.log(64), abs=0.05)


# ----- Forward ---------------------------------------------------------------------------------------


@given(
    layers=st.integers(1, 3),
    heads=st.integers(1, 3),
    batch=st.integers(1, 3),
    time=st.integers(1, 8),
    seed=st.integers(0, 99),
)
@settings(max_examples=20)
def test_logits_are_those_of_a_plain_reading(layers, heads, batch, time, seed):
    config = nn.GPTConfig(vocabulary=11, context=8, layers=layers, heads=heads, width=4 * heads)
    model, numbers = build(config, seed=seed), tokens(batch, time, seed)
    np.testing.assert_allclose(model(numbers).numpy(), reference(model, numbers), rtol=1e-9, atol=1e-10)


@given(place=st.integers(1, 7), data=st.data())
def test_the_future_leaks_nothing(model, place, data):
    """Changing tokens from `place` on changes no bit of the logits before it."""
    numbers = tokens(2, 8, data.draw(st.integers(0, 99)))
    changed = numbers.copy()
    changed[:, place:] = (changed[:, place:] + data.draw(st.integers(1, 10))) % 11
    before, after = model(numbers).numpy(), model(changed).numpy()
    np.testing.assert_array_equal(before[:, :place], after[:, :place])
    assert (before[:, place:] != after[:, place:]).all()


@pytest.mark.parametrize("place", range(1, 8))
def test_the_future_leaks_nothing_in_training(place):
    config = nn.GPTConfig(vocabulary=11, context=8, layers=2, heads=2, width=8, dropout=0.2)
    model, numbers, changed = build(config), tokens(2, 8), tokens(2, 8)
    changed[:, place:] = (changed[:, place:] + 1) % 11
    logits = []
    for given_tokens in (numbers, changed):
        with random.scope(seed=0, step=0, samples=range(2)):
            logits.append(model(given_tokens).numpy())
    np.testing.assert_array_equal(logits[0][:, :place], logits[1][:, :place])


def test_the_past_matters(model):
    numbers = tokens(1, 8)
    for place in range(8):
        changed = numbers.copy()
        changed[:, place] = (changed[:, place] + 1) % 11
        assert (np.abs(model(numbers).numpy() - model(changed).numpy())[:, place:].max(-1) > 1e-6).all()


def test_loss_is_the_cross_entropy_of_the_targets(model):
    numbers, targets = tokens(3, 5), tokens(3, 5, seed=1)
    shares = softmax(reference(model, numbers), axis=-1)
    losses = -np.log(np.take_along_axis(shares, targets[..., None], -1))
    assert model.loss(numbers, targets).item() == pytest.approx(losses.mean(), rel=1e-10)
    assert model.loss(numbers, targets, reduction="sum").item() == pytest.approx(losses.sum(), rel=1e-10)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_model_computes_in_its_dtype(dtype):
    model = nn.GPT(TINY, dtype=dtype)
    assert model(tokens(1, 4)).dtype == dtype
    loss = model.loss(tokens(1, 4), tokens(1, 4))
    assert loss.dtype == dtype
    loss.backward()
    assert {str(array.dtype) for array in gradients(model).values()} == {dtype}


# ----- Gradients -------------------------------------------------------------------------------------


def test_gradients_are_slopes():
    """Every parameter, a few entries of each, and one direction through all at once; central differences."""
    model, numbers, targets = build(scale=4.0), tokens(2, 6), tokens(2, 6, seed=1)
    model.loss(numbers, targets).backward()
    found = gradients(model)
    generator, h = np.random.default_rng(0), 1e-5

    def slope(directions: dict[str, np.ndarray]) -> float:
        losses = []
        for sign in (1.0, -1.0):
            moved = copy.deepcopy(model)
            for name, parameter in moved.named_parameters():
                if name in directions:
                    parameter.assign(parameter.numpy() + sign * h * directions[name])
            with no_grad():
                losses.append(moved.loss(numbers, targets).item())
        return float(losses[0] - losses[1]) / (2 * h)

    everywhere = {name: generator.normal(size=array.shape) for name, array in found.items()}
    expected = sum(float((found[name] * everywhere[name]).sum()) for name in found)
    assert slope(everywhere) == pytest.approx(expected, rel=1e-6)
    assert set(found) == {name for name, _ in model.named_parameters()}
    for name, array in found.items():
        direction = np.zeros(array.shape)
        direction.reshape(-1)[generator.integers(0, array.size, 2)] = 1.0
        assert slope({name: direction}) == pytest.approx(float((array * direction).sum()), rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("time", [1, 7])
def test_fast_paths_give_what_compositions_give(dropout, time):
    config = nn.GPTConfig(vocabulary=11, context=8, layers=2, heads=2, width=8, dropout=dropout)
    model, numbers, targets = build(config), tokens(2, time), tokens(2, time, seed=1)
    results = []
    for fused in (True, False):
        model.zero_grad()
        with fused_operations(fused), random.scope(seed=0, step=0, samples=range(2)):
            loss = model.loss(numbers, targets)
            loss.backward()
        results.append({"loss": loss.numpy(), **gradients(model)})
    for name, array in results[0].items():
        np.testing.assert_allclose(array, results[1][name], rtol=1e-8, atol=1e-11, err_msg=name)


def test_gradients_of_parts_of_a_batch_add_up():
    model, numbers, targets = build(), tokens(5, 6), tokens(5, 6, seed=1)
    model.loss(numbers, targets, reduction="sum").backward()
    whole = gradients(model)
    model.zero_grad()
    for part in (slice(0, 2), slice(2, 5)):
        model.loss(numbers[part], targets[part], reduction="sum").backward()
    for name, array in gradients(model).items():
        np.testing.assert_allclose(array, whole[name], rtol=1e-9, atol=1e-11, err_msg=name)


# ----- Dropout ---------------------------------------------------------------------------------------


@given(cut=st.integers(1, 4), order=st.permutations(range(5)))
@settings(max_examples=15)
def test_dropout_does_not_see_how_the_batch_is_split(cut, order):
    config = nn.GPTConfig(vocabulary=11, context=8, layers=2, heads=2, width=8, dropout=0.3)
    model, numbers = build(config), tokens(5, 6)
    with random.scope(seed=1, step=2, samples=range(5)), no_grad():
        whole = model(numbers).numpy()
    for part in (order[:cut], order[cut:]):
        with random.scope(seed=1, step=2, samples=part), no_grad():
            np.testing.assert_allclose(model(numbers[part]).numpy(), whole[part], rtol=1e-9, atol=1e-10)


def test_dropout_is_there_in_training_only_and_new_in_every_step():
    config = nn.GPTConfig(vocabulary=11, context=8, layers=2, heads=2, width=8, dropout=0.3)
    model, numbers = build(config), tokens(2, 6)
    drawn = []
    for step in range(2):
        with random.scope(seed=1, step=step, samples=range(2)):
            drawn.append(model(numbers).numpy())
    quiet = model.eval()(numbers).numpy()
    np.testing.assert_allclose(quiet, reference(model, numbers), rtol=1e-9, atol=1e-10)
    assert all(np.abs(a - b).max() > 1e-3 for a, b in itertools.combinations([*drawn, quiet], 2))


def test_every_dropout_of_a_model_draws_its_own_numbers():
    streams = [part.stream for part in nn.GPT(TINY).modules() if isinstance(part, nn.Dropout)]
    assert len(streams) == len(set(streams)) == 1 + 3 * TINY.layers
    assert streams == [part.stream for part in nn.GPT(TINY).modules() if isinstance(part, nn.Dropout)]


# ----- Misuse ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("numbers", "error", "message"),
    [
        (np.zeros((1, 9), int), ShapeError, r"at most 8 positions, got \(1, 9\)"),
        (np.zeros(3, int), ShapeError, r"\(3,\)"),
        (np.zeros((), int), ShapeError, r"\(\)"),
        (np.zeros((1, 2)), DTypeError, "float64"),
        ([[11]], UsageError, "11 rows"),
        ([[-1]], UsageError, "11 rows"),
    ],
)
def test_a_model_refuses_tokens(model, numbers, error, message):
    with pytest.raises(error, match=message):
        model(numbers)


def test_a_model_refuses_targets_of_another_shape(model):
    with pytest.raises(ShapeError, match=r"\(1, 2\)"):
        model.loss(tokens(1, 3), tokens(1, 2))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"width": 10, "heads": 4}, "width 10 is not divisible by 4 heads; try width 12"),
        ({"layers": 0}, "layers must be at least 1, got 0"),
        ({"vocabulary": -1}, "vocabulary"),
        ({"context": 0}, "context"),
        ({"heads": 0}, "heads"),
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": -0.1}, "dropout"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(sizes, message):
    with pytest.raises(UsageError, match=message):
        nn.GPTConfig(**sizes)
