"""Checking an answer: starts the judge in a process of its own, and adds its findings up by exercise."""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from minigrad.lessons.catalogue import Exercise, Lesson
from minigrad.lessons.judge import EXAMPLES, Finding, Task
from minigrad.lessons.mutants import Control
from minigrad.lessons.session import Session, hold

STATES = ("broken", "tampered", "endless", "failed", "todo", "done", "started")  # the worst first
ENDED = "the answer ended the process in which it was checked, or ran out of its memory"
IMPORTING = Finding("", "started")
ANSWER_BYTES = 1 << 20
SECONDS = {"check": 30.0, "grade": 60.0}


@dataclass(frozen=True)
class Verdict:
    """What came of one exercise: its state (the worst of its checks') and the points earned."""

    exercise: Exercise
    state: str
    points: int
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Result:
    """What came of one lesson."""

    lesson: Lesson
    verdicts: tuple[Verdict, ...]
    profile: str
    seed: int | None

    @property
    def points(self) -> int:
        """Points earned."""
        return sum(verdict.points for verdict in self.verdicts)

    @property
    def possible(self) -> int:
        """Points there are."""
        return sum(verdict.exercise.points for verdict in self.verdicts)

    def as_json(self) -> dict[str, Any]:
        """The result as JSON values: enough to grade again and get the same."""
        return {
            "lesson": self.lesson.number,
            "name": self.lesson.name,
            "version": self.lesson.version,
            "profile": self.profile,
            "seed": self.seed,
            "points": self.points,
            "possible": self.possible,
            "states": [verdict.state for verdict in self.verdicts],
            "exercises": [
                {
                    "exercise": verdict.exercise.key,
                    "title": verdict.exercise.title,
                    "state": verdict.state,
                    "points": verdict.points,
                    "possible": verdict.exercise.points,
                    "findings": [asdict(finding) for finding in verdict.findings],
                }
                for verdict in self.verdicts
            ],
        }


def check(
    lesson: Lesson,
    subject: Path,
    *,
    key: str | None = None,
    profile: str = "check",
    seed: int | None = None,
    guarded: bool = True,
    seconds: float | None = None,
    command: Sequence[str] = (),
    scratch: Path | None = None,
    controls: Sequence[Control] = (),
) -> Result:
    """Check the file `subject` as an answer to a lesson, or to exercise `key` of it.

    `profile` is "check" or "grade" (many more examples); `seed` draws others than the usual ones. `guarded`
    refuses what exercises rebuild, and the solution. `command` goes before the judge's own command line
    (grading contains it so), and all that it writes lies in the folder `scratch`. With `controls` nothing is
    done before the same process has told these right and wrong answers apart.
    """
    wanted = lesson.exercises if key is None else (lesson.exercise(key),)
    waiting = [name for exercise in wanted for name in exercise.checks]
    findings: dict[str, Finding] = {}
    limit = SECONDS[profile] if seconds is None else seconds
    with tempfile.TemporaryDirectory(prefix="minigrad-", dir=scratch) as folder:
        os.chmod(folder, 0o777)  # the judge may run as another user
        while waiting:
            task = Task(
                check=str(lesson.folder / "check.py"),
                subject=str(subject.resolve()),
                checks=tuple(waiting),
                profile=profile,
                seed=seed,
                seconds=limit,
                guarded=guarded,
                controlled=bool(controls),
            )
            session = hold([task], Path(folder), command=command, controls=controls)
            found = worst(task.checks, session.findings[0])
            for name in waiting:
                if "" in found:  # nothing can be checked at all
                    found.setdefault(name, replace(found[""], check=name))
            for name, finding in found.items():
                if finding.state == "started":
                    found[name] = replace(finding, state="failed", message=ENDED)
            begun = any(finding.state == "started" for finding in session.findings[0])
            if controls and begun:  # else nothing of the answer ran that could have changed anything
                found = confirmed(found, waiting, session, controls)
            if not found.keys() & set(waiting):
                said = session.printed or "the process that checks ended without a word"
                state, why = ("failed", ENDED) if begun else ("broken", said)
                found |= {name: Finding(name, state, why) for name in waiting}
            findings |= found
            if any(finding.state == "endless" for finding in found.values()):
                limit = max(limit / 2, min(limit, 10.0))  # or an answer that only sleeps would take an hour
            waiting = [name for name in waiting if name not in findings]
    return Result(lesson, tuple(_verdict(exercise, findings) for exercise in wanted), profile, seed)


