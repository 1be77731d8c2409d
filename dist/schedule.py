"""Pipeline schedules are data: for each rank a list of actions, printed, parsed, checked, timed and executed.

An action is written `F2@0`: forward of microbatch 2 on stage 0; `F2.1@0` is its token slice 1. A stage is a
part of the model; a rank may hold several (virtual stages), and every stage lives on one rank. With one line
per rank, a schedule is a plain text table:

    0: F0@0 F1@0 .    .    B0@0 B1@0
    1: .    F0@1 B0@1 F1@1 B1@1

Dots (idle) and everything after `#` are for the reader. Without `@` the stage is the rank's own number.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property
from typing import NamedTuple

from minigrad.errors import UsageError


class Kind(Enum):
    """What an action does; the value is how it is written."""

    FORWARD = "F"
    BACKWARD = "B"  # gradients of inputs and weights in one walk
    BACKWARD_INPUTS = "I"  # the first part of a backward: what the stage before waits for
    BACKWARD_WEIGHTS = "W"  # its rest, whenever there is time
    SEND_ACTIVATION = "SF"
    RECEIVE_ACTIVATION = "RF"
    SEND_GRADIENT = "SB"
    RECEIVE_GRADIENT = "RB"
    UPDATE = "U"  # the optimizer takes the gradients since the update before; the number counts updates
    GATHER = "G"  # the parameters of the stage are made whole; the number counts
    REDUCE = "R"  # the gradients of the stage are summed over copies; the number counts

    __hash__ = object.__hash__  # there is one of each, and large schedules ask often


F, B, I, W = Kind.FORWARD, Kind.BACKWARD, Kind.BACKWARD_INPUTS, Kind.BACKWARD_WEIGHTS  # noqa: E741
COMPUTE = frozenset((F, B, I, W))
SENDS = frozenset((Kind.SEND_ACTIVATION, Kind.SEND_GRADIENT))
RECEIVES = frozenset((Kind.RECEIVE_ACTIVATION, Kind.RECEIVE_GRADIENT))
RECEIVE_OF = {
    Kind.SEND_ACTIVATION: Kind.RECEIVE_ACTIVATION,
    Kind.SEND_GRADIENT: Kind.RECEIVE_GRADIENT,
}

_NUMBER = r"(\d{1,9})"
_ACTION = re.compile(rf"(SF|RF|SB|RB|[FBIWUGR]){_NUMBER}(?:\.{_NUMBER})?(?:@{_NUMBER})?")


class Action(NamedTuple):
    """One thing that one rank does. For updates, gathers and reduces `microbatch` counts them."""

    stage: int
    kind: Kind
    microbatch: int
    slice: int = 0

    def __str__(self) -> str:
        part = f".{self.slice}" if self.slice else ""
        return f"{self.kind.value}{self.microbatch}{part}@{self.stage}"

    @property
    def peer_stage(self) -> int:
        """The stage at the other end of a send or receive."""
        return self.stage + (1 if self.kind in (Kind.SEND_ACTIVATION, Kind.RECEIVE_GRADIENT) else -1)

    def mirrored(self) -> "Action":
        """The receive that a send meets."""
        return Action(self.peer_stage, RECEIVE_OF[self.kind], self.microbatch, self.slice)


@dataclass(frozen=True)
class Schedule:
    """What every rank does, in order. Build one with `make`, parse one, or write the lists by hand.

    ranks      one sequence of actions per rank
    name       for titles only: two schedules are equal if their actions are
    versions   rules for weights of several ages that go with it, the first unless one is chosen (see
               `minigrad.dist.weight_versions`); those of the catalogue that update while they run have some
    """

    ranks: tuple[tuple[Action, ...], ...]
    name: str = field(default="schedule", compare=False)
    versions: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ranks", tuple(map(tuple, self.ranks)))

    def __str__(self) -> str:
        return "".join(
            f"{rank}: {' '.join(map(str, actions))}".rstrip() + "\n"
            for rank, actions in enumerate(self.ranks)
        )

    def __iter__(self) -> Iterator[Action]:
        return (action for actions in self.ranks for action in actions)

    @cached_property
    def stages(self) -> int:
        return 1 + max((action.stage for action in self), default=-1)

    @cached_property
    def microbatches(self) -> int:
        return 1 + max((action.microbatch for action in self if action.kind in COMPUTE), default=-1)

    @cached_property
    def slices(self) -> int:
        return 1 + max((action.slice for action in self), default=0)

    @cached_property
    def rank_of(self) -> tuple[int, ...]:
        """The rank that computes each stage; -1 where none does."""
        home = [-1] * self.stages
        for rank, actions in enumerate(self.ranks):
            for action in actions:
                if action.kind in COMPUTE:
                    home[action.stage] = rank
        return tuple(home)

    @cached_property
    def places(self) -> dict[Action, tuple[int, int]]:
        """Where each action stands: its rank, and its place in that rank's list."""
        return {
            action: (rank, place)
            for rank, actions in enumerate(self.ranks)
            for place, action in enumerate(actions)
        }

    def stages_of(self, rank: int) -> list[int]:
        """The stages that a rank computes, in their order in the model."""
        return [stage for stage, home in enumerate(self.rank_of) if home == rank]

    def only(self, kinds: Iterable[Kind]) -> "Schedule":
        """The same schedule with the actions of these kinds alone."""
        kept = frozenset(kinds)
        return replace(self, ranks=tuple(tuple(a for a in row if a.kind in kept) for row in self.ranks))

    def gradient_action(self, stage: int, microbatch: int, slice: int = 0) -> Action:
        """The action from which the stage before gets its gradient: a whole backward, or its first part."""
        split = Action(stage, I, microbatch, slice)
        return split if split in self.places else Action(stage, B, microbatch, slice)

    def dependencies(self, action: Action) -> list[Action]:
        """The computations whose results `action`, a computation, needs.

        A later token slice needs the keys and values of the one before it, whose backward in turn needs the
        gradients that flow into them (TeraPipe §3.2).
        """
        stage, kind, number, part = action.stage, action.kind, action.microbatch, action.slice
        if kind is F:
            needed = [Action(stage - 1, F, number, part)] if stage else []
            return [*needed, Action(stage, F, number, part - 1)] if part else needed
        if kind is W:
            return [Action(stage, I, number, part)]
        needed = [Action(stage, F, number, part)]
        if stage + 1 < self.stages:
            needed.append(self.gradient_action(stage + 1, number, part))
        if part + 1 < self.slices:
            needed.append(self.gradient_action(stage, number, part + 1))
        return needed

    @cached_property
    def update_of(self) -> dict[tuple[int, int], int]:
        """For each (stage, microbatch): the number of the update that takes its gradient, if there is one."""
        found: dict[tuple[int, int], int] = {}
        for actions in self.ranks:
            waiting: dict[int, set[int]] = {}
            for action in actions:
                if action.kind in (B, W):
                    waiting.setdefault(action.stage, set()).add(action.microbatch)
                elif action.kind is Kind.UPDATE:
                    for number in waiting.pop(action.stage, ()):
                        found[action.stage, number] = action.microbatch
        return found


