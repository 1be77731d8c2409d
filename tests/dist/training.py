"""A small model with every difficulty of data parallelism, trained on any world."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

import minigrad as mg
from minigrad import dist, nn
from minigrad.dist.world import World

FEATURES, WIDTH, CLASSES = 3, 5, 4


class Model(nn.Module):
    """Two layers that share their weights, a branch for marked samples only, and a parameter without use."""

    def __init__(self, seed: int) -> None:
        values = np.random.default_rng(seed)
        self.first = nn.Parameter(values.normal(size=(FEATURES, WIDTH)))
        self.branch = nn.Parameter(values.normal(size=(FEATURES, CLASSES)))
        self.bias = nn.Parameter(values.normal(size=WIDTH))
        self.shared = nn.Parameter(values.normal(size=(WIDTH, WIDTH)))
        self.unused = nn.Parameter(values.normal(size=2))
        self.frozen = nn.Parameter(values.normal(size=(WIDTH, WIDTH)), requires_grad=False)
        self.last = nn.Parameter(values.normal(size=(WIDTH, CLASSES)))
        self.scale = nn.Buffer(values.normal(size=CLASSES))

    def forward(self, x: mg.Tensor, marked: bool) -> mg.Tensor:
        hidden = mg.tanh(x @ self.first + self.bias)
        hidden = mg.tanh(hidden @ self.shared) @ self.frozen
        out = mg.tanh(hidden @ self.shared) @ self.last * self.scale
        return out + mg.tanh(x @ self.branch) if marked else out


@dataclass(frozen=True)
class Case:
    """What a run is made of."""

    samples: int = 7
    steps: int = 5
    bucket_bytes: int = 200
    parts: int = 1  # walks per step; all but the last without communication
    seed: int = 0
    optimizer: Callable[..., nn.optim.Optimizer] | None = None  # None: plain gradient descent
    algorithm: str = "library"


def batch(case: Case, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Samples of one step, and which of them take the branch: seldom, so that often some ranks have none."""
    values = np.random.default_rng((case.seed, step))
    return values.normal(size=(case.samples, FEATURES)), values.random(case.samples) < 0.2


def train(world: World, case: Case) -> dict[str, np.ndarray]:
    """Train this rank's copy, begun with other values on every rank, and return its state at the end."""
    model = Model(case.seed + world.rank)
    parallel = dist.DataParallel(model, world, bucket_bytes=case.bucket_bytes, algorithm=case.algorithm)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = case.optimizer(trained, lr=0.01) if case.optimizer else None
    for step in range(case.steps):
        model.zero_grad()
        x, marked = batch(case, step)
        share = np.array_split(np.arange(case.samples), world.size)[world.rank]
        *early, late = np.array_split(share, case.parts)
        with parallel.no_sync():
            for part in early:
                walk(parallel, x, marked, part)
        walk(parallel, x, marked, late)
        parallel.synchronize()
        if optimizer is not None:
            optimizer.step()
            continue
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.assign(parameter.data - 0.1 * parameter.grad.data)
    return {name: value.data.copy() for name, value in [*model.named_parameters(), *model.named_buffers()]}


def walk(parallel: dist.DataParallel, x: np.ndarray, marked: np.ndarray, part: np.ndarray) -> None:
    """One walk through the samples `part`, marked and unmarked ones apart; none if it is empty."""
    losses = []
    for kind in (True, False):
        chosen = part[marked[part] == kind]
        if len(chosen):
            losses.append(mg.sum(mg.square(parallel(mg.tensor(x[chosen], dtype="float64"), kind))))
    if losses:
        total = losses[0] if len(losses) == 1 else losses[0] + losses[1]
        (total * (1.0 / len(x))).backward()


def compare(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert actual.keys() == expected.keys()
    for name, value in actual.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-10, atol=1e-12, err_msg=name)
