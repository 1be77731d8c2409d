"""Causal models leak nothing from the future, to the bit: neither values forwards nor gradients backwards."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from minigrad import nn, ops, random
from minigrad.graph import no_grad
from minigrad.nn import functional as F
from minigrad.nn.cache import Cache, DecoderCache
from minigrad.nn.module import Module
from minigrad.ops import tensor
from minigrad.tensor import Tensor

VOCABULARY, WIDTH, LONGEST = 11, 8, 200


class Causal(NamedTuple):
    """A model, how it reads a sequence (batch, time[, width]), and which layer makes vectors of tokens."""

    model: Module
    read: Callable[[Any, Any], Tensor]
    inside: str | None = None


def gpt(*, checkpointed: bool = False, dropout: float = 0.0) -> nn.GPT:
    sizes = {"vocabulary": VOCABULARY, "context": LONGEST, "layers": 2, "heads": 2, "width": WIDTH}
    model = nn.GPT(nn.GPTConfig(**sizes, dropout=dropout))
    model.checkpoint_activations = checkpointed
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:  # the scores of a model as it begins are all about 0
            parameter.assign(np.random.default_rng(len(name)).normal(size=parameter.shape))
    return model


def with_dropout(model: Module, x: Any) -> Tensor:
    with random.scope(seed=0, step=0, samples=range(len(x))):
        out: Tensor = model(x)
        return out


MEMORY = tensor(np.random.default_rng(1).normal(size=(2, 3, WIDTH)).astype("float32"))
SOURCES = np.random.default_rng(2).integers(1, VOCABULARY, (2, 4))
BATCH_FIRST: dict[str, Any] = {"batch_first": True}


def stack(kind: str, norm_first: bool) -> Module:
    one = getattr(nn, f"Transformer{kind}Layer")(WIDTH, 2, 16, 0.0, **BATCH_FIRST, norm_first=norm_first)
    two: Module = getattr(nn, f"Transformer{kind}")(one, 2)
    return two


def masked(model: Any, x: Tensor) -> Tensor:
    out: Tensor = model(x, nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype="float32"))
    return out


def by_heads(model: Any, x: Tensor, **options: Any) -> Tensor:
    heads = ops.permute_dims(x.reshape(*x.shape[:2], 2, WIDTH // 2), (0, 2, 1, 3))
    out = F.scaled_dot_product_attention(heads, heads, heads, is_causal=True, **options)
    return ops.permute_dims(out, (0, 2, 1, 3))


MODELS: dict[str, Callable[[], Causal]] = {
    "GPT": lambda: Causal(gpt().eval(), lambda m, x: m(x), "drop"),
    "GPT, checkpointed": lambda: Causal(gpt(checkpointed=True), lambda m, x: m(x), "drop"),
    "GPT, training": lambda: Causal(gpt(dropout=0.2), with_dropout, "drop"),
    "TransformerDecoder": lambda: Causal(
        stack("Decoder", False), lambda m, x: m(x, MEMORY, tgt_is_causal=True)
    ),
    "TransformerDecoder, norm first": lambda: Causal(
        stack("Decoder", True), lambda m, x: m(x, MEMORY, tgt_is_causal=True)
    ),
    "TransformerEncoder": lambda: Causal(stack("Encoder", False), lambda m, x: m(x, is_causal=True)),
    "TransformerEncoder, masked": lambda: Causal(stack("Encoder", True), masked),
    "Transformer": lambda: Causal(
        nn.Transformer(WIDTH, 2, 1, 1, 16, 0.0, **BATCH_FIRST), lambda m, x: m(MEMORY, x, tgt_is_causal=True)
    ),
    "MultiheadAttention": lambda: Causal(
        nn.MultiheadAttention(WIDTH, 2, **BATCH_FIRST), lambda m, x: m(x, x, x, is_causal=True)[0]
    ),
    "MultiheadAttention, fused": lambda: Causal(
        nn.MultiheadAttention(WIDTH, 2, **BATCH_FIRST),
        lambda m, x: m(x, x, x, need_weights=False, is_causal=True)[0],
    ),
    "scaled_dot_product_attention": lambda: Causal(nn.Identity(), by_heads),
    "self_attention": lambda: Causal(
        nn.Linear(WIDTH, 3 * WIDTH), lambda m, x: F.self_attention(m(x), heads=2, is_causal=True)
    ),
    "TranslationTransformer": lambda: Causal(
        nn.models.TranslationTransformer(VOCABULARY, WIDTH, 2, 2, 16, 0.0, LONGEST),
        lambda m, x: m(SOURCES, x),
        "positions",
    ),
    "Seq2Seq": lambda: Causal(
        nn.models.Seq2Seq(VOCABULARY, VOCABULARY, 5, 4), lambda m, x: m(SOURCES, x), "target"
    ),
    "RNN": lambda: Causal(nn.RNN(WIDTH, 3, 2, **BATCH_FIRST), lambda m, x: m(x)[0]),
    "LSTM": lambda: Causal(nn.LSTM(WIDTH, 3, 2, **BATCH_FIRST), lambda m, x: m(x)[0]),
    "LSTM, projected": lambda: Causal(nn.LSTM(WIDTH, 3, proj_size=2, **BATCH_FIRST), lambda m, x: m(x)[0]),
    "GRU": lambda: Causal(nn.GRU(WIDTH, 3, 2, **BATCH_FIRST), lambda m, x: m(x)[0]),
}
everything = pytest.mark.parametrize("name", sorted(MODELS))


def inputs(causal: Causal, time: int, seed: int = 0) -> np.ndarray:
    source = np.random.default_rng(seed)
    if causal.inside is not None:
        return source.integers(0, VOCABULARY, (2, time))
    return source.normal(size=(2, time, WIDTH)).astype("float32")


def read(causal: Causal, x: np.ndarray) -> Tensor:
    return causal.read(causal.model, x if causal.inside is not None else tensor(x))


@everything
@pytest.mark.parametrize(("time", "place"), [(2, 1), (7, 1), (7, 4), (7, 6), (150, 1), (150, 77), (150, 149)])
def test_no_value_depends_on_what_comes_later(name, time, place):
    random.manual_seed(0)
    causal = MODELS[name]()
    x = inputs(causal, time)
    other = x.copy()
    if causal.inside is not None:
        other[:, place:] = VOCABULARY - 1 - other[:, place:]
    else:
        other[:, place:] = 100 * inputs(causal, time - place, seed=1)
    before, after = read(causal, x).numpy(), read(causal, other).numpy()
    np.testing.assert_array_equal(before[:, :place], after[:, :place])
    assert (before[:, place:] != after[:, place:]).any()


@everything
@pytest.mark.parametrize(("time", "place"), [(7, 1), (7, 6), (70, 33)])
def test_no_gradient_reaches_what_comes_later(name, time, place):
    """Of the first `place` outputs: exactly 0 for all later inputs, and not for the last of the others."""
    random.manual_seed(0)
    causal = MODELS[name]()
    x = inputs(causal, time)
    leaves: list[Tensor] = []

    def taken(module: Module, given: Any, output: Tensor) -> Tensor:
        leaves.append(tensor(output.numpy(), requires_grad=True))
        return leaves[-1]

    if causal.inside is None:
        leaves.append(tensor(x, requires_grad=True))
        out = causal.read(causal.model, leaves[0])
    else:
        causal.model.get_submodule(causal.inside).register_forward_hook(taken)
        out = causal.read(causal.model, x)
    kept = (
        leaves if name == "Seq2Seq" else leaves[-1:]
    )  # one for each step; or the target's, after the source's
    weights = np.random.default_rng(3).normal(size=out.shape).astype("float32")
    weights[:, place:] = 0.0
    (out * tensor(weights)).sum().backward()
    parts = [np.zeros(leaf.shape) if leaf.grad is None else leaf.grad.numpy() for leaf in kept]
    gradient = np.stack(parts, axis=1) if name == "Seq2Seq" else parts[0]  # (batch, time, width)
    assert gradient.shape[:2] == (2, time)
    assert not gradient[:, place:].any()
    assert gradient[:, place - 1].any()


def caches(name: str, model: Any) -> tuple[Callable[[Any], Tensor], Callable[[], int]]:
    """How a model reads on with a cache, and how much it has read."""
    if name == "GPT":
        own = [Cache(LONGEST) for _ in model.h]
        return lambda x: model(x, own), lambda: own[0].length
    if name == "MultiheadAttention":
        one = Cache(LONGEST)
        return lambda x: model(tensor(x), tensor(x), tensor(x), is_causal=True, cache=one)[
            0
        ], lambda: one.length
    if name == "TransformerDecoder":
        deep = DecoderCache(2, LONGEST, 3)
        return lambda x: model(tensor(x), MEMORY, tgt_is_causal=True, cache=deep), lambda: deep.length
    memory, hidden = model.encode(SOURCES)
    deep = DecoderCache(2, LONGEST, SOURCES.shape[1])
    return lambda x: model.decode(x, memory, hidden, cache=deep), lambda: deep.length


@pytest.mark.parametrize(
    "name", ["GPT", "MultiheadAttention", "TransformerDecoder", "TranslationTransformer"]
)
@pytest.mark.parametrize(("already", "time", "place"), [(0, 5, 2), (3, 5, 1), (3, 5, 4), (80, 65, 33)])
def test_with_a_cache_a_piece_does_not_look_into_its_own_future(name, already, time, place):
    random.manual_seed(0)
    causal = MODELS[name]()
    x = inputs(causal, already + time)
    other = x.copy()
    later = slice(already + place, None)
    other[:, later] = VOCABULARY - 1 - x[:, later] if causal.inside is not None else 100 * x[:, later] + 1
    found = []
    with no_grad():
        for given in (x, other):
            go_on, length = caches(name, causal.model)
            if already:
                go_on(given[:, :already])
            found.append(go_on(given[:, already:]).numpy())
            assert length() == already + time
        whole = read(causal, x).numpy()[:, already:]
    np.testing.assert_array_equal(found[0][:, :place], found[1][:, :place])
    assert (found[0][:, place:] != found[1][:, place:]).any()
    np.testing.assert_allclose(found[0], whole, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("name", ["TransformerEncoder", "LSTM", "GRU", "MultiheadAttention"])
def test_what_is_not_causal_is_found_out(name):
    """The same check on models that do look ahead: it can fail."""
    random.manual_seed(0)
    looking: dict[str, Causal] = {
        "TransformerEncoder": Causal(stack("Encoder", False), lambda m, x: m(x)),
        "LSTM": Causal(nn.LSTM(WIDTH, 3, bidirectional=True, **BATCH_FIRST), lambda m, x: m(x)[0]),
        "GRU": Causal(nn.GRU(WIDTH, 3, bidirectional=True, **BATCH_FIRST), lambda m, x: m(x)[0]),
        "MultiheadAttention": Causal(
            nn.MultiheadAttention(WIDTH, 2, **BATCH_FIRST), lambda m, x: m(x, x, x)[0]
        ),
    }
    x = inputs(looking[name], 7)
    other = x.copy()
    other[:, 4:] += 1.0
    assert (read(looking[name], x).numpy()[:, :4] != read(looking[name], other).numpy()[:, :4]).any()
