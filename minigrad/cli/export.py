"""`minigrad export`: a copy of the course to hand out, without the solutions."""

import argparse
import os
import shutil
from pathlib import Path
from typing import Any

from minigrad.errors import UsageError

HANDED_OUT = ("lesson.py", "exercise.py", "check.py")


def add_parser(subparsers: Any) -> None:
    """Add `export` to the command line."""
    parser = subparsers.add_parser(
        "export",
        help="copy the lessons for learners, without solutions",
        description="Copy every lesson's text, exercises and checks to a folder, without solutions.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--student", type=Path, required=True, metavar="DIR", help="the folder to make; it must not exist"
    )


def main(args: argparse.Namespace) -> int:
    """Copy the lessons, all or nothing. Raises UsageError where the folder exists."""
    from minigrad.lessons import lessons

    target: Path = args.student
    if target.exists():
        raise UsageError(f"{target} exists already; name a folder that does not")
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    found = lessons()
    try:
        for lesson in found:
            (partial / lesson.name).mkdir(parents=True)
            for name in HANDED_OUT:
                shutil.copyfile(lesson.folder / name, partial / lesson.name / name)
        os.replace(partial, target)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise UsageError(f"could not make {target}: {error.strerror}; name another folder") from error
    print(f"{len(found)} lessons in {target}/; learners work there with `minigrad check N`")
    return 0
