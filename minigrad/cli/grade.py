"""`minigrad grade`: many learners' answers, each checked apart, into one table."""

import argparse
import csv
import io
import json
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigrad.errors import UsageError

if TYPE_CHECKING:
    from minigrad.lessons import Lesson
    from minigrad.lessons.verdict import Result

DESCRIPTION = """\
Grade a folder of submissions: one folder a learner, in it lesson folders (01_graphs/exercise.py, ...)
as `minigrad learn` and `minigrad export` make them. Writes grades.csv (a row a learner and lesson) and
grades.json (everything, with the seed and the version of the checks, so that grading can be repeated).

Each answer runs in processes that end with it, without rights and network, in limited time and memory, where
no file can be changed and other submissions are not seen. Where the system does not offer all of that,
it says so, and as root it does not begin.

After each answer the same process has to tell right answers from wrong ones: `tampered` is one after which it
could not. `(read it)` is one whose text names more than its exercise needs: the column `read`.
"""
PARTS = {
    "limits": "its time and memory are not limited",
    "network": "it can reach the network",
    "files": "it can read and change your files, and see other submissions",
    "rights": "it has your rights",
    "processes": "what it starts may go on running",
}
GIBIBYTE = 1 << 30
LEAST_MEMORY, MOST_MEMORY = 2.0, 1e6  # GB; with less the course's own solutions do not run