def parse(text: str, *, name: str = "schedule") -> Schedule:
    """Read a schedule from its text, one line per rank; `str(schedule)` writes it.

    Raises UsageError that names the line and the cell which is no action, and for ranks out of order.

    >>> schedule = parse("F0 F1 . B0 B1", name="alone")
    >>> print(schedule, end="")
    0: F0@0 F1@0 B0@0 B1@0
    """
    rows: list[tuple[Action, ...]] = []
    for number, line in enumerate(text.splitlines(), 1):
        cells = line.partition("#")[0].strip()
        if not cells:
            continue
        label, colon, rest = cells.partition(":")
        if colon and label.removeprefix("rank").strip() != str(len(rows)):
            raise UsageError(
                f"line {number} of the schedule begins {label + ':'!r}, but it is that of rank {len(rows)}; "
                "give one line per rank, in order, or leave the numbers out"
            )
        words = (rest if colon else cells).split()
        rows.append(
            tuple(
                _parse_cell(word, len(rows), number, place)
                for place, word in enumerate(words, 1)
                if word.strip(".-")
            )
        )
    if not any(rows):
        raise UsageError("the schedule has no actions; give one line per rank, such as `0: F0@0 B0@0`")
    return Schedule(tuple(rows), name)


def _parse_cell(word: str, rank: int, line: int, place: int) -> Action:
    match = _ACTION.fullmatch(word)
    if match is None:
        kinds = ", ".join(kind.value for kind in Kind)
        raise UsageError(
            f"line {line} of the schedule, cell {place}: {word[:40]!r} is no action; write a kind ({kinds}), "
            "the number of the microbatch and @ the stage, as in F2@0"
        )
    kind, microbatch, part, stage = match.groups()
    return Action(int(stage or rank), Kind(kind), int(microbatch), int(part or 0))
