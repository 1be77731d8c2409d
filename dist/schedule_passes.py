"""Passes: functions from a schedule to a schedule. Communication is put in here, never by a generator.

Sends and receives are placed on both sides at once, in one global order: that of the moments at which the
results exist when every rank works as soon as it can. Each rank's list is a part of that one order, so no
rank can wait for another in a circle, even where a send returns only when it was received.
"""

import heapq
from collections.abc import Callable, Iterator
from dataclasses import replace

from minigrad.dist.schedule import COMPUTE, Action, B, F, I, Kind, Schedule, W
from minigrad.errors import UsageError

UNITS = {F: 1, B: 2, I: 1, W: 1}


def messages_of(schedule: Schedule, action: Action) -> Iterator[Action]:
    """The send that follows a computation, if what it made is needed on another rank."""
    home, stage = schedule.rank_of, action.stage
    if action.kind is F and stage + 1 < schedule.stages and home[stage + 1] != home[stage]:
        yield Action(stage, Kind.SEND_ACTIVATION, action.microbatch, action.slice)
    if action.kind in (B, I) and stage and home[stage - 1] != home[stage]:
        yield Action(stage, Kind.SEND_GRADIENT, action.microbatch, action.slice)


class Stuck(UsageError):
    """No rank can go on; `waiting` says, per rank, which action of its list it cannot begin (or None)."""

    def __init__(self, waiting: list[int | None]) -> None:
        super().__init__("no rank can go on")
        self.waiting = waiting


def with_communication(schedule: Schedule, *, units: Callable[[Action], float] | None = None) -> Schedule:
    """The schedule with a send after each result that another rank needs, and a receive over there.

    `units` says how long an action takes (default: forward 1, backward 2, its parts 1); it only decides the
    order of messages. Raises Stuck where the computations wait for each other in a circle, and UsageError for
    a schedule that has messages already.
    """
    if any(action.kind not in (*COMPUTE, *_WITHOUT_TIME) for action in schedule):
        raise UsageError("the schedule has sends and receives already; take them out with schedule.only(...)")
    cost = units or (lambda action: UNITS.get(action.kind, 0))
    lists: list[list[Action]] = [[] for _ in schedule.ranks]
    place = [0] * len(lists)
    done: set[Action] = set()
    asking = list(range(len(lists)))  # ranks that may be able to go on
    waiting: dict[Action, list[int]] = {}  # ranks that cannot, by what they wait for
    running: list[tuple[float, int, Action]] = []
    now = 0.0
    while True:
        for rank in sorted(asking):
            row = schedule.ranks[rank]
            if place[rank] == len(row):
                continue
            action = row[place[rank]]
            missing = next((needed for needed in _needs(schedule, action) if needed not in done), None)
            if missing is not None:
                waiting.setdefault(missing, []).append(rank)
                continue
            lists[rank].append(action)
            heapq.heappush(running, (now + cost(action), rank, action))
            place[rank] += 1
        asking = []
        if not running:
            break
        now = running[0][0]
        while running and running[0][0] == now:
            _, rank, action = heapq.heappop(running)
            done.add(action)
            asking += [rank, *waiting.pop(action, ())]
            for send in messages_of(schedule, action):
                lists[rank].append(send)
                lists[schedule.rank_of[send.peer_stage]].append(send.mirrored())
    if any(at < len(row) for at, row in zip(place, schedule.ranks, strict=True)):
        raise Stuck([at if at < len(row) else None for at, row in zip(place, schedule.ranks, strict=True)])
    return replace(schedule, ranks=tuple(map(tuple, lists)))


_WITHOUT_TIME = (Kind.UPDATE, Kind.GATHER, Kind.REDUCE)


def _needs(schedule: Schedule, action: Action) -> list[Action]:
    return schedule.dependencies(action) if action.kind in COMPUTE else []


def with_shards(schedule: Schedule) -> Schedule:
    """The schedule with a gather before the first use of each stage, and a reduce after its last gradient.

    For parameters that are sharded over a data-parallel axis and kept whole for the length of a batch: on the
    clock of `simulate`, and by `MeshZeRO(..., stage=3, pipeline=pipeline)`.
    """
    lists = []
    for row in schedule.ranks:
        last = {action.stage: place for place, action in enumerate(row) if action.kind in (B, W)}
        seen: set[int] = set()
        actions: list[Action] = []
        for place, action in enumerate(row):
            if action.kind in COMPUTE and action.stage not in seen:
                seen.add(action.stage)
                actions.append(Action(action.stage, Kind.GATHER, 0))
            actions.append(action)
            if last.get(action.stage) == place:
                actions.append(Action(action.stage, Kind.REDUCE, 0))
        lists.append(tuple(actions))
    return replace(schedule, ranks=tuple(lists))


def forward_only(schedule: Schedule) -> Schedule:
    """What is left of a schedule when nothing is learned: its forwards."""
    return schedule.only((F,))
