"""Lessons for several GPUs compute where MINIGRAD_DEVICE says, and learn what they learn on the CPU.

Where there is no GPU, CuPy's stand-in is the device, with two GPUs for all ranks. What is compared is every
loss: the value that each walk on each rank starts from.
"""

import contextlib
import io
import sys
import types
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from unittest import mock

import numpy as np
import pytest

from minigrad import backend, derivatives, dist, walk
from minigrad.dist.executor import Executor
from minigrad.errors import DeviceError
from minigrad.lessons import find_lesson, kit
from tests.gpu import stand_in

TOLERANCES = {18: 1e-9, 19: 1e-5, 20: 1e-9, 21: 1e-9, 22: 1e-9, 23: 1e-9, 28: 1e-9}
"""Of each lesson: how far its losses on a GPU may be, relatively, from those on the CPU. The lesson says it
too.
"""


@dataclass
class Losses:
    """Of each rank of each world, in order: the device and the value of every loss that was walked from."""

    found: dict[tuple[int, int], list[tuple[str, float]]] = field(default_factory=lambda: defaultdict(list))

    def take(self, value: Any, array: Any = None) -> None:
        array = value.data if array is None else array
        device = backend.namespace(array).device(array)
        if array.size == 1 and device != "shapes":
            number = float(backend.namespace(array).to_host(array).reshape(())[()])
            world = dist.world()
            self.found[world.rank, world.size].append((device.partition(":")[0], number))


@contextmanager
def recorded() -> Iterator[Losses]:
    """Note where walks start: `backward`, `mg.grad` and its kin, and the losses of pipelines."""
    losses, seed, vjp, stage = Losses(), walk.seed, derivatives.vjp, Executor._run_stage

    def seeded(tensor: Any, cotangent: Any) -> Any:
        losses.take(tensor)
        return seed(tensor, cotangent)

    def transposed(f: Callable[..., Any], *inputs: Any) -> Any:
        found = vjp(f, *inputs)
        if hasattr(found[0], "data"):
            losses.take(found[0])
        return found

    def run_stage(self: Any, *arguments: Any) -> Any:
        outputs, present, result = stage(self, *arguments)
        if result is not None and not isinstance(result, list):
            losses.take(None, result)
        return outputs, present, result

    with (
        mock.patch.object(walk, "seed", seeded),
        mock.patch.object(derivatives, "vjp", transposed),
        mock.patch.object(Executor, "_run_stage", run_stage),
    ):
        yield losses


@cache
def run(number: int, device: str) -> Losses:
    """Run the lesson's short form in this process; its own assertions hold on either device."""
    path = find_lesson(number).folder / "lesson.py"
    module = types.ModuleType(f"lesson_{number}")
    module.__file__ = str(path)
    with (
        mock.patch.dict("os.environ", {"MINIGRAD_QUICK": "1", "MINIGRAD_DEVICE": device}),
        mock.patch.dict(sys.modules, {module.__name__: module}),
        mock.patch.object(kit, "shown", []),
        mock.patch.object(kit, "_told", set()),
        contextlib.redirect_stdout(io.StringIO()),
        recorded() as losses,
    ):
        exec(compile(path.read_text(), str(path), "exec"), vars(module))  # noqa: S102  # our own file
    assert losses.found
    return losses


@contextmanager
def gpus() -> Iterator[bool]:
    """Real GPUs, or two that stand in; says whether they stand in."""
    try:
        backend.gpu()
    except DeviceError:
        with stand_in.installed(devices=2):
            yield True
    else:
        yield False


def check(number: int) -> None:
    """The lesson's losses are those of the CPU, and all were computed on a GPU, by ranks on both of two."""
    expected = run(number, "cpu").found
    with gpus() as standing_in:
        found = run.__wrapped__(number, "gpu").found
        used, kernels = set(stand_in.Counts.devices), stand_in.Counts.kernels
    assert {place for losses in found.values() for place, _ in losses} == {"gpu"}
    assert found.keys() == expected.keys()
    for key, losses in expected.items():
        actual = [value for _, value in found[key]]
        right = [value for _, value in losses]
        np.testing.assert_allclose(actual, right, rtol=TOLERANCES[number], atol=TOLERANCES[number])
    if standing_in:
        assert kernels > 10 * sum(map(len, found.values()))
        assert used == ({0, 1} if any(size > 1 for _, size in found) else {0})


@pytest.mark.parametrize("number", TOLERANCES)
def test_losses_are_those_of_the_cpu(number):
    check(number)


def test_a_lesson_that_ignores_the_device_is_caught():
    with mock.patch.object(kit, "device", return_value="cpu"), pytest.raises(AssertionError, match="cpu"):
        check(20)
