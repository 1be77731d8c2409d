"""What ranks send and hold, counted from messages and arrays, equals the formulas of the papers."""

import gc
import tracemalloc
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import dist, nn
from minigrad.dist.request import Request
from minigrad.dist.world import World
from minigrad.dist.zero import ZeRO
from tests.dist.test_zero import cases
from tests.dist.zero_training import Case, Net, Result, loss_of, run, shares, trained

ITEM = 8  # bytes of a float64
PLAIN = Case(samples=14, width=6, blocks=4)


def sizes(case: Case) -> tuple[int, list[int], int, int]:
    """Trained entries in all, those of each block (of PLAIN cases), and of the root; and what is frozen."""
    model = Net(0, case)
    blocks: list[Any] = list(model.blocks)
    units = [block.weight.size + block.bias.size for block in blocks]
    total = sum(parameter.size for parameter in trained(case, model))
    everything = sum(parameter.size for parameter in model.parameters())
    return total, units, total - sum(units), everything - total


def elements_moved(results: list[Result]) -> float:
    """Elements of gradients and parameters that all ranks together sent."""
    return sum(
        by_purpose[purpose]["bytes_sent"] / ITEM
        for result in results
        for by_purpose in result.traffic.values()
        for purpose in ("gradients", "parameters")
        if purpose in by_purpose
    )


@settings(deadline=None, max_examples=40)
@given(
    ranks=st.sampled_from([1, 2, 3, 4, 5, 7]),
    stage=st.integers(0, 3),
    algorithm=st.sampled_from(["ring", "halving"]),
    case=cases(),
)
def test_elements_moved(ranks: int, stage: int, algorithm: str, case: Case):
    """Stages 0 and 1: 2Ψ(N-1) a step. With K walks a step, stage 2: (K+1)Ψ(N-1), stage 3: 3KΨ(N-1), and 2K
    times what is frozen, which has no gradients.
    """
    case = replace(case, zero={**case.zero, "stage": stage, "algorithm": algorithm}, max_norm=0.5)
    walks = case.parts if stage >= 2 else 1
    factor = 3 * walks if stage == 3 else walks + 1
    total, _, _, frozen = sizes(case)
    expected = case.steps * (factor * total + (2 * walks * frozen if stage == 3 else 0)) * (ranks - 1)
    if stage == 3 and case.turned and case.blocks:  # the first pass comes by units in another order
        assert elements_moved(run(case, ranks)) >= expected
        case = replace(case, warm=True)
        expected = expected * (case.steps - 1) // case.steps
    assert elements_moved(run(case, ranks)) == expected


def test_norms_and_flags_are_control():
    case = replace(PLAIN, max_norm=1.0, zero={"stage": 2, "algorithm": "ring"})
    for result in run(case, 3):
        assert {verb: set(purposes) for verb, purposes in result.traffic.items()} == {
            "all_gather": {"parameters", "control"},  # of the order in which buckets go
            "all_reduce": {"control"},
            "reduce_scatter": {"gradients"},
        }


