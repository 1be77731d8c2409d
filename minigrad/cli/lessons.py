"""`minigrad lessons`: what there is to learn, and how far you are."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minigrad.lessons import Lesson


def add_parser(subparsers: Any) -> None:
    """Add `lessons` to the command line."""
    subparsers.add_parser(
        "lessons",
        help="list the lessons of the course, and your state in each",
        description="List the lessons: paper, what you build, ranks, minutes of your time, and your state.",
        allow_abbrev=False,
    )


def main(args: argparse.Namespace) -> int:
    """Print the table and return 0."""
    from rich.console import Console
    from rich.table import Table

    from minigrad.lessons import lessons
    from minigrad.lessons.catalogue import state_of

    table = Table(box=None, pad_edge=False)
    for heading, justify in (
        ("", "right"),
        ("lesson", "left"),
        ("you build", "left"),
        ("paper", "left"),
        ("ranks", "right"),
        ("minutes", "right"),
        ("you", "left"),
    ):
        table.add_column(heading, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for lesson in lessons():
        exercise = own_exercise(lesson)
        state = "" if exercise is None else state_of(exercise.parent)
        papers = "; ".join(part.partition(",")[0].strip() for part in lesson.paper.split(";"))
        words = (lesson.title, lesson.builds, papers, str(lesson.ranks), str(lesson.minutes), state)
        table.add_row(str(lesson.number), *words)
    Console(highlight=False).print(table)
    print("\n`minigrad learn N` begins a lesson; `minigrad check N` checks your answers")
    return 0


def own_exercise(lesson: "Lesson") -> Path | None:
    """The learner's file for a lesson: here, in a copy made by `minigrad learn`, or in a clone."""
    candidates: tuple[Path, ...] = (
        Path(lesson.name, "exercise.py"),
        Path("lessons", lesson.name, "exercise.py"),
    )
    if Path.cwd().name == lesson.name:
        candidates = (Path("exercise.py"), *candidates)
    return next((path for path in candidates if path.is_file()), None)
