"""Traces: everything of all ranks, on one clock, as JSON that viewers take and as a drawing."""

import itertools
import json
from xml.etree import ElementTree

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigrad import dist
from minigrad.dist.ledger import Message
from minigrad.dist.trace import Event, Recording, Trace, clock_offsets

few = settings(max_examples=15)


def ring(world, steps: int):
    """Each step: a computation, an all-reduce of gradients, and a message to the next rank."""
    with Trace(world) as trace:
        for step in range(steps):
            with trace.span("forward", step=step):
                array = numpy.ones(7)
            world.all_reduce(array, purpose="gradients", algorithm="ring")
            if world.size > 1:
                request = world.start_send(array, (world.rank + 1) % world.size, purpose="activations")
                world.receive(numpy.empty(7), (world.rank - 1) % world.size, purpose="activations")
                request.wait()
    world.barrier()  # after the trace: not in it
    return trace.gather()


@few
@given(st.sampled_from([1, 2, 3, 5]), st.integers(1, 3))
def test_every_message_and_span_of_every_rank_is_there(ranks, steps) -> None:
    recording, *nothing = dist.spawn(ring, ranks=ranks, arguments=(steps,))
    assert nothing == [None] * (ranks - 1)
    others = 2 * (ranks - 1)  # messages of a ring, each way
    names = ["forward"] + ["all_reduce"] * (ranks > 1) + ["receive", "send"] * ((ranks > 1) + others)
    for rank in range(ranks):
        mine = [event for event in recording.events if event.rank == rank]
        assert sorted(event.name for event in mine) == sorted(names * steps)
        assert [e.details["step"] for e in mine if e.name == "forward"] == list(range(steps))
        for event in mine:
            assert 0 <= event.start_seconds <= event.stop_seconds
            if event.row == "messages":
                assert event.details["purpose"] in ("gradients", "activations")
                assert event.details["bytes_sent"] + event.details["bytes_received"] > 0
        whole = [event for event in mine if event.name == "all_reduce"]
        parts = [event for event in mine if event.details.get("part_of") == "all_reduce"]
        assert len(parts) == 2 * others * len(whole)
        for way in ("bytes_sent", "bytes_received"):
            assert sum(e.details[way] for e in parts) == sum(e.details[way] for e in whole)
        for part in parts:
            assert part.details["peer"] == (rank + (1 if part.name == "send" else -1)) % ranks
            assert any(one.start_seconds <= part.start_seconds for one in whole)
            assert any(part.stop_seconds <= one.stop_seconds for one in whole)
    assert min(event.start_seconds for event in recording.events) == 0
    assert [e.start_seconds for e in recording.events] == sorted(e.start_seconds for e in recording.events)


@few
@given(st.sampled_from([2, 3, 5]), st.integers(1, 3))
def test_each_receive_has_an_arrow_from_its_send(ranks, steps) -> None:
    recording = dist.spawn(ring, ranks=ranks, arguments=(steps,))[0]
    arrows = recording.arrows()
    assert len(arrows) == ranks * steps * (1 + 2 * (ranks - 1))
    assert len({target for _, target in arrows}) == len({source for source, _ in arrows}) == len(arrows)
    for source, target in arrows:
        send, receive = recording.events[source], recording.events[target]
        assert (send.name, receive.name) == ("send", "receive")
        assert (send.rank + 1) % ranks == receive.rank
        assert send.details["part_of"] == receive.details["part_of"]
        assert send.start_seconds <= receive.stop_seconds


def test_arrows_go_by_tag_and_not_by_order() -> None:
    def crossed(world):
        with Trace(world) as trace:
            verb = world.start_send if world.rank == 0 else world.start_receive
            tags = (1, 2, 2) if world.rank == 0 else (2, 1, 2)
            for request in [verb(numpy.ones(3), 1 - world.rank, tag=tag) for tag in tags]:
                request.wait()
        return trace.gather()

    recording = dist.spawn(crossed, ranks=2)[0]
    arrows = recording.arrows()
    assert len(arrows) == 3
    for pair in arrows:
        source, target = (recording.events[place].details["tag"] for place in pair)
        assert source == target


