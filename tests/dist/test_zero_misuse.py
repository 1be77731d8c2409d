"""What ZeRO refuses, and what it says."""

from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import dist, nn
from minigrad.dist.single import SingleWorld
from minigrad.dist.world import World
from minigrad.dist.zero import ZeRO
from minigrad.errors import CommunicationError, UsageError

STAGES = [0, 1, 2, 3]


def wrap(model: nn.Module, optimizer: Any = None, **options: Any) -> ZeRO:
    return ZeRO(model, optimizer or nn.optim.SGD(model.parameters()), SingleWorld(), **options)


def test_settings_that_make_no_sense():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    cases: list[tuple[dict[str, Any], str]] = [
        ({"stage": 4}, "stages 0, 1, 2 and 3, and not 4"),
        ({"bucket_bytes": 0}, "bucket_bytes=0"),
        ({"algorithm": "fast"}, "algorithm='fast'; give one of library, ring, halving, ordered"),
        ({"algorithm": "tree"}, "algorithm='tree'"),
        ({"max_norm": 0.0}, "the largest norm must be positive, got 0.0"),
        ({"finite_only": True}, "give max_norm too"),
        ({"stage": 2, "units": [model[0]]}, "units at stage 2"),
        ({"delayed": 2}, "a delayed update runs on the host"),
        ({"delayed": -1, "offload": "host"}, "delayed=-1"),
        ({"offload": "no such folder"}, "'no such folder' is no folder"),
    ]
    for options, message in cases:
        before = [parameter.data for parameter in model.parameters()]
        with pytest.raises(UsageError, match=message):
            wrap(model, **options)
        assert all(p.data is array for p, array in zip(model.parameters(), before, strict=True))


def test_optimizers_over_other_parameters():
    model, other = nn.Linear(2, 3), nn.Linear(2, 2)
    with pytest.raises(
        UsageError, match=r"lacks 1 of the module's 2 trained parameters \(bias, …\) and has 0"
    ):
        wrap(model, nn.optim.SGD([model.weight]))
    with pytest.raises(UsageError, match="and has 2 others"):
        wrap(model, nn.optim.SGD([*model.parameters(), *other.parameters()]))


def test_parameters_added_after_wrapping():
    x = mg.tensor(np.ones((1, 2)), dtype="float32")
    for change in ("extra", "bias"):
        model = nn.Sequential(nn.Linear(2, 3))
        zero = wrap(model)
        model.note = "an attribute is no parameter"
        mg.sum(zero(x)).backward()
        zero.step()
        setattr(model[0], change, nn.Parameter(np.zeros(3)))
        count = 3 if change == "extra" else 2
        with pytest.raises(UsageError, match=f"had 2 parameters when it was wrapped, and has {count} now"):
            zero.step()


def test_other_modules_on_other_ranks():
    def main(world: World) -> None:
        model = nn.Linear(2 + world.rank, 3)
        ZeRO(model, nn.optim.SGD(model.parameters()), world)

    with pytest.raises(CommunicationError, match="the model of rank 1 of this world has other parameters"):
        dist.spawn(main, ranks=2)


@pytest.mark.parametrize("stage", STAGES)
def test_a_second_walk_after_buckets_are_gone(stage: int):
    def main(world: World) -> None:
        model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
        zero = ZeRO(model, nn.optim.SGD(model.parameters()), world, stage=stage, bucket_bytes=1)
        for _ in range(2):
            mg.sum(zero(mg.tensor(np.ones((1, 2)), dtype="float32"))).backward()

    with pytest.raises(CommunicationError, match=r"changed after its bucket was sent; .*no_sync"):
        dist.spawn(main, ranks=2)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("options", [{}, {"offload": "host", "delayed": 1}])
def test_updates_inside_of_a_block_that_takes_over_the_values(stage: int, options: dict):
    def main(world: World) -> None:
        model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
        zero = ZeRO(model, nn.optim.SGD(model.parameters()), world, stage=stage, **options)
        uses = [zero.step, lambda: zero.loaded(zero.state())] + ([zero.settle] if options else [])
        for _ in range(2):
            mg.sum(zero(mg.tensor(np.ones((1, 2)), dtype="float32"))).backward()
            zero.step()
        with zero.gathered(), zero.gathered():
            mg.sum(zero(mg.tensor(np.ones((1, 2)), dtype="float32"))).backward()
        with zero.gathered():
            with zero.gathered():
                pass
            for use in uses:
                with pytest.raises(UsageError, match=r"rank \d of 2: .* inside of gathered\(\), whose end"):
                    use()
        zero.step()
        zero.settle()

    dist.spawn(main, ranks=2)


def test_a_gradient_buffer_that_somebody_took_away():
    def main(world: World) -> None:
        model = nn.Linear(2, 3)
        zero = ZeRO(model, nn.optim.SGD(model.parameters()), world, stage=1)
        assert model.bias is not None
        model.bias.grad_buffer = np.zeros(3, dtype="float32")
        mg.sum(zero(mg.tensor(np.ones((1, 2)), dtype="float32"))).backward()
        zero.step()

    with pytest.raises(UsageError, match=r"shape \(3,\) lost its gradient buffer"):
        dist.spawn(main, ranks=2)


def test_a_model_of_parts():
    def main(world: World) -> None:
        model = dist.tensor_parallel(nn.GPT(nn.GPTConfig(layers=1, width=8, heads=2, context=4)), world)
        ZeRO(model, nn.optim.SGD(model.parameters()), dist.SingleWorld())

    with pytest.raises(UsageError, match=r"every rank has parts, .* use MeshZeRO"):
        dist.spawn(main, ranks=2)
