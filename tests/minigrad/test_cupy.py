"""The CuPy namespace without a GPU: a stand-in for CuPy, as poor as its oldest release, over NumPy arrays.

It shows that what CuPy lacks is filled in, that the kernels' unblocked form is right, and that a missing
library or device is named. Real GPUs: tests/gpu.
"""

from __future__ import annotations

import re
import sys
import types
from contextlib import nullcontext
from typing import Any
from unittest import mock

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
    """A NumPy array that passes for one on a device; like CuPy's, its reductions stay arrays. To ask it for a
    value would be to wait for the device.
    """

    device: Any = types.SimpleNamespace(id=0)
    waits = 0

    def _wait(self, *_: Any) -> Any:
        DeviceArray.waits += 1
        return self.view(np.ndarray)[()].item()

    def __getitem__(self, index: Any) -> Any:  # (NumPy reads 0-d indices, and numbers that it assigns)
        before = DeviceArray.waits
        found = super().__getitem__(index)
        DeviceArray.waits = before
        return found

    def __setitem__(self, index: Any, value: Any) -> None:
        before = DeviceArray.waits
        super().__setitem__(index, value)
        DeviceArray.waits = before

    __bool__ = __float__ = __int__ = __index__ = item = _wait


class ElementwiseKernel:
    """CuPy's compiler, for the C that minigrad writes: its statements are run as NumPy's."""

    def __init__(self, inputs: str, outputs: str, code: str, name: str) -> None:
        self.inputs, self.outputs = ([p.split() for p in part.split(", ")] for part in (inputs, outputs))
        code = re.sub(r"\b(long long|T) (?=\w+ =)", "", code)
        code = re.sub(
            r"for \((?:long long )?(\w+) = ([^;]+); \1 < ([^;]+); \+\+\1\) ",
            r"for \1 in range(\2, \3): ",
            code,
        )
        self.code, self.name = "\n".join(line.strip() for line in code.split(";")), name

    def __call__(self, *arrays: Any) -> Any:
        names = [p[-1] for p in self.inputs]
        given = [a.view(np.ndarray) if isinstance(a, np.ndarray) else a for a in arrays[: len(names)]]
        kinds = {
            a.dtype for p, a in zip(self.inputs, given, strict=True) if p[-2] == "T" and hasattr(a, "dtype")
        }
        assert len(kinds) == 1, f"{self.name}: T stands for {kinds}"
        (kind,) = kinds
        known: dict[str, Any] = {"T": kind.type, "erf": scipy.special.erf, "exp": np.exp, "tanh": np.tanh}
        if self.inputs[0][0] == "raw":
            (out,) = arrays[len(names) :]
            code = self.code.replace("/", "//")
            flat = [a.reshape(-1) if isinstance(a, np.ndarray) else a for a in given]
            for i in range(out.size):
                place = {**known, **dict(zip(names, flat, strict=True)), "i": i}
                exec(code, place)  # noqa: S102 - our own kernels
                out.reshape(-1)[i] = place["out"]
            return out
        place = {**known, **dict(zip(names, given, strict=True))}
        exec(self.code, place)  # noqa: S102
        results = tuple(on_device(place[p[-1]].astype(kind)) for p in self.outputs)
        return results if len(results) > 1 else results[0]


class StandIn:
    """The module `cupy`, as far as it exists."""

    ndarray = DeviceArray
    ElementwiseKernel = ElementwiseKernel
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


def test_nothing_waits_for_the_device():
    """No operation, and no gradient, asks for a value: only users do."""
    before = DeviceArray.waits
    for name in sorted(set(EXAMPLES) - {"to_device"}):
        for example in EXAMPLES[name]:
            leaves = [mg.tensor(x, device="gpu", requires_grad=True) for x in example.inputs]
            before = DeviceArray.waits
            out = example.call(*leaves)
            if out.requires_grad:
                out.backward(mg.ones(out.shape, dtype=out.dtype, device="gpu"))
            assert DeviceArray.waits == before, name
    assert mg.ones(1, device="gpu").item() == 1.0
    assert DeviceArray.waits > before


