"""A trace: every message and every computation of all ranks, on one clock, to look at.

Each rank writes down what it does; rank 0 collects it, moves the clocks together and gives it out as JSON for
a trace viewer (Chrome's, Perfetto) or as a drawing.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from minigrad.dist.ledger import Message
from minigrad.dist.world import World
from minigrad.draw_timeline import Bar, lanes, timeline

COMPUTING, MESSAGES = "computing", "messages"
ROUNDS = 16  # of ping-pong for each clock: the quickest one tells most


@dataclass(frozen=True)
class Event:
    """Something that a rank did: a span of its program, or a message, whose name is the verb."""

    rank: int
    row: str
    name: str
    start_seconds: float
    stop_seconds: float
    details: dict[str, Any] = field(default_factory=dict)


class Trace:
    """Writes down what a rank does from now on, until `close()` or the end of a `with` block.

    Messages come by themselves, those of minigrad's own algorithms beside the collective they make up (what a
    library sends for one, it does not tell); computations are named: `with trace.span("forward",
    microbatch=2): ...`. At the end all ranks call `gather()`. A span tells how long this thread took; on a
    GPU that is the time to launch the work, unless the span waits for it.

    clock   for spans; the clock of messages is time.perf_counter, and any other puts the two apart
    """

    def __init__(self, world: World, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self.world = world
        self.events: list[Event] = []
        self._clock = clock
        self._rank = world.members[world.rank]
        self._before = world.observer
        world.observer, world.ledger.witness = self._see, self._write_down

    def __enter__(self) -> Trace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Write down no more messages; what was written stays."""
        self.world.observer, self.world.ledger.witness = self._before, None

    @contextmanager
    def span(self, name: str, **details: Any) -> Iterator[None]:
        """Write down what the block does as one computation; details are plain values, for the viewer."""
        start = self._clock()
        try:
            yield
        finally:
            self.events.append(Event(self._rank, COMPUTING, name, start, self._clock(), details))

    def gather(self) -> Recording | None:
        """Collect the events of all ranks on rank 0, which gets the recording; the others get None.

        All ranks call it. Times then count from the first event, by the clock of rank 0.
        """
        ledger = self.world.ledger
        watching = ledger.observer, ledger.witness
        ledger.observer = ledger.witness = None
        try:
            offsets = clock_offsets(self.world, clock=self._clock)
            everything = _collect(self.world, [asdict(event) for event in self.events])
        finally:
            ledger.observer, ledger.witness = watching
        if everything is None:
            return None
        events = [
            _moved(Event(**event), -offset)
            for offset, mine in zip(offsets, everything, strict=True)
            for event in mine
        ]
        first = min((event.start_seconds for event in events), default=0.0)
        events = [_moved(event, -first) for event in events]
        return Recording(tuple(sorted(events, key=lambda event: (event.start_seconds, event.rank))))

    def _see(self, message: Message) -> None:
        self._write_down(message)
        if self._before is not None:
            self._before(message)

    def _write_down(self, message: Message) -> None:
        details = asdict(message)
        rank, verb = details.pop("rank"), details.pop("verb")
        times = details.pop("start_seconds"), details.pop("stop_seconds")
        self.events.append(Event(rank, MESSAGES, verb, *times, details))


