"""A mean over the targets that count is that of one rank, however microbatches, slices and copies cut it."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import dist, nn
from minigrad.dist.counted_loss import CountedLoss, counted
from minigrad.dist.mesh import Mesh
from minigrad.dist.mesh_zero import MeshZeRO
from minigrad.dist.pipeline import Pipeline
from minigrad.dist.pipeline_gpt import gpt_layers, token_loss
from minigrad.dist.tensor_parallel import tensor_parallel
from minigrad.dist.token_parallel import token_layers
from minigrad.dist.token_parallel import token_loss as token_loss_of
from minigrad.dist.world import World
from minigrad.nn.gpt import GPT, GPTConfig

LENGTH, VOCABULARY, SAMPLES = 5, 7, 6
CONFIG = GPTConfig(vocabulary=VOCABULARY, context=LENGTH, layers=1, heads=2, width=4)
TOKENS = np.random.default_rng(1).integers(0, VOCABULARY, (2, SAMPLES, LENGTH))


def model() -> GPT:
    return GPT(CONFIG, dtype="float64", seed=3)


def alone(targets: np.ndarray) -> tuple[list[float], dict[str, np.ndarray]]:
    """Losses and parameters of one rank, which sees whole batches."""
    whole = model()
    optimizer = nn.optim.SGD(whole.parameters(), lr=0.5)
    losses = []
    for tokens in TOKENS:
        loss = whole.loss(tokens, targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    state = {name: x.data.copy() for name, x in whole.named_parameters()}
    return losses, state | {"lm_head.weight": state["wte.weight"]}


def on_a_mesh(world: World, axes: dict[str, int], targets: np.ndarray, options: dict[str, Any]) -> Any:
    mesh = Mesh(world, **axes)
    layers: Any = gpt_layers(model())
    loss: Any = token_loss
    if axes["tensor"] > 1 or options.get("slices"):
        part = tensor_parallel(model(), mesh.axis("tensor"))
        layers, loss = token_layers(part, length=LENGTH), token_loss_of(part)
    pipeline = Pipeline(layers, loss=loss, world=mesh.axis("pipeline"), **options)
    optimizer = nn.optim.SGD(pipeline.parameters(), lr=0.5)
    zero = MeshZeRO(pipeline.module, optimizer, mesh, pipeline=pipeline, stage=1)
    pipeline.executor.quiet = zero.no_sync
    mine, losses = slice(mesh.coordinates["data"], None, axes["data"]), []
    count = None if axes["data"] == 1 else token_loss.count(targets)
    for tokens in TOKENS:
        own = np.array([pipeline.step(tokens[mine], targets[mine], count=count)])
        mesh.axis("data").all_reduce(own)
        zero.step()
        losses.append(own[0])
    values = {}
    for name, parameter in pipeline.named_parameters():
        layout = getattr(parameter, "layout", None)
        values[name] = parameter.data if layout is None else layout.join(parameter.data, mesh.axis("tensor"))
    return losses, values


def check(axes: dict[str, int], targets: np.ndarray, **options: Any) -> None:
    losses, state = alone(targets)
    arguments = (axes, targets, options)
    for found, values in dist.spawn(on_a_mesh, ranks=int(np.prod(list(axes.values()))), arguments=arguments):
        np.testing.assert_allclose(found, losses, rtol=1e-10)
        for name, value in values.items():
            np.testing.assert_allclose(value, state[name], rtol=1e-10, atol=1e-10, err_msg=name)


@st.composite
def targets(draw: st.DrawFn) -> np.ndarray:
    """Some are ignored: single ones, whole ends of sequences, whole sequences; never all."""
    values = np.random.default_rng(draw(st.integers(0, 99)))
    wanted = values.integers(0, VOCABULARY, (SAMPLES, LENGTH))
    for row in wanted:
        row[draw(st.integers(0, LENGTH)) :] = -100
    wanted[values.random(wanted.shape) < draw(st.sampled_from([0.0, 0.3]))] = -100
    wanted[draw(st.integers(0, SAMPLES - 1)), draw(st.integers(0, LENGTH - 1))] = 2
    return wanted


@pytest.mark.parametrize("axes", [(1, 2, 1), (2, 1, 1), (2, 2, 1), (1, 1, 2), (2, 1, 2)])
@pytest.mark.parametrize("slices", [(), (2, 3), (3, 1, 1)])
@settings(max_examples=4)
@given(targets=targets(), chunks=st.integers(1, 3), schedule=st.sampled_from(["1f1b", "zb-h1"]))
def test_equal_to_one_rank(axes, slices, targets, chunks, schedule):
    named = dict(zip(("data", "pipeline", "tensor"), axes, strict=True))
    check(named, targets, chunks=chunks, schedule="terapipe" if slices else schedule, slices=slices)


@pytest.mark.parametrize(
    "loss",
    [mg.cross_entropy, nn.functional.cross_entropy, nn.CrossEntropyLoss(), nn.NLLLoss([1.0, 2.0, 0.5])],
)
@pytest.mark.parametrize("ignored", [[0], [0, 1, 2], [1, 2, 4, 5]])
def test_losses_of_a_model_of_ones_own(loss, ignored):
    rows, classes = mg.tensor(np.random.default_rng(0).normal(size=(6, 3))), np.arange(6) % 3
    classes[ignored] = -100

    def main(world: World) -> None:
        layer: Any = nn.Linear(3, 3, dtype="float64")
        layer.weight.assign(np.ones((3, 3)))
        pipeline = Pipeline([layer], chunks=3, loss=loss, world=world)
        found, gradient = float(pipeline.step(rows, classes)), layer.weight.grad
        assert gradient is not None
        layer.zero_grad()
        whole = loss(layer(rows), classes)
        whole.backward()
        np.testing.assert_allclose(gradient.numpy(), layer.weight.grad.numpy(), atol=1e-13)
        assert found == pytest.approx(whole.item(), rel=1e-12)

    dist.spawn(main, ranks=1)


def test_a_batch_in_which_nothing_counts_teaches_nothing():
    def main(world: World) -> tuple[float, float]:
        pipeline = Pipeline(gpt_layers(model()), chunks=2, loss=token_loss, world=world)
        loss = float(pipeline.step(TOKENS[0], np.full((SAMPLES, LENGTH), -100)))
        return loss, max(
            float(np.max(np.abs(p.grad.data))) for p in pipeline.parameters() if p.grad is not None
        )

    assert dist.spawn(main, ranks=2) == [(0.0, 0.0)] * 2


def test_updates_without_a_flush_count_each_batch_by_itself():
    """A minibatch that is a batch of its own has a mean of its own, whatever counts in others."""
    rows, classes = mg.tensor(np.random.default_rng(0).normal(size=(4, 3))), np.array([0, -100, 1, 2])
    layer = nn.Linear(3, 3, dtype="float64")

    def main(world: World) -> float:
        standing = nn.optim.SGD
        options: Any = {"schedule": "pipedream", "optimizer": lambda given: standing(given, lr=0.0)}
        pipeline = Pipeline([layer], chunks=2, loss=mg.cross_entropy, world=world, **options)
        return float(pipeline.step(rows, classes))

    means = [mg.cross_entropy(layer(rows[i : i + 2]), classes[i : i + 2]).item() for i in (0, 2)]
    assert dist.spawn(main, ranks=1) == [pytest.approx(np.mean(means), rel=1e-13)]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("ignored", [-100, 1])
@pytest.mark.parametrize("weighted", [False, True])
def test_what_a_loss_is_made_into(smoothing, ignored, weighted):
    """Sum over count is the mean, of minigrad's own losses; others stay what they are."""
    values = np.random.default_rng(5)
    output, target = mg.tensor(values.normal(size=(4, 3, 2))), values.integers(0, 3, (4, 2))
    target[0] = ignored
    weight = values.random(3) if weighted else None
    losses: list[Any] = [nn.CrossEntropyLoss(weight, ignore_index=ignored, label_smoothing=smoothing)]
    if not smoothing:
        losses.append(nn.NLLLoss(weight, ignore_index=ignored))
    if ignored == -100 and not weighted and not smoothing:
        losses += [nn.functional.cross_entropy, nn.functional.nll_loss]
    for loss in losses:
        made = counted(loss)
        assert isinstance(made, CountedLoss)
        parts = [made.summed(output[i : i + 1], target[i : i + 1]).item() for i in range(4)]
        total = sum(made.count(target[i : i + 1]) for i in range(4))
        assert parts[0] == 0.0
        assert sum(parts) / total == pytest.approx(loss(output, target).item(), rel=1e-13)
    shares = values.random((4, 3, 2))
    soft = counted(nn.CrossEntropyLoss())
    assert soft(output, shares).item() == pytest.approx(nn.CrossEntropyLoss()(output, shares).item())
    for other in (nn.MSELoss(), nn.CrossEntropyLoss(reduction="sum"), lambda output, target: output):
        assert counted(other) is other


def test_counting_reads_no_values():
    """So it runs on arrays without any, and a GPU need not be waited for."""

    def main(world: World) -> tuple[int, ...]:
        layers = gpt_layers(GPT(CONFIG, device="shapes"))
        pipeline = Pipeline(layers, chunks=2, loss=token_loss, world=world, device="shapes")
        tokens = mg.zeros((SAMPLES, LENGTH), dtype="int64", device="shapes")
        return tuple(pipeline.step(tokens, tokens).shape)

    assert dist.spawn(main, ranks=2) == [(), ()]
