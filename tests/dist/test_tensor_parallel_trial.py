"""A plan for tensor-parallel ranks is right or refused, before it touches the model, naming its entries."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import dist, nn
from minigrad.dist.tensor_parallel import ColumnParallelLinear, RowParallelLinear, tensor_parallel
from minigrad.dist.tensor_parallel_layers import ParallelAttention, ParallelMLP
from minigrad.dist.vocabulary_parallel import VocabularyParallelEmbedding
from minigrad.dist.world import World
from minigrad.errors import UsageError
from minigrad.nn import functional
from minigrad.nn.gpt import GPT, GPTConfig

TOKENS = np.random.default_rng(0).integers(0, 7, (2, 5))


def gpt() -> GPT:
    return GPT(GPTConfig(7, 6, layers=2, heads=2, width=8, dropout=0.1), dtype="float64", seed=1)


def linear(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs, dtype="float64")


def chain(*between: nn.Module) -> nn.Sequential:
    return nn.Sequential(linear(4, 8), *between, linear(8, 4))


class Tied(nn.Module):
    """Two layers, one matrix."""

    def __init__(self) -> None:
        self.first, self.second = linear(4, 4), linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x: mg.Tensor) -> mg.Tensor:
        return self.second(mg.tanh(self.first(x)))


class NoEntry(ColumnParallelLinear):
    """Forgets f: gradients towards what came before are this rank's part of the sum."""

    def forward(self, x: mg.Tensor, length: int | None = None) -> mg.Tensor:
        return functional.linear(x, self.weight, self.bias)


class BiasOnEveryRank(RowParallelLinear):
    """Adds its bias before the sum, so as often as there are ranks."""

    def forward(self, x: mg.Tensor, bias: mg.Tensor | None = None) -> mg.Tensor:
        return self.region.leave(functional.linear(x, self.weight, self.bias))


COLUMN, ROW = ColumnParallelLinear, RowParallelLinear
MLP = {"h.*.mlp.c_fc": COLUMN, "h.*.mlp.c_proj": ROW}
RIGHT: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "layers of a GPT": (gpt, MLP),
    "whole modules of a GPT": (gpt, {"h.*.attn": ParallelAttention, "h.*.mlp": ParallelMLP}),
    "one block only": (gpt, {"h.1.attn": ParallelAttention}),
    "a chain": (lambda: chain(nn.ReLU()), {"0": COLUMN, "2": ROW}),
    "norm and dropout outside": (
        lambda: nn.Sequential(chain(nn.Tanh()), nn.LayerNorm(4, dtype="float64"), nn.Dropout(0.5)),
        {"0.0": COLUMN, "0.2": ROW},
    ),
    "an embedding": (
        lambda: nn.Sequential(nn.Embedding(7, 4, dtype="float64"), chain(nn.ReLU())),
        {"0": VocabularyParallelEmbedding, "1.0": COLUMN, "1.2": ROW},
    ),
}
WRONG: dict[str, tuple[Callable[[], Any], dict[str, Any], str]] = {
    "queries, keys and values are packed": (
        gpt,
        {"h.*.attn.c_attn": COLUMN, "h.*.attn.c_proj": ROW} | MLP,
        r"the plan's .*'h\.\*\.attn\.c_proj' would make another model",
    ),
    "the output layer has the table too": (
        gpt,
        {"wte": VocabularyParallelEmbedding},
        "the plan's 'wte' would",
    ),
    "columns without rows": (lambda: chain(nn.ReLU()), {"0": COLUMN}, "the plan's '0' would .* fails in"),
    "rows without columns": (lambda: chain(nn.ReLU()), {"2": ROW}, "the plan's '2' would .* module 2"),
    "rows before columns": (lambda: chain(nn.ReLU()), {"0": ROW, "2": COLUMN}, "the plan's '0' would"),
    "a sum over features within": (lambda: chain(nn.Softmax(-1)), {"0": COLUMN, "2": ROW}, "'2' would make"),
    "a norm within": (
        lambda: chain(nn.LayerNorm(8, dtype="float64")),
        {"0": COLUMN, "2": ROW},
        "fails in its module 1",
    ),
    "dropout within": (
        lambda: chain(nn.Dropout(0.5)),
        {"0": COLUMN, "2": ROW},
        "'2' would .*without dropout",
    ),
    "one matrix of two layers": (
        Tied,
        {"first": COLUMN, "second": ROW},
        "the gradient of .*weight is another",
    ),
    "no entry": (
        lambda: nn.Sequential(linear(4, 4), chain(nn.ReLU())),
        {"1.0": NoEntry, "1.2": ROW},
        "'1.0', '1.2' would make another model, in which the gradient of input 0 is another",
    ),
    "a bias too many": (
        lambda: chain(nn.ReLU()),
        {"0": COLUMN, "2": BiasOnEveryRank},
        "the plan's '2' would .* its module 2 returns something else",
    ),
    "what is no linear layer": (
        lambda: chain(nn.ReLU()),
        {"*": COLUMN},
        r"the plan's '\*' can make nothing of 1, a ReLU",
    ),
    "an unknown beginning": (
        lambda: nn.Sequential(nn.Conv1d(1, 1, 1), nn.Linear(4, 8), nn.Linear(8, 4)),
        {"1": COLUMN, "2": ROW},
        "does not take a few numbers drawn for its first layer; give example=",
    ),
}


