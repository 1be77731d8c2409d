"""Activation checkpoints shared out over ranks, and the contiguous memory they may lie in."""

import gc
import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minigrad as mg
from minigrad import dist, nn
from minigrad.dist.contiguous import ContiguousMemory, Pool
from minigrad.dist.single import SingleWorld
from minigrad.dist.world import World
from minigrad.dist.zero_checkpoint import Kept, partitioned_checkpoint
from minigrad.errors import UsageError

WIDTH = 5


def walk(rows: int, layers: int, checkpoint: Any) -> list[np.ndarray]:
    """Gradients of the input and all weights, through checkpointed layers."""
    values = np.random.default_rng(0)
    weights = [nn.Parameter(values.normal(size=(WIDTH, WIDTH))) for _ in range(layers)]
    x = mg.tensor(values.normal(size=(rows, WIDTH)), requires_grad=True)
    h = x * 2.0
    for weight in weights:
        h, _ = checkpoint(lambda h, k, w=weight: (mg.tanh(h @ w) * k, 1), h, 0.5)
    mg.sum(h * h).backward()
    return [leaf.grad.data.copy() for leaf in (x, *weights)]  # type: ignore[union-attr]


@settings(deadline=None, max_examples=25)
@given(
    ranks=st.sampled_from([1, 2, 3, 5, 7]),
    rows=st.integers(0, 6),
    layers=st.integers(1, 4),
    where=st.sampled_from(["", "memory", "host"]),
)
def test_the_same_gradients_and_one_gather_per_block(ranks: int, rows: int, layers: int, where: str):
    expected = walk(rows, layers, mg.checkpoint)

    def main(world: World) -> int:
        memory = ContiguousMemory(4096) if where == "memory" else None

        def checkpoint(f: Any, *inputs: Any) -> Any:
            return partitioned_checkpoint(f, *inputs, world=world, memory=memory, on_host=where == "host")

        for actual, right in zip(walk(rows, layers, checkpoint), expected, strict=True):
            assert np.array_equal(actual, right)
        assert memory is None or memory.used == 0
        if ranks == 1:
            return 0
        traffic = world.ledger.report()["traffic"]
        assert {verb: set(purposes) for verb, purposes in traffic.items()} == {"all_gather": {"activations"}}
        return int(traffic["all_gather"]["activations"]["bytes_sent"])

    sent = sum(dist.spawn(main, ranks=ranks))
    assert sent == (layers * rows * WIDTH * 8 if ranks > 1 else 0)  # each piece once: batch × hidden a block


def test_only_a_piece_is_kept():
    def main(world: World) -> None:
        leaf = mg.tensor(np.ones((4, WIDTH)), requires_grad=True)
        h = leaf * 2.0
        whole = weakref.ref(h.data)
        out = partitioned_checkpoint(lambda h: mg.tanh(h), h, world=world)
        del h
        gc.collect()
        assert whole() is None
        (kept,), _ = out.node.inputs[0].saved
        assert isinstance(kept, Kept)
        assert kept.piece.size == (7, 7, 6)[world.rank]
        mg.sum(out).backward()
        np.testing.assert_allclose(leaf.grad.data, 2.0 / np.cosh(2.0) ** 2)  # type: ignore[union-attr]

    dist.spawn(main, ranks=3)


def test_parameters_stay_whole_and_nothing_is_kept_without_a_graph():
    world = SingleWorld()
    weight = mg.tensor(np.ones(3), requires_grad=True)
    out = partitioned_checkpoint(lambda w: w * w, weight, world=world)
    assert out.node.inputs[0].saved[0] == (weight.data,) or out.node.inputs[0].saved[0][0] is weight.data
    with mg.no_grad():
        assert partitioned_checkpoint(lambda w: w * w, weight, world=world).node is None


# ----- Memory -----


@given(
    st.lists(st.tuples(st.integers(0, 20), st.sampled_from(["float32", "float64", "float16"])), max_size=8)
)
def test_places_do_not_overlap_and_come_back(wanted: list[tuple[int, str]]):
    memory = ContiguousMemory(8 * 192)
    for _ in range(3):
        arrays = []
        for number, (size, dtype) in enumerate(wanted):
            arrays.append(memory.take(size, dtype))
            arrays[-1][...] = number
        assert all((array == number).all() for number, array in enumerate(arrays))
        assert memory.used == sum(-(-array.nbytes // 64) * 64 for array in arrays)
        arrays.clear()
        assert memory.used == 0


def test_memory_that_is_full():
    memory = ContiguousMemory(128)
    first = memory.take(10, "float64")
    with pytest.raises(
        UsageError, match="8 bytes do not fit a contiguous memory of 128, of which 128 are in use"
    ):
        memory.take(1, "float64")
    del first
    assert memory.take(16, "float64").size == 16


def test_a_pool_makes_only_as_many_buffers_as_are_in_use():
    made: list[int] = []

    def make(size: int, dtype: Any) -> np.ndarray:
        made.append(size)
        return np.empty(size, dtype)

    pool = Pool(make, 5, "float32")
    first, second = pool.take(), pool.take()
    pool.give_back(first)
    assert pool.take() is first
    pool.give_back(second)
    assert (pool.taken, made) == (1, [5, 5])
