"""A model with every difficulty of sharing out parameters, trained by ZeRO and, to compare, by one rank."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import minigrad as mg
from minigrad import dist, nn
from minigrad.dist.world import World
from minigrad.dist.zero import ZeRO
from minigrad.nn.utils import (
    clip_coefficient,
    clip_grad_norm_,
    clip_grad_value_,
    clip_values,
    reproducible_norm,
)

FEATURES, CLASSES = 3, 2


class Block(nn.Module):
    """h + tanh(h W + b) S, where S belongs to several blocks."""

    def __init__(self, values: np.random.Generator, width: int, shared: nn.Parameter | None) -> None:
        self.weight = nn.Parameter(values.normal(size=(width, width)) / width)
        self.bias = nn.Parameter(values.normal(size=width))
        self.shared = shared

    def forward(self, h: mg.Tensor) -> mg.Tensor:
        out = mg.tanh(h @ self.weight + self.bias)
        return h + (out if self.shared is None else out @ self.shared)


class Net(nn.Module):
    """Blocks between two matrices: some share a matrix, some are frozen, the odd ones of these in part; one
    may be left out; one parameter is never used. They may be called in another order than they are declared.
    """

    def __init__(self, seed: int, case: "Case") -> None:
        values = np.random.default_rng((7, seed))
        width = case.width
        self.enter = nn.Parameter(values.normal(size=(FEATURES, width)))
        self.shared = nn.Parameter(values.normal(size=(width, width)) / width)
        self.blocks = nn.ModuleList(
            Block(values, width, self.shared if number in case.tied else None)
            for number in range(case.blocks)
        )
        self.spare = nn.Parameter(values.normal(size=2))
        self.frozen = nn.Parameter(values.normal(size=(width, width)) / width, requires_grad=False)
        self.leave = nn.Parameter(values.normal(size=(width, CLASSES)))
        self.scale = nn.Buffer(values.normal(size=CLASSES))
        for number in case.cold & set(range(case.blocks)):
            weight, bias, *_ = self.blocks[number].parameters()
            weight.requires_grad_(False)
            bias.requires_grad_(number % 2 == 1)
        self.seldom, self.checkpointed = case.seldom, case.checkpointed
        self.turned = case.turned

    def forward(self, x: mg.Tensor, marked: np.ndarray) -> mg.Tensor:
        """One block acts on marked samples only, and is left out where there are none."""
        h = mg.tanh(x @ self.enter)
        for number, block in list(enumerate(self.blocks))[:: -1 if self.turned else 1]:
            if number != self.seldom or marked.any():
                out = mg.checkpoint(block, h) if self.checkpointed else block(h)
                chosen = mg.tensor(marked[:, None], device=h.device)
                h = out if number != self.seldom else mg.where(chosen, out, h)
        return mg.tanh(mg.tanh(h @ self.frozen) @ self.leave) * self.scale


@dataclass(frozen=True)
class Case:
    """What a run is made of."""

    samples: int = 7
    steps: int = 5
    parts: int = 1  # walks per step
    seed: int = 0
    width: int = 5
    blocks: int = 3
    tied: frozenset[int] = frozenset({0, 2})
    cold: frozenset[int] = frozenset()
    turned: bool = False
    warm: bool = False  # traffic is counted from the second step on
    seldom: int | None = None
    checkpointed: bool = False
    max_norm: float | None = None
    max_value: float | None = None
    optimizer: Callable[..., nn.optim.Optimizer] = nn.optim.AdamW
    device: str = "cpu"
    zero: dict[str, Any] = field(default_factory=dict)


def shares(case: Case, step: int, ranks: int) -> list[list[tuple[np.ndarray, np.ndarray]]]:
    """Each rank's parts of a step's samples, maybe empty ones, and which of them are marked."""
    values = np.random.default_rng((case.seed, step))
    x, marked = values.normal(size=(case.samples, FEATURES)), values.random(case.samples) < 0.3
    return [
        [(x[part], marked[part]) for part in np.array_split(share, case.parts)]
        for share in np.array_split(np.arange(case.samples), ranks)
    ]


def loss_of(model: Any, part: tuple[np.ndarray, np.ndarray], samples: int, device: str = "cpu") -> mg.Tensor:
    x, marked = part
    out = model(mg.tensor(x, dtype="float64", device=device), marked)
    return mg.sum(mg.square(out)) * (1.0 / samples)


@dataclass
class Result:
    """What a run left behind."""

    values: dict[str, np.ndarray]
    norms: list[float]
    zero: ZeRO | None = None
    traffic: dict[str, Any] = field(default_factory=dict)  # of the steps, as the ledger reports it
    peak: dict[str, int] = field(default_factory=dict)  # bytes by category, from the wrapping on


def trained(case: Case, model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def train(world: World, case: Case) -> Result:
    """Train this rank's part, begun with other values on every rank."""
    model = Net(case.seed + world.rank, case).to(device=case.device)
    zero = ZeRO(
        model,
        case.optimizer(trained(case, model), lr=0.01),
        world,
        max_norm=case.max_norm,
        max_value=case.max_value,
        **case.zero,
    )
    world.ledger.clear()
    norms = []
    for step in range(case.steps):
        if step == 1 and case.warm:
            world.ledger.clear()
        *early, late = shares(case, step, world.size)[world.rank]
        for part in early:
            with zero.no_sync():
                if len(part[0]):
                    loss_of(zero, part, case.samples, case.device).backward()
        if len(late[0]):
            loss_of(zero, late, case.samples, case.device).backward()
        norm = zero.step()
        norms.append(0.0 if norm is None else float(norm))
    traffic, peak = world.ledger.report()["traffic"], zero.meter.peak
    zero.settle()
    with zero.gathered():
        return Result(state(model), norms, zero, traffic, peak)


