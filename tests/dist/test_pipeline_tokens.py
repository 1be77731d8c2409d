"""A GPT through a pipeline: its tied embedding, tokens that do not count; which slices are refused.

That slices give what whole sequences give: test_token_parallel.py.
"""

import numpy as np
import pytest

import minigrad as mg
from minigrad import dist, nn
from minigrad.dist.mesh_gpt import loss_of_logits
from minigrad.dist.pipeline import Pipeline
from minigrad.dist.pipeline_gpt import gpt_layers, token_loss
from minigrad.dist.single import SingleWorld
from minigrad.dist.tensor_parallel import tensor_parallel
from minigrad.dist.token_parallel import token_layers
from minigrad.dist.world import World
from minigrad.errors import UsageError
from minigrad.nn.gpt import GPT, GPTConfig
from minigrad.ops import cross_entropy

LENGTH, VOCABULARY = 12, 7
CONFIG = GPTConfig(vocabulary=VOCABULARY, context=LENGTH, layers=2, heads=2, width=6)


def batch(step: int, samples: int) -> tuple[np.ndarray, np.ndarray]:
    values = np.random.default_rng(step)
    return values.integers(0, VOCABULARY, (samples, LENGTH)), values.integers(
        0, VOCABULARY, (samples, LENGTH)
    )


def optimizer(parameters) -> nn.optim.Optimizer:
    return nn.optim.AdamW(parameters, lr=0.01)


def alone(samples: int) -> tuple[dict[str, np.ndarray], list[float]]:
    model = GPT(CONFIG, dtype="float64")
    learner = optimizer(model.parameters())
    losses = []
    for step in range(3):
        loss = model.loss(*batch(step, samples))
        loss.backward()
        nn.utils.clip_grad_norm_(list(model.parameters()), 0.5)
        learner.step()
        learner.zero_grad()
        losses.append(loss.item())
    return {name: x.data.copy() for name, x in model.state_dict().items()}, losses


def chain(model: GPT, sliced: bool) -> dict[str, nn.Module]:
    """The layers of a GPT for whole sequences, or for slices of them."""
    return token_layers(tensor_parallel(model, SingleWorld())) if sliced else gpt_layers(model)


def in_stages(
    world: World, samples: int, chunks: int, options: dict
) -> tuple[dict[str, np.ndarray], list[float]]:
    layers = chain(GPT(CONFIG, dtype="float64"), "slices" in options)
    pipeline = Pipeline(layers, chunks=chunks, loss=token_loss, world=world, **options)
    learner = optimizer(pipeline.parameters())
    losses = []
    for step in range(3):
        losses.append(float(pipeline.step(*batch(step, samples))))
        pipeline.clip_grad_norm_(0.5)
        learner.step()
        learner.zero_grad()
    return {name: x.data.copy() for name, x in pipeline.state_dict().items()}, losses


def compare(found, expected) -> None:
    state, losses = expected
    state = {**state, "lm_head.weight": state["wte.weight"]}
    assert {name for part, _ in found for name in part} == set(state)
    for part, own in found:
        np.testing.assert_allclose(own, losses, rtol=1e-10)
        for name, value in part.items():
            np.testing.assert_allclose(value, state[name], rtol=1e-10, atol=1e-10, err_msg=name)


@pytest.mark.parametrize("schedule", ["1f1b", "zb-h1"])
def test_a_gpt_with_its_tied_embedding_on_two_stages(schedule):
    found = dist.spawn(in_stages, ranks=3, arguments=(4, 3, {"schedule": schedule}))
    compare(found, alone(4))
    parts = [part for part, _ in found]
    np.testing.assert_array_equal(parts[0]["wte.weight"], parts[2]["lm_head.weight"])


@pytest.mark.parametrize("slices", [(), (5, 4, 3)])
def test_tokens_that_do_not_count_are_unevenly_spread(slices):
    """A sum over tokens divided once, by the tokens of the whole batch: never a mean of means."""
    tokens, targets = batch(0, 5)
    targets[0, 2:] = targets[3, :5] = -100
    count = int((targets != -100).sum())

    def main(world: World) -> tuple[float, dict[str, np.ndarray]]:
        model = GPT(CONFIG, dtype="float64")
        layers, schedule = chain(model, bool(slices)), "terapipe" if slices else "1f1b"
        sums = loss_of_logits(model)
        pipeline = Pipeline(layers, chunks=3, loss=sums, world=world, schedule=schedule, slices=slices)
        loss = float(pipeline.step(tokens, targets, count=count))
        return loss, {
            name: p.grad.data.copy() for name, p in pipeline.named_parameters() if p.grad is not None
        }

    model = GPT(CONFIG, dtype="float64")
    loss = cross_entropy(model(tokens), targets, reduction="sum") * (1 / count)
    loss.backward()
    expected = {name: p.grad.data for name, p in model.named_parameters() if p.grad is not None}
    expected["lm_head.weight"] = expected["wte.weight"]
    for found, gradients in dist.spawn(main, ranks=2):
        assert found == pytest.approx(loss.item(), rel=1e-12)
        for name, gradient in gradients.items():
            np.testing.assert_allclose(gradient, expected[name], rtol=1e-9, atol=1e-13, err_msg=name)


# ------------------------------------------------------------------------------------------ misuse


class Mixing(nn.Module):
    """Looks at other tokens, later ones too: no slice can be computed alone."""

    def forward(self, x: mg.Tensor) -> mg.Tensor:
        return x + mg.mean(x, axis=1, keepdims=True)


def make(world: World, layers, **options) -> Pipeline:
    return Pipeline(layers, loss=token_loss, world=world, **options)


@pytest.mark.parametrize(
    ("layers", "options", "message"),
    [
        (
            [Mixing()],
            {"schedule": "terapipe", "slices": [2, 2]},
            r"layer 0 \(Mixing\) may look at other tokens",
        ),
        (
            gpt_layers(GPT(CONFIG)),
            {"schedule": "terapipe", "slices": [2, 2]},
            r"layer wpe \(Positions\) may look at other tokens.*token_layers",
        ),
        (
            [nn.Linear(2, 2)],
            {"schedule": "1f1b", "slices": [2, 2]},
            r"1f1b runs whole sequences, and 2 token slices were asked for.*that has some \(terapipe\)",
        ),
        ([nn.Linear(2, 2)], {"schedule": "terapipe", "slices": [2, 0]}, "lengths of slices"),
    ],
)
def test_what_cannot_be_sliced(layers, options, message):
    with pytest.raises(UsageError, match=message):
        dist.spawn(lambda world: make(world, layers, **options), ranks=1)


def test_wrong_lengths():
    def main(world: World) -> None:
        layers = chain(GPT(CONFIG, dtype="float64"), True)
        pipeline = make(world, layers, schedule="terapipe", slices=[5, 4])
        pipeline.step(*batch(0, 1))

    with pytest.raises(UsageError, match=r"token slices of \[5, 4\] cut axis 1 of 9"):
        dist.spawn(main, ranks=1)
