"""Which schedule a pipeline runs: by its name or as it is, held to ranks, stages and slices."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from minigrad.dist.schedule import RECEIVES, SENDS, Kind, Schedule
from minigrad.dist.schedules import SCHEDULES, make
from minigrad.dist.timing import simulate
from minigrad.errors import UsageError
from minigrad.nn.functional.arguments import whole


def find_schedule(
    schedule: str | Schedule,
    ranks: int,
    chunks: int,
    stages: int,
    slices: Sequence[int],
    batches: int,
    *,
    virtual: bool = False,
) -> Schedule:
    """The schedule that was asked for. Raises UsageError if it does not fit ranks, stages and slices, and for
    gathers and reduces that are not one around all of a stage.

    Where a rank has several stages and the schedule is for one on each, stage s is on rank s mod ranks; with
    `virtual`, for a schedule made for that only, it is refused.
    """
    chunks, batches = whole("Pipeline", chunks=chunks, batches=batches)
    if slices and min(slices) < 1:
        raise UsageError(f"lengths of slices are at least 1, and these are {list(slices)}")
    if isinstance(schedule, str):
        if stages < 1 or stages % ranks:
            raise UsageError(
                f"{stages} stages cannot be dealt out to {ranks} ranks; give a balance of {ranks} numbers, "
                "or of a multiple of that"
            )
        uses = SCHEDULES[schedule].uses if schedule in SCHEDULES else ()
        deal = stages > ranks and "virtual" not in uses and not virtual
        found = make(
            schedule,
            stages if deal else ranks,
            chunks,
            virtual=1 if deal else stages // ranks,
            slices=max(1, len(slices)) if "slices" in uses else 1,
            batches=batches,
        )
        found = dealt_out(found, ranks) if deal else found
    elif not isinstance(schedule, Schedule):
        raise UsageError(f"the schedule is {schedule!r}; give the name of one, or a Schedule")
    else:
        found = schedule
        if chunks not in (1, found.microbatches):
            raise UsageError(
                f"the schedule {found.name} is for {found.microbatches} microbatches, and chunks {chunks}; "
                "leave chunks out"
            )
    refuse_misfits(found, ranks, stages, slices)
    return found


def refuse_misfits(found: Schedule, ranks: int, stages: int, slices: Sequence[int]) -> None:
    """Raise UsageError for a schedule that does not fit ranks, stages and slices, and for gathers and reduces
    that are not one around all of a stage.
    """
    _refuse_shares(found)
    if len(found.ranks) != ranks:
        raise UsageError(
            f"the schedule {found.name} is for {len(found.ranks)} ranks, and this world has {ranks}"
        )
    if found.stages != stages:
        raise UsageError(
            f"the schedule {found.name} has {found.stages} stages, and the balance {stages}; give one number "
            "of layers per stage"
        )
    if found.slices == 1 < len(slices):
        having = ", ".join(name for name, entry in SCHEDULES.items() if "slices" in entry.uses)
        raise UsageError(
            f"the schedule {found.name} runs whole sequences, and {len(slices)} token slices were asked for; "
            f"leave slices out, or take a schedule that has some ({having})"
        )
    if found.slices != max(1, len(slices)):
        raise UsageError(
            f"the schedule {found.name} has {found.slices} token slices, and {len(slices)} lengths of slices "
            "were given; give one length per slice, and only to a schedule that has slices"
        )


def _refuse_shares(found: Schedule) -> None:
    """Where anything is gathered or reduced, every stage is gathered once, computes, and is reduced once."""
    shares = [action for action in found if action.kind in (Kind.GATHER, Kind.REDUCE)]
    updates = next((action for action in found if action.kind is Kind.UPDATE), None)
    if shares and updates:
        raise UsageError(
            f"the schedule {found.name} has {shares[0]} and {updates}, and ZeRO updates after all of it; "
            "leave updates out, or G and R"
        )
    for stage in range(found.stages) if shares else ():
        row = [action for action in found if action.stage == stage and action.kind not in (*SENDS, *RECEIVES)]
        kinds = [action.kind for action in row]
        around = kinds[:1] == [Kind.GATHER] and kinds[-1:] == [Kind.REDUCE]
        if not around or kinds.count(Kind.GATHER) + kinds.count(Kind.REDUCE) > 2:
            raise UsageError(
                f"the schedule {found.name} has {shares[0]}, and stage {stage} runs "
                f"{' '.join(map(str, row))}; gather every stage once, before anything of it, and reduce it "
                "once, after all of it (with_shards does that), or leave G and R out"
            )


def dealt_out(schedule: Schedule, ranks: int) -> Schedule:
    """A schedule for one stage on each rank on fewer: stage s on rank s mod `ranks`, in the order in which a
    clock would begin everything. One order for all, so no rank can wait for another in a circle.
    """
    rows: list[list[Any]] = [[] for _ in range(ranks)]
    for span in sorted(simulate(schedule).spans, key=lambda span: span.start):
        rows[span.action.stage % ranks].append(span.action)
    return replace(schedule, ranks=tuple(map(tuple, rows)))


def whole_numbers(name: str, values: Any) -> list[int]:
    """An argument of a pipeline that is a list of whole numbers. Raises UsageError for anything else."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise UsageError(f"Pipeline: {name} is {values!r}; expected a list of whole numbers")
    return list(whole("Pipeline", None, **{f"{name}[{place}]": n for place, n in enumerate(values)}))