def refused(lesson: Lesson, why: str, *, profile: str, seed: int | None) -> Result:
    """The result of an answer that is not even started."""
    found = {name: Finding(name, "failed", why) for exercise in lesson.exercises for name in exercise.checks}
    return Result(lesson, tuple(_verdict(exercise, found) for exercise in lesson.exercises), profile, seed)


def unreadable(path: Path) -> str:
    """Why a file cannot be an answer, in a sentence; empty if it can."""
    try:
        size = path.stat().st_size
        with path.open("rb"):
            pass
    except OSError as error:
        return f"{path.name} cannot be read: {error.strerror}"
    if size > ANSWER_BYTES:
        return f"{path.name} has {size:,} bytes; an answer has at most {ANSWER_BYTES:,}"
    return ""


def worst(checks: Sequence[str], said: Sequence[Finding]) -> dict[str, Finding]:
    """The worst that was said of each check: what an answer adds to its judge's words cannot better them."""
    found: dict[str, Finding] = {}
    for finding in said:
        if finding.check in ("", *checks) and finding.state in STATES and finding != IMPORTING:
            before = found.get(finding.check, finding)
            found[finding.check] = min(before, finding, key=lambda one: STATES.index(one.state))
    return found


def confirmed(
    found: dict[str, Finding], waiting: Sequence[str], session: Session, controls: Sequence[Control]
) -> dict[str, Finding]:
    """What can be believed of the findings, by what the same process then said about the controls."""
    why = ""
    if session.over:
        for control, said in zip(controls, session.findings[1:], strict=True):
            own = worst(control.checks, said)
            states = {own[name].state if name in own else "missing" for name in control.checks}
            if control.right and states != {"done"}:
                why = why or f"after it a right answer to {control.exercise} did not pass"
            if not control.right and not states & {"failed", "endless"}:
                why = why or f"after it a wrong answer to {control.exercise} passed"
    else:  # it never came to the controls, so that whatever passed has to pass again, without what ended it
        found = {name: finding for name, finding in found.items() if finding.state != "done"}
        if not found.keys() & set(waiting):
            why = "its process ended before right and wrong answers were told apart in it"
    if not why:
        return found
    return {
        name: Finding(name, "tampered", f"this answer changed how answers are judged: {why}")
        for name in waiting
    }


def check_each(
    lesson: Lesson, subjects: Sequence[tuple[str, Path]], *, seconds: float = 20.0
) -> list[Verdict]:
    """Check many files of ours, each as the answer to one exercise (its key), in one judge process.

    It imports everything once and checks each file in a child, up to the first check that does not end. Needs
    `os.fork`.
    """
    with tempfile.TemporaryDirectory(prefix="minigrad-") as folder:
        tasks = [
            Task(
                check=str(lesson.folder / "check.py"),
                subject=str(subject.resolve()),
                checks=lesson.exercise(key).checks,
                seconds=seconds,
            )
            for key, subject in subjects
        ]
        session = hold(tasks, Path(folder))
    verdicts = []
    for (key, _), task, said in zip(subjects, tasks, session.findings, strict=True):
        findings = worst(task.checks, said)
        unknown = findings.get("", Finding("", "done" if findings else "broken", session.printed))
        exercise = lesson.exercise(key)
        every = {name: findings.get(name, replace(unknown, check=name)) for name in exercise.checks}
        verdicts.append(_verdict(exercise, every))
    return verdicts


def _verdict(exercise: Exercise, findings: dict[str, Finding]) -> Verdict:
    """The checks of one exercise stand or fall together: points are given for all of them or none."""
    own = tuple(findings[name] for name in exercise.checks)
    state = min((finding.state for finding in own), key=STATES.index)
    return Verdict(exercise, state, exercise.points if state == "done" else 0, own)


def fresh_seed() -> int:
    """A seed that nobody could know beforehand, for grading; it is recorded, to grade again the same way."""
    return int.from_bytes(os.urandom(4), "little")


__all__ = ["EXAMPLES", "Result", "Verdict", "check", "check_each", "fresh_seed"]
