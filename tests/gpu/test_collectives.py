"""Collectives on a device, real or standing in: every verb and algorithm, and their derivatives."""

import numpy as np
import pytest

import minigrad as mg
from minigrad import backend, dist
from minigrad.dist import collectives as c
from minigrad.dist.algorithms import ALGORITHMS

PROGRAM = (
    "from minigrad import dist; from tests.gpu.test_collectives import everything; everything(dist.world())"
)


def everything(world: dist.World) -> None:
    """All algorithms of all verbs on arrays that the GPU is still writing, on any kind of world."""
    sizes = [1 + rank for rank in range(world.size)]
    total = sum(sizes)
    start, stop = sum(sizes[: world.rank]), sum(sizes[: world.rank + 1])
    summed = np.arange(total) * world.size * 2.0

    def fresh(elements: int = total) -> mg.Tensor:
        return mg.tensor(np.arange(elements, dtype="float32"), device="gpu") * 2.0

    for name in ("library", *ALGORITHMS["all_reduce"]):
        for dtype in ("float32", "float16"):
            array = fresh().astype(dtype).data
            world.all_reduce(array, algorithm=name)
            np.testing.assert_array_equal(backend.gpu().to_host(array), summed.astype(dtype))
    for name in ("library", *ALGORITHMS["reduce_scatter"]):
        out = fresh(sizes[world.rank]).data
        world.start_reduce_scatter(fresh().data, out, counts=sizes, algorithm=name).wait()
        np.testing.assert_array_equal(backend.gpu().to_host(out), summed[start:stop])
        whole = mg.zeros((total,), device="gpu").data
        world.start_all_gather(out, whole, counts=sizes, algorithm=name).wait()
        np.testing.assert_array_equal(backend.gpu().to_host(whole), summed)
    for name in ("library", *ALGORITHMS["broadcast"]):
        array = fresh().data if world.rank == 0 else mg.zeros((total,), device="gpu").data
        world.broadcast(array, algorithm=name)
        np.testing.assert_array_equal(backend.gpu().to_host(array), np.arange(total) * 2.0)
    x = mg.tensor(np.ones((2, 3)), device="gpu", requires_grad=True)
    token = c.send(c.all_reduce(c.replicate(x, world), world), world, (world.rank + 1) % world.size)
    source = (world.rank - 1) % world.size
    received = c.receive((2, 3), world, source, dtype="float64", device="gpu", after=token)
    (received * received).sum().backward()
    assert x.grad is not None
    assert x.grad.device.startswith("gpu")
    # Every rank's loss counts the replicated sum once, and what went to another came back from there.
    np.testing.assert_allclose(x.grad.numpy(), np.full((2, 3), 2.0 * world.size * world.size))


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_thread_ranks_share_a_device(ranks: int, device: str):
    dist.spawn(everything, ranks=ranks)


def test_ranks_with_nothing(device: str):
    def main(world: dist.World) -> None:
        counts = [2, 0, 1]
        out = mg.ones((counts[world.rank],), device=device).data
        whole = mg.zeros((3,), device=device).data
        world.all_gather(out, whole, counts=counts)
        world.reduce_scatter(whole, out, counts=counts)
        assert backend.gpu().to_host(out).tolist() == [3.0] * counts[world.rank]
        world.all_reduce(whole[:0])

    dist.spawn(main, ranks=3)


@pytest.mark.usefixtures("device_of_processes")
def test_processes(mpirun):
    result = mpirun(["-c", PROGRAM], ranks=2, seconds=120)
    assert result.returncode == 0, result.stderr
