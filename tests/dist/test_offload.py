"""States and steps on the host or on the disk: the same numbers; delayed steps by their own rule."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import dist, nn
from minigrad.dist import staging
from minigrad.dist.agreement import AgreedError
from minigrad.dist.offload import HostCopies, StateFile
from minigrad.dist.single import SingleWorld
from minigrad.dist.world import World
from minigrad.dist.zero import ZeRO
from minigrad.errors import UsageError
from tests.dist.test_staging import DeviceArray, FakeDevice
from tests.dist.zero_training import Case, Net, loss_of, run, same, shares, state, trained

ROOT = Path(__file__).resolve().parent.parent.parent
STAGES = [0, 1, 2, 3]


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("optimizer", [nn.optim.AdamW, nn.optim.LAMB, partial(nn.optim.SGD, momentum=0.9)])
def test_the_same_numbers_to_the_bit(
    tmp_path: Path, stage: int, ranks: int, optimizer: Callable[..., nn.optim.Optimizer]
):
    case = Case(optimizer=optimizer, max_norm=0.5, seldom=1, zero={"stage": stage, "bucket_bytes": 200})
    expected = run(case, ranks)
    for where in ("host", tmp_path):
        actual = run(replace(case, zero={**case.zero, "offload": where}), ranks)
        for here, there in zip(actual, expected, strict=True):
            same(here, there)
            assert here.zero is not None
            assert there.zero is not None
            kept = there.zero.meter.current["optimizer"]
            on_disk = here.zero.meter.on_disk["optimizer"]
            in_memory = here.zero.meter.current["optimizer"]
            assert kept == len(there.zero.optimizer.state_names) * ITEM * sum(
                bucket.stop - bucket.start for bucket in there.zero.buckets
            )
            if where == "host":
                assert (in_memory, on_disk) == (kept, 0)
            else:
                assert in_memory == 0
                assert kept <= on_disk <= kept + PAGE
    assert list(tmp_path.iterdir()) == []  # the file has no name, so it goes with the process


ITEM, PAGE = 8, 1 << 16


# ----- Delayed -----


def delayed_by_hand(case: Case, first: int, ranks: int) -> dict[str, np.ndarray]:
    """One rank alone: gradients at the shown parameters, applied to the true ones one step later."""
    shown, true = Net(case.seed, case), Net(case.seed, case)
    optimizer = case.optimizer(trained(case, true), lr=0.01)
    waiting: list[Any] | None = None

    def update(gradients: list[Any]) -> None:
        for parameter, gradient in zip(trained(case, true), gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()

    for step in range(1, case.steps + 1):
        shown.zero_grad()
        for share in shares(case, step - 1, ranks):
            loss_of(shown, share[0], case.samples).backward()
        gradients = [None if p.grad is None else mg.tensor(p.grad.data.copy()) for p in trained(case, shown)]
        if step < first:
            update(gradients)
        else:
            if waiting is not None:
                update(waiting)
            waiting = gradients
        shown.load_state_dict(true.state_dict())
    if waiting is not None:
        update(waiting)
    return state(true)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("first", [1, 3, 99])
@pytest.mark.parametrize("where", ["host", "disk"])
def test_delayed_updates_follow_their_rule(tmp_path: Path, stage: int, first: int, where: str):
    offload = tmp_path if where == "disk" else where
    case = Case(
        steps=6,
        samples=6,
        zero={"stage": stage, "offload": offload, "delayed": first, "algorithm": "ordered"},
    )
    expected = delayed_by_hand(case, first, 3)
    for result in run(case, 3):
        for name, value in result.values.items():
            assert np.array_equal(value, expected[name]), name
    if first < 99:
        assert any(
            not np.array_equal(value, expected[name]) for name, value in delayed_by_hand(case, 99, 3).items()
        )


@pytest.mark.parametrize(("rate", "stable"), [(0.95, True), (1.05, False)])
def test_a_delay_of_one_halves_the_largest_stable_rate(rate: float, stable: bool):
    """xₜ₊₁ = xₜ - a xₜ₋₁ is stable for a < 1, and without delay for a < 2."""
    ends = []
    for delayed in (0, 1):
        model = nn.Linear(1, 1, bias=False, dtype="float64")
        model.weight.assign(np.ones((1, 1)))
        zero = ZeRO(
            model,
            nn.optim.SGD(model.parameters(), lr=rate),
            SingleWorld(),
            offload="host" if delayed else None,
            delayed=delayed,
        )
        for _ in range(200):
            (mg.sum(mg.square(zero(mg.tensor([[1.0]], dtype="float64")))) * 0.5).backward()
            zero.step()
        ends.append(abs(float(model.weight.numpy()[0, 0])))
    assert ends[0] < 1e-3
    assert (ends[1] < 1e-2) if stable else (ends[1] > 10)


def test_an_error_in_a_delayed_update_is_not_lost():
    model = nn.Linear(2, 2)
    optimizer = nn.optim.SGD(model.parameters())
    zero = ZeRO(model, optimizer, SingleWorld(), offload="host", delayed=1)

    def broken(*_: Any, **__: Any) -> None:
        raise ValueError("boom")

    optimizer.update = broken  # type: ignore[method-assign]
    x = mg.tensor(np.ones((1, 2)), dtype="float32")
    mg.sum(zero(x)).backward()
    zero.step()
    mg.sum(zero(x)).backward()
    with pytest.raises(ValueError, match="boom"):
        zero.step()


# ----- Room -----


def test_states_larger_than_the_memory_allowed(tmp_path: Path):
    """Adam's two arrays do not fit the memory that the process may take; in a file they train."""
    program = f"""
import resource, numpy as np, minigrad as mg
from pathlib import Path
from minigrad import nn
from minigrad.dist.single import SingleWorld
from minigrad.dist.zero import ZeRO
model = nn.Linear(2048, 2048, bias=False)  # 16 MiB, its gradient as much again
folder = {str(tmp_path)!r} if {{offload}} else None
zero = ZeRO(model, nn.optim.AdamW(model.parameters()), SingleWorld(), stage=1, offload=folder)
x = mg.tensor(np.ones((2, 2048), dtype="float32"))
mg.sum(zero(x)).backward()  # what every step needs is there
used = int(next(l for l in open("/proc/self/status") if l.startswith("VmData")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + 2**23, used + 2**23))  # 8 MiB more; states want 32
for _ in range(2):
    zero.step()
    mg.sum(zero(x)).backward()
print("trained", float(zero.optimizer.flat_state["exp_avg"][-100:].min()) > 0)
"""
    if not Path("/proc/self/status").exists():
        pytest.skip("only Linux limits and tells what a process holds")
    outputs = {}
    for offload in (False, True):
        done = subprocess.run(
            [sys.executable, "-c", program.format(offload=offload)],
            env=os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        outputs[offload] = done.stdout + done.stderr
    assert "MemoryError" in outputs[False]
    assert "trained True" in outputs[True], outputs[True]


def test_a_disk_without_room_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(100, 99, 1))

    def main(world: World) -> None:
        model = nn.Linear(2, 2)
        before = [parameter.data for parameter in model.parameters()]
        with pytest.raises(
            UsageError, match=r"2 ranks keep \d+ bytes of optimizer states in .* where 1 are free"
        ):
            ZeRO(model, nn.optim.AdamW(model.parameters()), world, stage=3, offload=tmp_path)
        assert all(p.data is array for p, array in zip(model.parameters(), before, strict=True))

    dist.spawn(main, ranks=2)


