"""What thread ranks report: deadlocks, ranks that do not fit together, errors of one rank."""

import gc
import re
import threading
import time
import weakref

import numpy as np
import pytest

from minigrad import dist
from minigrad.dist.algorithms import ALGORITHMS
from minigrad.dist.mail import Post
from minigrad.dist.threads import Course
from minigrad.dist.world import World
from minigrad.errors import CommunicationError, UsageError


def failure(main, ranks: int) -> str:
    start = time.monotonic()
    with pytest.raises(CommunicationError) as caught:
        dist.spawn(main, ranks=ranks)
    assert time.monotonic() - start < 10  # at once, as machines go, and not after some limit
    return str(caught.value)


# ------------------------------------------------------------------------------------ deadlocks


def test_everybody_receives_first():
    def main(world: World) -> None:
        out = np.zeros(3, np.float32)
        world.receive(out, (world.rank + 1) % world.size, tag=5)
        world.send(out, (world.rank - 1) % world.size, tag=5)

    text = failure(main, 3)
    assert "deadlock" in text
    assert "rank 0 of 3: waits for rank 1 of 3 to send 3 elements of float32 with tag 5" in text
    assert "rank 2 of 3: waits for rank 0 of 3 to send" in text
    assert text.count("(test_threads.py:") == 3


def test_everybody_sends_first():
    def main(world: World) -> None:
        other = 1 - world.rank
        world.send(np.zeros(1), other)
        world.receive(np.zeros(1), other)

    assert "rank 1 of 2: waits for rank 0 of 2 to receive 1 elements" in failure(main, 2)


def test_one_rank_leaves_out_a_collective():
    def main(world: World) -> None:
        world.barrier()
        if world.rank != 1:
            world.all_reduce(np.zeros((2, 3)))

    text = failure(main, 3)
    assert (
        "rank 0 of 3: waits in all_reduce(sum, float64, shape (2, 3)), its collective number 2, for rank 1"
        in text
    )
    assert "rank 1 of 3: has finished" in text


def test_looking_for_ever_is_a_deadlock_too():
    def main(world: World) -> None:
        request = world.start_receive(np.zeros(1), 1 - world.rank)
        while not request.test():
            pass

    assert "waits for rank 1 of 2 to send" in failure(main, 2)


def test_what_was_started_must_be_met():
    def main(world: World) -> None:
        if world.rank == 0:
            world.start_send(np.zeros(4), 1)

    assert "something waits for rank 1 of 2 to receive 4 elements of float64" in failure(main, 2)


def test_alone_waiting_for_oneself():
    world = dist.SingleWorld()
    with pytest.raises(CommunicationError, match="deadlock: rank 0 of 1 waits for rank 0 of 1 to send"):
        world.receive(np.zeros(1), 0)


# ------------------------------------------------------------------------------------ ranks that do not fit


@pytest.mark.parametrize(
    ("first", "second", "both"),
    [
        (
            lambda w: w.all_reduce(np.zeros(3)),
            lambda w: w.barrier(),
            ("all_reduce(sum, float64, shape (3,))", "barrier()"),
        ),
        (
            lambda w: w.all_reduce(np.zeros(3)),
            lambda w: w.all_reduce(np.zeros(4)),
            ("shape (3,)", "shape (4,)"),
        ),
        (
            lambda w: w.all_reduce(np.zeros(3)),
            lambda w: w.all_reduce(np.zeros(3, np.float32)),
            ("float64", "float32"),
        ),
        (
            lambda w: w.all_reduce(np.zeros(3)),
            lambda w: w.all_reduce(np.zeros(3), operation="max"),
            ("sum", "max"),
        ),
        (
            lambda w: w.broadcast(np.zeros(3), root=0),
            lambda w: w.broadcast(np.zeros(3), root=1),
            ("root 0", "root 1"),
        ),
        (
            lambda w: w.all_gather(np.zeros(2), np.zeros(4), counts=[2, 2]),
            lambda w: w.all_gather(np.zeros(1), np.zeros(4), counts=[3, 1]),
            ("counts (2, 2)", "counts (3, 1)"),
        ),
    ],
)
def test_different_collectives_are_reported_with_both_sides(first, second, both):
    def main(world: World) -> None:
        world.barrier()
        (first if world.rank == 0 else second)(world)

    text = failure(main, 2)
    assert re.match(r"rank (0|1) of 2: collective number 2 is .* here, but .* on rank (0|1) of 2", text)
    assert all(part in text for part in both)


@pytest.mark.parametrize(
    "main",
    [
        lambda w: w.gather(np.zeros(2), np.zeros(3) if w.rank == 0 else None, counts=[2, 1]),
        lambda w: w.scatter(np.zeros(3) if w.rank == 0 else None, np.zeros(2), counts=[2, 1]),
        lambda w: w.all_to_all(np.zeros(3), np.zeros(3), counts=[2, 1], counts_received=[2, 1]),
    ],
)
def test_sizes_that_do_not_fit_are_reported_with_both_sides(main):
    assert "rank 0 counts 1 elements for rank 1, which has 2" in failure(main, 2)