@dataclass(frozen=True)
class Recording:
    """The events of all ranks, in order. Equal events give equal bytes, whatever is made of them."""

    events: tuple[Event, ...]

    def arrows(self) -> list[tuple[int, int]]:
        """Places in `events` of each send and of the receive that it belongs to.

        Messages of one kind (ranks, tag, purpose, collective, size) arrive in the order in which they were
        sent.
        """
        waiting: dict[tuple[Any, ...], list[int]] = {}
        found = []
        for index, event in enumerate(self.events):
            if event.row == MESSAGES and event.name == "send":
                waiting.setdefault(_kind(event, event.rank, event.details["peer"], "sent"), []).append(index)
        for index, event in enumerate(self.events):
            if event.row == MESSAGES and event.name == "receive":
                sends = waiting.get(_kind(event, event.details["peer"], event.rank, "received"))
                if sends:
                    found.append((sends.pop(0), index))
        return found

    def chrome(self) -> str:
        """The recording as JSON of Chrome's trace format: a process per rank, a row to compute, one for
        messages (more where messages overlap), an arrow from each send to its receive.
        """
        rows, parts = self._rows(), []
        for rank in sorted({event.rank for event in self.events}):
            parts.append({"ph": "M", "name": "process_name", "pid": rank, "args": {"name": f"rank {rank}"}})
        for (rank, row, lane), number in rows.items():
            name = row if lane == 0 else f"{row} {lane + 1}"
            parts.append(
                {"ph": "M", "name": "thread_name", "pid": rank, "tid": number, "args": {"name": name}}
            )
        places = self._lanes()
        for event, lane in zip(self.events, places, strict=True):
            place = {"pid": event.rank, "tid": rows[event.rank, event.row, lane]}
            times = {
                "ts": _micro(event.start_seconds),
                "dur": _micro(event.stop_seconds - event.start_seconds),
            }
            parts.append(
                {"ph": "X", "name": event.name, "cat": event.row, **place, **times, "args": event.details}
            )
        for number, (source, target) in enumerate(self.arrows()):
            for phase, index, more in (("s", source, {}), ("f", target, {"bp": "e"})):
                event = self.events[index]
                # A viewer ties an arrow to the bar that is open then, so it ends a nanosecond before the end.
                last = max(event.start_seconds, event.stop_seconds - 1e-9)
                moment = event.start_seconds if phase == "s" else last
                place = {"pid": event.rank, "tid": rows[event.rank, event.row, places[index]]}
                parts.append(
                    {"ph": phase, "id": number, "name": "message", "cat": MESSAGES, **place}
                    | {"ts": _micro(moment), **more}
                )
        return json.dumps({"traceEvents": parts, "displayTimeUnit": "ms"}, indent=None, sort_keys=True) + "\n"

    def svg(self, *, title: str, caption: str = "") -> str:
        """The recording as a drawing: spans by name, messages by purpose."""
        bars = [
            Bar(
                event.rank,
                event.row,
                event.name if event.row == COMPUTING else event.details.get("purpose", event.name),
                event.start_seconds,
                event.stop_seconds,
            )
            for event in self.events
        ]
        return timeline(bars, arrows=self.arrows(), title=title, caption=caption)

    def write(self, path: str | Path) -> None:
        """Write `chrome()` to a file, which appears when it is complete."""
        partial = Path(f"{path}.partial")
        partial.write_text(self.chrome(), encoding="utf-8")
        os.replace(partial, path)

    def _lanes(self) -> list[int]:
        """For each event the lane of its row: in a viewer, messages of one lane may not overlap."""
        found = [0] * len(self.events)
        for rank in {event.rank for event in self.events}:
            mine = [i for i, e in enumerate(self.events) if e.rank == rank and e.row == MESSAGES]
            bars = [Bar(rank, MESSAGES, "", *_times(self.events[i])) for i in mine]
            for index, lane in zip(mine, lanes(bars), strict=True):
                found[index] = lane
        return found

    def _rows(self) -> dict[tuple[int, str, int], int]:
        """A number for each lane of each row of each rank, computing before messages."""
        used = {(e.rank, e.row, lane) for e, lane in zip(self.events, self._lanes(), strict=True)}
        rows: dict[tuple[int, str, int], int] = {}
        for rank, row, lane in sorted(used):
            rows[rank, row, lane] = sum(other == rank for other, _, _ in rows)
        return rows


def clock_offsets(world: World, *, clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """By how many seconds each rank's clock is ahead of rank 0's, as rank 0 sees it (others get zeros).

    Rank 0 asks each rank for the time and takes the answer as given halfway between question and arrival; of
    several questions the quickest counts, so the error is at most half its round trip (Cristian 1989,
    Probabilistic clock synchronization). Ranks that are threads share one clock.
    """
    offsets = [0.0] * world.size
    if world.kind == "threads":
        return offsets
    answer, tag = np.zeros(1), world.tag_limit
    for rank in range(1, world.size):
        trips = []
        for _ in range(ROUNDS):
            if world.rank == 0:
                asked = clock()
                world.send(answer, rank, tag=tag)
                world.receive(answer, rank, tag=tag)
                arrived = clock()
                trips.append((arrived - asked, float(answer[0]) - (asked + arrived) / 2))
            elif world.rank == rank:
                world.receive(answer, 0, tag=tag)
                answer[0] = clock()
                world.send(answer, 0, tag=tag)
        offsets[rank] = min(trips)[1] if trips else 0.0
    return offsets


def _collect(world: World, mine: list[dict[str, Any]]) -> list[list[dict[str, Any]]] | None:
    """What every rank gives, on rank 0, by rank."""
    text = np.frombuffer(json.dumps(mine).encode(), dtype=np.uint8)
    size, sizes = np.array([text.size]), np.zeros(world.size, dtype=np.int64)
    world.gather(size, sizes)
    if world.rank != 0:
        world.gather(text)
        return None
    everything = np.empty(sizes.sum(), dtype=np.uint8)
    world.gather(text, everything, counts=sizes.tolist())
    ends = np.cumsum(sizes).tolist()
    starts = [end - size for end, size in zip(ends, sizes.tolist(), strict=True)]
    return [json.loads(everything[a:b].tobytes()) for a, b in zip(starts, ends, strict=True)]


def _moved(event: Event, seconds: float) -> Event:
    start, stop = (moment + seconds for moment in _times(event))
    return Event(event.rank, event.row, event.name, start, stop, event.details)


def _times(event: Event) -> tuple[float, float]:
    return event.start_seconds, event.stop_seconds


def _kind(event: Event, source: int, target: int, way: str) -> tuple[Any, ...]:
    details = event.details
    labels = details["tag"], details["purpose"], details.get("part_of"), details.get("algorithm")
    return source, target, *labels, details[f"bytes_{way}"]


def _micro(seconds: float) -> float:
    return round(seconds * 1e6, 3)
