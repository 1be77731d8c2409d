"""The lessons there are, read from their files without running them.

The docstring of `lesson.py` is the lesson's label: its first line is the title, and lines such as
`Paper: ...`, `Builds: ...`, `Source: ...` (the files of the library that it rebuilds),
`Ranks: 4` and `Minutes: 60` follow. The exercises, their titles and points are the
`@exercise(...)` decorators of `check.py`.
"""

import ast
import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from minigrad.errors import UsageError

HOME = Path(__file__).resolve().parent
LABELS = ("Paper", "Builds", "Source", "Ranks", "Minutes")


@dataclass(frozen=True)
class Exercise:
    """One exercise of a lesson: its key ("1.2"), title, points, and the checks that decide about it."""

    key: str
    title: str
    points: int
    checks: tuple[str, ...]


@dataclass(frozen=True)
class Lesson:
    """One lesson folder. `source`: files of the library to read beside it; `ranks`: on how many it is at its
    best; `minutes`: a learner's time.
    """

    number: int
    folder: Path
    title: str
    paper: str
    builds: str
    source: tuple[str, ...]
    ranks: int
    minutes: int

    @property
    def name(self) -> str:
        """The folder's name, such as `01_graphs`."""
        return self.folder.name

    @cached_property
    def exercises(self) -> tuple[Exercise, ...]:
        """The exercises, in the order of their keys."""
        return read_exercises(self.folder / "check.py")

    @cached_property
    def version(self) -> str:
        """What identifies the checks that graded an answer: 12 digits of the hash of `check.py`."""
        return hashlib.sha256((self.folder / "check.py").read_bytes()).hexdigest()[:12]

    def exercise(self, key: str) -> Exercise:
        """The exercise with that key. Raises UsageError where there is none."""
        found = [exercise for exercise in self.exercises if exercise.key == key]
        if not found:
            known = ", ".join(exercise.key for exercise in self.exercises)
            raise UsageError(f"lesson {self.number} has no exercise {key}; it has {known}")
        return found[0]


def lessons(home: Path = HOME) -> list[Lesson]:
    """Every lesson of the course, in order."""
    return [read_lesson(folder) for folder in sorted(home.glob("[0-9][0-9]_*")) if folder.is_dir()]


def find_lesson(number: int, home: Path = HOME) -> Lesson:
    """The lesson of that number. Raises UsageError where there is none."""
    for folder in sorted(home.glob(f"{number:02d}_*")):
        return read_lesson(folder)
    known = ", ".join(folder.name[:2].lstrip("0") for folder in sorted(home.glob("[0-9][0-9]_*")))
    raise UsageError(f"there is no lesson {number}; there are {known} (`minigrad lessons` lists them)")


def read_lesson(folder: Path) -> Lesson:
    """Read the label of one lesson folder. Raises UsageError where something of it is missing."""
    path = folder / "lesson.py"
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    labels = dict(re.findall(rf"^({'|'.join(LABELS)}): (.+(?:\n {{4}}.+)*)$", text, re.MULTILINE))
    missing = [label for label in LABELS if label not in labels]
    if missing or not text:
        raise UsageError(f"the docstring of {path} lacks {', '.join(missing)}; see lessons/catalogue.py")
    words = {label: re.sub(r"\s+", " ", value) for label, value in labels.items()}
    return Lesson(
        number=int(folder.name[:2]),
        folder=folder,
        title=text.splitlines()[0].rstrip("."),
        paper=words["Paper"],
        builds=words["Builds"],
        source=tuple(words["Source"].split(", ")),
        ranks=int(words["Ranks"]),
        minutes=int(words["Minutes"]),
    )


def read_exercises(path: Path) -> tuple[Exercise, ...]:
    """The exercises that the decorators of a `check.py` declare; several checks may share one exercise."""
    found: dict[str, Exercise] = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.FunctionDef):
            continue
        for call in node.decorator_list:
            if not (isinstance(call, ast.Call) and getattr(call.func, "id", "") == "exercise"):
                continue
            key, title = (str(ast.literal_eval(argument)) for argument in call.args)
            worth = [ast.literal_eval(word.value) for word in call.keywords if word.arg == "points"]
            before = found.get(key)
            checks = (*before.checks, node.name) if before else (node.name,)
            points = (worth or [1])[0] + (before.points if before else 0)
            found[key] = Exercise(key, before.title if before else title, points, checks)
    return tuple(found[key] for key in sorted(found, key=order))


def order(key: str) -> tuple[int, ...]:
    """How keys such as "12.3" are sorted."""
    return tuple(int(part) for part in key.split("."))


def state_of(folder: Path) -> str:
    """A learner's state in a lesson, as the latest check left it in the folder: new, todo, failed or done."""
    import json

    try:
        results = set(json.loads((folder / ".checked.json").read_text(encoding="utf-8"))["states"])
    except (OSError, ValueError, KeyError, TypeError):
        return "new"
    if results <= {"done"}:
        return "done"
    return "todo" if results <= {"done", "todo"} else "failed"
