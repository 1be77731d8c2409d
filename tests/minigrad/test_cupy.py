"""The CuPy namespace without a GPU, over the stand-in for CuPy, as poor as its oldest release.

It shows that what CuPy lacks is filled in, that the kernels' unblocked form is right, that nothing waits for
the device, and that a missing library or device is named. Real GPUs, or the stand-in too: tests/gpu.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import pytest

import minigrad as mg
from minigrad import backend, backend_cupy
from minigrad.errors import DeviceError
from tests.gpu import stand_in
from tests.gpu.device_array import Counts, Device, DeviceArray
from tests.minigrad.examples import EXAMPLES

OWN_PLACE = {"to_device"}
"""Its example moves within the host."""


@pytest.fixture(autouse=True)
def namespace() -> Iterator[Any]:
    """CuPy's namespace over the stand-in."""
    with stand_in.installed():
        yield backend.gpu()


def on_device(x: Any) -> DeviceArray:
    return stand_in.MODULE.asarray(x)


@pytest.mark.parametrize("name", sorted(set(EXAMPLES) - OWN_PLACE))
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
    for name in sorted(set(EXAMPLES) - OWN_PLACE):
        for example in EXAMPLES[name]:
            leaves = [mg.tensor(x, device="gpu", requires_grad=True) for x in example.inputs]
            before = Counts.waits, Counts.copies_to_host
            out = example.call(*leaves)
            if out.requires_grad:
                out.backward(mg.ones(out.shape, dtype=out.dtype, device="gpu"))
            assert (Counts.waits, Counts.copies_to_host) == before, name
    waits, copies = Counts.waits, Counts.copies_to_host
    assert mg.ones(1, device="gpu").item() == 1.0
    assert mg.ones(1, device="gpu").numpy() == 1.0
    assert (Counts.waits, Counts.copies_to_host) == (waits + 1, copies + 1)


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
    np.testing.assert_array_equal(found.get(), expected)
    np.testing.assert_array_equal(one.get(), expected[:, :1])
    np.testing.assert_array_equal(nothing.get(), np.zeros((5, 2)))
    namespace.scatter_add(on_device(values), on_device(indices), 5)
    assert made.call_count == 3


def test_scatter_add_beyond_the_one_hot_product(monkeypatch, namespace):
    values, indices = np.arange(12.0).reshape(6, 2), np.array([0, 2, 2, -1, 0, 2])
    small = namespace.scatter_add(on_device(values), on_device(indices), 4)
    monkeypatch.setattr(backend_cupy, "ONE_HOT_UP_TO", 0)
    large = namespace.scatter_add(on_device(values), on_device(indices), 4)
    expected = np.zeros((4, 2))
    np.add.at(expected, indices, values)
    np.testing.assert_array_equal(small.get(), expected)
    np.testing.assert_array_equal(large.get(), expected)


def test_one_of_several_devices_is_chosen(monkeypatch, namespace):
    monkeypatch.setattr(Device, "count", 2)
    namespace.use("gpu:1")
    assert Device.current() == 1
    there, other = (namespace.from_host(np.ones(2), device=place) for place in ("", "gpu:0"))
    assert (there.device.id, other.device.id) == (1, 0)
    assert (Device.current(), namespace.device(other)) == (1, "gpu:0")
    namespace.use("gpu")  # whichever is current
    assert Device.current() == 1
    copied = namespace.asarray(there, copy=True)
    assert copied is not there
    assert copied.tolist() == [1.0, 1.0]


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
