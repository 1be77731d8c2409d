"""`minigrad run`: a lesson, or any script, on any number of MPI ranks."""

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from minigrad.errors import UsageError

EXAMPLES = """\
examples:
  minigrad run -n 4 train_digits.py --epochs 3     four ranks; what follows the script is the script's own
  minigrad run train_digits.py                     one rank, without MPI
  minigrad run -n 4 18                             lesson 18 on four ranks
  minigrad run -n 2 --device gpu 20                each rank on its own GPU

The script asks `minigrad.dist.world()` who it is. The command that starts it is printed, so that you can
type it yourself; what some MPI libraries need (as root, or with more ranks than cores) is set for you.
"""


def add_parser(subparsers: Any) -> None:
    """Add `run` to the command line."""
    parser = subparsers.add_parser(
        "run",
        help="run a lesson, or any script, on P ranks",
        description="Run a lesson or a Python script on P MPI ranks of this machine.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("-n", "--ranks", type=int, default=1, metavar="P", help="how many ranks (default: 1)")
    parser.add_argument("--threads", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument(
        "--device", choices=("cpu", "gpu"), default="cpu", help="where a lesson computes (default: cpu)"
    )
    parser.add_argument("script", metavar="N|SCRIPT", help="a lesson's number, or a Python file")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="handed to the script as they are")


def main(args: argparse.Namespace) -> int:
    """Run the script and return its exit code.

    Raises UsageError when there is no such script, no such number of ranks, or no MPI to start them.
    """
    if args.threads:
        raise UsageError(
            "a script cannot be split into thread ranks from outside; "
            "call dist.spawn(main, ranks=4) in it and run it with `python`, or drop --threads to use MPI"
        )
    if args.ranks < 1:
        raise UsageError(f"{args.ranks} ranks were asked for; give -n a number of at least 1")
    script = args.script
    if script.isdecimal():
        script = lesson_script(int(script))
    elif not Path(script).is_file():
        raise UsageError(
            f"there is no file {script!r}; give the path of a Python script, or the number of a lesson"
        )
    if args.device == "gpu" and not on_gpus(script):
        return 0
    command = [sys.executable, script, *args.arguments]
    if args.ranks == 1:
        say(command)
        return subprocess.run(command, check=False).returncode

    from minigrad.dist.launch import mpirun_command, run_under_mpirun

    say(mpirun_command(args.ranks, command))
    return run_under_mpirun(command, ranks=args.ranks)


def lesson_script(number: int) -> str:
    """The file of a lesson: the learner's own copy if there is one here, which a line then says, else the
    course's.
    """
    from minigrad.cli.lessons import own_exercise
    from minigrad.lessons import find_lesson

    lesson = find_lesson(number)
    original, own = lesson.folder / "lesson.py", own_exercise(lesson)
    mine = None if own is None else own.with_name("lesson.py")
    if mine is None or not mine.is_file():
        return str(original)
    if not mine.samefile(original):  # (in a clone of the course they are one)
        course = shlex.join(["minigrad", "run", str(original)])
        print(f"lesson {number}: your copy, {mine}; for the original: {course}", file=sys.stderr, flush=True)
    return str(mine)


def on_gpus(script: str) -> bool:
    """Tell the ranks to compute on GPUs, of which each then says which it got; without a GPU, say so in a
    sentence.
    """
    from minigrad import backend
    from minigrad.errors import DeviceError

    try:
        backend.gpu()
    except DeviceError as error:
        print(f"skipped: {error}")
        return False
    os.environ["MINIGRAD_DEVICE"] = "gpu"
    if "device(" not in Path(script).read_text(encoding="utf-8"):
        print(f"{script} never asks where to compute, so it stays on the CPU", file=sys.stderr, flush=True)
    return True


def say(command: list[str]) -> None:
    """Print the line that is about to run, out of the way of what it prints itself."""
    print(f"running: {shlex.join(command)}", file=sys.stderr, flush=True)
