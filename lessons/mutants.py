"""Mistakes that learners really make, planted into a lesson's solution: its checks must catch each."""

import importlib.util
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
    source = (lesson.folder / "solution.py").read_text(encoding="utf-8")
    if source.count(mutant.before) != 1:
        raise UsageError(
            f"{lesson.name}/mutants.py: {mutant.before!r} occurs {source.count(mutant.before)} times in "
            "solution.py; a mutant replaces text that occurs once"
        )
    path = folder / "exercise.py"
    path.write_text(source.replace(mutant.before, mutant.after), encoding="utf-8")
    return path
