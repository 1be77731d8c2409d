"""Actions that a pipeline cannot do are refused before the first message; none is passed over in silence."""

import numpy as np
import pytest

from minigrad import dist, nn
from minigrad.dist.executor import Executor
from minigrad.dist.pipeline import Pipeline
from minigrad.dist.schedule import Kind
from minigrad.dist.schedule_check import check
from minigrad.dist.schedule_passes import with_shards
from minigrad.dist.schedules import make
from minigrad.dist.world import World
from minigrad.errors import UsageError


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
