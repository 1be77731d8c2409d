"""Pipelines beside data parallelism: copies of stages, at every stage of ZeRO, give the one-rank run."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigrad import dist, nn
from minigrad.dist.pipeline import Pipeline
from minigrad.dist.single import SingleWorld
from minigrad.dist.world import World
from minigrad.dist.zero import ZeRO
from tests.dist.pipelines import WIDTH, layers, mean_square, v_shaped, walk_alone

KINDS = ["dense", "keep", "dense", "join", "dense", "dense"]
TIED = ["tied", "keep", "dense", "join", "dense", "tied"]
BARE = ["bare", "keep", "dense", "join", "dense", "bare"]
STEPS = 3


def data(samples: int) -> tuple[np.ndarray, np.ndarray]:
    values = np.random.default_rng(samples)
    return values.normal(size=(samples, WIDTH)), values.normal(size=(samples, WIDTH))


def alone(samples: int, kinds: list[str]) -> dict[str, np.ndarray]:
    model = nn.Sequential(*layers(kinds, 0))
    optimizer = nn.optim.AdamW(list(model.parameters()), lr=0.01)
    x, y = data(samples)
    for _ in range(STEPS):
        walk_alone(model, x, y)
        optimizer.step()
        optimizer.zero_grad()
    return {name: x.data.copy() for name, x in model.state_dict().items()}


def copies_of_stages(
    world: World, copies: int, samples: int, kinds: list[str], zero_stage: int, options: dict
) -> dict[str, np.ndarray]:
    """One of `copies` pipelines, side by side; each has its share of the samples."""
    depth = world.size // copies
    axis = world.split(world.rank // depth)
    beside = world.split(world.rank % depth)
    pipeline = Pipeline(nn.Sequential(*layers(kinds, 0)), loss=mean_square, world=axis, **options)
    zero = ZeRO(
        pipeline.module,
        nn.optim.AdamW(list(pipeline.parameters()), lr=0.01),
        beside,
        stage=zero_stage,
        bucket_bytes=64,  # about one parameter each
    )
    pipeline.executor.quiet = zero.no_sync
    x, y = data(samples)
    rows = np.array_split(np.arange(samples), copies)[beside.rank]
    for _ in range(STEPS):
        pipeline.step(x[rows], y[rows], scale=len(rows) / samples)
        zero.step()
    with zero.gathered():
        return {name: x.data.copy() for name, x in pipeline.state_dict().items()}


def compare(found, expected) -> None:
    assert {name for part in found for name in part} == set(expected)
    for part in found:
        for name, value in part.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-10, atol=1e-12, err_msg=name)


@settings(max_examples=30)
@given(
    zero_stage=st.integers(0, 3),
    schedule=st.sampled_from(["naive", "gpipe", "1f1b", "interleaved", "zb-h1", "zb-h2"]),
    depth=st.integers(1, 3),
    copies=st.integers(1, 2),
    recompute=st.booleans(),
    extra=st.integers(0, 3),
)
def test_equal_to_one_rank(zero_stage, schedule, depth, copies, recompute, extra):
    """Uneven shares of the batch and uneven microbatches; every gradient counts by its samples."""
    virtual = 2 if schedule == "interleaved" else 1
    chunks = depth if schedule == "interleaved" else depth + 1
    stages = depth * virtual
    balance = [len(KINDS) - stages + 1, *[1] * (stages - 1)]
    options = {"schedule": schedule, "chunks": chunks, "balance": balance, "recompute": recompute}
    samples = copies * (chunks + 1) + extra
    arguments = (copies, samples, KINDS, zero_stage, options)
    compare(dist.spawn(copies_of_stages, ranks=depth * copies, arguments=arguments), alone(samples, KINDS))


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
@pytest.mark.parametrize("schedule", ["1f1b", "zb-h1"])
def test_parameters_shared_by_stages_of_several_copies(zero_stage, schedule):
    options = {"schedule": schedule, "chunks": 2, "balance": [3, 3]}
    found = dist.spawn(copies_of_stages, ranks=4, arguments=(2, 7, TIED, zero_stage, options))
    compare(found, alone(7, TIED))


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_a_parameter_that_two_stages_of_one_rank_share(zero_stage):
    """V-shaped: the first and the last stage lie on rank 0; at stage 3 their layers are gathered together."""
    options = {"schedule": v_shaped(3), "balance": [2, 1, 1, 2]}
    found = dist.spawn(copies_of_stages, ranks=4, arguments=(2, 7, TIED, zero_stage, options))
    compare(found, alone(7, TIED))


@pytest.mark.parametrize("kinds", [TIED, BARE])
@pytest.mark.parametrize("schedule", ["gpipe", "1f1b", "zb-h1"])
@pytest.mark.parametrize("balance", [[6], [5, 1], [1, 4, 1]])
def test_a_first_layer_that_is_used_by_a_later_stage_of_the_rank(kinds, schedule, balance):
    """The bucket of a bare layer is full after the walk of its last stage, and again after that of its first:
    one order of buckets and one place of each unit, from the first microbatch to the last.
    """
    options = {"schedule": schedule, "chunks": 3, "balance": balance}
    found = dist.spawn(copies_of_stages, ranks=2, arguments=(2, 7, kinds, 3, options))
    compare(found, alone(7, kinds))


@pytest.mark.parametrize("microbatches", [1, 4])
def test_each_microbatch_gathers_for_its_forward_and_for_its_backward(microbatches):
    def main(world: World) -> tuple[int, int]:
        pipeline = Pipeline(
            nn.Sequential(*layers(["dense"] * 6, 0)),
            loss=mean_square,
            world=SingleWorld(),
            balance=[6],
            chunks=microbatches,
        )
        size = sum(p.data.nbytes for p in pipeline.parameters())
        zero = ZeRO(
            pipeline.module,
            nn.optim.SGD(list(pipeline.parameters()), lr=0.1),
            world,
            stage=3,
            algorithm="ring",
        )
        pipeline.executor.quiet = zero.no_sync
        booked: list = []
        world.observer = booked.append
        pipeline.step(*data(microbatches))
        zero.step()
        return size, sum(message.bytes_sent for message in booked if message.purpose == "parameters")

    (size, sent), (_, other) = dist.spawn(main, ranks=2)
    assert size * microbatches < sent + other <= 2 * size * microbatches