def reference(case: Case, ranks: int = 1, *, ordered: bool = False) -> Result:
    """The same on one rank alone without ZeRO, which adds up the parts of `ranks` ranks in their order.

    If `ordered`, the norm does not depend on the order of entries, and clipping is one multiplication.
    """
    model = Net(case.seed, case).to(device=case.device)
    optimizer = case.optimizer(trained(case, model), lr=0.01)
    norms = []
    for step in range(case.steps):
        model.zero_grad()
        for share in shares(case, step, ranks):
            for part in share:
                if len(part[0]):
                    loss_of(model, part, case.samples, case.device).backward()
        used = [parameter for parameter in trained(case, model) if parameter.grad is not None]
        scale = None
        if case.max_norm is None:
            norms.append(0.0)
        elif ordered:
            norm = reproducible_norm([parameter.grad.data for parameter in used])  # type: ignore[union-attr]
            scale = clip_coefficient(norm, case.max_norm)
            norms.append(float(norm))
        else:
            norms.append(float(clip_grad_norm_(used, case.max_norm).item()))
        if case.max_value is not None:
            if ordered and scale is not None:
                clip_values([parameter.grad.data for parameter in used], case.max_value / scale)  # type: ignore[union-attr]
            else:
                clip_grad_value_(used, case.max_value)
        optimizer.step(gradient_scale=scale)
    return Result(state(model), norms)


def state(model: nn.Module) -> dict[str, np.ndarray]:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.numpy().copy() for name, tensor in tensors}


def run(case: Case, ranks: int) -> list[Result]:
    return dist.spawn(train, ranks=ranks, arguments=(case,))


def close_values(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert actual.keys() == expected.keys()
    for name, value in actual.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-10, atol=1e-10, err_msg=name)


def close(actual: Result, expected: Result) -> None:
    close_values(actual.values, expected.values)
    np.testing.assert_allclose(actual.norms, expected.norms, rtol=1e-10)


def same(actual: Result, expected: Result) -> None:
    """Equal to the last bit."""
    assert actual.norms == expected.norms
    for name, value in actual.values.items():
        assert np.array_equal(value, expected.values[name]), name
