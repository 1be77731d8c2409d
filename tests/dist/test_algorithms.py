"""minigrad's own collectives: they move what their papers say, in as many rounds, and add up in their order.

That they are right is tested with all verbs, in `test_verbs.py` and under MPI.
"""

from collections.abc import Callable
from math import ceil, log2
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigrad import dist
from minigrad.dist.algorithms import ALGORITHMS
from minigrad.dist.algorithms_halving import blocks_of
from minigrad.dist.ledger import Message
from minigrad.dist.world import World
from minigrad.errors import CommunicationError
from tests.dist.bodies import uneven

REDUCTIONS = [
    (verb, name) for verb in ("all_reduce", "reduce_scatter", "reduce") for name in ALGORITHMS[verb]
]
ALL = [(verb, name) for verb, names in ALGORITHMS.items() for name in names]
Values = Callable[[int], np.ndarray]


def call(world: World, verb: str, algorithm: str, own: np.ndarray, counts: list[int], **options: Any) -> Any:
    """Run a verb on this rank's array; what it leaves there, or in the piece or the whole it makes."""
    run = getattr(world, verb)
    start, stop = sum(counts[: world.rank]), sum(counts[: world.rank + 1])
    if verb == "reduce_scatter":
        out = np.zeros(stop - start, own.dtype)
        run(own, out, counts=counts, algorithm=algorithm, **options)
        return out
    if verb == "all_gather":
        out = np.zeros_like(own)
        run(own[start:stop].copy(), out, counts=counts, algorithm=algorithm, **options)
        return out
    run(own, algorithm=algorithm, **options)
    return own


def traffic(verb: str, algorithm: str, ranks: int, elements: int, seed: int = 0) -> list[dict[str, Any]]:
    """The ledger's entry of each rank for one call, in 8-byte elements, with peers beside it."""

    def main(world: World) -> dict[str, Any]:
        call(world, verb, algorithm, np.zeros(elements), uneven(world, seed, elements))
        report = world.ledger.report()
        assert report["counted"] == "wire"
        entry = dict(report["traffic"].get(verb, {}).get("control", {}))
        entry["peers"] = report["peers"]
        return entry

    return dist.spawn(main, ranks=ranks)


