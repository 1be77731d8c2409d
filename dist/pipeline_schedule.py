"""Which schedule a pipeline runs: by its name or as it is, held to ranks, stages and slices."""

from collections.abc import Sequence

from minigrad.dist.schedule import Schedule
from minigrad.dist.schedules import SCHEDULES, make
from minigrad.errors import UsageError


def find_schedule(
    schedule: str | Schedule, ranks: int, chunks: int, stages: int, slices: Sequence[int], batches: int
) -> Schedule:
    """The schedule that was asked for. Raises UsageError if it does not fit ranks, stages and slices."""
    if slices and min(slices) < 1:
        raise UsageError(f"lengths of slices are at least 1, and these are {list(slices)}")
    if isinstance(schedule, str):
        if stages % ranks:
            raise UsageError(
                f"{stages} stages cannot be dealt out to {ranks} ranks; give a balance of {ranks} numbers, "
                "or of a multiple of that"
            )
        uses = SCHEDULES[schedule].uses if schedule in SCHEDULES else ()
        found = make(
            schedule,
            ranks,
            chunks,
            virtual=stages // ranks,
            slices=max(1, len(slices)) if "slices" in uses else 1,
            batches=batches,
        )
    else:
        found = schedule
        if chunks not in (1, found.microbatches):
            raise UsageError(
                f"the schedule {found.name} is for {found.microbatches} microbatches, and chunks {chunks}; "
                "leave chunks out"
            )
    if len(found.ranks) != ranks:
        raise UsageError(
            f"the schedule {found.name} is for {len(found.ranks)} ranks, and this world has {ranks}"
        )
    if found.stages != stages:
        raise UsageError(
            f"the schedule {found.name} has {found.stages} stages, and the balance {stages}; give one number "
            "of layers per stage"
        )
    if found.slices != max(1, len(slices)):
        raise UsageError(
            f"the schedule {found.name} has {found.slices} token slices, and {len(slices)} lengths of slices "
            "were given; give one length per slice, and only to a schedule that has slices"
        )
    return found
