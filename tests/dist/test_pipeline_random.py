"""Layers that draw random numbers draw in stages what they draw on one rank, shared ones too."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import backend, dist, nn, random
from minigrad.dist.pipeline import Pipeline
from minigrad.dist.world import World
from minigrad.nn import functional
from minigrad.nn.layers.dropout import numbered
from tests.dist.pipelines import mean_square

TIME, WIDTH = 3, 4
F64: dict[str, Any] = {"dtype": "float64"}


class First(nn.Module):
    """A layer of which the first result is handed on."""

    def __init__(self, layer: nn.Module, times: int = 1) -> None:
        self.layer, self.times = layer, times

    def forward(self, x: mg.Tensor) -> mg.Tensor:
        found: mg.Tensor = self.layer(*[x] * self.times)[0]
        return found


class Function(nn.Module):
    """Dropout without a layer, all of it from one stream."""

    def forward(self, x: mg.Tensor) -> mg.Tensor:
        return functional.dropout(x, 0.4, self.training)


class Noise(nn.Module):
    """A user's own draw: twice in one forward, from a stream under no attribute."""

    def forward(self, x: mg.Tensor) -> mg.Tensor:
        for _ in range(2 if self.training else 0):
            x = x + mg.Tensor.of(random.uniform(backend.namespace(x.data), x.shape, "noise"))
        return x


def attention() -> nn.Module:
    layer = nn.MultiheadAttention(WIDTH, 2, dropout=0.4, batch_first=True, **F64)
    return First(layer, times=3)


RANDOM: dict[str, Callable[[], nn.Module]] = {
    "dropout": lambda: nn.Dropout(0.4),
    "alpha": lambda: nn.AlphaDropout(0.4),
    "channels": lambda: nn.Dropout1d(0.4),
    "depth": lambda: nn.StochasticDepth(0.4),
    "rrelu": nn.RReLU,
    "lstm": lambda: First(nn.LSTM(WIDTH, WIDTH, 3, dropout=0.4, batch_first=True, **F64)),
    "gru": lambda: First(nn.GRU(WIDTH, WIDTH, 2, dropout=0.4, batch_first=True, **F64)),
    "attention": attention,
    "function": Function,
    "noise": Noise,
    "none": lambda: nn.Linear(WIDTH, WIDTH, **F64),
}


@dataclass(frozen=True)
class Case:
    kinds: tuple[str, ...]
    balance: tuple[int, ...]
    ranks: int
    schedule: str
    chunks: int
    recompute: bool
    samples: int = 5
    functions: bool = False


@st.composite
def cases(draw: st.DrawFn, *, functions: bool = False) -> Case:
    ranks, virtual = draw(st.integers(1, 4)), draw(st.integers(1, 2))
    balance = draw(st.lists(st.integers(1, 3), min_size=ranks * virtual, max_size=ranks * virtual))
    return Case(
        tuple(draw(st.lists(st.sampled_from(list(RANDOM)), min_size=sum(balance), max_size=sum(balance)))),
        tuple(balance),
        ranks,
        draw(st.sampled_from(["1f1b", "zb-h1", "naive"])),
        draw(st.integers(1, 5)),
        draw(st.booleans()),
        functions=functions,
    )


def layers(case: Case) -> list[nn.Module]:
    """One object for all layers of a kind."""
    random.manual_seed(3)
    with numbered("model "):  # whatever was made before in this thread
        made = {kind: RANDOM[kind]() for kind in dict.fromkeys(case.kinds)}
    return [made[kind] for kind in case.kinds]


def batch(case: Case) -> tuple[np.ndarray, np.ndarray]:
    values = np.random.default_rng(5)
    return tuple(values.normal(size=(case.samples, TIME, WIDTH)) for _ in range(2))  # type: ignore[return-value]


def in_stages(world: World, case: Case) -> tuple[list[float], dict[str, np.ndarray]]:
    """Losses of two steps, and what comes out in evaluation between them."""
    chosen: list[Any] = layers(case)
    if case.functions:
        random.manual_seed(3)
        chosen = [RANDOM[kind] for kind in case.kinds]
    options: dict[str, Any] = {"schedule": case.schedule, "chunks": case.chunks, "recompute": case.recompute}
    pipeline = Pipeline(chosen, balance=case.balance, loss=mean_square, world=world, **options)
    pipeline.eval().predict(batch(case)[0])  # draws nothing, and must not say how often training does
    pipeline.train()
    losses = []
    for step in range(2):
        with random.scope(seed=7, step=step, samples=range(10, 10 + case.samples)):
            losses.append(float(pipeline.step(*batch(case))))
    gradients = {n: p.grad.data.copy() for n, p in pipeline.named_parameters() if p.grad is not None}
    return losses, gradients


def alone(case: Case) -> tuple[list[float], dict[str, np.ndarray]]:
    model = nn.Sequential(*layers(case))
    losses = []
    for step in range(2):
        x, y = (mg.tensor(array, dtype="float64") for array in batch(case))
        with random.scope(seed=7, step=step, samples=range(10, 10 + case.samples)):
            loss = mean_square(model(x), y)
        if loss.node is not None:
            loss.backward()
        losses.append(loss.item())
    named = model.named_parameters(remove_duplicate=False)
    return losses, {name: p.grad.data for name, p in named if p.grad is not None}


def compare(found: Any, expected: Any) -> None:
    losses, gradients = expected
    for own, part in found:
        np.testing.assert_allclose(own, losses, rtol=1e-10)
        for name, gradient in part.items():
            np.testing.assert_allclose(gradient, gradients[name], rtol=1e-9, atol=1e-12, err_msg=name)


@settings(max_examples=60)
@given(cases())
def test_one_layer_in_several_places_draws_as_in_a_plain_model(case: Case) -> None:
    compare(dist.spawn(in_stages, ranks=case.ranks, arguments=(case,)), alone(case))


@settings(max_examples=25)
@given(cases(functions=True))
def test_layers_made_by_functions_begin_and_draw_alike_for_every_balance(case: Case) -> None:
    """Nobody named their streams, and each rank makes only its own."""
    [whole] = dist.spawn(in_stages, arguments=(replaced(case),), ranks=1)
    compare(dist.spawn(in_stages, ranks=case.ranks, arguments=(case,)), whole)


def replaced(case: Case) -> Case:
    return Case(case.kinds, (len(case.kinds),), 1, "1f1b", 1, False, functions=case.functions)


@pytest.mark.parametrize("ranks", [1, 2])
def test_two_models_made_by_functions_begin_differently(ranks: int) -> None:
    def main(world: World) -> None:
        values = []
        for _ in range(2):
            pipeline = Pipeline([lambda: nn.Linear(3, 3)] * 2, world=world)
            values += [p.numpy().copy() for p in pipeline.parameters() if p.ndim == 2]
        for one, other in pairwise(values):
            assert (one != other).all()

    dist.spawn(main, ranks=ranks)
