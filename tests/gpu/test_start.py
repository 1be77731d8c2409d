"""Models of shapes are filled on a device as on the host: the numbers are drawn there, and rounded alike."""

from functools import partial
from typing import Any

import numpy as np
import pytest

from minigrad import backend, dist, nn, random
from minigrad.dist.pipeline import Pipeline
from minigrad.dist.world import World
from minigrad.dist.zero import ZeRO
from minigrad.nn import init
from tests.dist.test_start import Net, tall
from tests.nn.test_materialize import FILLS, LATER


def values(model: nn.Module) -> dict[str, np.ndarray]:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {name: backend.namespace(x.data).to_host(x.data) for name, x in tensors}


def same(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(actual) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)


@pytest.mark.parametrize("name", sorted(LATER))
def test_a_model_begins_with_the_values_of_the_host(name: str, device: str) -> None:
    random.manual_seed(7)
    whole = LATER[name](dtype="float32")
    random.manual_seed(7)
    later = init.materialize(LATER[name](dtype="float32", device="shapes"), device=device)
    assert {x.device.partition(":")[0] for x in (*later.parameters(), *later.buffers())} == {"gpu"}
    same(values(later), values(whole))


@pytest.mark.parametrize("name", FILLS)
def test_a_function_of_init_fills_now_and_later(name: str, device: str) -> None:
    found = []
    for place in ("cpu", device, "shapes"):
        random.manual_seed(1)
        x = nn.Parameter(np.zeros((6, 40), "float32"), device=place)
        FILLS[name](x)
        found.append(values(nn.ParameterList([init.materialize(x, device=device)])))
    same(found[1], found[0])
    same(found[2], found[0])


@pytest.mark.usefixtures("two_devices")
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_ranks_fill_on_devices_of_their_own(stage: int) -> None:
    def main(world: World) -> Any:
        place = f"gpu:{world.local_rank % 2}"
        backend.of_device(place).use(place)
        model = Net("shapes")
        zero = ZeRO(model, nn.optim.SGD(model.parameters(), lr=0.1), world, stage=stage, device=place)
        with zero.gathered():
            return {x.device for x in (*model.parameters(), *model.buffers())}, values(model)

    expected = values(Net(None))
    for rank, (places, found) in enumerate(dist.spawn(main, ranks=3)):
        assert places == {f"gpu:{rank % 2}"}
        same(found, expected)


@pytest.mark.usefixtures("device")
def test_stages_are_filled_on_a_device() -> None:
    def main(world: World, device: str) -> dict[str, np.ndarray]:
        random.manual_seed(3)
        return values(Pipeline(tall("shapes"), world=world, device=device).module)

    for on_device, on_host in zip(
        *(dist.spawn(partial(main, device=device), ranks=3) for device in ("gpu", "cpu")), strict=True
    ):
        same(on_device, on_host)
