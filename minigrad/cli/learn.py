"""`minigrad learn`: take a lesson into the working folder."""

import argparse
import shutil
from pathlib import Path
from typing import Any

from minigrad.errors import UsageError


def add_parser(subparsers: Any) -> None:
    """Add `learn` to the command line."""
    parser = subparsers.add_parser(
        "learn",
        help="begin a lesson: its text and exercises, copied to this folder",
        description="Copy the text and the exercises of a lesson to this folder, and say how to go on.",
        allow_abbrev=False,
    )
    parser.add_argument("number", type=int, metavar="N", help="the lesson's number")


def main(args: argparse.Namespace) -> int:
    """Copy the lesson and print the steps. Raises UsageError where that folder cannot be made."""
    from minigrad.dist.checkpoint_files import explained, remove_folder
    from minigrad.lessons import find_lesson

    lesson = find_lesson(args.number)
    target = Path(lesson.name)
    if (
        Path("lessons", lesson.name).is_dir()
        and Path("lessons", lesson.name).resolve() == lesson.folder.resolve()
    ):
        target = Path("lessons", lesson.name)  # a clone: work in it
    elif target.exists():
        raise UsageError(
            f"there is a {target}/ here already, maybe with your answers; "
            "go on in it, or rename it and ask again"
        )
    else:
        partial = Path(f".{lesson.name}.partial")
        remove_folder(partial)
        try:
            with explained(f"could not make {target}/ in {Path.cwd()}", "go to a folder of your own"):
                partial.mkdir()
                for name in ("lesson.py", "exercise.py"):
                    shutil.copyfile(lesson.folder / name, partial / name)
                partial.rename(target)
        finally:
            remove_folder(partial)
    possible = sum(exercise.points for exercise in lesson.exercises)
    print(f"Lesson {lesson.number}: {lesson.title}\n{lesson.paper}")
    print(f"You build: {lesson.builds}. About {lesson.minutes} minutes.\n")
    print(f"1. read      {target}/lesson.py, top to bottom")
    print(
        f"2. run       python {target}/lesson.py"
        + (
            f"    or on {lesson.ranks} ranks: minigrad run -n {lesson.ranks} {lesson.number}"
            if lesson.ranks > 1
            else ""
        )
    )
    print(f"3. fill in   {target}/exercise.py")
    print(f"4. check     minigrad check {lesson.number}\n")
    for exercise in lesson.exercises:
        print(f"   {exercise.key:5} {exercise.title}  ({exercise.points} of {possible} points)")
    return 0