@pytest.mark.parametrize("ranks", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_memory(stage: int, ranks: int, monkeypatch: pytest.MonkeyPatch):
    """(2+2+K)Ψ and its three reductions, in bytes of float64, where Adam's K is two arrays."""
    monkeypatch.setattr(Request, "test", lambda request: False)  # nothing arrives before it is waited for
    bucket_bytes = 300
    case = replace(PLAIN, zero={"stage": stage, "bucket_bytes": bucket_bytes})
    total, units, root, frozen = sizes(case)
    largest = max(parameter.size for parameter in trained(case, Net(0, case)))
    pairs = [a + b for a, b in pairwise(units)]
    everyone = run(case, ranks)
    shards = []
    for result in everyone:
        assert result.zero is not None
        buckets = result.zero.buckets
        shard = sum(bucket.stop - bucket.start for bucket in buckets)
        shards.append(shard)
        assert abs(shard - total / (ranks if stage else 1)) < len(buckets)
        assert result.peak["optimizer"] == 2 * shard * ITEM
        bucket = max(bucket.size for bucket in buckets)
        if stage < 2:
            assert result.peak["gradients"] == total * ITEM
        elif stage == 2:
            assert bucket * ITEM < bucket_bytes + largest * ITEM
            assert result.peak["gradients"] <= (shard + 2 * bucket) * ITEM
        else:
            assert result.peak["gradients"] <= (shard + 2 * max(units) + root) * ITEM
        if stage < 3:
            assert result.peak["parameters"] == (total + frozen) * ITEM
        else:
            own = shard + -(-frozen // ranks)
            assert result.peak["parameters"] <= (own + max(pairs) + root + frozen) * ITEM
    assert sum(shards) == (total if stage else total * ranks)  # nothing is padded, nothing held twice


@pytest.mark.parametrize("bucket_bytes", [400, 1200, 4000])
def test_a_tied_embedding_fits_two_buckets(bucket_bytes: int, monkeypatch: pytest.MonkeyPatch):
    """Its gradient begins with the output layer and is final last: its bucket is filled all the way."""
    monkeypatch.setattr(Request, "test", lambda request: False)

    def main(world: World) -> None:
        config = nn.GPTConfig(vocabulary=17, context=6, layers=5, heads=2, width=8)
        model = nn.GPT(config, dtype="float64")
        optimizer = nn.optim.SGD(model.parameters())
        zero = ZeRO(model, optimizer, world, stage=2, bucket_bytes=bucket_bytes)
        tokens = np.random.default_rng(world.rank).integers(0, 17, (2, 7))
        for _ in range(2):
            model.loss(tokens[:, :-1], tokens[:, 1:]).backward()
            zero.step()
        shard = sum(bucket.stop - bucket.start for bucket in zero.buckets)
        largest = max(bucket.size for bucket in zero.buckets)
        assert zero.meter.peak["gradients"] <= (shard + 2 * largest) * ITEM

    dist.spawn(main, ranks=3)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("ranks", [1, 3])
def test_memory_of_mixed_precision(stage: int, ranks: int):
    """2Ψ of parameters and 2Ψ of gradients in half precision; Adam's K = 12: master copy and two averages."""

    def main(world: World) -> None:
        model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)).to(dtype="float16")
        optimizer = nn.optim.Adam(model.parameters())
        zero = ZeRO(model, optimizer, world, stage=stage, master="float32", bucket_bytes=1)
        mg.sum(zero(mg.tensor(np.ones((2, 4), dtype="float16")))).backward()
        zero.step()
        total = sum(parameter.size for parameter in model.parameters())
        shard = sum(bucket.stop - bucket.start for bucket in zero.buckets)
        peak = zero.meter.peak
        assert peak["optimizer"] == 12 * shard
        if stage < 3:
            assert peak["parameters"] == 2 * total
        if stage < 2:
            assert peak["gradients"] == 2 * total
        assert shard == total if stage == 0 else abs(shard - total / ranks) < len(zero.buckets)

    dist.spawn(main, ranks=ranks)


def test_nothing_keeps_a_whole_copy_alive():
    """The process' memory, with every array in it, after steps of stage 3: no rank has a whole model."""
    case = Case(samples=4, width=128, blocks=12, tied=frozenset())
    total, units, root, frozen = sizes(case)
    ranks = 4

    def main(world: World) -> int:
        world.barrier()
        if world.rank == 0:
            tracemalloc.start()
        world.barrier()
        model = Net(0, case)
        zero = ZeRO(model, nn.optim.SGD(trained(case, model)), world, stage=3)
        for step in range(2):
            loss_of(zero, shares(case, step, ranks)[world.rank][0], case.samples).backward()
            zero.step()
        world.barrier()
        gc.collect()
        held = tracemalloc.get_traced_memory()[0]
        world.barrier()  # nobody lets go of anything before all have looked
        assert zero.stage == 3
        return held

    held = max(dist.spawn(main, ranks=ranks))
    tracemalloc.stop()
    # What is frozen is in the root.
    # Parameters: shard, two units, root; gradients: shard, two units, root.
    expected = 2 * (total / ranks + 2 * units[0] + root) + frozen / ranks + frozen
    assert held <= ranks * (expected * ITEM + 200_000)
    assert ranks * 2 * total * ITEM > 1.3 * held  # so whole models would be seen