@settings(max_examples=25)
@given(case=st.sampled_from(sorted(RIGHT)), ranks=st.integers(1, 4))
def test_right_plans_change_nothing(case, ranks):
    make, plan = RIGHT[case]

    def main(world: World) -> None:
        mg.random.manual_seed(0)
        whole = make().eval()
        x = TOKENS if isinstance(whole, GPT) or "embedding" in case else np.ones((2, 5, 4))
        expected = whole(mg.tensor(x)).numpy()
        mg.random.manual_seed(0)
        with mg.no_grad():
            found = tensor_parallel(make().eval(), world, plan=plan)(mg.tensor(x)).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)

    dist.spawn(main, ranks=ranks)


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("case", WRONG)
def test_wrong_plans_are_refused(case, ranks):
    make, plan, message = WRONG[case]
    mg.random.manual_seed(0)
    model = make()
    before = [(name, id(module)) for name, module in model.named_modules()]
    values = [p.numpy().copy() for p in model.parameters()]
    with pytest.raises(UsageError, match=message):
        dist.spawn(lambda world: tensor_parallel(model, world, plan=plan), ranks=ranks)
    assert [(name, id(module)) for name, module in model.named_modules()] == before
    assert all(map(np.array_equal, [p.data for p in model.parameters()], values))
    assert all(p.grad is None for p in model.parameters())


def test_an_example_for_what_begins_with_something_else():
    def model() -> nn.Sequential:
        mg.random.manual_seed(3)
        return nn.Sequential(nn.Conv1d(1, 2, 2), nn.Flatten(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))

    x = np.random.default_rng(0).normal(size=(2, 1, 4)).astype("float32")

    def main(world: World) -> np.ndarray:
        plan = {"2": ColumnParallelLinear, "4": RowParallelLinear}
        return tensor_parallel(model(), world, plan=plan, example=x)(mg.tensor(x)).numpy()

    for found in dist.spawn(main, ranks=3):
        np.testing.assert_allclose(found, model()(mg.tensor(x)).numpy(), rtol=1e-5, atol=1e-6)
    with pytest.raises(UsageError, match="does not take `example`"):
        dist.spawn(
            lambda world: tensor_parallel(model(), world, plan={"2": COLUMN}, example=x[0, 0]), ranks=2
        )


def test_with_token_shares_what_sees_a_part_of_the_tokens_is_refused():
    """The gradients of a plain norm would lack the other ranks' tokens."""

    def main(world: World, norm: bool) -> None:
        layers = [nn.LayerNorm(4, dtype="float64"), *chain(nn.ReLU()).children()]
        model = nn.Sequential(*layers[not norm :])
        plan = {str(0 + norm): COLUMN, str(2 + norm): ROW}
        tensor_parallel(
            model, world, plan=plan, sequence=True, example=np.random.default_rng(0).normal(size=(1, 4, 4))
        )

    dist.spawn(main, ranks=2, arguments=(False,))
    with pytest.raises(UsageError, match=r"the gradient of 0\.weight is another"):
        dist.spawn(main, ranks=2, arguments=(True,))


def test_a_half_precision_model_is_tried_in_full():
    def main(world: World) -> str:
        model = chain(nn.ReLU()).half()
        tensor_parallel(model, world, plan={"0": ColumnParallelLinear, "2": RowParallelLinear})
        return str(next(iter(model.parameters())).dtype)

    assert dist.spawn(main, ranks=2) == ["float16"] * 2