def overlapping(ranks: int) -> Recording:
    """A made-up recording in which messages overlap, with times that are exact."""
    message = {"purpose": "activations", "bytes_sent": 8, "bytes_received": 8, "tag": 0}
    events = [Event(0, "computing", "forward", 0.0, 0.25, {"step": 1})]
    for rank, start in itertools.product(range(ranks), (0.125, 0.25, 0.5)):
        events.append(Event(rank, "messages", "send", start, start + 0.5, {**message, "peer": 1 - rank}))
        events.append(Event(rank, "messages", "receive", start, start + 0.25, {**message, "peer": 1 - rank}))
    return Recording(tuple(events))


def test_the_json_is_what_viewers_expect() -> None:
    recording = overlapping(2)
    parts = json.loads(recording.chrome())["traceEvents"]
    bars = [part for part in parts if part["ph"] == "X"]
    assert len(bars) == len(recording.events)
    assert (bars[0]["ts"], bars[0]["dur"], bars[0]["args"]) == (0.0, 250000.0, {"step": 1})
    names = {part["pid"]: part["args"]["name"] for part in parts if part["name"] == "process_name"}
    assert names == {0: "rank 0", 1: "rank 1"}
    rows = {
        (part["pid"], part["tid"]): part["args"]["name"] for part in parts if part["name"] == "thread_name"
    }
    assert rows[0, 0] == "computing"
    assert rows[1, 0] == "messages"
    for one, other in itertools.combinations(bars, 2):  # no two bars of a row overlap
        if (one["pid"], one["tid"]) == (other["pid"], other["tid"]):
            assert one["ts"] + one["dur"] <= other["ts"] or other["ts"] + other["dur"] <= one["ts"]
        assert rows[one["pid"], one["tid"]].startswith(one["cat"])
    starts = {part["id"]: part for part in parts if part["ph"] == "s"}
    ends = {part["id"]: part for part in parts if part["ph"] == "f"}
    assert len(starts) == len(ends) == len(recording.arrows()) == 6
    for flow in [*starts.values(), *ends.values()]:  # a flow is tied to the bar that is open at its time
        open_bars = [
            bar
            for bar in bars
            if (bar["pid"], bar["tid"]) == (flow["pid"], flow["tid"])
            and bar["ts"] <= flow["ts"] < bar["ts"] + bar["dur"]
        ]
        assert [bar["name"] for bar in open_bars] == ["send" if flow["ph"] == "s" else "receive"]


def test_equal_recordings_give_equal_bytes(tmp_path) -> None:
    one, other = overlapping(2), overlapping(2)
    assert one.chrome() == other.chrome()
    drawing = one.svg(title="A step", caption="made up")
    assert drawing == other.svg(title="A step", caption="made up")
    root = ElementTree.fromstring(drawing)
    assert sum(node.get("class") == "arrow" for node in root.iter()) == 6
    one.write(tmp_path / "trace.json")
    assert (tmp_path / "trace.json").read_text() == one.chrome()
    assert [path.name for path in tmp_path.iterdir()] == ["trace.json"]


def test_a_trace_ends_and_hands_on_to_who_watched_before() -> None:
    def main(world) -> tuple[int, int, bool]:
        seen: list[Message] = []
        world.observer = seen.append
        with Trace(world) as trace:
            world.barrier()
        world.barrier()
        return len(trace.events), len(seen), world.observer == seen.append

    assert dist.spawn(main, ranks=2) == [(1, 2, True)] * 2


def test_messages_of_a_part_of_the_world_carry_numbers_of_the_whole() -> None:
    def main(world) -> list:
        with Trace(world) as trace:
            half = world.split(world.rank % 2)
            if half.rank == 0:
                half.send(numpy.ones(3), 1, purpose="activations")
            else:
                half.receive(numpy.ones(3), 0, purpose="activations")
        recording = trace.gather()
        return (
            []
            if recording is None
            else [tuple(recording.events[i].rank for i in pair) for pair in recording.arrows()]
        )

    assert sorted(dist.spawn(main, ranks=4)[0]) == [(0, 2), (1, 3)]


