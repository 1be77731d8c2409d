"""`check` proves a schedule before anything runs; what is wrong is shown in the grid, with the cell marked.

Four proofs: nothing is missing or twice; nothing comes before what it needs; it runs to its end even if every
send waits for its receive (so no library's buffers are leant on); and memory stays within a bound.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NoReturn

from minigrad.dist.schedule import COMPUTE, RECEIVES, SENDS, Action, B, F, I, Kind, Schedule, W
from minigrad.dist.schedule_grid import marked_grid
from minigrad.dist.schedule_passes import Stuck, messages_of, with_communication
from minigrad.dist.timing import peak_activations
from minigrad.errors import UsageError

MESSAGES = SENDS | RECEIVES


def check(
    schedule: Schedule,
    *,
    most_activations: float | Sequence[float] | None = None,
    forward_only: bool = False,
) -> Schedule:
    """Return the schedule with communication, proved; it may bring its own sends and receives, or none.

    most_activations   the most activations alive on a rank (one number, or one per rank), in those of a
                       whole stage: no bound unless given
    forward_only       whether backwards may be missing, all of them

    Raises UsageError that says what is wrong and shows the grid with the offending cell marked.
    """
    _check_placement(schedule)
    _check_complete(schedule, forward_only=forward_only)
    _check_order(schedule)
    _check_updates(schedule)
    if any(action.kind in MESSAGES for action in schedule):
        _check_messages(schedule)
        complete = schedule
    else:
        try:
            complete = with_communication(schedule)
        except Stuck as stuck:
            _explain(schedule, stuck.waiting)
    _check_rendezvous(complete)
    _check_memory(schedule, most_activations)
    return complete


# ---------------------------------------------------------------------------------- the proofs


def _check_placement(schedule: Schedule) -> None:
    home: dict[int, int] = {}
    for rank, row in enumerate(schedule.ranks):
        for place, action in enumerate(row):
            if home.setdefault(action.stage, rank) != rank:
                _refuse(
                    schedule,
                    f"stage {action.stage} is on rank {home[action.stage]} and on rank {rank}; a stage lives "
                    "on one rank",
                    [(rank, place)],
                )
    for stage in range(schedule.stages):
        if stage not in home:
            _refuse(schedule, f"nothing is done on stage {stage} of {schedule.stages}; give it to a rank")


def _check_complete(schedule: Schedule, *, forward_only: bool) -> None:
    """Every (stage, microbatch, slice) exactly once per kind, and a backward either whole or in two parts."""
    for action, count in Counter(schedule).items():
        if count > 1:
            cells = [
                (rank, place)
                for rank, row in enumerate(schedule.ranks)
                for place, other in enumerate(row)
                if other == action
            ]
            _refuse(schedule, f"{action} comes {count} times; once is enough", cells[1:])
    there = schedule.places
    forward_only = forward_only and all(action.kind not in (B, I, W) for action in schedule)
    for stage in range(schedule.stages):
        for number in range(schedule.microbatches):
            for part in range(schedule.slices):
                f, b, i, w = (Action(stage, kind, number, part) for kind in (F, B, I, W))
                if f not in there:
                    _refuse(schedule, f"{f} is missing; every stage runs every microbatch", _row(schedule, f))
                halves = [i in there, w in there]
                if b in there and any(halves):
                    second = i if i in there else w
                    _refuse(schedule, f"{second} comes beside the whole backward {b}", [there[second]])
                if b not in there and not all(halves) and (any(halves) or not forward_only):
                    missing = b if not any(halves) else (w if i in there else i)
                    _refuse(schedule, f"{missing} is missing", [there[f]])


def _check_order(schedule: Schedule) -> None:
    """Within each rank, everything comes after what it needs there."""
    there = schedule.places
    for rank, row in enumerate(schedule.ranks):
        for place, action in enumerate(row):
            for needed in schedule.dependencies(action) if action.kind in COMPUTE else ():
                if there[needed][0] == rank and there[needed][1] > place:
                    _refuse(schedule, f"{action} comes before {needed}, which it needs", [(rank, place)])


def _check_updates(schedule: Schedule) -> None:
    """Updates count 0, 1, 2, …, miss no gradient, and take the same microbatches on all stages."""
    groups: dict[int, dict[int, int]] = {stage: {} for stage in range(schedule.stages)}
    for (stage, number), update in schedule.update_of.items():
        groups[stage][number] = update
    for rank, row in enumerate(schedule.ranks):
        numbers: Counter[tuple[int, Kind]] = Counter()
        waiting: dict[int, Counter[int]] = defaultdict(Counter)  # slices with a gradient, by microbatch
        for place, action in enumerate(row):
            if action.kind in (B, W):
                waiting[action.stage][action.microbatch] += 1
            if action.kind in (Kind.UPDATE, Kind.GATHER, Kind.REDUCE):
                expected = numbers[action.stage, action.kind]
                numbers[action.stage, action.kind] += 1
                if action.microbatch != expected:
                    wanted = Action(action.stage, action.kind, expected)
                    _refuse(schedule, f"{action} comes where {wanted} is next", [(rank, place)])
            if action.kind is Kind.UPDATE:
                taken = waiting.pop(action.stage, None)
                if taken is None:
                    _refuse(
                        schedule,
                        f"{action} takes no gradient: no backward of its stage ended since the update before",
                        [(rank, place)],
                    )
                for number, slices in taken.items():
                    if slices < schedule.slices:
                        wrong = f"{action} comes between the backwards of the slices of microbatch {number}"
                        _refuse(schedule, wrong, [(rank, place)])
            if schedule.update_of and action.kind in (B, W) and action.microbatch not in groups[action.stage]:
                _refuse(schedule, f"no update takes the gradient of {action}", [(rank, place)])
    for stage in range(1, schedule.stages):
        if groups[stage] != groups[0]:
            first = next(at for action, at in schedule.places.items() if action.stage == stage)
            _refuse(
                schedule,
                f"the updates of stage {stage} take other microbatches than those of stage 0: "
                f"{_grouped(groups[stage])} and {_grouped(groups[0])}",
                [first],
            )


def _check_messages(schedule: Schedule) -> None:
    """A schedule's own messages: all that is needed, nothing else, each between making and use."""
    there = schedule.places
    needed = {send: action for action in there for send in messages_of(schedule, action)}
    for send, maker in needed.items():
        receive = send.mirrored()
        user = _user(schedule, send)
        for message in (send, receive):
            if message not in there:
                _refuse(schedule, f"{message} is missing: {user} needs what {maker} made", [there[user]])
        if there[send] < there[maker]:
            _refuse(schedule, f"{send} comes before {maker}, which makes it", [there[send]])
        if there[receive] > there[user]:
            _refuse(schedule, f"{user} comes before {receive}, which it needs", [there[user]])
    known = {message for send in needed for message in (send, send.mirrored())}
    for action, at in there.items():
        if action.kind in MESSAGES and action not in known:
            _refuse(schedule, f"{action}: no rank needs this message", [at])


