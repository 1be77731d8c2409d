"""Actions that a pipeline cannot do are refused before the first message; none is passed over in silence."""

import numpy as np
import pytest

from minigrad import dist, nn
from minigrad.dist.executor import Executor
from minigrad.dist.mesh_gpt import divide
from minigrad.dist.pipeline import Pipeline
from minigrad.dist.schedule import Kind, parse
from minigrad.dist.schedule_check import check
from minigrad.dist.schedule_passes import with_shards
from minigrad.dist.schedules import make
from minigrad.dist.world import World
from minigrad.errors import UsageError
from minigrad.nn.gpt import GPT, GPTConfig


@pytest.mark.parametrize("text", ["G0 F0 B0\nF0 B0", "F0 B0\nF0 B0 R0"])
def test_when_to_gather_and_to_reduce_is_left_to_zero(text):
    schedule = parse(text, name="mine")
    worlds: list[World] = []

    def main(world: World) -> None:
        worlds.append(world)
        Pipeline(
            [nn.Linear(2, 2), nn.Linear(2, 2)], schedule=schedule, loss=nn.functional.mse_loss, world=world
        )

    check(schedule)  # as a schedule it is sound
    named = "G0@0" if "G0" in text else "R0@1"
    with pytest.raises(
        UsageError, match=f"mine has {named}, and a pipeline leaves it to ZeRO .* leave G and R"
    ):
        dist.spawn(main, ranks=2)
    assert all(not world.ledger.by_kind for world in worlds)
    model = GPT(GPTConfig(layers=1, width=4, heads=1, context=4, vocabulary=5))
    with pytest.raises(UsageError, match=f"mine has {named}"):
        divide(model, 2, schedule=schedule)


def test_an_executor_does_what_it_has_handlers_for_and_refuses_the_rest():
    complete = check(with_shards(make("gpipe", 2, 2)))

    def main(world: World) -> list[str]:
        layers = [nn.Linear(2, 2), nn.Linear(2, 2)]
        pipeline = Pipeline(layers, chunks=2, schedule="gpipe", loss=nn.functional.mse_loss, world=world)
        with pytest.raises(UsageError, match=f"{world.name}: the schedule has G0@{world.rank}, and nobody"):
            Executor(world, complete, pipeline.stages, handlers={Kind.REDUCE: lambda stage, number: None})
        done: list[str] = []
        learned = [p for p in pipeline.parameters() if p.requires_grad]
        pipeline.executor = Executor(
            world,
            complete,
            pipeline.stages,
            handlers={
                Kind.GATHER: lambda stage, number: done.append(f"gathered {stage}"),
                Kind.REDUCE: lambda stage, number: done.append(
                    f"reduced {stage} {all(p.grad is not None for p in learned)}"
                ),
            },
        )
        pipeline.step(*np.ones((2, 4, 2), dtype="float32"))
        assert [span.action for span in pipeline.timeline().of(0)] == pipeline.executor.recorded(0)
        return done

    found = dist.spawn(main, ranks=2)
    assert found == [[f"gathered {stage}", f"reduced {stage} True"] for stage in range(2)]
