"""Data parallelism gives the parameters of the one-rank run, whatever the ranks, parts and buckets."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minigrad as mg
from minigrad import dist, nn
from minigrad.dist.single import SingleWorld
from minigrad.dist.world import World
from minigrad.errors import CommunicationError, UsageError
from tests.dist.training import Case, Model, compare, train

OPTIMIZERS = st.sampled_from([None, nn.optim.AdamW])


@given(
    ranks=st.integers(2, 5),
    case=st.builds(
        Case,
        samples=st.integers(1, 12),
        steps=st.integers(1, 5),
        bucket_bytes=st.sampled_from([1, 200, 2**22]),
        parts=st.integers(1, 3),
        seed=st.integers(0, 1000),
        optimizer=OPTIMIZERS,
        algorithm=st.sampled_from(["library", "ring", "halving", "tree", "ordered"]),
    ),
)
def test_equal_to_one_rank(ranks: int, case: Case):
    expected = train(SingleWorld(), case)
    for actual in dist.spawn(train, ranks=ranks, arguments=(case,)):
        compare(actual, expected)


def test_ranks_agree_to_the_last_bit():
    first, *others = dist.spawn(train, ranks=3, arguments=(Case(samples=8),))
    assert all(other[name].tobytes() == first[name].tobytes() for other in others for name in first)


def test_what_is_used_by_one_rank_is_trained_and_what_nobody_uses_keeps_no_gradient():
    def main(world: World) -> tuple[bool, bool, float]:
        model = Model(0)
        parallel = dist.DataParallel(model, world)
        x = mg.tensor(np.ones((1, 3)), dtype="float64")
        mg.sum(parallel(x, marked=world.rank == 1)).backward()
        parallel.synchronize()
        assert model.branch.grad is not None
        return model.unused.grad is None, model.frozen.grad is None, float(mg.sum(model.branch.grad).item())

    results = dist.spawn(main, ranks=3)
    assert [result[:2] for result in results] == [(True, True)] * 3
    assert len({result[2] for result in results}) == 1
    assert results[0][2] != 0


def test_buckets_are_slices_of_one_flat_array_in_reverse_order():
    def main(world: World) -> None:
        model = Model(0)
        parallel = dist.DataParallel(model, world, bucket_bytes=200)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        assert [p for filling in parallel.buckets for p in filling.bucket.parameters[::-1]] == trained[::-1]
        flats: list[Any] = [filling.flat for filling in parallel.buckets]
        assert len({id(flat.base) for flat in flats}) == 1
        assert [flat.nbytes for flat in flats] == [160 + 16 + 200, 40 + 96 + 120]
        for filling in parallel.buckets:
            for parameter in filling.bucket.parameters:
                assert np.shares_memory(parameter.grad_buffer, filling.flat)

    dist.spawn(main, ranks=2)


def test_buckets_are_sent_while_the_walk_goes_on():
    def main(world: World) -> list[tuple[str, int]]:
        events: list[tuple[str, int]] = []
        model = Model(0)
        parallel = dist.DataParallel(model, world, bucket_bytes=1)
        checked = world.persistent_all_reduce

        def watched(array, **keywords):
            start = checked(array, **keywords)

            def started():
                events.append(("sent", array.size))
                return start()

            return started

        world.persistent_all_reduce = watched  # type: ignore[method-assign]
        model.first.register_post_accumulate_grad_hook(lambda parameter: events.append(("walked", 0)))
        mg.sum(parallel(mg.tensor(np.ones((1, 3)), dtype="float64"), marked=True)).backward()
        parallel.synchronize()
        return events

    for events in dist.spawn(main, ranks=2):
        before = events[: events.index(("walked", 0))]
        # The order of use: `branch`, `last`, `shared`, which is used twice, `bias`, `first`. What is not used
        # follows `shared`, before which it would come by declaration, and holds nothing back.
        assert before == [("sent", size) for size in (12, 20, 2, 25, 5, 15)]
        assert len(events) == 7


def test_the_ledger_books_each_gradient_once():
    def main(world: World) -> dict[str, int]:
        train(world, Case(steps=3))
        return world.ledger.report()["traffic"]["all_reduce"]["gradients"]

    trained = sum(p.size for p in Model(0).parameters() if p.requires_grad)
    for entry in dist.spawn(main, ranks=2):
        assert entry["bytes_sent"] == 3 * 8 * trained


def test_mixed_dtypes_do_not_share_buckets():
    class Mixed(nn.Module):
        def __init__(self) -> None:
            self.a = nn.Parameter(np.ones(3), dtype="float64")
            self.b = nn.Parameter(np.ones(2), dtype="float32")
            self.c = nn.Parameter(np.ones(4), dtype="float64")

    def main(world: World) -> None:
        model = Mixed()
        parallel = dist.DataParallel(model, world)
        assert [str(filling.bucket.dtype) for filling in parallel.buckets] == [
            "float64",
            "float32",
            "float64",
        ]
        (mg.sum(model.a) + mg.sum(model.b) + mg.sum(model.c)).backward()
        parallel.synchronize()
        for parameter in model.parameters():
            assert parameter.grad is not None
            assert parameter.grad.data.tolist() == [2.0] * parameter.size

    dist.spawn(main, ranks=2)


def test_one_rank_alone_is_left_alone():
    model = Model(0)
    parallel = dist.DataParallel(model, SingleWorld())
    mg.sum(parallel(mg.tensor(np.ones((1, 3)), dtype="float64"), marked=False)).backward()
    parallel.synchronize()
    assert parallel.buckets == []
    assert model.first.grad is not None
    assert model.first.grad_buffer is None


# ------------------------------------------------------------------------------------ misuse


def test_other_parameters_on_another_rank():
    def main(world: World) -> None:
        model = Model(0)
        if world.rank == 2:
            model.bias = nn.Parameter(np.zeros(WRONG))
        dist.DataParallel(model, world)

    WRONG = 6
    with pytest.raises(CommunicationError, match="the model of rank 2 of this world has other parameters"):
        dist.spawn(main, ranks=3)


def test_a_second_walk_without_no_sync():
    def main(world: World) -> None:
        model = Model(0)
        parallel = dist.DataParallel(model, world, bucket_bytes=1)
        for _ in range(2):
            mg.sum(parallel(mg.tensor(np.ones((1, 3)), dtype="float64"), marked=True)).backward()

    with pytest.raises(
        CommunicationError, match=r"shape \(3, 4\) changed after its bucket was sent; .*no_sync"
    ):
        dist.spawn(main, ranks=2)


def test_an_algorithm_that_is_not_there():
    with pytest.raises(
        UsageError, match="algorithm='fast'; give one of library, ring, halving, tree, ordered"
    ):
        dist.DataParallel(Model(0), SingleWorld(), algorithm="fast")


def test_no_bucket_size():
    with pytest.raises(UsageError, match="bucket_bytes=0"):
        dist.DataParallel(Model(0), SingleWorld(), bucket_bytes=0)