def test_a_disk_that_fills_up_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(UsageError, match=r"no room for \d+ bytes .*No space left on device"):
        StateFile(tmp_path, 1000)


def test_what_goes_wrong_on_one_rank_is_raised_by_all(tmp_path: Path):
    def main(world: World) -> None:
        model = nn.Linear(2, 2)
        folder = tmp_path if world.rank == 0 else tmp_path / "absent"
        with pytest.raises(AgreedError, match=r"rank 1 of 3: offload=.*absent' is no folder"):
            ZeRO(model, nn.optim.AdamW(model.parameters()), world, offload=folder)

    dist.spawn(main, ranks=3)


def test_optimizers_that_talk_in_the_middle_of_a_step_are_not_delayed():
    def main(world: World) -> None:
        model = nn.Linear(2, 2)
        with pytest.raises(UsageError, match="LAMB needs norms of all ranks in the middle of its step"):
            ZeRO(model, nn.optim.LAMB(model.parameters()), world, offload="host", delayed=2)

    dist.spawn(main, ranks=2)


def test_pieces_of_device_arrays_are_staged(monkeypatch: pytest.MonkeyPatch):
    device = FakeDevice()
    monkeypatch.setattr(staging, "DEVICES", [device])
    values = [DeviceArray(np.arange(3.0)), DeviceArray(np.arange(0.0))]
    gradients = [DeviceArray(np.arange(3.0) + 10.0), DeviceArray(np.arange(0.0))]
    copies = HostCopies(values, gradients, track=lambda category, array: array)
    assert copies.values[0].tolist() == [0.0, 1.0, 2.0]
    copies.fetch()
    copies.values[0][...] -= copies.gradients[0]
    assert values[0].memory.tolist() == [0.0, 1.0, 2.0]
    copies.publish()
    assert values[0].memory.tolist() == [-10.0] * 3
