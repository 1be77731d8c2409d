"""Misuse of models, losses and optimizers together: one sentence with the layer's path and the values."""

from typing import Any

import numpy as np
import pytest

from minigrad import nn, ops
from minigrad.errors import MinigradError, UsageError
from minigrad.nn.checks import check_step
from minigrad.tensor import Tensor


def ones(*shape: int) -> Tensor:
    return ops.ones(shape, dtype="float32")


class Classifier(nn.Module):
    """Tokens to logits, with layers some way down."""

    def __init__(self) -> None:
        self.embed = nn.Embedding(10, 4)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True), 2)
        self.head = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 3))

    def forward(self, tokens: np.ndarray) -> Tensor:
        return self.head(self.encoder(self.embed(tokens)).mean(axis=1))


TOKENS = np.array([[1, 2], [3, 4]])


def trained(model: "Classifier") -> "Classifier":
    nn.functional.cross_entropy(model(TOKENS), np.array([0, 2])).backward()
    return model


def broken(path: str, layer: nn.Module) -> Classifier:
    model = Classifier()
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, layer)
    return model


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Classifier()(TOKENS + 6), ["embed (Embedding)", "7 ... 10", "10 rows"]),
        (lambda: Classifier()(TOKENS * 1.0), ["embed (Embedding)", "integers", "float64"]),
        (
            lambda: broken("encoder.layers.1.linear2", nn.Linear(9, 4))(TOKENS),
            ["encoder.layers.1.linear2 (Linear)", "(2, 2, 8)", "9 features"],
        ),
        (
            lambda: broken("encoder.layers.0.self_attn", nn.MultiheadAttention(6, 3, batch_first=True))(
                TOKENS
            ),
            ["encoder.layers.0.self_attn (MultiheadAttention)", "(6, 6, 6)", "(2, 2, 4)"],
        ),
        (lambda: broken("head.0", nn.LayerNorm(5))(TOKENS), ["head.0 (LayerNorm)", "(5,)", "(2, 4)"]),
        (lambda: broken("head.1", nn.BatchNorm1d(3))(TOKENS), ["head.1 (BatchNorm1d)", "3", "(2, 4)"]),
        (
            lambda: broken("head.1", nn.Conv2d(3, 2, 1))(TOKENS),
            ["head.1 (Conv2d)", "(2, 4)"],
        ),
        (lambda: broken("head.1", nn.LSTM(3, 2))(TOKENS), ["head.1 (LSTM)", "(time, 3)", "(2, 4)"]),
        (lambda: nn.Linear(2, 2)(ops.ones(())), ["(..., 2)", "()"]),
        (lambda: nn.CrossEntropyLoss()(ones(2, 3), np.array([0, 3])), ["target 3", "3 classes"]),
        (lambda: nn.CrossEntropyLoss()(ones(2, 3), np.array([0, -1])), ["target -1", "3 classes"]),
        (lambda: nn.CrossEntropyLoss()(ones(2, 3), np.array([0.0, 1.0])), ["float64 (2,)", "integers"]),
        (
            lambda: nn.CTCLoss()(ones(4, 1, 3), np.array([[1, 3]]), np.array([4]), np.array([2])),
            ["0 ... 2", "blank 0", "[1, 3]"],
        ),
        (lambda: nn.MultiheadAttention(6, 4), ["embed_dim 6", "4 heads"]),
        (lambda: nn.TransformerEncoderLayer(6, 4), ["embed_dim 6", "4 heads"]),
        (lambda: nn.GPTConfig(width=6, heads=4), ["width 6", "4 heads", "try width 8"]),
        (lambda: nn.models.BERT(width=10, heads=3), ["width 10", "3 heads"]),
        (lambda: nn.optim.SGD([], lr=0.1), ["at least one parameter"]),
        (
            lambda: nn.optim.Adam([*(p := list(nn.Linear(2, 3).parameters())), p[0]]),
            ["(3, 2)", "twice", "number 0 and 2"],
        ),
        (lambda: nn.optim.SGD(nn.Linear(2, 2)), ["a Linear", "model.parameters()"]),  # type: ignore[arg-type]
        (lambda: nn.optim.SGD(nn.Linear(2, 2).state_dict()), ["a dict", "model.parameters()"]),  # type: ignore[arg-type]
        (lambda: nn.optim.SGD([np.ones(3)]), ["parameter 0", "ndarray", "(3,)"]),  # type: ignore[arg-type]
        (lambda: nn.optim.SGD([nn.Linear(2, 2).weight * 2]), ["parameter 0", "(2, 2)"]),  # type: ignore[arg-type]
        (
            lambda: nn.optim.Adam(nn.Linear(2, 3).named_parameters()).step(),  # type: ignore[arg-type]
            ["Adam.step", "none of 2 parameters", "weight of shape (3, 2)", "backward()"],
        ),
        (lambda: nn.optim.Adam(nn.Linear(2, 3).parameters()).step(), ["the first of shape (3, 2)"]),
        (
            lambda: nn.optim.Adam(nn.Linear(2, 3).parameters()).load_state_dict(nn.Linear(2, 3).state_dict()),
            ["no state of an optimizer", "state_dict()"],
        ),
        (lambda: nn.lr_scheduler.StepLR(nn.Linear(2, 2), 1), ["StepLR", "a Linear"]),  # type: ignore[arg-type]
        (lambda: nn.utils.clip_grad_norm_(nn.Linear(2, 2), 1.0), ["a Linear", "model.parameters()"]),  # type: ignore[arg-type]
        (lambda: nn.Linear(2, 2).load_state_dict([ones(2, 2)]), ["a list", "state_dict()"]),  # type: ignore[arg-type]
        (
            lambda: Classifier().load_state_dict(nn.Linear(4, 3).state_dict()),
            ["Classifier", "missing: embed.weight", "unexpected: weight, bias"],
        ),
        (
            lambda: Classifier().load_state_dict({**Classifier().state_dict(), "head.1.bias": ones(4)}),
            ["head.1.bias is (4,), expected (3,)"],
        ),
    ],
)  # fmt: skip
def test_misuse_is_one_sentence_with_path_expectation_and_values(call, words):
    with pytest.raises(MinigradError) as caught:
        call()
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


