"""Checking an answer: starts the judge in a process of its own, and adds its findings up by exercise."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import minigrad
from minigrad.lessons.catalogue import Exercise, Lesson
from minigrad.lessons.judge import EXAMPLES, Finding, Task

STATES = ("broken", "endless", "failed", "todo", "done")  # the worst first
PACKAGE_HOME = str(Path(minigrad.__file__).parents[1])  # where this very minigrad is found, installed or not
ENDED = "the answer ended the process in which it was checked, or ran out of its memory"
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
) -> Result:
    """Check the file `subject` as an answer to a lesson, or to exercise `key` of it.

    `profile` is "check" or "grade" (many more examples); `seed` draws others than the usual ones. `guarded`
    refuses what exercises rebuild, and the solution. `command` goes before the judge's own command line
    (grading contains it so), and all that it writes lies in the folder `scratch`.
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
                out=str(Path(folder, "findings.jsonl")),
                checks=tuple(waiting),
                profile=profile,
                seed=seed,
                seconds=limit,
                guarded=guarded,
            )
            found = {finding.check: finding for finding in judge(task, command)}
            for name in waiting:
                if "" in found:  # nothing can be checked at all
                    found.setdefault(name, replace(found[""], check=name))
            for name, finding in found.items():
                if finding.state == "started":
                    found[name] = replace(finding, state="failed", message=ENDED)
            if not found.keys() & set(waiting):
                found[waiting[0]] = Finding(
                    waiting[0], "broken", "the process that checks ended without a word"
                )
            findings |= found
            if any(finding.state == "endless" for finding in found.values()):
                limit = max(limit / 2, min(limit, 10.0))  # or an answer that only sleeps would take an hour
            waiting = [name for name in waiting if name not in findings]
    return Result(lesson, tuple(_verdict(exercise, findings) for exercise in wanted), profile, seed)


def judge(task: Task, command: Sequence[str] = ()) -> list[Finding]:
    """Run one judge process and return what it found before it ended, however it ended."""
    Path(task.out).unlink(missing_ok=True)
    return read_findings(task, run_judge([task], command))


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
                out=str(Path(folder, f"{number}.jsonl")),
                checks=lesson.exercise(key).checks,
                seconds=seconds,
            )
            for number, (key, subject) in enumerate(subjects)
        ]
        said = run_judge(tasks)
        found = [{finding.check: finding for finding in read_findings(task, said)} for task in tasks]
    verdicts = []
    for (key, _), findings in zip(subjects, found, strict=True):
        unknown = findings.get("", Finding("", "done"))
        exercise = lesson.exercise(key)
        every = {name: findings.get(name, replace(unknown, check=name)) for name in exercise.checks}
        verdicts.append(_verdict(exercise, every))
    return verdicts


def run_judge(tasks: Sequence[Task], command: Sequence[str] = ()) -> str:
    """Run a judge process over some tasks; what it printed, which tells something only if it is broken."""
    environment = os.environ | {
        "MINIGRAD_QUICK": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "MINIGRAD_PROGRESS": "off",
        "TMPDIR": str(Path(tasks[0].out).parent),
    }
    environment["PYTHONPATH"] = os.pathsep.join([PACKAGE_HOME, os.environ.get("PYTHONPATH", "")]).rstrip(
        os.pathsep
    )
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        environment.setdefault(name, "1")
    words = [*command, sys.executable, "-m", "minigrad.lessons.judge"]
    # Each check has its own limit; this one is for a judge that cannot keep it.
    limit = sum((task.seconds + 20) * (len(task.checks) + 1) for task in tasks)
    try:
        done = subprocess.run(
            [*words, json.dumps([asdict(task) for task in tasks] if len(tasks) > 1 else asdict(tasks[0]))],
            env=environment,
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
            errors="replace",
        )
        return done.stdout + done.stderr
    except subprocess.TimeoutExpired:
        return f"no result after {limit:g} seconds"


def read_findings(task: Task, said: str = "") -> list[Finding]:
    """What a judge wrote about a task; what makes no sense (an answer may write there, too) is left out."""
    out = Path(task.out)
    if out.is_symlink() or not out.is_file():
        return [Finding("", "broken", said.strip()[-2000:] or "no result")]
    found = []
    for line in out.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            finding = Finding(**json.loads(line))
        except (ValueError, TypeError):
            continue
        if finding.check in ("", *task.checks) and finding.state in (*STATES, "started"):
            found.append(finding)
    return found


def _verdict(exercise: Exercise, findings: dict[str, Finding]) -> Verdict:
    """The checks of one exercise stand or fall together: points are given for all of them or none."""
    own = tuple(findings[name] for name in exercise.checks)
    state = min((finding.state for finding in own), key=STATES.index)
    return Verdict(exercise, state, exercise.points if state == "done" else 0, own)


def fresh_seed() -> int:
    """A seed that nobody could know beforehand, for grading; it is recorded, to grade again the same way."""
    return int.from_bytes(os.urandom(4), "little")


__all__ = ["EXAMPLES", "Result", "Verdict", "check", "check_each", "fresh_seed", "judge"]