def _check_rendezvous(schedule: Schedule) -> None:
    """Run all lists with sends and receives that return only when both sides have come."""
    at = [0] * len(schedule.ranks)
    ready = list(range(len(at)))
    while ready:
        rank = ready.pop()
        row = schedule.ranks[rank]
        while at[rank] < len(row):
            action = row[at[rank]]
            if action.kind in MESSAGES:
                other = schedule.rank_of[action.peer_stage]
                if at[other] == len(schedule.ranks[other]):
                    break
                theirs = schedule.ranks[other][at[other]]
                pair = (action, theirs) if action.kind in SENDS else (theirs, action)
                if pair[0].kind not in SENDS or pair[0].mirrored() != pair[1]:
                    break
                at[other] += 1
                ready.append(other)
            at[rank] += 1
    waiting = [place if place < len(row) else None for place, row in zip(at, schedule.ranks, strict=True)]
    if any(place is not None for place in waiting):
        _explain(schedule, waiting)


def _check_memory(schedule: Schedule, bound: float | Sequence[float] | None) -> None:
    if bound is None:
        return
    if not isinstance(bound, int | float) and len(bound) != len(schedule.ranks):
        raise UsageError(
            f"{len(bound)} bounds were given for the {len(schedule.ranks)} ranks of {schedule.name}; give "
            "one per rank, or one number for all"
        )
    for rank, (peak, place) in enumerate(peak_activations(schedule, places=True)):
        limit = bound if isinstance(bound, int | float) else bound[rank]
        if peak > limit:
            _refuse(
                schedule,
                f"rank {rank} holds the activations of {float(peak):g} whole stages, more than the bound "
                f"{float(limit):g}",
                [(rank, place)],
            )


# ------------------------------------------------------------------------------ saying what is wrong


def _explain(schedule: Schedule, waiting: Sequence[int | None]) -> NoReturn:
    """Refuse a schedule in which no rank can go on, with what each waits for."""
    lines, cells = [], []
    for rank, place in enumerate(waiting):
        if place is None:
            continue
        action = schedule.ranks[rank][place]
        if action.kind in MESSAGES:
            verb = "be received by" if action.kind in SENDS else "come from"
            lines.append(
                f"{action} on rank {rank} waits to {verb} rank {schedule.rank_of[action.peer_stage]}"
            )
        else:
            there, blocked = schedule.places, {r: p for r, p in enumerate(waiting) if p is not None}
            missing = next(
                (n for n in schedule.dependencies(action) if blocked.get(there[n][0], -1) <= there[n][1]
                 and there[n][0] in blocked),
                None,
            )  # fmt: skip
            lines.append(f"{action} on rank {rank} waits for {missing}")
        cells.append((rank, place))
    _refuse(schedule, "deadlock: no rank can go on (" + "; ".join(lines) + ")", cells)


def _user(schedule: Schedule, send: Action) -> Action:
    """The computation that needs a message."""
    receive = send.mirrored()
    if receive.kind is Kind.RECEIVE_ACTIVATION:
        return Action(receive.stage, F, receive.microbatch, receive.slice)
    return schedule.gradient_action(receive.stage, receive.microbatch, receive.slice)


def _row(schedule: Schedule, action: Action) -> list[tuple[int, int]]:
    """Where an action that is missing would be looked for: the end of its rank's list."""
    rank = next(rank for other, (rank, _) in schedule.places.items() if other.stage == action.stage)
    return [(rank, len(schedule.ranks[rank]))]


def _grouped(groups: dict[int, int]) -> str:
    numbers = [sorted(j for j, update in groups.items() if update == u) for u in sorted(set(groups.values()))]
    return " ".join("{" + ", ".join(map(str, group)) + "}" for group in numbers) or "none"


def _refuse(schedule: Schedule, message: str, cells: Iterable[tuple[int, int]] = ()) -> NoReturn:
    marked = list(cells)
    grid = marked_grid(schedule, marked)
    raise UsageError(f"the schedule {schedule.name} cannot run: {message}\n{grid}")
