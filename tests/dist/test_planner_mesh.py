"""Plans of meshes are what the meshes then hold and send."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigrad import dist, nn
from minigrad.dist.memory import Meter
from minigrad.dist.mesh import Mesh
from minigrad.dist.mesh_gpt import MeshGPT
from minigrad.dist.planner import Setup, traffic
from minigrad.dist.planner_mesh import MeshRank, count_ranks
from minigrad.dist.planner_model import count, rank_memory
from minigrad.dist.world import World
from minigrad.errors import UsageError
from minigrad.nn.gpt import GPT, GPTConfig

CONFIG = GPTConfig(vocabulary=13, context=8, layers=3, heads=3, width=12)
SCHEDULES = ("naive", "gpipe", "1f1b", "zb-h1", "zb-h2", "interleaved", "terapipe")


def really(world: World, pipeline: int, tensor: int, batch: int, options: dict[str, Any]) -> tuple:
    """What a rank of one copy has, keeps and sends in a step with values."""
    mesh = Mesh(world, data=1, pipeline=pipeline, tensor=tensor)
    part = MeshGPT(GPT(CONFIG, dtype="float64"), mesh, algorithm="ring", **options)
    meter, values = Meter(), np.random.default_rng(0)
    for parameter in part.module.parameters():
        meter.track("parameters", parameter.data)
    inputs, targets = values.integers(0, CONFIG.vocabulary, (2, batch, CONFIG.context))
    part.learn(inputs, targets, count=batch * CONFIG.context)  # what passes between stages is found
    meter.reset_peak()
    world.ledger.clear()
    part.learn(inputs, targets, count=batch * CONFIG.context, meter=meter)
    sent = {kind: entry.bytes_sent for kind, entry in world.ledger.by_kind.items()}
    return (
        mesh.coordinates["pipeline"],
        mesh.coordinates["tensor"],
        sum(p.size for p in part.module.parameters()),
        meter.peak["activations"],
        sent.get(("send", "activations"), 0) + sent.get(("all_reduce", "gradients"), 0),
        sent.get(("all_reduce", "activations"), 0),
    )


def hold(planned: list[MeshRank], pipeline: int, tensor: int, batch: int, options: dict[str, Any]) -> None:
    found = dist.spawn(really, ranks=pipeline * tensor, arguments=(pipeline, tensor, batch, options))
    for place, plan in enumerate(planned):
        [first, *others] = [rank for rank in found if rank[0] == place]
        assert plan.count.parameters == first[2]
        # Arrays without values share memory a little differently, most where slices keep keys and values.
        tolerance = 0.1 if "slices" in options else 0.03
        assert plan.count.activations == pytest.approx(first[3], rel=tolerance, abs=600)
        assert plan.sent["pipeline"] == first[4]
        assert all(other[2] <= first[2] for other in others)  # the first has the largest pieces
        assert plan.sent["tensor"] * tensor == pytest.approx(sum(rank[5] for rank in [first, *others]))


@settings(max_examples=20, deadline=None)
@given(
    schedule=st.sampled_from(SCHEDULES),
    pipeline=st.integers(1, 3),
    tensor=st.integers(1, 3),
    microbatches=st.sampled_from([1, 2, 3]),
    checkpoint=st.booleans(),
)
def test_what_is_planned_is_what_happens(schedule, pipeline, tensor, microbatches, checkpoint):
    options: dict[str, Any] = {"schedule": schedule, "microbatches": microbatches}
    if schedule == "interleaved":
        options |= {"virtual": 2, "microbatches": pipeline}
    if schedule == "terapipe":
        options["slices"] = 2
    batch = 4
    planned = count_ranks(
        CONFIG,
        pipeline=pipeline,
        tensor=tensor,
        batch=batch,
        precision="float64",
        checkpoint=checkpoint,
        **options,
    )
    hold(planned, pipeline, tensor, batch, {**options, "recompute": checkpoint})


def test_one_rank_is_the_plan_of_one_rank():
    [only] = count_ranks(CONFIG, batch=4, precision="float32")
    assert only.sent == {"pipeline": 0, "tensor": 0}
    assert only.count == count(CONFIG, batch=4, precision="float32")


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_states_and_traffic_of_the_data_axis(stage):
    """ZeRO's arithmetic over what a rank of the plan has is what the axis holds and sends."""
    planned = count_ranks(CONFIG, pipeline=2, tensor=2, batch=4, microbatches=2, precision="float64")

    def main(world: World) -> tuple[int, int, dict[str, int], int]:
        mesh, meter = Mesh(world, data=2, pipeline=2, tensor=2), Meter()
        part = MeshGPT(GPT(CONFIG, dtype="float64"), mesh, microbatches=2)
        optimizer = nn.optim.AdamW(part.module.parameters())
        zero = part.share_out(optimizer, stage=stage, algorithm="ring", meter=meter)
        tokens = np.zeros((4, CONFIG.context), dtype=int)
        for _ in range(2):
            world.ledger.clear()
            part.learn(tokens, tokens, count=8 * CONFIG.context)
            zero.step()
        sent = sum(
            entry.bytes_sent
            for (_, purpose), entry in world.ledger.by_kind.items()
            if purpose in ("gradients", "parameters")
        )
        tied = sum(group.parameters[0].data.nbytes for group in part.pipeline.shared_groups)  # type: ignore[union-attr]
        return mesh.coordinates["pipeline"], mesh.coordinates["tensor"], meter.current, sent - tied

    found = dist.spawn(main, ranks=8)
    for place, plan in enumerate(planned):
        setup = Setup(plan.count.parameters, ranks=2, precision="float64")
        ranks = [rank for rank in found if rank[:2] == (place, 0)]
        states = rank_memory(plan.count, setup, stage)
        for name in ("parameters", "optimizer") if stage == 2 else ("parameters", "gradients", "optimizer"):
            assert max(held[name] for _, _, held, _ in ranks) == states[name]
        expected = sum(traffic(setup, stage, microbatches=2).values())
        assert sum(sent for *_, sent in ranks) / 2 == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pipeline": 0, "batch": 4}, "at least 1 of pipeline, got 0"),
        ({"tensor": 0, "batch": 4}, "at least 1 of tensor, got 0"),
        ({"microbatches": 5, "batch": 4}, "4 samples of a copy cannot be cut into 5 microbatches"),
        ({"pipeline": 8, "batch": 4}, "8 stages .* cannot share 7 layers"),
        ({"pipeline": 2, "batch": 4, "schedule": "zb-h3"}, "no schedule 'zb-h3'"),
    ],
)
def test_what_cannot_run_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        count_ranks(CONFIG, **options)
