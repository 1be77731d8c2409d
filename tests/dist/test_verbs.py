"""Every verb, on thread ranks and on one rank alone, with any number of ranks, dtype, size and cut."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minigrad import dist
from minigrad.dist.single import SingleWorld
from minigrad.dist.world import World
from minigrad.errors import CommunicationError, DTypeError, MinigradError, ShapeError
from tests.dist.bodies import BODIES, DTYPES, Body

seeds = st.integers(0, 2**31)
sizes = st.integers(0, 40)


@pytest.mark.parametrize("body", BODIES)
@given(ranks=st.integers(1, 7), seed=seeds, dtype=st.sampled_from(DTYPES), elements=sizes)
def test_on_thread_ranks(body: Body, ranks: int, seed: int, dtype: str, elements: int):
    dist.spawn(body, ranks=ranks, arguments=(seed, dtype, elements))


@pytest.mark.parametrize("body", [body for body in BODIES if body.__name__ != "groups"])
@given(seed=seeds, dtype=st.sampled_from(DTYPES), elements=sizes)
def test_alone(body: Body, seed: int, dtype: str, elements: int):
    body(SingleWorld(), seed, dtype, elements)


def test_half_precision_is_added_up_in_float32():
    def main(world: World) -> tuple[float, float]:
        array = np.array([2048.0 if world.rank == 0 else 1.0], dtype=np.float16)
        out = np.zeros(1 if world.rank == 0 else 0, dtype=np.float16)
        world.reduce_scatter(array, out, counts=[1, 0, 0])
        world.all_reduce(array)
        return float(array[0]), float(out.sum())

    assert np.float16(2048) + np.float16(1) == 2048  # what adding in half precision would keep
    assert dist.spawn(main, ranks=3) == [(2050.0, 2050.0), (2050.0, 0.0), (2050.0, 0.0)]


@given(ranks=st.integers(1, 7), seed=seeds, elements=sizes)
def test_thread_ranks_add_up_in_the_order_of_ranks(ranks: int, seed: int, elements: int):
    table = np.random.default_rng(seed).normal(size=(ranks, elements))
    expected = table[0].copy()
    for row in table[1:]:
        expected += row

    def main(world: World) -> bytes:
        array = table[world.rank].copy()
        world.all_reduce(array)
        return array.tobytes()

    assert set(dist.spawn(main, ranks=ranks)) == {expected.tobytes()}


def test_thread_ranks_take_the_same_turns_every_time():
    def main(world: World, turns: list[tuple[int, int]]) -> None:
        array = np.zeros(3)
        for step in range(4):
            turns.append((step, world.rank))
            if world.rank == step:
                for other in range(world.size):
                    if other != step:
                        world.send(array, other)
            else:
                world.receive(array, step)
            world.all_reduce(array)

    runs: list[list[tuple[int, int]]] = [[] for _ in range(5)]
    for turns in runs:
        dist.spawn(main, ranks=4, arguments=(turns,))
    assert all(turns == runs[0] for turns in runs)


def test_looking_lets_the_others_run():
    def main(world: World) -> int:
        looks = 0
        if world.rank == 0:
            out = np.zeros(1)
            request = world.start_receive(out, 2)
            while not request.test():
                looks += 1
            assert out[0] == 7
        if world.rank == 1:
            world.receive(np.zeros(1), 2)
            world.send(np.zeros(1), 2)
        if world.rank == 2:
            answer = world.start_receive(np.zeros(1), 1)
            assert [answer.test() for _ in range(3)] == [False] * 3
            world.send(np.array([7.0]), 0)
            world.send(np.zeros(1), 1)
            answer.wait()
        return looks

    assert 0 < dist.spawn(main, ranks=3)[0] < 10


# ------------------------------------------------------------------------------------ the ledger


def test_the_ledger_books_payload_by_verb_purpose_and_peer():
    def main(world: World) -> dist.Ledger:
        shard, whole = np.zeros(2, np.float32), np.zeros(6, np.float32)
        world.all_reduce(whole, purpose="gradients")
        world.all_reduce(np.zeros(6, np.float16), purpose="gradients")  # travels as float32
        world.all_gather(shard, whole, purpose="parameters")
        world.reduce_scatter(whole, shard, purpose="gradients")
        world.broadcast(whole, root=1, purpose="parameters")
        if world.rank == 0:
            world.send(whole, 2, purpose="activations")
        if world.rank == 2:
            world.receive(whole, 0, purpose="activations")
        world.barrier()
        return world.ledger

    ledgers = dist.spawn(main, ranks=3)
    first, second, third = (ledger.report() for ledger in ledgers)

    def entry(sent: int, received: int, messages: int = 1, *, counted: str = "payload") -> dict[str, object]:
        peer: dict[str, object] = {"bytes_sent": sent, "bytes_received": received, "messages": messages}
        return peer | {"rounds": 0, "counted": counted} if counted else peer

    assert first["traffic"] == {
        "all_gather": {"parameters": entry(8, 24)},
        "all_reduce": {"gradients": entry(48, 48, 2)},
        "barrier": {"control": entry(0, 0)},
        "broadcast": {"parameters": entry(0, 24)},
        "reduce_scatter": {"gradients": entry(24, 8)},
        "send": {"activations": entry(24, 0, counted="wire")},
    }
    assert second["traffic"]["broadcast"] == {"parameters": entry(24, 0)}
    assert third["traffic"]["receive"] == {"activations": entry(0, 24, counted="wire")}
    assert first["peers"] == {"2": entry(24, 0, counted="")}
    assert (second["peers"], third["peers"]) == ({}, {"0": entry(0, 24, counted="")})
    assert (first["bytes_sent"], first["bytes_received"], first["messages"]) == (104, 104, 7)
    assert [report["counted"] for report in (first, second, third)] == ["mixed", "payload", "mixed"]
    assert ledgers[0].bytes_by_verb()["all_reduce"] == 48
    assert ledgers[0].bytes_by_purpose()["gradients"] == 72
    ledgers[0].clear()
    assert ledgers[0].report()["traffic"] == {}


def test_one_rank_alone_moves_nothing():
    world = SingleWorld()
    world.all_reduce(np.zeros(10))
    assert world.ledger.report()["messages"] == 0


def test_peers_are_numbered_in_the_whole_world():
    def main(world: World) -> list[int]:
        group = world.split(world.rank // 2)
        if group.rank == 0:
            group.send(np.zeros(1), 1)
        else:
            group.receive(np.zeros(1), 0)
        return list(world.ledger.by_peer)

    assert dist.spawn(main, ranks=4) == [[1], [0], [3], [2]]


# ------------------------------------------------------------------------------------ misuse


def read_only() -> np.ndarray:
    array = np.zeros(3)
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("misuse", "kind", "message"),
    [
        (lambda w: w.all_reduce(np.zeros((4, 4))[:, 1]), ShapeError, "not C-contiguous"),
        (lambda w: w.all_reduce([1.0, 2.0]), DTypeError, "got array of type list"),
        (lambda w: w.all_reduce(np.array(["a"])), DTypeError, "native numbers"),
        (lambda w: w.all_reduce(np.zeros(2, ">f8")), DTypeError, "native numbers"),
        (lambda w: w.all_reduce(np.zeros(2, bool)), DTypeError, "bool to take the sum of"),
        (
            lambda w: w.all_reduce(np.zeros(2, complex), operation="max"),
            DTypeError,
            "complex128 to take the max",
        ),
        (
            lambda w: w.all_reduce(np.zeros(2), operation="mean"),
            CommunicationError,
            "'mean'; there are sum, max",
        ),
        (lambda w: w.all_reduce(np.zeros(2), purpose="fun"), CommunicationError, "purpose 'fun'"),
        (lambda w: w.all_reduce(read_only()), CommunicationError, "read-only array"),
        (
            lambda w: w.broadcast(np.zeros(2), root=3),
            CommunicationError,
            "rank 3; this world has ranks 0 to 2",
        ),
        (lambda w: w.send(np.zeros(2), -1), CommunicationError, "rank -1; this world has ranks 0 to 2"),
        (lambda w: w.send(np.zeros(2), 0, tag=-4), CommunicationError, "tag -4"),
        (
            lambda w: w.all_gather(np.zeros(2), np.zeros(7)),
            ShapeError,
            r"2 elements .* its count is 3 of \(3, 2, 2\)",
        ),
        (lambda w: w.all_gather(np.zeros(2, int), np.zeros(6)), DTypeError, "float64 beside int64"),
        (lambda w: w.reduce_scatter(np.zeros(6), np.zeros(2), counts=[2, 2]), ShapeError, "give 3 counts"),
        (
            lambda w: w.reduce_scatter(np.zeros(6), np.zeros(2), counts=[2, 5, -1]),
            ShapeError,
            "give 3 counts",
        ),
        (lambda w: w.split(-1), CommunicationError, "color -1"),
    ],
)
def test_misuse_is_refused_at_the_rank_that_commits_it(misuse, kind, message):
    def main(world: World) -> None:
        if world.rank == 0:
            misuse(world)

    with pytest.raises(kind, match=f"rank 0 of 3: .*{message}") as caught:
        dist.spawn(main, ranks=3)
    assert isinstance(caught.value, MinigradError)
