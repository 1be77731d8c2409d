"""Stage 3 where a pipeline's schedule says when to gather and to reduce: once each in a step."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigrad import dist, nn
from minigrad.dist.mesh import Mesh
from minigrad.dist.mesh_gpt import divide
from minigrad.dist.mesh_zero import MeshZeRO
from minigrad.dist.pipeline import Pipeline
from minigrad.dist.pipeline_schedule import dealt_out
from minigrad.dist.schedule import parse
from minigrad.dist.schedule_check import check as check_schedule
from minigrad.dist.schedule_passes import with_shards
from minigrad.dist.schedules import make
from minigrad.dist.world import World
from minigrad.errors import CommunicationError, UsageError
from minigrad.nn.gpt import GPT, GPTConfig
from tests.dist.mesh_training import Case, check
from tests.dist.pipelines import layers, mean_square, v_shaped
from tests.dist.test_pipeline_zero import KINDS, TIED, alone, compare, data

STEPS = 3
FROZEN = ["frozen", "dense", "keep", "dense", "frozen", "join"]


def of_a_mesh(world: World, copies: int, kinds: list[str], schedule, balance: list[int], samples: int):
    mesh = Mesh(world, data=copies, pipeline=world.size // copies, tensor=1)
    pipeline = Pipeline(
        nn.Sequential(*layers(kinds, 0)),
        loss=mean_square,
        world=mesh.axis("pipeline"),
        balance=balance,
        schedule=schedule,
        recompute=samples % 2 == 0,
    )
    optimizer = nn.optim.AdamW(pipeline.parameters(), lr=0.01)
    zero = MeshZeRO(pipeline.module, optimizer, mesh, pipeline=pipeline, stage=3)
    x, y = data(samples)
    rows = np.array_split(np.arange(samples), copies)[mesh.coordinates["data"]]
    for _ in range(STEPS):
        pipeline.step(x[rows], y[rows], scale=len(rows) / samples)
        zero.step()
    pipeline.predict(x[rows])  # gathers for itself
    with zero.gathered():
        return {name: x.data.copy() for name, x in pipeline.state_dict().items()}


@settings(max_examples=25)
@given(
    schedule=st.sampled_from(["naive", "gpipe", "1f1b", "interleaved", "zb-h1", "zb-h2"]),
    depth=st.integers(1, 3),
    copies=st.integers(1, 3),
    extra=st.integers(0, 3),
    kinds=st.sampled_from([KINDS, TIED, FROZEN]),
)
def test_equal_to_one_rank(schedule, depth, copies, extra, kinds):
    virtual = 2 if schedule == "interleaved" else 1
    chunks = depth if schedule == "interleaved" else depth + 1
    stages = depth * virtual
    balance = [len(kinds) - stages + 1, *[1] * (stages - 1)]
    samples = copies * (chunks + 1) + extra
    listed = with_shards(make(schedule, depth, chunks, virtual=virtual))
    arguments = (copies, kinds, listed, balance, samples)
    found = dist.spawn(of_a_mesh, ranks=depth * copies, arguments=arguments)
    compare(found, alone(samples, kinds))


def test_a_parameter_that_two_stages_of_one_rank_share():
    arguments = (2, TIED, with_shards(v_shaped(3)), [2, 1, 1, 2], 7)
    compare(dist.spawn(of_a_mesh, ranks=4, arguments=arguments), alone(7, TIED))


@pytest.mark.parametrize(("schedule", "tensor"), [("1f1b", 1), ("1f1b", 2), ("zb-h1", 1), ("zb-h1", 2)])
@pytest.mark.parametrize("options", [{}, {"offload": "host"}, {"algorithm": "ordered"}])
def test_a_gpt_on_a_mesh(schedule, tensor, options):
    """Tied embeddings on the first and the last stage, norms and clipping over all axes."""
    listed = with_shards(make(schedule, 2, 2))
    zero = {"stage": 3, **options}
    check(Case(7, data=2, pipeline=2, tensor=tensor, options={"schedule": listed}, zero=zero))


@pytest.mark.parametrize("microbatches", [2, 5])
def test_a_step_moves_two_copies_of_the_parameters_whatever_the_microbatches(microbatches):
    """With rings, over all copies: Ψ(N-1) elements of parameters, and as many of gradients."""

    def main(world: World) -> tuple[int, dict]:
        mesh = Mesh(world, data=2, pipeline=2, tensor=1)
        pipeline = Pipeline(
            nn.Sequential(*layers(["dense"] * 4, 0)),
            loss=mean_square,
            world=mesh.axis("pipeline"),
            schedule=with_shards(make("1f1b", 2, microbatches)),
        )
        size = sum(p.data.nbytes for p in pipeline.parameters())
        optimizer = nn.optim.SGD(list(pipeline.parameters()), lr=0.1)
        zero = MeshZeRO(pipeline.module, optimizer, mesh, pipeline=pipeline, stage=3, algorithm="ring")
        shard = zero.meter.current["parameters"]
        x, y = data(2 * microbatches)
        booked: list = []
        mesh.axis("data").observer = booked.append
        zero.meter.reset_peak()
        pipeline.step(x, y)
        zero.step()
        assert zero.meter.current["parameters"] == shard < size
        assert zero.meter.peak["parameters"] == shard + size  # this rank has one stage
        sent: dict[str, int] = {}
        for message in booked:
            sent[message.purpose] = sent.get(message.purpose, 0) + message.bytes_sent
        return size, sent

    for rank, (size, sent) in enumerate(found := dist.spawn(main, ranks=4)):
        other = found[(rank + 2) % 4][1]
        assert sent["parameters"] + other["parameters"] == size, rank
        assert sent["gradients"] + other["gradients"] == size, rank


@pytest.mark.parametrize("kinds", [KINDS, TIED])
@pytest.mark.parametrize("failing", [1, 2, 3])
@pytest.mark.parametrize("back", ["at once", "without gradients", "after a prediction"])
def test_back_to_a_saved_state_after_a_step_that_was_broken_off(kinds, failing, back):
    """What that step had gathered is forgotten, also of the parameter that both stages of the rank share."""

    def main(world: World, failing: int) -> dict[str, np.ndarray]:
        mesh = Mesh(world, data=2, pipeline=1, tensor=1)
        left = [-1]

        def loss(output, target):
            left[0] -= 1
            if not left[0]:
                raise ArithmeticError
            return mean_square(output, target)

        pipeline = Pipeline(
            nn.Sequential(*layers(kinds, 0)),
            loss=loss,
            world=mesh.axis("pipeline"),
            balance=[5, 1],
            schedule=with_shards(dealt_out(make("gpipe", 2, 3), 1)),
        )
        optimizer = nn.optim.AdamW(pipeline.parameters(), lr=0.01)
        zero = MeshZeRO(pipeline.module, optimizer, mesh, pipeline=pipeline, stage=3)
        x, y = data(7)
        rows = np.array_split(np.arange(7), 2)[world.rank]

        def step() -> None:
            pipeline.step(x[rows], y[rows], scale=len(rows) / 7)
            zero.step()

        step()
        saved, state = [piece.array.copy() for piece in zero.pieces()], zero.state()
        if failing:
            step()
            left[0] = failing
            with pytest.raises(ArithmeticError):
                step()
            if back != "at once":
                zero.zero_grad()
            if back == "after a prediction":
                pipeline.predict(x[rows])
            for piece, values in zip(zero.pieces(), saved, strict=True):
                piece.array[...] = values
            zero.loaded(state)
        step()
        step()
        with zero.gathered():
            return {name: x.data.copy() for name, x in pipeline.state_dict().items()}

    compare(dist.spawn(main, ranks=2, arguments=(failing,)), alone(7, kinds))


def a_pipeline(world: World, schedule) -> Pipeline:
    return Pipeline(
        [nn.Linear(2, 2), nn.Linear(2, 2)], schedule=schedule, loss=nn.functional.mse_loss, world=world
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("G0 F0 B0\nF0 B0", r"mine has G0@0, and stage 0 runs G0@0 F0@0 B0@0; gather every stage once"),
        ("F0 B0\nF0 B0 R0", r"mine has R0@1, and stage 0 runs F0@0 B0@0; gather every stage once"),
        ("G0 F0 B0 R0\nF0 G0 B0 R0", r"stage 1 runs F0@1 G0@1 B0@1 R0@1; gather"),
        ("G0 F0 B0 R0\nG0 F0 R0 B0", r"stage 1 runs G0@1 F0@1 R0@1 B0@1; gather"),
        ("G0 F0 G1 B0 R0\nG0 F0 B0 R0", r"stage 0 runs G0@0 F0@0 G1@0 B0@0 R0@0; gather"),
        ("G0 F0 B0 U0 R0\nG0 F0 B0 U0 R0", r"mine has G0@0 and U0@0, and ZeRO updates after all of it"),
    ],
)
def test_gathers_and_reduces_are_around_all_of_a_stage(text, said):
    schedule = parse(text, name="mine")
    check_schedule(schedule)  # as a list of actions it is sound
    worlds: list[World] = []

    def main(world: World) -> None:
        worlds.append(world)
        a_pipeline(world, schedule)

    with pytest.raises(UsageError, match=said):
        dist.spawn(main, ranks=2)
    assert all(not world.ledger.by_kind for world in worlds)
    model = GPT(GPTConfig(layers=1, width=4, heads=1, context=4, vocabulary=5))
    with pytest.raises(UsageError, match=said):
        divide(model, 2, schedule=schedule)


def test_somebody_has_to_share_out_and_at_stage_3_and_by_whole_stages():
    listed = replace(with_shards(make("1f1b", 1, 2)), name="mine")

    def main(world: World) -> None:
        mesh = Mesh(world, data=1, pipeline=1, tensor=1)
        pipeline = a_pipeline(mesh.axis("pipeline"), listed)
        x = np.ones((2, 2), dtype="float32")
        for use in (lambda: pipeline.step(x, x), lambda: pipeline.predict(x)):
            with pytest.raises(UsageError, match="mine gathers parameters and reduces gradients, and nobody"):
                use()
        optimizer = nn.optim.SGD(list(pipeline.parameters()), lr=0.1)
        for stage in (0, 1, 2):
            with pytest.raises(UsageError, match=f"and ZeRO has stage {stage}; give stage=3"):
                MeshZeRO(pipeline.module, optimizer, mesh, pipeline=pipeline, stage=stage)
        units = list(pipeline.module.children())
        with pytest.raises(UsageError, match="gathers whole stages, and ZeRO got units; leave units out"):
            MeshZeRO(pipeline.module, optimizer, mesh, pipeline=pipeline, stage=3, units=units)
        MeshZeRO(pipeline.module, optimizer, mesh, pipeline=pipeline, stage=3)
        pipeline.step(x, x)
        with pytest.raises(CommunicationError, match=r"zero.step\(\) after each pipeline.step\(\)"):
            pipeline.step(x, x)

    dist.spawn(main, ranks=1)
