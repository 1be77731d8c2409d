"""GPTs of awkward sizes, trained on meshes of data × pipeline × tensor ranks and, to compare, on one rank."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import numpy as np

import minigrad as mg
from minigrad import dist, nn, random
from minigrad.dist.checkpoint import Piece
from minigrad.dist.mesh import Mesh
from minigrad.dist.mesh_gpt import MeshGPT
from minigrad.dist.mesh_zero import MeshZeRO
from minigrad.dist.verbs import balanced_counts
from minigrad.dist.world import World
from minigrad.nn.amp import GradScaler
from minigrad.nn.gpt import GPT, GPTConfig

TIME = 6
CONFIG = GPTConfig(vocabulary=7, context=TIME, layers=3, heads=3, width=6, dropout=0.2)
ADAMW = partial(nn.optim.AdamW, lr=0.01)
STEPS = 3

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """What a run is made of; `options` are those of MeshGPT, `zero` those of ZeRO."""

    samples: int
    data: int = 1
    pipeline: int = 1
    tensor: int = 1
    config: GPTConfig = CONFIG
    optimizer: Callable[..., nn.optim.Optimizer] = ADAMW
    options: Mapping[str, Any] = field(default_factory=dict)
    zero: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "float64"

    @property
    def ranks(self) -> int:
        return self.data * self.pipeline * self.tensor


@dataclass
class Result:
    """What a run left behind on one rank."""

    losses: list[float]
    norms: list[float]
    validation: float
    steps: dict[str, int]
    pieces: list[Piece]


def whole_model(config: GPTConfig, dtype: str = "float64") -> GPT:
    """Values so large that everything matters."""
    model = GPT(config, dtype=dtype)
    values = np.random.default_rng(0)
    for parameter in model.parameters():
        parameter.assign(mg.tensor(values.normal(size=parameter.shape) * 0.5, dtype=dtype))
    return model


def batch(case: Case, step: int) -> tuple[np.ndarray, np.ndarray]:
    values = np.random.default_rng(step)
    shape = (case.samples, TIME)
    inputs, targets = (values.integers(0, case.config.vocabulary, shape) for _ in range(2))
    return inputs, targets


def build(world: World, case: Case) -> tuple[MeshGPT, MeshZeRO, range]:
    """This rank's part of a mesh, and which samples are those of its copy."""
    mesh = Mesh(world, data=case.data, pipeline=case.pipeline, tensor=case.tensor)
    part = MeshGPT(whole_model(case.config, case.dtype), mesh, **case.options)
    # Buckets of about one parameter, and steps that are all clipped.
    options = {"max_norm": 0.5, "bucket_bytes": 300, **case.zero}
    zero = part.share_out(case.optimizer(part.module.parameters()), **options)
    sizes = balanced_counts(case.samples, case.data)
    first = sum(sizes[: mesh.coordinates["data"]])
    return part, zero, range(first, first + sizes[mesh.coordinates["data"]])


def learn(part: MeshGPT, case: Case, rows: range, step: int, scaler: GradScaler | None = None) -> float:
    """One walk over the batch of a step; returns its mean loss."""
    inputs, targets = (x[rows.start : rows.stop] for x in batch(case, step))
    tokens = case.samples * TIME
    with random.scope(seed=1, step=step, samples=rows):
        total = np.array([part.learn(inputs, targets, count=tokens, scaler=scaler)])
    part.mesh.axis("data").all_reduce(total)
    return float(total[0]) / tokens


def train(world: World, case: Case) -> Result:
    part, zero, rows = build(world, case)
    losses, norms = [], []
    for step in range(STEPS):
        part.train()
        losses.append(learn(part, case, rows, step))
        norms.append(float(zero.step()))  # type: ignore[arg-type]  # there is one, because there is a limit
    part.train(False)
    inputs, targets = (x[:1] for x in batch(case, STEPS))
    validation = part.loss(inputs, targets)
    return Result(losses, norms, validation, zero.state()["steps"], copied(zero.pieces()))


def copied(pieces: Iterable[Piece]) -> list[Piece]:
    return [
        Piece(piece.name, piece.shape, piece.start, piece.stop, piece.array.copy(), piece.box)
        for piece in pieces
    ]


def assembled(ranks: Sequence[Sequence[Piece]]) -> Arrays:
    """The whole arrays; where several ranks have the same entries, these must be the same to the bit."""
    wholes: Arrays = {}
    for piece in (piece for pieces in ranks for piece in pieces):
        whole = wholes.setdefault(piece.name, np.full(piece.shape, np.nan))
        view = whole[tuple(slice(offset, offset + length) for offset, length in piece.part)]
        flat = view.reshape(-1).copy()
        known = flat[piece.start : piece.stop]
        known = np.where(np.isnan(known), piece.array, known)
        np.testing.assert_array_equal(known, piece.array, err_msg=piece.name)
        flat[piece.start : piece.stop] = known
        view[...] = flat.reshape(view.shape)
    return wholes


@cache
def alone(samples: int, config: GPTConfig, optimizer: Callable[..., Any]) -> tuple[Result, Arrays]:
    """The plain model on one rank, in one piece."""
    model = whole_model(config)
    learner = optimizer(model.parameters())
    case = Case(samples, config=config)
    found = Result([], [], 0.0, {}, [])
    for step in range(STEPS):
        inputs, targets = batch(case, step)
        with random.scope(seed=1, step=step, samples=range(samples)):
            loss = model.loss(inputs, targets)
        loss.backward()
        found.losses.append(loss.item())
        found.norms.append(float(nn.utils.clip_grad_norm_(list(model.parameters()), 0.5).item()))
        learner.step()
        learner.zero_grad()
    model.eval()
    inputs, targets = (x[:1] for x in batch(case, STEPS))
    found.validation = float(model.loss(inputs, targets, reduction="sum").item())
    arrays = {f"model.{name}": x.data.copy() for name, x in model.state_dict().items()}
    found.steps = {name: STEPS for name, _ in model.named_parameters()}
    return found, arrays


def compare(results: Sequence[Result], case: Case) -> None:
    """The mesh's ranks all did what one rank does; together they have all of it, once."""
    expected, arrays = alone(case.samples, case.config, case.optimizer)
    for found in results:
        np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-10)
        np.testing.assert_allclose(found.norms, expected.norms, rtol=1e-10)
        np.testing.assert_allclose(found.validation, expected.validation, rtol=1e-10)
        assert found.steps == expected.steps
    wholes = assembled([found.pieces for found in results])
    found_parameters = {name: x for name, x in wholes.items() if name.startswith("model.")}
    assert found_parameters.keys() == arrays.keys()
    for name, value in found_parameters.items():
        np.testing.assert_allclose(value, arrays[name], rtol=1e-10, atol=1e-10, err_msg=name)
    assert not any(np.isnan(x).any() for x in wholes.values())


def check(case: Case) -> None:
    compare(dist.spawn(train, ranks=case.ranks, arguments=(case,)), case)