def elements_sent(entries: list[dict[str, Any]]) -> list[int]:
    assert sum(entry.get("bytes_sent", 0) for entry in entries) == sum(
        entry.get("bytes_received", 0) for entry in entries
    )
    return [entry.get("bytes_sent", 0) // 8 for entry in entries]


# ----------------------------------------------------------------------------------------- volume


@pytest.mark.parametrize(("verb", "algorithm"), ALL)
@given(ranks=st.integers(1, 9), elements=st.integers(0, 40), seed=st.integers(0, 99))
def test_no_algorithm_moves_an_element_too_many(
    verb: str, algorithm: str, ranks: int, elements: int, seed: int
):
    entries = traffic(verb, algorithm, ranks, elements, seed)
    expected = (ranks - 1) * elements * (2 if verb == "all_reduce" else 1)
    assert sum(elements_sent(entries)) == expected
    for entry in entries:
        assert elements or "messages" not in entry  # what has no elements does not travel
        peers = entry["peers"].values()
        assert sum(peer["bytes_sent"] for peer in peers) == entry.get("bytes_sent", 0)
        assert sum(peer["bytes_received"] for peer in peers) == entry.get("bytes_received", 0)


@pytest.mark.parametrize("algorithm", ["ring", "halving"])
@pytest.mark.parametrize("ranks", [2, 4, 8, 16])
def test_every_rank_moves_the_same_where_all_divides(algorithm: str, ranks: int):
    elements = 3 * ranks
    entries = traffic("all_reduce", algorithm, ranks, elements)
    assert elements_sent(entries) == [2 * (ranks - 1) * elements // ranks] * ranks
    assert {entry["bytes_received"] // 8 for entry in entries} == {2 * (ranks - 1) * elements // ranks}


def test_books_of_both_kinds_of_bytes_say_so():
    def main(world: World) -> dict[str, Any]:
        world.all_reduce(np.zeros(2), purpose="gradients")
        world.all_reduce(np.zeros(2), purpose="optimizer", algorithm="ring")
        world.all_reduce(np.zeros(2), purpose="control")
        world.all_reduce(np.zeros(2), purpose="control", algorithm="ring")
        return world.ledger.report()

    report = dist.spawn(main, ranks=2)[0]
    counted = {purpose: entry["counted"] for purpose, entry in report["traffic"]["all_reduce"].items()}
    assert counted == {"gradients": "payload", "optimizer": "wire", "control": "mixed"}
    assert report["counted"] == "mixed"


# ----------------------------------------------------------------------------------------- rounds


@pytest.mark.parametrize("ranks", [2, 3, 4, 5, 7, 8])
def test_the_ring_takes_as_many_steps_as_there_are_other_ranks(ranks: int):
    for entry in traffic("all_reduce", "ring", ranks, 5 * ranks):
        assert entry["rounds"] == entry["messages"] == 2 * (ranks - 1)


@pytest.mark.parametrize("ranks", [2, 4, 8, 16])
def test_halving_and_doubling_take_logarithmically_many(ranks: int):
    for entry in traffic("all_reduce", "halving", ranks, ranks + 3):
        assert entry["rounds"] == entry["messages"] == 2 * log2(ranks)


@pytest.mark.parametrize("ranks", [3, 5, 6, 7, 11, 13])
def test_binary_blocks_add_a_round_for_each_block_that_is_passed(ranks: int):
    blocks = blocks_of(ranks)
    assert [rank for block in blocks for rank in block] == list(range(ranks))
    entries = traffic("all_reduce", "halving", ranks, 32)
    for level, block in enumerate(blocks):
        neighbours = (level > 0) + (level + 1 < len(blocks))
        # One message a round, but to every rank of the larger block that this rank's part is cut up for.
        towards_larger = len(blocks[level - 1]) // len(block) if level else 0
        messages = 2 * log2(len(block)) + towards_larger + (level + 1 < len(blocks))
        for rank in block:
            assert entries[rank]["rounds"] == 2 * (log2(len(block)) + neighbours)
            assert entries[rank]["messages"] == messages


@pytest.mark.parametrize("ranks", range(2, 18))
@pytest.mark.parametrize("verb", ["broadcast", "reduce"])
def test_the_tree_is_as_deep_as_its_logarithm(verb: str, ranks: int):
    entries = traffic(verb, "tree", ranks, 4)
    assert max(entry["rounds"] for entry in entries) == ceil(log2(ranks))
    assert sum(entry["messages"] for entry in entries) == ranks - 1


# ----------------------------------------------------------------------------- order of summation


@pytest.mark.parametrize("verb", ["all_reduce", "reduce_scatter", "reduce"])
@given(ranks=st.integers(1, 7), elements=st.integers(0, 30), seed=st.integers(0, 2**31))
def test_ordered_adds_up_in_the_order_of_ranks(verb: str, ranks: int, elements: int, seed: int):
    table = np.random.default_rng(seed).normal(size=(ranks, elements))
    expected = table[0].copy()
    for row in table[1:]:
        expected += row
    root = seed % ranks

    def main(world: World) -> None:
        counts = uneven(world, seed, elements)
        options = {"root": root} if verb == "reduce" else {}
        result = call(world, verb, "ordered", table[world.rank].copy(), counts, **options)
        start = sum(counts[: world.rank])
        if verb == "reduce_scatter":
            assert result.tobytes() == expected[start : start + counts[world.rank]].tobytes()
        elif verb == "all_reduce" or world.rank == root:
            assert result.tobytes() == expected.tobytes()

    dist.spawn(main, ranks=ranks)


@pytest.mark.parametrize("algorithm", ALGORITHMS["all_reduce"])
@given(ranks=st.integers(2, 7), seed=st.integers(0, 2**31))
def test_all_ranks_get_the_same_bits(algorithm: str, ranks: int, seed: int):
    table = np.random.default_rng(seed).normal(size=(ranks, 25))

    def main(world: World) -> bytes:
        own = table[world.rank].copy()
        world.all_reduce(own, algorithm=algorithm)
        return own.tobytes()

    assert len(set(dist.spawn(main, ranks=ranks))) == 1


@pytest.mark.parametrize(("verb", "algorithm"), REDUCTIONS)
def test_half_precision_is_added_up_in_float32(verb: str, algorithm: str):
    def main(world: World) -> float:
        array = np.array([2048.0 if world.rank == 0 else 1.0], dtype=np.float16)
        result = call(world, verb, algorithm, array, [1, 0, 0])
        assert result.dtype == np.float16
        return float(result.sum())

    assert dist.spawn(main, ranks=3)[0] == 2050


# ----------------------------------------------------------------------------------------- misuse


@pytest.mark.parametrize("verb", ALGORITHMS)
def test_an_unknown_algorithm_is_refused_with_those_there_are(verb: str):
    def main(world: World) -> None:
        call(world, verb, "halfing", np.zeros(4), [2, 2])

    there_are = ", ".join(["library", *ALGORITHMS[verb]])
    with pytest.raises(
        CommunicationError, match=f"rank 0 of 2: {verb} got algorithm 'halfing'; .*{there_are}"
    ):
        dist.spawn(main, ranks=2)


def test_ranks_with_different_algorithms_are_reported_with_both_sides():
    def main(world: World) -> None:
        world.all_reduce(np.zeros(3), algorithm="ring" if world.rank else "halving")

    with pytest.raises(
        CommunicationError, match=r"collective number 1 is .*ring.* here, but .*halving.* on rank 0"
    ):
        dist.spawn(main, ranks=2)


def test_a_rank_that_stays_away_is_named_with_the_collective_it_misses():
    def main(world: World) -> None:
        if world.rank != 1:
            world.all_reduce(np.zeros(6), algorithm="ring")

    with pytest.raises(CommunicationError) as caught:
        dist.spawn(main, ranks=3)
    assert "rank 2 of 3: waits for rank 1 of 3 to send 2 elements of float64 in collective number 1, " in str(
        caught.value
    )


# ------------------------------------------------------------------------------------ the observer


def test_the_observer_sees_every_verb_as_it_ends():
    def main(world: World) -> list[Message]:
        seen: list[Message] = []
        world.observer = seen.append
        group = world.split(world.rank // 2)
        seen.clear()
        request = group.start_all_reduce(np.zeros(4), purpose="gradients", algorithm="ring")
        assert not seen
        request.wait()
        world.broadcast(np.zeros(2), root=3)
        if world.rank == 2:
            group.send(np.zeros(5), 1, purpose="activations")
        if world.rank == 3:
            group.receive(np.zeros(5), 0, purpose="activations")
        return seen

    everyone = dist.spawn(main, ranks=4)
    for rank, seen in enumerate(everyone):
        reduced, spread, *rest = seen
        assert (reduced.verb, reduced.purpose, reduced.algorithm) == ("all_reduce", "gradients", "ring")
        assert (reduced.bytes_sent, reduced.bytes_received, reduced.peer) == (32, 32, None)
        assert (spread.bytes_sent, spread.bytes_received) == ((16, 0) if rank == 3 else (0, 16))
        assert [message.peer for message in rest] == {2: [3], 3: [2]}.get(rank, [])
        assert all(message.rank == rank for message in seen)
        assert all(message.start_seconds <= message.stop_seconds for message in seen)
        assert [m.stop_seconds for m in seen] == sorted(m.stop_seconds for m in seen)
    assert everyone[2][2].bytes_sent == everyone[3][2].bytes_received == 40
