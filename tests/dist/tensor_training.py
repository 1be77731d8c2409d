"""GPTs of awkward sizes, trained on a mesh of data- and tensor-parallel ranks and, to compare, on one."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

import minigrad as mg
from minigrad import dist, nn, random
from minigrad.dist.mesh import Mesh
from minigrad.dist.mesh_zero import MeshZeRO
from minigrad.dist.tensor_parallel import ParallelGPT, layouts_of, tensor_parallel
from minigrad.dist.verbs import balanced_counts
from minigrad.dist.world import World
from minigrad.nn.gpt import GPT, GPTConfig

State = dict[str, np.ndarray]
ADAMW = partial(nn.optim.AdamW, lr=0.01)


SMALL = GPTConfig(vocabulary=7, context=8, layers=2, heads=3, width=6)


@dataclass(frozen=True)
class Case:
    """What a run is made of. `stage` None: no ZeRO, and one data-parallel rank."""

    config: GPTConfig = SMALL
    samples: int = 3
    time: int = 7
    steps: int = 3
    seed: int = 0
    data: int = 1
    tensor: int = 2
    stage: int | None = None
    sequence: bool = False
    checkpointed: bool = False
    max_norm: float | None = None
    optimizer: Callable[..., nn.optim.Optimizer] = ADAMW
    algorithm: str = "library"


def whole_model(case: Case) -> GPT:
    """Values so large that everything matters."""
    model = GPT(case.config, dtype="float64")
    values = np.random.default_rng(case.seed)
    for parameter in model.parameters():
        parameter.assign(mg.tensor(values.normal(size=parameter.shape) * 0.5, dtype="float64"))
    model.checkpoint_activations = case.checkpointed
    return model


def batch(case: Case, step: int) -> tuple[np.ndarray, np.ndarray]:
    values = np.random.default_rng((case.seed, step))
    shape = (case.samples, case.time)
    return tuple(values.integers(0, case.config.vocabulary, shape) for _ in range(2))  # type: ignore[return-value]


def loss_of(model: Any, case: Case, step: int, rows: range) -> mg.Tensor:
    """This share of the loss of a step's batch."""
    tokens, targets = (x[rows.start : rows.stop] for x in batch(case, step))
    with random.scope(seed=case.seed, step=step, samples=rows):
        return model.loss(tokens, targets, reduction="sum") * (1.0 / (case.samples * case.time))


@dataclass
class Result:
    """What a run left behind: the gradients of the first step, and the parameters after the last."""

    gradients: State
    values: State
    losses: list[float]
    norms: list[float]


def reference(case: Case) -> Result:
    """The plain model on one rank."""
    model = whole_model(case)
    optimizer = case.optimizer(model.parameters())
    found = Result({}, {}, [], [])
    for step in range(case.steps):
        loss = loss_of(model, case, step, range(case.samples))
        loss.backward()
        found.losses.append(loss.item())
        if step == 0:
            found.gradients = {n: gradient(p).copy() for n, p in model.named_parameters()}
        if case.max_norm is not None:
            norm = nn.utils.clip_grad_norm_(list(model.parameters()), case.max_norm)
            found.norms.append(float(norm.item()))
        optimizer.step()
        optimizer.zero_grad()
    found.values = {name: x.data.copy() for name, x in model.state_dict().items()}
    return found


def gradient(parameter: mg.Tensor) -> np.ndarray:
    """The gradient, which must be there."""
    assert parameter.grad is not None
    return parameter.grad.numpy()


def whole_gradients(model: ParallelGPT) -> State:
    layouts, world = layouts_of(model), model.region.world
    return {
        name: layouts[name].join(gradient(p), world) if name in layouts else gradient(p).copy()
        for name, p in model.named_parameters()
    }


def train(world: World, case: Case) -> Result:
    """This rank's part of the same run."""
    mesh = Mesh(world, data=case.data, pipeline=1, tensor=case.tensor)
    axis = mesh.axis("data")
    model: ParallelGPT = tensor_parallel(
        whole_model(case), mesh.axis("tensor"), sequence=case.sequence, algorithm=case.algorithm
    )
    optimizer = case.optimizer(model.parameters())
    zero = None
    if case.stage is not None:
        zero = MeshZeRO(model, optimizer, mesh, stage=case.stage, max_norm=case.max_norm, bucket_bytes=300)
    first = sum(balanced_counts(case.samples, axis.size)[: axis.rank])
    rows = range(first, first + balanced_counts(case.samples, axis.size)[axis.rank])
    found = Result({}, {}, [], [])
    for step in range(case.steps):
        loss = loss_of(model, case, step, rows)
        loss.backward()
        total = np.array([loss.item()])
        axis.all_reduce(total, purpose="control")
        found.losses.append(float(total[0]))
        if zero is not None:
            norm = zero.step()
        else:
            if step == 0:
                found.gradients = whole_gradients(model)
            norm = None if case.max_norm is None else model.clip_grad_norm_(case.max_norm)
            optimizer.step()
            optimizer.zero_grad()
        found.norms += [] if norm is None else [float(norm)]
    if zero is None:
        found.values = gathered(model)
    else:
        with zero.gathered():
            found.values = gathered(model)
    return found


def gathered(model: Any) -> State:
    return {name: x.data.copy() for name, x in model.gathered_state_dict().items()}


def close(found: Result, expected: Result) -> None:
    np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-10)
    np.testing.assert_allclose(found.norms, expected.norms, rtol=1e-10)
    for name, gradient in found.gradients.items():
        np.testing.assert_allclose(gradient, expected.gradients[name], rtol=1e-10, atol=1e-10, err_msg=name)
    assert found.values.keys() == expected.values.keys()
    for name, value in found.values.items():
        np.testing.assert_allclose(value, expected.values[name], rtol=1e-10, atol=1e-10, err_msg=name)


def check(case: Case) -> None:
    """The mesh's ranks all do what one rank does."""
    expected = reference(case)
    for found in dist.spawn(train, ranks=case.data * case.tensor, arguments=(case,)):
        close(found, expected)
