"""Models with every difficulty of pipelines, their training on one rank, and the same in stages."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import minigrad as mg
from minigrad import nn, random
from minigrad.dist.pipeline import Pipeline
from minigrad.dist.schedule import Schedule, parse
from minigrad.dist.verbs import balanced_counts
from minigrad.dist.world import World
from minigrad.nn.layers.batch_norm import BatchNorm1d

WIDTH, WORDS = 3, 5
Values = tuple[mg.Tensor, ...]


class Dense(nn.Module):
    """tanh(x W + b) of the first value; the others pass by. Layers that share a weight are given it."""

    def __init__(self, values: np.random.Generator, weight: nn.Parameter | None = None) -> None:
        self.weight = nn.Parameter(values.normal(size=(WIDTH, WIDTH))) if weight is None else weight
        self.bias = nn.Parameter(values.normal(size=WIDTH))

    def forward(self, x: mg.Tensor, *others: mg.Tensor) -> Values:
        return (mg.tanh(x @ self.weight + self.bias), *others)


class Bare(nn.Module):
    """tanh(x W) of the first value, where all of W is another layer's too."""

    def __init__(self, weight: nn.Parameter) -> None:
        self.weight = weight

    def forward(self, x: mg.Tensor, *others: mg.Tensor) -> Values:
        return (mg.tanh(x @ self.weight), *others)


class Frozen(Dense):
    """The same, not learned: before anything that is, no gradient comes back at all."""

    def __init__(self, values: np.random.Generator) -> None:
        super().__init__(values)
        for parameter in (self.weight, self.bias):
            parameter.requires_grad_(False)


class Keep(nn.Module):
    """Hand on the first value twice: a skip connection begins."""

    def forward(self, x: mg.Tensor, *others: mg.Tensor) -> Values:
        return (x, x * 0.5, *others)


class Join(nn.Module):
    """Where the latest skip connection ends, if one is open."""

    def forward(self, x: mg.Tensor, *others: mg.Tensor) -> Values:
        if len(others) < 2:
            return (x, *others)
        return (x + others[0], *others[1:])


class Words(nn.Module):
    """Add a vector for each sample's word: whole numbers that pass through all stages."""

    def __init__(self, values: np.random.Generator) -> None:
        self.table = nn.Parameter(values.normal(size=(WORDS, WIDTH)))

    def forward(self, x: mg.Tensor, *others: mg.Tensor) -> Values:
        return (x + mg.take(self.table, others[-1], axis=0), *others)


class Drop(nn.Module):
    """Dropout of the first value."""

    def __init__(self, place: int) -> None:
        self.drop = nn.Dropout(0.4, stream=f"drop {place}")

    def forward(self, x: mg.Tensor, *others: mg.Tensor) -> Values:
        return (self.drop(x), *others)


class Norm(nn.Module):
    """Batch normalisation of the first value."""

    def __init__(self) -> None:
        self.norm = BatchNorm1d(WIDTH, dtype="float64")

    def forward(self, x: mg.Tensor, *others: mg.Tensor) -> Values:
        return (self.norm(x), *others)


KINDS = ("dense", "dense", "tied", "frozen", "keep", "join", "words", "drop", "norm")


def layers(kinds: Sequence[str], seed: int) -> list[nn.Module]:
    """Layers of these kinds; all "tied" and "bare" ones share one weight. The last is always learned."""
    values = np.random.default_rng(seed)
    weight = nn.Parameter(values.normal(size=(WIDTH, WIDTH)))
    make: dict[str, Callable[[int], nn.Module]] = {
        "dense": lambda place: Dense(values),
        "tied": lambda place: Dense(values, weight),
        "bare": lambda place: Bare(weight),
        "frozen": lambda place: Frozen(values),
        "keep": lambda place: Keep(),
        "join": lambda place: Join(),
        "words": lambda place: Words(values),
        "drop": Drop,
        "norm": lambda place: Norm(),
    }
    return [make[kind](place) for place, kind in enumerate(kinds)]


@dataclass(frozen=True)
class Case:
    """What a run is made of."""

    kinds: tuple[str, ...]
    balance: tuple[int, ...]
    schedule: Any
    chunks: int
    samples: int
    ranks: int = 2
    recompute: bool = False
    steps: int = 3
    seed: int = 0
    max_norm: float | None = None


def batch(case: Case, step: int) -> tuple[tuple[mg.Tensor, mg.Tensor], mg.Tensor]:
    """Two inputs and the targets of a step."""
    values = np.random.default_rng((case.seed, step))
    x = mg.tensor(values.normal(size=(case.samples, WIDTH)), dtype="float64")
    words = mg.tensor(values.integers(0, WORDS, case.samples))
    return (x, words), mg.tensor(values.normal(size=(case.samples, WIDTH)), dtype="float64")