# ----- Between model, gradients and optimizer ----------------------------------------------------------


def test_a_step_that_can_learn_everything_passes():
    model = trained(Classifier())
    optimizer = nn.optim.SGD(model.parameters(), lr=0.1)
    check_step(model, optimizer)
    frozen = Classifier()
    frozen.embed.requires_grad_(False)
    check_step(trained(frozen), nn.optim.SGD(frozen.parameters(), lr=0.1))
    groups: list[dict[str, Any]] = [
        {"params": model.embed.parameters(), "lr": 0.0},
        {"params": model.encoder.parameters()},
    ]
    parts = nn.optim.SGD(groups, lr=0.1)
    with pytest.raises(UsageError, match=r"head.0.weight \(LayerNorm, \(4,\)\) and 3 more: not among"):
        check_step(model, parts)
    parts.add_param_group({"params": model.head.parameters()})
    check_step(model, parts)


def test_parameters_added_after_the_optimizer_are_found():
    model = Classifier()
    optimizer = nn.optim.SGD(model.parameters(), lr=0.1)
    model.head.add_module("2", nn.Linear(3, 5))
    with pytest.raises(
        UsageError,
        match=r"head.2.weight \(Linear, \(5, 3\)\) and 1 more: not among the 29 parameters of this SGD; .*"
        "add_param_group",
    ):
        check_step(trained(model), optimizer)


def test_parameters_without_gradients_are_found():
    model = Classifier()
    optimizer = nn.optim.Adam(model.parameters())
    with pytest.raises(UsageError, match=r"embed.weight .*and 28 more: no gradient among 29 .*backward\(\)"):
        check_step(model, optimizer)
    unused = nn.Parameter(np.ones(7, "float32"))
    model.register_parameter("unused", unused)
    optimizer.add_param_group({"params": [unused]})
    with pytest.raises(UsageError, match=r"unused \(Classifier, \(7,\)\): no gradient among 30"):
        check_step(trained(model), optimizer)
    with pytest.raises(UsageError, match="no parameter that requires a gradient"):
        check_step(model.requires_grad_(False), optimizer)


def test_an_optimizer_of_another_model_is_found():
    model, other = trained(Classifier()), Classifier()
    with pytest.raises(UsageError, match=r"embed.weight .*not among the 29 parameters of this Lion"):
        check_step(model, nn.optim.Lion(other.parameters()))
    both = nn.optim.SGD([*model.parameters(), *nn.Linear(2, 3).parameters()], lr=0.1)
    with pytest.raises(UsageError, match=r"SGD has 2 parameter\(s\) .* not in this Classifier.* \(3, 2\)"):
        check_step(model, both)
