"""The device of these tests: a real GPU where there is one, else CuPy's stand-in."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import pytest

from minigrad import backend
from minigrad.errors import DeviceError
from tests.gpu import stand_in
from tests.packaging.tree import ROOT

WAITING = ("get", "item", "tolist", "__float__", "__int__", "__bool__")


def missing() -> str:
    """Why there is no real GPU; empty where there is one."""
    try:
        backend.gpu()
    except DeviceError as error:
        return str(error)
    return ""


@pytest.fixture
def device() -> Iterator[str]:
    """ "gpu": real, or one that stands in."""
    if missing():
        with stand_in.installed():
            yield "gpu"
    else:
        yield "gpu"


@pytest.fixture
def device_of_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str) -> str:
    """The same for processes that the test starts: they find a module by CuPy's name."""
    folders = [str(ROOT)]
    if backend.gpu().module is stand_in.MODULE:
        text = "import sys\nfrom tests.gpu import stand_in\nstand_in.put(sys.modules)\n"
        (tmp_path / "cupy.py").write_text(text)
        folders.insert(0, str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folders))
    return device


@pytest.fixture
def two_devices() -> Iterator[None]:
    """Two GPUs at least, real or standing in. Skipped where there is a real one only."""
    if missing():
        with stand_in.installed(devices=2):
            yield
    elif backend.gpu().count() < 2:
        pytest.skip("this machine has one GPU, and the test needs two")
    else:
        yield


@pytest.fixture
def real_gpu() -> None:
    """For what no stand-in can show."""
    if reason := missing():
        pytest.skip(reason)


@pytest.fixture
def waits(device: str) -> Iterator[Callable[[], int]]:
    """How often the host has asked the device for a value: each time it waits for all that was started."""
    counted = 0

    def counting(method: Callable[..., object]) -> Callable[..., object]:
        def called(*arguments: object, **keywords: object) -> object:
            nonlocal counted
            counted += 1
            return method(*arguments, **keywords)

        return called

    kind = backend.gpu().array_type
    with ExitStack() as patches:
        for name in WAITING:
            patches.enter_context(mock.patch.object(kind, name, counting(getattr(kind, name))))
        yield lambda: counted
