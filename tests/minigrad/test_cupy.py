"""The CuPy namespace without a GPU: a stand-in for CuPy, as poor as its oldest release, over NumPy arrays.

It shows that what CuPy lacks is filled in, that the kernels' unblocked form is right, and that a missing
library or device is named. Real GPUs: tests/gpu.
"""

from __future__ import annotations

import sys
import types
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import scipy.special

import minigrad as mg
from minigrad import backend, backend_cupy
from minigrad.errors import DeviceError
from tests.minigrad.examples import EXAMPLES

LACKING = {"permute_dims", "concat", "pow", "matrix_transpose", "vecdot", "isdtype", "matvec", "vecmat"}
LACKING |= set(backend_cupy.INVERSES)


class DeviceArray(np.ndarray):
    """A NumPy array that passes for one on a device; like CuPy's, its reductions stay arrays."""

    device: Any = types.SimpleNamespace(id=0)


class StandIn:
    """The module `cupy`, as far as it exists."""

    ndarray = DeviceArray
    cuda = types.SimpleNamespace(
        runtime=types.SimpleNamespace(getDeviceCount=lambda: 1), Device=lambda number: nullcontext()
    )

    def __getattr__(self, name: str) -> Any:
        if name in LACKING:
            raise AttributeError(name)
        found = getattr(np, name)
        if not callable(found) or isinstance(found, type):
            return found
        return found if name == "add" else lambda *a, **k: on_device(found(*a, **k))

    @staticmethod
    def asnumpy(array: Any) -> np.ndarray:
        return np.array(array.view(np.ndarray))

    @staticmethod
    def matmul(x: Any, y: Any) -> Any:  # its `out` came late
        return on_device(np.matmul(x, y))

    @staticmethod
    def array(x: Any, dtype: Any = None, copy: bool = True) -> Any:
        return on_device(np.array(x, dtype=dtype, copy=copy))

    @staticmethod
    def asarray(x: Any, dtype: Any = None) -> Any:
        return on_device(np.asarray(x, dtype=dtype))


class StandInSpecial:
    """The module `cupyx.scipy.special`."""

    def __getattr__(self, name: str) -> Any:
        return lambda *x: on_device(getattr(scipy.special, name)(*x))


def on_device(x: Any) -> Any:
    return np.asarray(x).view(DeviceArray)


@pytest.fixture(autouse=True)
def namespace(monkeypatch):
    found = backend_cupy.CupyNamespace(StandIn(), StandInSpecial())
    monkeypatch.setitem(backend._devices, "gpu", found)
    monkeypatch.setitem(backend._namespaces, DeviceArray, found)
    monkeypatch.setattr(backend, "_constants", {})
    return found


@pytest.mark.parametrize("name", sorted(set(EXAMPLES) - {"to_device"}))  # its example moves within the host
def test_operations_and_their_gradients_agree_with_the_host(name):
    for example in EXAMPLES[name]:
        host = example.leaves()
        device = [mg.tensor(x.data, device="gpu", requires_grad=True) for x in host]
        assert all(isinstance(x.data, DeviceArray) for x in device)
        expected, out = example.call(*host), example.call(*device)
        np.testing.assert_allclose(out.numpy(), expected.numpy(), rtol=1e-12, atol=1e-12)
        if expected.requires_grad:
            v = np.linspace(-1.0, 1.0, expected.size).reshape(expected.shape)
            expected.backward(v)
            out.backward(mg.tensor(v, device=out.device))
            for a, b in zip(host, device, strict=True):
                if a.grad is not None:
                    assert b.grad is not None
                    assert isinstance(b.grad.data, DeviceArray)
                    np.testing.assert_allclose(b.grad.numpy(), a.grad.numpy(), rtol=1e-10, atol=1e-12)


def test_scatter_add_beyond_the_one_hot_product(monkeypatch, namespace):
    values, indices = np.arange(12.0).reshape(6, 2), np.array([0, 2, 2, -1, 0, 2])
    small = namespace.scatter_add(on_device(values), on_device(indices), 4)
    monkeypatch.setattr(backend_cupy, "ONE_HOT_UP_TO", 0)
    large = namespace.scatter_add(on_device(values), on_device(indices), 4)
    expected = np.zeros((4, 2))
    np.add.at(expected, indices, values)
    np.testing.assert_array_equal(np.asarray(small), expected)
    np.testing.assert_array_equal(np.asarray(large), expected)


def test_a_gpu_that_is_not_there_is_named():
    with pytest.raises(DeviceError, match="gpu:1 was asked for, and this machine has 1 GPU"):
        mg.ones(3, device="gpu:1")


def test_without_cupy_the_way_out_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(DeviceError, match="CuPy is not installed: pip install"):
        backend_cupy.load()


def test_without_a_driver_the_way_out_is_named(monkeypatch):
    def fail() -> int:
        raise RuntimeError("cudaErrorNoDevice")

    broken = types.ModuleType("cupy")
    broken.cuda = types.SimpleNamespace(runtime=types.SimpleNamespace(getDeviceCount=fail))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cupy", broken)
    with pytest.raises(DeviceError, match=r"CuPy finds none \(cudaErrorNoDevice\)"):
        backend_cupy.load()
