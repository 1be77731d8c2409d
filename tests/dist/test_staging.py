"""Device arrays: made ready, staged through the host, brought home. The device here is a second memory."""

import numpy as np
import pytest

from minigrad import dist
from minigrad.dist import staging
from minigrad.dist.algorithms import ALGORITHMS
from minigrad.dist.world import World


class DeviceArray:
    """An array in memory that nobody may touch but `FakeDevice`."""

    def __init__(self, values: np.ndarray) -> None:
        self.memory = np.array(values)
        self.ready = False

    dtype = property(lambda self: self.memory.dtype)
    shape = property(lambda self: self.memory.shape)
    size = property(lambda self: self.memory.size)
    nbytes = property(lambda self: self.memory.nbytes)
    flags = property(lambda self: self.memory.flags)


class FakeDevice:
    """Fills a host buffer with rubbish first, and refuses copies from arrays that may still be written to."""

    def __init__(self) -> None:
        self.copies: list[str] = []

    def owns(self, array: object) -> bool:
        return isinstance(array, DeviceArray)

    def synchronize(self, array: DeviceArray) -> None:
        array.ready = True

    def host_buffer(self, array: DeviceArray) -> np.ndarray:
        assert array.ready
        return np.full(array.size, 99, array.dtype)

    def to_host(self, array: DeviceArray, buffer: np.ndarray) -> None:
        self.copies.append("to host")
        buffer[...] = array.memory.reshape(-1)

    def to_device(self, buffer: np.ndarray, array: DeviceArray) -> None:
        self.copies.append("to device")
        array.memory.reshape(-1)[...] = buffer


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    device = FakeDevice()
    monkeypatch.setattr(staging, "DEVICES", [device])
    return device


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_collectives_on_device_arrays(device: FakeDevice, dtype):
    def main(world: World) -> None:
        own = DeviceArray(np.full((2, 2), world.rank + 1, dtype))
        world.all_reduce(own)
        np.testing.assert_array_equal(own.memory, np.full((2, 2), 6, dtype))
        shard, whole = DeviceArray(np.full(1, world.rank, dtype)), DeviceArray(np.zeros(3, dtype))
        world.all_gather(shard, whole)
        assert whole.memory.tolist() == [0, 1, 2]
        world.reduce_scatter(whole, shard)
        assert shard.memory.tolist() == [3 * world.rank]
        request = world.start_all_reduce(own)
        request.wait()
        np.testing.assert_array_equal(own.memory, np.full((2, 2), 18, dtype))
        world.broadcast(own, root=1)

    dist.spawn(main, ranks=3)


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
@pytest.mark.parametrize(("verb", "algorithm"), [(v, a) for v, names in ALGORITHMS.items() for a in names])
def test_own_algorithms_stage_once_however_many_messages(device: FakeDevice, verb, algorithm, dtype):
    def main(world: World) -> None:
        whole, part = DeviceArray(np.arange(12).astype(dtype)), DeviceArray(np.zeros(3, dtype))
        if verb == "reduce_scatter":
            world.reduce_scatter(whole, part, algorithm=algorithm)
            assert part.memory.tolist() == [4 * (3 * world.rank + k) for k in range(3)]
        elif verb == "all_gather":
            part.memory[...] = np.arange(3) + 3 * world.rank
            whole.memory[...] = 0
            world.all_gather(part, whole, algorithm=algorithm)
            assert whole.memory.tolist() == list(range(12))
        else:
            getattr(world, verb)(whole, algorithm=algorithm)
            factor = {"all_reduce": 4, "reduce": 4 if world.rank == 0 else 1, "broadcast": 1}[verb]
            assert whole.memory.tolist() == [factor * k for k in range(12)]

    dist.spawn(main, ranks=4)
    expected = {"reduce": (4, 1), "broadcast": (1, 3)}.get(verb, (4, 4))
    assert (device.copies.count("to host"), device.copies.count("to device")) == expected


def test_messages_between_a_device_and_a_host(device: FakeDevice):
    def main(world: World) -> None:
        if world.rank == 0:
            world.send(DeviceArray(np.arange(4.0)), 1)
        else:
            out = np.zeros(4)
            world.receive(out, 0)
            assert out.tolist() == [0, 1, 2, 3]

    dist.spawn(main, ranks=2)
    assert device.copies == ["to host"]


def test_only_what_is_read_or_written_is_copied(device: FakeDevice):
    def main(world: World) -> None:
        world.broadcast(DeviceArray(np.zeros(3)), root=0)

    dist.spawn(main, ranks=3)
    assert sorted(device.copies) == ["to device", "to device", "to host"]


def test_host_arrays_are_lent_as_they_are():
    array = np.zeros((2, 3))
    loan = staging.lend(array, read=True, write=True)
    assert np.shares_memory(loan.buffer, array)
    assert loan.buffer.shape == (6,)