FUSED = {
    "gelu": lambda x: mg.gelu(x),
    "gelu, tanh": lambda x: mg.gelu(x, approximate="tanh"),
    "layer_norm": lambda x: mg.layer_norm(x, None, None),
    "layer_norm, scaled": lambda x: mg.layer_norm(x, x.detach()[0], x.detach()[1]),
    "cross_entropy": lambda x: mg.cross_entropy(
        x, mg.tensor([1, 0, -100], device=x.device), reduction="none"
    ),
}


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("name", FUSED)
def test_fused_kernels_are_their_compositions(name, dtype):
    f, rng = FUSED[name], np.random.default_rng(0)
    x = rng.normal(size=(3, 4)).astype(dtype)
    results = []
    for enabled in (True, False):
        t = mg.tensor(x, device="gpu", requires_grad=True)
        with mg.fused_operations(enabled):
            y = f(t)
        y.backward(mg.tensor(np.cos(np.arange(y.size)).reshape(y.shape).astype(dtype), device="gpu"))
        assert t.grad is not None
        assert (y.dtype, t.grad.dtype) == (dtype, dtype)
        results.append((y.numpy(), t.grad.numpy()))
    tolerance = {"float16": 2e-2, "float32": 1e-5, "float64": 1e-12}[dtype]
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def test_gradients_by_kernels_are_right():
    for name, f in FUSED.items():
        x = np.random.default_rng(1).normal(size=(3, 4))
        host, device = (mg.tensor(x, device=d, requires_grad=True) for d in ("cpu", "gpu"))
        for t in (host, device):
            f(t).sum().backward()
        assert host.grad is not None
        assert device.grad is not None
        np.testing.assert_allclose(
            device.grad.numpy(), host.grad.numpy(), rtol=1e-11, atol=1e-12, err_msg=name
        )


def test_a_deterministic_scatter_add(monkeypatch, namespace):
    monkeypatch.setattr(backend_cupy, "ONE_HOT_UP_TO", 0)
    values, indices = np.arange(12.0).reshape(6, 2), np.array([0, 2, 2, -1, 0, 2])
    expected = np.zeros((5, 2))
    np.add.at(expected, indices, values)
    made = mock.Mock(wraps=namespace.kernels.sums)
    monkeypatch.setattr(namespace.kernels, "sums", made)
    mg.use_deterministic()
    try:
        found = namespace.scatter_add(on_device(values), on_device(indices), 5)
        one = namespace.add_at(on_device(values[:, :1]), on_device(indices % 5), 5)
        nothing = namespace.scatter_add(on_device(values[:0]), on_device(indices[:0]), 5)
    finally:
        mg.use_deterministic(False)
    assert made.call_count == 3
    np.testing.assert_array_equal(np.asarray(found), expected)
    np.testing.assert_array_equal(np.asarray(one), expected[:, :1])
    np.testing.assert_array_equal(np.asarray(nothing), np.zeros((5, 2)))
    namespace.scatter_add(on_device(values), on_device(indices), 5)
    assert made.call_count == 3


def test_scatter_add_beyond_the_one_hot_product(monkeypatch, namespace):
    values, indices = np.arange(12.0).reshape(6, 2), np.array([0, 2, 2, -1, 0, 2])
    small = namespace.scatter_add(on_device(values), on_device(indices), 4)
    monkeypatch.setattr(backend_cupy, "ONE_HOT_UP_TO", 0)
    large = namespace.scatter_add(on_device(values), on_device(indices), 4)
    expected = np.zeros((4, 2))
    np.add.at(expected, indices, values)
    np.testing.assert_array_equal(np.asarray(small), expected)
    np.testing.assert_array_equal(np.asarray(large), expected)


def test_one_of_several_devices_is_chosen(namespace):
    with mock.patch.object(StandIn.cuda, "Device") as device:
        namespace.use("gpu:0")
    device.assert_called_once_with(0)
    device.return_value.use.assert_called_once_with()
    moved = namespace.from_host(np.ones(2), device="gpu:0")
    assert isinstance(moved, DeviceArray)
    assert namespace.asarray(np.ones(2), copy=True).tolist() == [1.0, 1.0]


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
