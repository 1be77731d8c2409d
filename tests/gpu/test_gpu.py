"""The engine, a model and parallel training on real GPUs. Skipped, with the reason, where there is none."""

import json

import numpy as np
import pytest

import minigrad as mg
from minigrad import backend, dist, nn
from minigrad.errors import DeviceError
from tests.minigrad.examples import EXAMPLES

try:
    GPUS = backend.gpu().count()
    REASON = ""
except DeviceError as error:
    GPUS, REASON = 0, str(error)

pytestmark = pytest.mark.skipif(not GPUS, reason=REASON)


@pytest.mark.parametrize("name", sorted(set(EXAMPLES) - {"to_device"}))  # its example moves within the host
def test_every_operation_agrees_with_the_host_forwards_and_backwards(name):
    for example in EXAMPLES[name]:
        host = example.leaves()
        device = [mg.tensor(x.data, device="gpu", requires_grad=True) for x in host]
        expected, out = example.call(*host), example.call(*device)
        assert out.device.startswith("gpu")
        np.testing.assert_allclose(out.numpy(), expected.numpy(), rtol=1e-9, atol=1e-12)
        if not expected.requires_grad:
            continue
        v = np.linspace(-1.0, 1.0, expected.size).reshape(expected.shape)
        expected.backward(v)
        out.backward(mg.tensor(v, device=out.device))
        for a, b in zip(host, device, strict=True):
            if a.grad is not None:
                assert b.grad is not None
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


def test_a_model_trains_as_on_the_host():
    np.testing.assert_allclose(losses("gpu"), losses("cpu"), rtol=1e-9)


def test_host_and_device_do_not_mix():
    with pytest.raises(DeviceError, match="cpu and gpu"):
        mg.ones(3) + mg.ones(3, device="gpu")


def test_a_gpu_that_is_not_there_is_named():
    with pytest.raises(DeviceError, match=f"gpu:{GPUS} was asked for"):
        mg.ones(3, device=f"gpu:{GPUS}")


def test_thread_ranks_share_a_gpu_and_reduce():
    def main(world: dist.World) -> np.ndarray:
        array = mg.full((1000,), world.rank + 1.0, device="gpu").data
        world.all_reduce(array)
        return backend.gpu().to_host(array)

    for result in dist.spawn(main, ranks=3):
        np.testing.assert_array_equal(result, np.full(1000, 6.0, np.float32))


WAYS = {"one": [], "threads": ["--ranks", "2", "--threads"], "mpi": ["--ranks", "2"]}


@pytest.mark.parametrize("way", WAYS)
def test_training_reaches_the_loss_of_the_host(way, tmp_path, monkeypatch):
    from minigrad.cli.main import main

    monkeypatch.chdir(tmp_path)
    text = tmp_path / "text.txt"
    text.write_text("It is a truth universally acknowledged that a gradient is a sum over paths. " * 40)
    words = ["train", "--text", str(text), "--steps", "3", "--layers", "1", "--width", "16", "--heads", "2"]
    words += ["--context", "16", "--batch", "4", "--precision", "float64"]
    assert main([*words, "--out", "host"]) == 0
    assert main([*words, *WAYS[way], "--device", "gpu", "--out", "device"]) == 0
    host, device = (
        [json.loads(line)["loss"] for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
        for run in ("host", "device")
    )
    np.testing.assert_allclose(device, host, rtol=1e-9)
