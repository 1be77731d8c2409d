"""The engine, a model and parallel training on a device: a real GPU, or where there is none its stand-in."""

from collections.abc import Callable

import numpy as np
import pytest

import minigrad as mg
from minigrad import backend, dist, nn
from minigrad.errors import DeviceError
from tests.minigrad.examples import EXAMPLES

OWN_PLACE = {"to_device"}
"""Its example moves within the host."""


@pytest.mark.parametrize("name", sorted(set(EXAMPLES) - OWN_PLACE))
def test_every_operation_agrees_with_the_host_and_waits_for_nothing(
    name: str, device: str, waits: Callable[[], int]
):
    for example in EXAMPLES[name]:
        host = example.leaves()
        moved = [mg.tensor(x.data, device=device, requires_grad=True) for x in host]
        before = waits()
        expected, out = example.call(*host), example.call(*moved)
        assert out.device.startswith("gpu")
        if expected.requires_grad:
            v = np.linspace(-1.0, 1.0, expected.size).reshape(expected.shape)
            expected.backward(v)
            out.backward(mg.tensor(v, device=out.device))
        assert waits() == before
        np.testing.assert_allclose(out.numpy(), expected.numpy(), rtol=1e-9, atol=1e-12)
        for a, b in zip(host, moved, strict=True):
            if a.grad is not None:
                assert b.grad is not None
                assert b.grad.device.startswith("gpu")
                np.testing.assert_allclose(b.grad.numpy(), a.grad.numpy(), rtol=1e-9, atol=1e-12)


def losses(device: str, steps: int = 5) -> list[float]:
    config = nn.GPTConfig(vocabulary=32, context=16, layers=2, heads=2, width=16, dropout=0.1)
    model = nn.GPT(config, dtype="float64", device=device)
    optimizer = nn.optim.AdamW(model.parameters(), lr=1e-2)
    tokens = np.random.default_rng(0).integers(0, 32, (4, 17))
    found = []
    for step in range(steps):
        with mg.random.scope(seed=0, step=step, samples=range(4)):
            loss = model.loss(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found


def test_a_model_trains_as_on_the_host(device: str):
    np.testing.assert_allclose(losses(device), losses("cpu"), rtol=1e-9)


MIXTURES: dict[str, Callable[[mg.Tensor, mg.Tensor], object]] = {
    "add": lambda x, y: x + y,
    "matmul": lambda x, y: x @ y,
    "where": lambda x, y: mg.where(x > 0, x, y),
    "concat": lambda x, y: mg.concat([x, y], axis=0),
    "linear": lambda x, y: nn.functional.linear(x, y),
    "layer_norm": lambda x, y: mg.layer_norm(x, y[0], y[0]),
    "matmul, by compositions": lambda x, y: mg.softmax(x) @ y,
}


@pytest.mark.parametrize("name", MIXTURES)
@pytest.mark.parametrize("swapped", [False, True])
def test_host_and_device_do_not_mix(name: str, swapped: bool, device: str):
    x, y = mg.ones((3, 3)), mg.ones((3, 3), device=device)
    with pytest.raises(DeviceError, match=r"(cpu and gpu|gpu:0 and cpu)"):
        MIXTURES[name](*((y, x) if swapped else (x, y)))


@pytest.mark.usefixtures("device")
def test_a_gpu_that_is_not_there_is_named():
    count = backend.gpu().count()
    with pytest.raises(DeviceError, match=f"gpu:{count} was asked for"):
        mg.ones(3, device=f"gpu:{count}")


@pytest.mark.usefixtures("two_devices")
def test_ranks_are_dealt_devices_and_keep_to_them():
    def main(world: dist.World) -> list[str]:
        place = f"gpu:{world.local_rank % 2}"
        backend.of_device(place).use(place)
        model = nn.Linear(3, 2, device=place, dtype="float64")
        parallel = dist.DataParallel(model, world)
        mg.sum(mg.square(parallel(mg.ones((2, 3), dtype="float64", device=place)))).backward()
        return [tensor.device for p in model.parameters() for tensor in (p, p.grad) if tensor is not None]

    for rank, places in enumerate(dist.spawn(main, ranks=3)):
        assert set(places) == {f"gpu:{rank % 2}"}


@pytest.mark.usefixtures("device")
def test_thread_ranks_share_a_gpu_and_reduce():
    def main(world: dist.World) -> np.ndarray:
        array = mg.full((1000,), world.rank + 1.0, device="gpu").data
        world.all_reduce(array)
        return backend.gpu().to_host(array)

    for result in dist.spawn(main, ranks=3):
        np.testing.assert_array_equal(result, np.full(1000, 6.0, np.float32))
