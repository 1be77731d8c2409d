"""`minigrad check`: check a lesson's answers, and tell the learner what is wrong."""

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigrad.errors import UsageError

if TYPE_CHECKING:
    from minigrad.lessons.verdict import Result

EXAMPLES = """\
examples:
  minigrad check 1                 all exercises of lesson 1, in the file that `minigrad learn 1` gave you
  minigrad check 1.2               one exercise
  minigrad check 1 --grade         many more cases, drawn anew; the printed seed draws them again

Exit codes: 0 all done; 1 something is wrong or still to do; 2 wrong usage.
"""
MARKS = {"done": "✓", "todo": "·", "failed": "✗", "endless": "✗", "broken": "!", "tampered": "!"}


def add_parser(subparsers: Any) -> None:
    """Add `check` to the command line."""
    parser = subparsers.add_parser(
        "check",
        help="check your answers to a lesson",
        description="Check the answers to a lesson, or to one exercise of it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "what", metavar="N[.k]", help="a lesson, such as 1, or one of its exercises, such as 1.2"
    )
    parser.add_argument(
        "--subject",
        choices=("exercise", "solution"),
        default="exercise",
        help="whose answers: yours, or the course's own (default: exercise)",
    )
    parser.add_argument("--file", type=Path, metavar="FILE", help="check this file instead")
    parser.add_argument("--grade", action="store_true", help="draw many more cases, with a fresh seed")
    parser.add_argument("--seed", type=int, metavar="S", help="draw the cases of this seed")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def main(args: argparse.Namespace) -> int:
    """Check, print, and return 0 if all is done. Raises UsageError where there is nothing to check."""
    from minigrad.cli.lessons import own_exercise
    from minigrad.lessons import find_lesson
    from minigrad.lessons.verdict import check, fresh_seed, unreadable

    number, key = parse(args.what)
    lesson = find_lesson(number)
    solution = args.subject == "solution" and args.file is None
    subject = args.file or (lesson.folder / "solution.py" if solution else own_exercise(lesson))
    if subject is None:
        raise UsageError(
            f"there is no {lesson.name}/exercise.py here; `minigrad learn {number}` makes one, "
            "and --file checks one that lies elsewhere"
        )
    if not subject.is_file():
        raise UsageError(
            f"there is no file {subject}" + ("; this copy of the course has no solutions" * solution)
        )
    if why := unreadable(subject):
        raise UsageError(why)
    seed = fresh_seed() if args.grade and args.seed is None else args.seed
    profile = "grade" if args.grade else "check"
    result = check(lesson, subject, key=key, profile=profile, seed=seed, guarded=not solution)
    if key is None and not solution and args.file is None:
        remember(subject.parent, result)
    if args.json:
        print(json.dumps(result.as_json(), indent=2))
    else:
        show(result, subject)
    return 0 if all(verdict.state == "done" for verdict in result.verdicts) else 1


def parse(what: str) -> tuple[int, str | None]:
    """The lesson's number and the exercise's key, if one is named. Raises UsageError."""
    number, _, rest = what.partition(".")
    if not number.isdecimal() or (rest and not rest.isdecimal()) or what.endswith("."):
        raise UsageError(f"{what!r} is no lesson such as 1 and no exercise such as 1.2")
    return int(number), what if rest else None


def show(result: "Result", subject: Path) -> None:
    """Print what came of each exercise, for the learner."""
    said: set[str] = set()
    for verdict in result.verdicts:
        exercise = verdict.exercise
        points = f"{verdict.points}/{exercise.points}"
        print(f"{MARKS[verdict.state]} {exercise.key:5} {exercise.title:48} {points:>6}  {verdict.state}")
        for finding in verdict.findings:
            if finding.state in ("done", "todo") or finding.message in said:
                continue
            said.add(finding.message)
            print("\n" + "\n".join("        " + line for line in finding.message.splitlines()))
            if finding.example:
                print(f"        smallest example: {finding.example}")
            print()
    print(f"\n{result.points} of {result.possible} points" + (f", seed {result.seed}" if result.seed else ""))
    open_ones = [verdict for verdict in result.verdicts if verdict.state == "todo"]
    if open_ones and not said:
        first = next(finding for finding in open_ones[0].findings if finding.state == "todo")
        print(f"next: {first.message}  ({subject}, line {first.line})")


def remember(folder: Path, result: "Result") -> None:
    """Keep the states for `minigrad lessons`; where the folder cannot be written, that is no harm."""
    path = folder / ".checked.json"
    partial = folder / ".checked.partial"
    try:
        partial.write_text(json.dumps(result.as_json()), encoding="utf-8")
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