# --------------------------------------------------------------------------------------------- clocks


class Clock:
    """A clock that is ahead by a known time; each look at any of the clocks takes a while."""

    def __init__(self, now: list[float], ahead: float, looks: "itertools.cycle[float]") -> None:
        self.now, self.ahead, self.looks = now, ahead, looks

    def __call__(self) -> float:
        self.now[0] += next(self.looks)
        return self.now[0] + self.ahead


class Processes:
    """A world whose ranks say that they are processes, so that clocks are compared."""

    kind = "mpi"

    def __init__(self, world) -> None:
        self._world = world

    def __getattr__(self, name: str):
        return getattr(self._world, name)


@few
@given(
    st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=4),
    st.lists(st.floats(1e-4, 1e-1), min_size=1, max_size=7),
)
def test_clocks_are_known_to_half_of_the_quickest_round_trip(ahead, looks) -> None:
    now, delays = [0.0], itertools.cycle(looks)

    def main(world) -> list[float]:
        clock = Clock(now, 0.0 if world.rank == 0 else ahead[world.rank - 1], delays)
        return clock_offsets(Processes(world), clock=clock)  # type: ignore[arg-type]

    found = dist.spawn(main, ranks=len(ahead) + 1)[0]
    assert found[0] == 0
    for estimate, truth in zip(found[1:], ahead, strict=True):
        # A round trip is two looks at clocks; where both take as long, halfway is exactly right.
        assert estimate == pytest.approx(truth, abs=max(looks) - min(looks) + 1e-9)


def test_the_quickest_round_trip_counts() -> None:
    looks = itertools.cycle([0.01, 0.09, 0.01, 0.001, 0.001, 0.001])
    now = [0.0]

    def main(world) -> list[float]:
        clock = Clock(now, 5.0 * world.rank, looks)
        return clock_offsets(Processes(world), clock=clock)  # type: ignore[arg-type]

    assert dist.spawn(main, ranks=2)[0] == pytest.approx([0, 5])


def test_a_recording_runs_by_the_clock_of_rank_0() -> None:
    now, looks = [0.0], itertools.cycle([0.0])

    def main(world):
        trace = Trace(Processes(world), clock=Clock(now, 100.0 * world.rank, looks))  # type: ignore[arg-type]
        for turn in range(world.size):
            now[0] = float(turn)
            if turn == world.rank:
                with trace.span("mine"):
                    now[0] += 0.5
            world.barrier()
        trace.close()
        return trace.gather()

    recording = dist.spawn(main, ranks=3)[0]
    assert [(event.rank, event.start_seconds, event.stop_seconds) for event in recording.events] == [
        (rank, pytest.approx(rank), pytest.approx(rank + 0.5)) for rank in range(3)
    ]


def test_thread_ranks_share_a_clock() -> None:
    assert dist.spawn(clock_offsets, ranks=3) == [[0.0, 0.0, 0.0]] * 3


PROGRAM = """
import sys
import time

import numpy

from minigrad import dist
from minigrad.dist.trace import Trace

world = dist.world()
ahead = 1000.0 * world.rank  # clocks of different hosts have nothing in common
with Trace(world, clock=lambda: time.perf_counter() + ahead) as trace:
    for _ in range(5):
        world.barrier()
        with trace.span("meet"):
            world.barrier()
recording = trace.gather()
if recording is not None:
    recording.write(sys.argv[1])
"""


def test_processes_are_shown_on_one_clock(mpirun, tmp_path) -> None:
    mpirun(["-c", PROGRAM, str(tmp_path / "trace.json")], ranks=3)
    parts = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    spans = [part for part in parts if part["ph"] == "X" and part["cat"] == "computing"]
    assert sorted(part["pid"] for part in spans) == sorted([0, 1, 2] * 5)
    by_rank = [[part for part in spans if part["pid"] == rank] for rank in range(3)]
    for meeting in zip(*by_rank, strict=True):
        # Nobody leaves a barrier before the last one came.
        first_to_leave = min(part["ts"] + part["dur"] for part in meeting)
        assert max(part["ts"] for part in meeting) < first_to_leave + 5e5  # half a second, of thousands
