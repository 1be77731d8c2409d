"""Single layers on tensor-parallel ranks against the plain ones; a vocabulary that is shared out; misuse."""

from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import dist, nn
from minigrad.dist.tensor_parallel import ColumnParallelLinear, RowParallelLinear, tensor_parallel
from minigrad.dist.tensor_parallel_layout import Layout, layouts_of
from minigrad.dist.tensor_parallel_region import Region
from minigrad.dist.vocabulary_parallel import VocabularyParallelEmbedding, vocabulary_cross_entropy
from minigrad.dist.world import World
from minigrad.errors import CommunicationError, DTypeError, ShapeError, UsageError
from minigrad.nn.cache import Cache
from minigrad.nn.gpt import GPT, GPTConfig
from tests.dist.tensor_training import gradient


def same(found: Any, expected: Any, what: str = "") -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12, err_msg=what)


def drawn(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def perceptron(widths: tuple[int, int, int], bias: bool) -> nn.Sequential:
    model = nn.Sequential(
        nn.Linear(widths[0], widths[1], bias, dtype="float64"),
        nn.GELU(),
        nn.Linear(widths[1], widths[2], bias, dtype="float64"),
    )
    for number, parameter in enumerate(model.parameters()):
        parameter.assign(mg.tensor(drawn(number, *parameter.shape), dtype="float64"))
    return model


# ------------------------------------------------------------------------------------ linear layers


@settings(max_examples=40)
@given(
    ranks=st.integers(1, 5),
    widths=st.tuples(*[st.integers(1, 6)] * 3),
    bias=st.booleans(),
    sequence=st.booleans(),
    tokens=st.integers(1, 4),
)
def test_a_perceptron_by_a_plan(ranks, widths, bias, sequence, tokens):
    """With token shares each rank has its tokens going in and coming out; here all have as many."""
    rows = tokens * ranks
    x = drawn(7, 2, rows, widths[0])
    model = perceptron(widths, bias)
    given = mg.tensor(x, requires_grad=True)
    expected = model(given)
    mg.sum(mg.square(expected)).backward()

    def main(world: World) -> None:
        parallel = perceptron(widths, bias)
        plan = {"0": ColumnParallelLinear, "2": RowParallelLinear}
        assert tensor_parallel(parallel, world, plan=plan, sequence=sequence) is parallel
        own = slice(world.rank * tokens, (world.rank + 1) * tokens) if sequence else slice(None)
        mine = mg.tensor(x[:, own].copy(), requires_grad=True)
        out = parallel(mine)
        same(out.data, expected.data[:, own])
        mg.sum(mg.square(out)).backward()
        same(gradient(mine), gradient(given)[:, own])
        layouts = layouts_of(parallel)
        for name, parameter in model.named_parameters():
            found = gradient(dict(parallel.named_parameters())[name])
            wanted = layouts[name].cut(gradient(parameter)) if name in layouts else gradient(parameter)
            same(found, wanted, name)

    dist.spawn(main, ranks=ranks)


@given(
    ranks=st.integers(1, 5),
    groups=st.integers(1, 3),
    length=st.integers(0, 7),
    others=st.integers(0, 3),
    axis=st.integers(0, 1),
)
def test_parts_make_the_whole(ranks, groups, length, others, axis):
    shape = (length * groups, others) if axis == 0 else (others, length * groups)
    if axis == 1:
        groups, shape = 1, (others, length)
    whole = np.arange(np.prod(shape), dtype=float).reshape(shape)
    counts = dist.balanced_counts(length, ranks)

    def main(world: World) -> None:
        layout = Layout(shape, axis, counts, world.rank, groups)
        own = layout.cut(whole)
        assert own.shape == layout.own_shape
        np.testing.assert_array_equal(layout.join(own, world), whole)
        for start in range(own.size + 1):
            for stop in range(start, own.size + 1):
                pieces = list(layout.runs(start, stop))
                assert sum(high - low for _, low, high, _ in pieces) == stop - start
                for box, low, high, place in pieces:
                    part = whole[tuple(slice(o, o + n) for o, n in box)].reshape(-1)[low:high]
                    np.testing.assert_array_equal(own.reshape(-1)[place : place + high - low], part)

    dist.spawn(main, ranks=ranks)


# ------------------------------------------------------------------------------------ the vocabulary


@settings(max_examples=40)
@given(
    ranks=st.integers(1, 5),
    vocabulary=st.integers(1, 9),
    shape=st.lists(st.integers(0, 3), max_size=2).map(tuple),
    reduction=st.sampled_from(["mean", "sum", "none"]),
    ignoring=st.booleans(),
    scale=st.sampled_from([1.0, 800.0]),
)
def test_the_loss_of_logits_that_nobody_has(ranks, vocabulary, shape, reduction, ignoring, scale):
    values = np.random.default_rng(3)
    logits, targets = values.normal(size=(*shape, vocabulary)) * scale, values.integers(0, vocabulary, shape)
    if ignoring:
        targets = np.where(values.random(shape) < 0.4, -100, targets)
    if reduction == "mean" and not (targets != -100).any():
        return  # 0 / 0
    v = values.normal(size=shape) if reduction == "none" else values.normal()
    given = mg.tensor(logits, requires_grad=True)
    expected = mg.cross_entropy(given, targets, reduction=reduction)
    mg.sum(expected * v).backward()

    def main(world: World) -> None:
        region = Region(world)
        first, stop = region.span(vocabulary)
        own = mg.tensor(logits[..., first:stop].copy(), requires_grad=True)
        loss = vocabulary_cross_entropy(own, targets, region, vocabulary, reduction=reduction)
        same(loss.data, expected.data)
        mg.sum(loss * v).backward()
        same(gradient(own), gradient(given)[..., first:stop])

    dist.spawn(main, ranks=ranks)


@pytest.mark.parametrize("ranks", [2, 3])
def test_its_composition_has_the_same_derivatives(ranks):
    """Forward mode and second derivatives, which run what the fast path is defined by."""
    values = np.random.default_rng(4)
    logits, targets, t = values.normal(size=(3, 5)), values.integers(0, 5, 3), values.normal(size=(3, 5))

    whole = partial(mg.cross_entropy, reduction="sum")
    tangent = mg.jvp(lambda x: whole(x, targets), (mg.tensor(logits),), (mg.tensor(t),))[1]

    def main(world: World) -> None:
        region = Region(world)
        first, stop = region.span(5)
        own, own_t = (mg.tensor(x[:, first:stop].copy()) for x in (logits, t))

        def loss(x: mg.Tensor) -> mg.Tensor:
            return vocabulary_cross_entropy(x, targets, region, 5, reduction="sum")

        same(mg.jvp(loss, (own,), (own_t,))[1].data, tangent.data)
        # The reverse of the composition, which `create_graph` runs, against the fast path's.
        leaf = mg.tensor(own.data.copy(), requires_grad=True)
        loss(leaf).backward(create_graph=True)
        other = mg.tensor(own.data.copy(), requires_grad=True)
        loss(other).backward()
        same(gradient(leaf), gradient(other))

    dist.spawn(main, ranks=ranks)


@given(ranks=st.integers(1, 5), words=st.integers(1, 9), width=st.integers(1, 3))
def test_an_embedding_by_words(ranks, words, width):
    table = nn.Embedding(words, width, dtype="float64")
    indices = np.random.default_rng(words).integers(0, words, (2, 3))
    expected = table(indices)
    mg.sum(mg.square(expected)).backward()

    def main(world: World) -> None:
        own = VocabularyParallelEmbedding(table, Region(world))
        out = own(indices)
        np.testing.assert_array_equal(out.data, expected.data)
        mg.sum(mg.square(out)).backward()
        if own.weight.size:
            part = own.weight.layout.cut(gradient(table.weight))
            same(gradient(own.weight), part)
        with pytest.raises(UsageError, match=f"got {words}, none of {words} words"):
            own(np.array([[0, words]]))

    dist.spawn(main, ranks=ranks)


# ------------------------------------------------------------------------------------ the whole model


CONFIG = GPTConfig(vocabulary=11, context=8, layers=2, heads=3, width=6)


@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize("ranks", [2, 4])
def test_logits_features_generation_and_states(ranks, sequence):
    """Four ranks: one has no head at all, and still takes part in everything."""
    whole = GPT(CONFIG, seed=3, dtype="float64")
    tokens = np.random.default_rng(0).integers(0, 11, (2, 7))
    logits, features = whole(tokens), whole.features(tokens)
    text = whole.generate([1, 2, 3], 12, seed=5)
    other = GPT(CONFIG, seed=4, dtype="float64")

    def main(world: World) -> None:
        model = tensor_parallel(GPT(CONFIG, seed=3, dtype="float64"), world, sequence=sequence)
        assert [name for name, _ in model.named_parameters()] == [n for n, _ in whole.named_parameters()]
        same(model(tokens).data, logits.data)
        same(model.features(tokens).data, features.data)
        assert model.generate([1, 2, 3], 12, seed=5) == text
        back = GPT(CONFIG, seed=0, dtype="float64")
        back.load_state_dict(model.gathered_state_dict())
        for name, value in back.state_dict().items():
            np.testing.assert_array_equal(value.data, whole.state_dict()[name].data)
        model.load_gathered(other.state_dict())
        same(model(tokens).data, other(tokens).data)
        with pytest.raises(ShapeError, match=r"wte\.weight is \(1, 6\), expected \(11, 6\)"):
            model.load_gathered({**other.state_dict(), "wte.weight": np.zeros((1, 6))})

    dist.spawn(main, ranks=ranks)


@pytest.mark.parametrize("sequence", [False, True])
def test_gradients_through_features(sequence):
    """What all ranks do alike with whole hidden states counts once."""
    whole = GPT(CONFIG, dtype="float64")
    tokens = np.random.default_rng(0).integers(0, 11, (2, 7))
    mg.sum(mg.square(whole.features(tokens))).backward()

    def main(world: World) -> None:
        model = tensor_parallel(GPT(CONFIG, dtype="float64"), world, sequence=sequence)
        mg.sum(mg.square(model.features(tokens))).backward()
        for name, parameter in whole.named_parameters():
            own, layout = dict(model.named_parameters())[name], layouts_of(model).get(name)
            expected = layout.cut(gradient(parameter)) if layout else gradient(parameter)
            same(gradient(own), expected, name)

    dist.spawn(main, ranks=3)


def test_parts_are_smaller_and_know_where_they_belong():
    def main(world: World) -> int:
        model = tensor_parallel(GPT(CONFIG), world)
        packed = model.h[0].attn.c_attn.weight
        heads = (2, 1)[world.rank]
        first = 4 * world.rank
        assert packed.shape == (3 * heads * 2, 6)
        assert packed.layout.boxes == tuple(((6 * k + first, heads * 2), (0, 6)) for k in range(3))
        return sum(parameter.size for parameter in model.parameters())

    whole = sum(parameter.size for parameter in GPT(CONFIG).parameters())
    shared = sum(p.size for n, p in GPT(CONFIG).named_parameters() if "ln" in n or "wpe" in n)
    shared += 2 * CONFIG.layers * CONFIG.width  # biases after the sums
    assert sum(dist.spawn(main, ranks=2)) == whole + shared


@pytest.mark.parametrize("sequence", [False, True])
def test_without_values_nothing_moves(sequence):
    """Arrays that have shapes only: a rank's share of the work of a model that fits nowhere."""
    config = GPTConfig(vocabulary=50257, context=64, layers=2, heads=96, width=12288)
    tokens = mg.zeros((1, 64), dtype="int64", device="shapes")

    def main(world: World) -> tuple[int, float]:
        model = tensor_parallel(GPT(config, device="shapes"), world, sequence=sequence)
        world.ledger.clear()
        cost = mg.cost(lambda: model.loss(tokens, tokens).backward())
        assert not world.ledger.by_kind
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.shape == parameter.shape
        return sum(parameter.size for parameter in model.parameters()), cost.flops

    [(whole, flops)] = dist.spawn(main, ranks=1)
    for size, own in dist.spawn(main, ranks=4):
        assert whole / 4 < size < whole / 4 * 1.01
        assert flops / 4 * 0.99 < own < flops / 4 * 1.02


def test_what_is_frozen_stays_so():
    def main(world: World) -> None:
        whole = GPT(CONFIG)
        for name in ("wpe.weight", "wte.weight", "h.0.ln_1.bias", "h.1.mlp.c_proj.weight"):
            dict(whole.named_parameters())[name].requires_grad_(False)
        model = tensor_parallel(whole, world)
        frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
        assert frozen == [name for name, p in whole.named_parameters() if not p.requires_grad]

    dist.spawn(main, ranks=2)


# ------------------------------------------------------------------------------------ misuse


def test_misuse():
    def main(world: World) -> None:
        with pytest.raises(UsageError, match="got a Sequential; give a plan"):
            tensor_parallel(perceptron((2, 2, 2), True), world)
        with pytest.raises(UsageError, match="the plan names '5', and the model has no such module"):
            tensor_parallel(perceptron((2, 2, 2), True), world, plan={"5": ColumnParallelLinear})
        with pytest.raises(CommunicationError, match="of 2: the model of rank 1 of this world is not"):
            tensor_parallel(GPT(CONFIG, seed=world.rank), world)
        region = Region(world)
        with pytest.raises(ShapeError, match=r"1 groups of \(1, 2\) outputs are not the 2"):
            ColumnParallelLinear(nn.Linear(2, 2), region, counts=[1, 2])
        with pytest.raises(ShapeError, match=r"\(1, 2\) inputs are not the 2"):
            RowParallelLinear(nn.Linear(2, 2), region, counts=[1, 2])
        logits, targets = mg.zeros((3, 2)), np.zeros(3, dtype=int)
        with pytest.raises(ShapeError, match=r"expected \(3, [23]\): words"):
            vocabulary_cross_entropy(mg.zeros((3, 4)), targets, region, 5)
        with pytest.raises(DTypeError, match="numbers of words, so integers"):
            vocabulary_cross_entropy(logits, np.zeros(3), region, 4)
        with pytest.raises(UsageError, match='reduction is "mean", "sum" or "none"'):
            vocabulary_cross_entropy(logits, targets, region, 4, reduction="max")
        with pytest.raises(UsageError, match="cross-entropy got 4, none of 4 words"):
            vocabulary_cross_entropy(logits, targets + 4, region, 4)
        model = tensor_parallel(GPT(CONFIG), world)
        with pytest.raises(ShapeError, match="at most 8 positions"):
            model(np.zeros((1, 9), dtype=int))
        with mg.no_grad(), pytest.raises(ShapeError, match="1 positions do not fit a context of 0"):
            model(np.zeros((1, 1), dtype=int), [Cache(0), Cache(0)])

    dist.spawn(main, ranks=2)
