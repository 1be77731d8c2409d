"""Wrapped models that changed since, and optimizers that are asked for steps behind a wrapper's back."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import dist, nn
from minigrad.dist import World
from minigrad.dist.roster import Roster, Seal
from minigrad.dist.zero import ZeRO
from minigrad.errors import UsageError
from minigrad.nn.amp import GradScaler

WRAPPERS = ["data parallel", 0, 1, 2, 3]


def model_of(frozen: bool = False) -> nn.Sequential:
    model = nn.Sequential(nn.Linear(3, 4, dtype="float64"), nn.Linear(4, 2, dtype="float64"))
    if frozen:
        model[0].weight.requires_grad_(False)
    model[1].spare = None
    return model


def wrapped(model: nn.Module, world: World, how: Any) -> Any:
    """The wrapper, and what sums gradients with it and updates."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = nn.optim.SGD(trained, lr=0.1)
    if how != "data parallel":
        zero = ZeRO(model, optimizer, world, stage=how)
        return zero, zero.step
    parallel = dist.DataParallel(model, world)

    def step() -> None:
        parallel.synchronize()
        optimizer.step()
        optimizer.zero_grad()

    return parallel, step


def learn(model: Any, step: Callable[[], Any], dtype: str = "float64") -> None:
    mg.sum(mg.square(model(mg.tensor(np.ones((1, 3)), dtype=dtype)))).backward()
    step()


def add(model: Any) -> None:
    model[1].extra = nn.Parameter(np.ones(2))


def remove(model: Any) -> None:
    model[0].bias = None


def replace(model: Any) -> None:
    model[0].bias = nn.Parameter(np.zeros(4), dtype="float64")


def replace_a_module(model: Any) -> None:
    model[1] = nn.Linear(4, 2, dtype="float64")


def fill_a_place(model: Any) -> None:
    model[1].spare = nn.Parameter(np.ones(2))


def fill_a_place_with_a_module(model: Any) -> None:
    model[1].spare = nn.Linear(1, 1)


def unfreeze(model: Any) -> None:
    model[0].weight.requires_grad_(True)


def freeze(model: Any) -> None:
    model[1].bias.requires_grad_(False)


def freeze_for_a_while(model: Any) -> None:
    freeze(model)
    model[1].bias.requires_grad_(True)


CHANGES: list[tuple[Callable[[Any], None], str]] = [
    (add, "had 4 parameters when it was wrapped, and has 5 now"),
    (remove, "had 4 parameters when it was wrapped, and has 3 now"),
    (replace, "and has 4 now, or others"),
    (replace_a_module, "and has 4 now, or others"),
    (fill_a_place, "had 4 parameters when it was wrapped, and has 5 now"),
    (fill_a_place_with_a_module, "had 4 parameters when it was wrapped, and has 6 now"),
    (unfreeze, r"0\.weight was frozen, unfrozen or moved after the module was wrapped"),
    (freeze, r"1\.bias was frozen"),
    (freeze_for_a_while, r"1\.bias was frozen"),
]


@pytest.mark.parametrize("how", WRAPPERS)
@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_a_model_that_changed(how: Any, change: Callable[[Any], None], message: str) -> None:
    def main(world: World) -> None:
        model = model_of(frozen=change is unfreeze)
        parallel, step = wrapped(model, world, how)
        for _ in range(2):
            model.note = "an attribute is no parameter"
            learn(parallel, step)
        change(model)
        learn(parallel, step)

    with pytest.raises(UsageError, match=rf"rank \d of 2: .*{message}"):
        dist.spawn(main, ranks=2)


@pytest.mark.parametrize("how", ["data parallel", 0, 1, 2])
def test_a_model_that_was_moved(how: Any) -> None:
    def main(world: World) -> None:
        model = model_of()
        parallel, step = wrapped(model, world, how)
        model.to(dtype="float64")  # which it is
        learn(parallel, step)
        model.to(dtype="float32")
        learn(parallel, step, "float32")

    with pytest.raises(UsageError, match=r"0\.weight was frozen, unfrozen or moved"):
        dist.spawn(main, ranks=2)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=6))
def test_a_roster_sees_every_change_of_what_is_trained(changes: list[tuple[bool, int]]) -> None:
    model = model_of()
    roster, before = Roster(model), [parameter.node for parameter in model.parameters()]
    for trained, index in changes:
        list(model.parameters())[index].requires_grad_(trained)
    if [parameter.node for parameter in model.parameters()] == before:
        roster.check("here")
    else:
        with pytest.raises(UsageError, match=r"here: .* was frozen, unfrozen or moved"):
            roster.check("here")


# ----- Steps behind the back -----


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("scaled", [None, True, False])
def test_the_optimizer_takes_no_steps_of_its_own(stage: int, ranks: int, scaled: bool | None) -> None:
    def main(world: World, before: bool) -> None:
        model = model_of()
        optimizer = nn.optim.SGD(model.parameters(), lr=0.1)
        scaler = None if scaled is None else GradScaler(init_scale=8.0, enabled=scaled)
        zero = ZeRO(model, optimizer, world, stage=stage, scaler=scaler)
        if before:
            learn(zero, zero.step)
        learn(zero, optimizer.step if scaler is None else lambda: scaler.step(optimizer))

    for before in (False, True):
        with pytest.raises(
            UsageError, match=rf"rank \d of {ranks}: .*zero\.step\(\) in place of optimizer\.step"
        ):
            dist.spawn(main, ranks=ranks, arguments=(before,))


def test_unscaling_behind_the_back() -> None:
    model = model_of()
    optimizer = nn.optim.SGD(model.parameters(), lr=0.1)
    ZeRO(model, optimizer, dist.SingleWorld())
    scaler = GradScaler()
    with pytest.raises(UsageError, match="in place of optimizer"):
        scaler.unscale_(optimizer)


# ----- Seals -----


def test_a_seal_sees_writes_that_were_told() -> None:
    parts = np.zeros(6), np.zeros((2, 2))
    seal, tensor = Seal(parts), mg.Tensor.of(parts[0][2:4])
    seal.check("here")
    mg.Tensor.of(np.zeros(6)).assign(np.ones(6))  # another
    seal.check("here")
    tensor.assign(np.ones(2))
    with pytest.raises(UsageError, match=r"here: parameters were written to"):
        seal.check("here")
    seal.renew()
    seal.check("here")