def mean_square(output: Any, target: mg.Tensor) -> mg.Tensor:
    """The loss: of the first of what comes out."""
    first = output[0] if isinstance(output, tuple) else output
    return mg.mean(mg.square(first - target))


def walk_alone(model: nn.Sequential, x: np.ndarray, y: np.ndarray) -> None:
    """Forward through all layers on this rank, the loss, and the walk back, in float64."""
    values: Any = (mg.tensor(x, dtype="float64"),)
    for layer in model:
        values = layer(*values)
    mean_square(values, mg.tensor(y, dtype="float64")).backward()


def optimizer(parameters: Any) -> nn.optim.Optimizer:
    return nn.optim.SGD([p for p in parameters if p.requires_grad], lr=0.1, momentum=0.9)


State = dict[str, np.ndarray]


def train_alone(case: Case) -> tuple[State, list[float]]:
    """Train on one rank. The batch stays whole, unless batch normalisation sees how it is split."""
    model = nn.Sequential(*layers(case.kinds, case.seed))
    learner = optimizer(model.parameters())
    losses = []
    for step in range(case.steps):
        inputs, targets = batch(case, step)
        split = "norm" in case.kinds
        sizes = balanced_counts(case.samples, case.chunks) if split else (case.samples,)
        before = {name: b.data.copy() for name, b in model.named_buffers()}
        after = {name: np.zeros_like(b.data) for name, b in model.named_buffers()}
        start, total = 0, 0.0
        for size in sizes:
            rows = range(start, start + size)
            for name, buffer in model.named_buffers():
                buffer.assign(before[name])
            with random.scope(seed=case.seed, step=step, samples=rows):
                values: Any = tuple(mg.tensor(x.data[start : start + size]) for x in inputs)
                for layer in model:
                    values = layer(*values)
                share = size / case.samples
                loss = mean_square(values, mg.tensor(targets.data[start : start + size])) * share
            loss.backward()
            total += loss.item()
            for name, buffer in model.named_buffers():
                whole = buffer.dtype.kind != "f"
                after[name] = buffer.data.copy() if whole else after[name] + share * buffer.data
            start += size
        for name, buffer in model.named_buffers():
            buffer.assign(after[name])
        losses.append(total)
        if case.max_norm is not None:
            nn.utils.clip_grad_norm_(list(model.parameters()), case.max_norm)
        learner.step()
        learner.zero_grad()
    return state_of(model), losses


def state_of(model: Any) -> State:
    return {name: x.data.copy() for name, x in model.state_dict().items()}


def train_in_stages(world: World, case: Case) -> tuple[State, list[float]]:
    """The same as this rank's part of a pipeline."""
    pipeline = Pipeline(
        nn.Sequential(*layers(case.kinds, case.seed)),
        balance=case.balance,
        chunks=case.chunks,
        schedule=case.schedule,
        loss=mean_square,
        recompute=case.recompute,
        world=world,
    )
    learned = [p for p in pipeline.parameters() if p.requires_grad]
    learner = optimizer(learned) if learned else None
    losses = []
    for step in range(case.steps):
        inputs, targets = batch(case, step)
        with random.scope(seed=case.seed, step=step, samples=range(case.samples)):
            losses.append(float(pipeline.step(inputs, targets)))
        if case.max_norm is not None:
            pipeline.clip_grad_norm_(case.max_norm)
        if learner is not None:
            learner.step()
            learner.zero_grad()
    return state_of(pipeline), losses


def equal(found: Sequence[tuple[State, list[float]]], expected: tuple[State, list[float]]) -> None:
    """Every rank's part is the same as on one rank; together they are all of it."""
    state, losses = expected
    seen = set()
    for part, own in found:
        np.testing.assert_allclose(own, losses, rtol=1e-10, atol=1e-12)
        for name, value in part.items():
            seen.add(name)
            np.testing.assert_allclose(value, state[name], rtol=1e-10, atol=1e-12, err_msg=name)
    assert seen == set(state)


def with_schedule(case: Case, schedule: Any) -> Case:
    return replace(case, schedule=schedule)


def v_shaped(microbatches: int) -> Schedule:
    """Four stages on two ranks, of which rank 0 has the first and the last."""

    def row(outer: int, inner: int) -> str:
        way = (("F", outer), ("F", inner), ("B", inner), ("B", outer))
        return " ".join(f"{kind}{j}@{stage}" for j in range(microbatches) for kind, stage in way)

    return parse(f"{row(0, 3)}\n{row(1, 2)}", name="v")