@pytest.mark.parametrize("out", [np.zeros(4), np.zeros(3, np.float32)])
def test_messages_that_do_not_fit(out):
    def main(world: World) -> None:
        if world.rank == 0:
            world.send(np.zeros(3), 1)
        else:
            world.receive(out.copy(), 0)

    text = failure(main, 2)
    assert "rank 0 of 2 sends 3 elements of float64" in text
    assert f"rank 1 of 2 receives {out.size} of {out.dtype}" in text


# ------------------------------------------------------------------------------------ one rank fails


class Mine(Exception):
    pass


@pytest.mark.parametrize("ranks", [2, 5])
def test_an_error_on_one_rank_ends_all_and_arrives_as_it_was(ranks):
    unwound: list[int] = []

    def guilty_function() -> None:
        raise Mine("boom")

    def main(world: World) -> None:
        try:
            world.barrier()
            if world.rank == 1:
                guilty_function()
            try:
                world.all_reduce(np.zeros(2))
            except Exception:  # what many programs do, and must not keep a rank alive
                pytest.fail("another rank's failure is no Exception here")
        finally:
            unwound.append(world.rank)

    with pytest.raises(Mine, match="boom") as caught:
        dist.spawn(main, ranks=ranks)
    assert "guilty_function" in [entry.name for entry in caught.traceback]
    said = "".join(getattr(caught.value, "__notes__", [])) + str(caught.value)
    assert f"rank 1 of {ranks} raised this" in said
    assert sorted(unwound) == list(range(ranks))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("rank ")]


def test_leaving_early_without_an_error_is_a_normal_end():
    def main(world: World) -> str:
        if world.rank == 0:
            raise SystemExit(0)
        return "done"

    assert dist.spawn(main, ranks=2) == [None, "done"]


def test_leaving_with_an_error_code_ends_all():
    def main(world: World) -> None:
        if world.rank == 0:
            raise SystemExit(3)
        world.receive(np.zeros(1), 0)

    with pytest.raises(SystemExit) as caught:
        dist.spawn(main, ranks=2)
    assert caught.value.code == 3


def test_abort_names_the_rank():
    def main(world: World) -> None:
        if world.rank == 1:
            world.abort("no data")
        world.barrier()

    assert failure(main, 2).startswith("rank 1 of 2: no data")


# ------------------------------------------------------------------------------------ what stays behind


def test_nothing_of_a_collective_or_a_message_stays_behind():
    def call(world: World, name: str) -> list[weakref.ref[np.ndarray]]:
        array, piece, right = np.ones(7 * world.size), np.ones(7), (world.rank + 1) % world.size
        requests = [world.start_all_reduce(array, algorithm=name)]
        if name in ALGORITHMS["all_gather"]:
            requests.append(world.start_all_gather(piece, np.empty_like(array), algorithm=name))
        sent = world.start_send(piece, right)
        world.receive(np.empty(7), (world.rank - 1) % world.size)
        for request in [*requests, sent]:
            request.wait()
        return [weakref.ref(array), weakref.ref(piece)]

    def main(world: World) -> None:
        for name in ("library", *ALGORITHMS["all_reduce"]):
            kept = call(world, name)
            world.barrier()
            assert not world._group.mail._waiting  # type: ignore[attr-defined]
            assert [array() for array in kept] == [None, None]
            world.barrier()
        assert under_way() == before

    def under_way() -> int:
        return sum(isinstance(thing, Post | Course) for thing in gc.get_objects())

    gc.collect()
    before = under_way()
    gc.disable()  # what only the collector of circles finds has stayed too long
    try:
        dist.spawn(main, ranks=3)
    finally:
        gc.enable()


# ------------------------------------------------------------------------------------ spawn and world


def test_each_thread_has_its_own_world():
    def main(world: World, factor: int) -> int:
        assert dist.world() is world
        assert (world.kind, world.local_rank, world.local_size) == ("threads", world.rank, world.size)
        inner = dist.spawn(lambda inside: dist.world().size * 100 + inside.rank, ranks=2)
        assert inner == [200, 201]
        world.barrier()
        assert dist.world() is world
        return world.rank * factor

    before = dist.world()
    assert dist.spawn(main, ranks=3, arguments=(10,)) == [0, 10, 20]
    assert dist.world() is before
    assert before.kind == "single"


@pytest.mark.parametrize("ranks", [0, -1])
def test_no_ranks_are_refused(ranks):
    with pytest.raises(UsageError, match=f"{ranks} ranks"):
        dist.spawn(lambda world: None, ranks=ranks)


def test_hundreds_of_ranks():
    def main(world: World) -> int:
        total = np.array([world.rank])
        for _ in range(3):
            world.barrier()
        world.all_reduce(total)
        return int(total[0])

    assert set(dist.spawn(main, ranks=300)) == {299 * 300 // 2}