def add_parser(subparsers: Any) -> None:
    """Add `grade` to the command line."""
    parser = subparsers.add_parser(
        "grade",
        help="grade many learners' answers into a table",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("submissions", type=Path, metavar="SUBMISSIONS", help="one folder a learner")
    parser.add_argument("--lessons", type=int, nargs="+", metavar="N", help="only these lessons")
    parser.add_argument("--seed", type=int, metavar="S", help="grade again with the cases of this seed")
    parser.add_argument("--quick", action="store_true", help="draw as few cases as `minigrad check` does")
    parser.add_argument("--memory", type=float, default=8.0, metavar="GB", help="limit of each (default: 8)")
    parser.add_argument(
        "--out", type=Path, default=Path(), metavar="DIR", help="where the tables go (default: here)"
    )


def main(args: argparse.Namespace) -> int:
    """Grade all and write both tables. Raises UsageError where there is nothing to grade."""
    from minigrad.dist.checkpoint_files import explained
    from minigrad.lessons import find_lesson, lessons
    from minigrad.lessons.contain import contained
    from minigrad.lessons.verdict import fresh_seed

    wanted = lessons() if args.lessons is None else [find_lesson(n) for n in dict.fromkeys(args.lessons)]
    if not LEAST_MEMORY <= args.memory <= MOST_MEMORY:
        raise UsageError(
            f"--memory {args.memory:g}: eight ranks of a right answer need {LEAST_MEMORY:g} GB; give as much "
            "or more"
        )
    if not args.submissions.is_dir():
        raise UsageError(f"there is no folder {args.submissions}; it holds one folder a learner")
    folders = sorted(path for path in args.submissions.iterdir() if path.is_dir() and path.name[0] != ".")
    work = [(who, lesson) for who in folders for lesson in wanted if answer_of(who, lesson)]
    for who in folders:
        if who not in [one for one, _ in work]:
            print(f"{readable(who.name)} has no exercise.py of these lessons in a folder that can be read")
    if not work:
        names = ", ".join(lesson.name for lesson in wanted[:3])
        raise UsageError(f"no folder in {args.submissions} has an exercise.py in {names}, ...; see --help")
    if not args.out.is_dir():
        raise UsageError(f"there is no folder {args.out} for the tables; make it first")
    with explained(f"cannot write into {args.out}", "name another folder"):
        tempfile.TemporaryFile(dir=args.out).close()  # better now than after all the work
    held = contained()
    open_parts = [PARTS[part] for part in PARTS if not held[part]]
    if root() and not held["files"]:
        raise UsageError(
            "you are root, and this system does not keep submissions from changing files: any of them could "
            "change all of yours; grade as an ordinary user"
        )
    if open_parts:
        print("warning: submissions are not contained on this system: " + "; ".join(open_parts), flush=True)
    seed = fresh_seed() if args.seed is None else args.seed
    rows: list[dict[str, Any]] = []
    about = {"seed": seed, "contained": held, "grades": rows}
    try:
        for number, (who, lesson) in enumerate(work, 1):
            answer = who / lesson.name / "exercise.py"
            result, beyond = grade_one(args.submissions, answer, lesson, seed, args)
            said, name = result.as_json(), readable(who.name)
            rows.append({"learner": name, **said, "read": beyond})
            points = f"{result.points}/{result.possible}"
            note = "  TAMPERED" * ("tampered" in said["states"])
            note = note or "  (read it)" * bool(beyond and result.points)
            print(f"{number}/{len(work)}  {name:24} {lesson.name:20} {points}{note}", flush=True)
    except KeyboardInterrupt:
        write_tables(args.out, "grades.partial", about)
        print(f"\n{len(rows)} of {len(work)} are graded: see {args.out / 'grades.partial.csv'}", flush=True)
        raise
    write_tables(args.out, "grades", about)
    if any(row["read"] and row["points"] for row in rows):
        print("\n(read it): these answers name more than their exercises need; the lines are in grades.csv")
    print(f"\n{args.out / 'grades.csv'} and grades.json; the same cases again: --seed {seed}")
    return 0


def write_tables(folder: Path, name: str, about: dict[str, Any]) -> None:
    """Write the rows that are `about["grades"]` as a table, and with what they were graded as JSON."""
    write(folder / f"{name}.json", json.dumps(about, indent=2))
    write(folder / f"{name}.csv", as_csv(about["grades"]))


def readable(name: str) -> str:
    """A folder's name as any terminal and table takes it: what cannot be printed as an escape such as \\n."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in name)


def root() -> bool:
    """Whether all files of the system are this user's."""
    return hasattr(os, "geteuid") and os.geteuid() == 0


def answer_of(who: Path, lesson: "Lesson") -> bool:
    """Whether there is an answer to a lesson in a learner's folder."""
    try:
        return (who / lesson.name / "exercise.py").is_file()
    except OSError:  # the folder cannot be read
        return False


def grade_one(
    submissions: Path, answer: Path, lesson: "Lesson", seed: int, args: argparse.Namespace
) -> tuple["Result", list[str]]:
    """Check a copy of one answer, contained, where it sees nobody else's; and what its text reaches for."""
    from minigrad.lessons.catalogue import HOME
    from minigrad.lessons.contain import command
    from minigrad.lessons.mutants import controls_of
    from minigrad.lessons.reach import reaches
    from minigrad.lessons.verdict import SECONDS, check, refused, unreadable

    profile = "check" if args.quick else "grade"
    place = answer.parents[1].resolve() / lesson.name / answer.name
    why = "exercise.py is a link" if answer.resolve() != place else unreadable(answer)
    if why:
        return refused(lesson, why, profile=profile, seed=seed), []
    seconds = SECONDS[profile] * (1 + sum(len(exercise.checks) for exercise in lesson.exercises))
    with tempfile.TemporaryDirectory(prefix="minigrad-") as folder:
        os.chmod(folder, 0o777)
        subject = Path(folder, "exercise.py")
        source = answer.read_bytes()
        subject.write_bytes(source)
        answers = (lesson.folder / name for name in ("solution.py", "mutants.py", "__pycache__"))
        hidden = [path for path in answers if path.exists()]
        if submissions.resolve() not in (HOME, *HOME.parents):
            hidden.append(submissions)
        prefix = command(
            seconds=seconds,
            memory_bytes=int(args.memory * GIBIBYTE),
            hidden=hidden,
            writable=[Path(folder)],
        )
        result = check(
            lesson,
            subject,
            profile=profile,
            seed=seed,
            command=prefix,
            scratch=Path(folder),
            controls=controls_of(lesson),
        )
        return result, reaches(source, lesson)


def as_csv(rows: list[dict[str, Any]]) -> str:
    """One row a learner and lesson; names that a spreadsheet would take for formulas are quoted."""
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(["learner", "lesson", "points", "possible", "states", "version", "seed", "read"])
    for row in rows:
        learner = re.sub(r"^(?=[=+\-@\t\r])", "'", row["learner"])
        states = " ".join(f"{one['exercise']}:{one['state']}" for one in row["exercises"])
        figures = (
            row["points"],
            row["possible"],
            states,
            row["version"],
            row["seed"],
            "; ".join(row["read"]),
        )
        table.writerow([learner, row["name"], *figures])
    return out.getvalue()


def write(path: Path, text: str) -> None:
    """Write a file aside and move it into place."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
