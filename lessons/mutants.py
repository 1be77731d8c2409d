"""Mistakes that learners really make, planted into a lesson's solution: its checks must catch each."""

import importlib.util
import random
from dataclasses import dataclass
from pathlib import Path

from minigrad.errors import UsageError
from minigrad.lessons.catalogue import Lesson


@dataclass(frozen=True)
class Mutant:
    """One mistake: in the solution of `exercise`, `before` (which occurs once) is replaced by `after`."""

    exercise: str
    mistake: str
    before: str
    after: str


def mutants_of(lesson: Lesson) -> list[Mutant]:
    """The list `MUTANTS` of a lesson's `mutants.py`."""
    spec = importlib.util.spec_from_file_location(f"mutants_{lesson.number}", lesson.folder / "mutants.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return list(module.MUTANTS)


def plant(lesson: Lesson, mutant: Mutant, folder: Path) -> Path:
    """Write the solution with one mistake as `folder`/exercise.py. Raises UsageError if it does not fit."""
    path = folder / "exercise.py"
    path.write_text(planted(lesson, mutant), encoding="utf-8")
    return path


def planted(lesson: Lesson, mutant: Mutant) -> str:
    """The text of the solution with one mistake. Raises UsageError if it does not fit."""
    source = (lesson.folder / "solution.py").read_text(encoding="utf-8")
    if source.count(mutant.before) != 1:
        raise UsageError(
            f"{lesson.name}/mutants.py: {mutant.before!r} occurs {source.count(mutant.before)} times in "
            "solution.py; a mutant replaces text that occurs once"
        )
    return source.replace(mutant.before, mutant.after)


@dataclass(frozen=True)
class Control:
    """An answer to one exercise that the grader knows to be right or wrong, and the judge does not."""

    exercise: str
    checks: tuple[str, ...]
    source: str
    right: bool


def controls_of(lesson: Lesson) -> list[Control]:
    """The solution and a mistake for each exercise, drawn and in an order that nobody can know beforehand.

    Judged after a submission, in its process, they show whether it changed the judge. None where the copy of
    the course has no solutions.
    """
    if not (lesson.folder / "solution.py").is_file():
        return []
    dice, found = random.SystemRandom(), []
    solution = (lesson.folder / "solution.py").read_text(encoding="utf-8")
    mutants = mutants_of(lesson)
    for exercise in lesson.exercises:
        found.append(Control(exercise.key, exercise.checks, solution, right=True))
        mistakes = [mutant for mutant in mutants if mutant.exercise == exercise.key]
        if mistakes:
            wrong = planted(lesson, dice.choice(mistakes))
            found.append(Control(exercise.key, exercise.checks, wrong, right=False))
    dice.shuffle(found)
    return found
