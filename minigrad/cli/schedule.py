"""`minigrad schedule`: make a pipeline schedule, prove it, and say what it costs."""

import argparse
import json
import math
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minigrad.errors import UsageError

if TYPE_CHECKING:
    from minigrad.dist.schedule import Schedule

LARGEST = 250_000
"""Forwards in a grid that is made, proved and timed: minutes, and some hundred megabytes."""

EXAMPLES = """\
examples:
  minigrad schedule 1f1b --stages 4 --microbatches 8
  minigrad schedule interleaved --stages 4 --microbatches 8 --virtual 2 -o interleaved.svg
  minigrad schedule zb-h1 --stages 4 --microbatches 8 --forward 1 --backward 2 --weight 1 --json
  minigrad schedule gpipe --stages 2 --microbatches 4 --text > mine.txt
  minigrad schedule mine.txt                 your own: a line per rank, cells such as F2@0

Costs are per whole stage (a rank's share of the model) and microbatch, in any unit. --backward is the whole
backward, of which --weight is the part that can be postponed. Before anything is printed the schedule is
proved: complete, in order, free of deadlocks even without any buffers. It may have 250000 forwards: stages ×
microbatches × slices × batches.
"""


def add_parser(subparsers: Any) -> None:
    """Add `schedule` to the command line."""
    parser = subparsers.add_parser(
        "schedule",
        help="make a pipeline schedule, prove it, say what it costs",
        description="Print a pipeline schedule as a grid, with makespan, idle time, bubble and peak memory.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("name", metavar="NAME", help="a schedule of the catalogue, or a file with your own")
    parser.add_argument("--stages", type=int, metavar="P", help="ranks in the pipeline")
    parser.add_argument("--microbatches", type=int, metavar="M", help="microbatches per batch")
    for option, letter, text in (
        ("virtual", "V", "stages per rank, where a schedule can have several"),
        ("slices", "N", "token slices per microbatch, where it can have some"),
        ("batches", "N", "batches without a flush between them, where it updates"),
    ):
        parser.add_argument(f"--{option}", type=int, default=1, metavar=letter, help=f"{text}; default: 1")
    for option, default, text in (
        ("forward", 1.0, "a forward"),
        ("backward", 2.0, "a whole backward"),
        ("weight", None, "its part that can be postponed (default: half of it)"),
        ("link", 0.0, "a message between ranks"),
        ("update", 0.0, "an optimizer step"),
        ("gather", 0.0, "making the parameters of a stage whole, where yours has G"),
        ("reduce", 0.0, "summing its gradients over copies, where yours has R"),
    ):
        default_text = "" if default is None else f" (default: {default:g})"
        parser.add_argument(
            f"--{option}", type=float, default=default, metavar="T", help=f"time of {text}{default_text}"
        )
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print the figures and the actions as JSON")
    output.add_argument("--text", action="store_true", help="print the lists of actions alone")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="also draw it into an SVG file")


def main(args: argparse.Namespace) -> int:
    """Print the schedule. Raises UsageError for shapes that its paper excludes and schedules that fail."""
    from minigrad.dist.schedule_check import check
    from minigrad.dist.schedule_grid import draw, grid
    from minigrad.dist.timing import Costs, peak_activations, simulate

    if args.output:
        check_target(args.output)
    for what in TIMES:
        if (getattr(args, what) or 0) > 1e100:
            raise UsageError(f"--{what} is {getattr(args, what):g}; give a time of at most 1e100")
    costs = Costs(**{what: getattr(args, what) for what in TIMES})
    schedule = find(args)
    check(schedule)
    timeline = simulate(schedule, costs)
    peaks = peak_activations(schedule)
    if args.output:
        save(args.output, draw(timeline, title=title(schedule)))
    if args.json:
        figures = {
            "name": schedule.name,
            "stages": len(schedule.ranks),
            "microbatches": schedule.microbatches,
            "makespan": timeline.makespan,
            "idle": timeline.idle,
            "gaps": timeline.gaps,
            "bubble_fraction": timeline.bubble_fraction,
            "peak_activations": peaks,
            "actions": [[str(action) for action in row] for row in schedule.ranks],
        }
        print(json.dumps(figures))
    elif args.text:
        print(schedule, end="")
    else:
        print(f"{title(schedule)}\n\n{grid(timeline)}")
        print(f"makespan           {timeline.makespan:g}")
        print(f"idle, by rank      {listed(timeline.idle)}")
        print(f"gaps, by rank      {listed(timeline.gaps)}   (idle between a rank's first and last action)")
        print(f"bubble             {timeline.bubble_fraction:.2%} of the time of all ranks")
        print(f"peak activations   {listed(peaks)}   (by rank, in those of a whole stage)")
    return 0


def find(args: argparse.Namespace) -> "Schedule":
    """The schedule that was asked for, from the catalogue or from a file."""
    from minigrad.dist.schedule import parse
    from minigrad.dist.schedules import SCHEDULES, make

    if args.name in SCHEDULES:
        if args.stages is None or args.microbatches is None:
            raise UsageError(f"{args.name} is made for --stages P and --microbatches M; give both")
        check_size(**{name: getattr(args, name) for name in SIZES})
        return make(
            args.name,
            args.stages,
            args.microbatches,
            virtual=args.virtual,
            slices=args.slices,
            batches=args.batches,
        )
    path = Path(args.name)
    if not path.is_file():
        raise UsageError(
            f"{args.name!r} is neither a schedule ({', '.join(SCHEDULES)}) nor a file that holds one"
        )
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UsageError(
            f"{args.name} is not a text file; give a line of cells such as F2@0 per rank"
        ) from None
    schedule = parse(text, name=path.stem)
    for what, given, found in (
        ("stages", args.stages, len(schedule.ranks)),
        ("microbatches", args.microbatches, schedule.microbatches),
    ):
        if given is not None and given != found:
            raise UsageError(f"--{what} is {given}, but {args.name} is made for {found}; leave it out")
    return schedule


TIMES = ("forward", "backward", "weight", "link", "update", "gather", "reduce")
SIZES = ("stages", "microbatches", "virtual", "slices", "batches")


def check_size(**sizes: int) -> None:
    """Raise UsageError for a grid of no cells, or of more than anybody waits for."""
    for name, number in sizes.items():
        if number < 1:
            raise UsageError(f"--{name} is {number}; give at least 1")
    if math.prod(sizes.values()) > LARGEST:
        product = " × ".join(f"{number} {name}" for name, number in sizes.items() if number > 1)
        raise UsageError(
            f"{product} are more than {LARGEST} forwards, the most of a schedule here; give fewer"
        )


def title(schedule: "Schedule") -> str:
    """The name of the schedule and what it is for."""
    ranks, stages = len(schedule.ranks), schedule.stages
    virtual = f" of {stages // ranks} virtual stages each" if stages > ranks else ""
    return f"{schedule.name}: {ranks} ranks{virtual}, {schedule.microbatches} microbatches"


def listed(numbers: list[float]) -> str:
    """Numbers with spaces between them; long lists by their ends."""
    texts = [f"{number:.6g}" for number in numbers]
    return " ".join(texts if len(texts) <= 16 else [*texts[:8], "…", *texts[-4:]])


def check_target(path: Path) -> None:
    """Raise UsageError for what cannot become an SVG file."""
    if path.is_dir() or path.suffix != ".svg":
        raise UsageError(
            f"a drawing is an SVG file, and {str(path)!r} is none; name a file that ends in .svg"
        )
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {str(path.parent)!r} for {path.name}; make it first")


def save(path: Path, text: str) -> None:
    """Write an SVG file aside and move it into place. Raises UsageError where that cannot be."""
    check_target(path)
    aside = path.with_name(f".{path.name}.partial")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        raise UsageError(f"{path} could not be written: {error.strerror}; name another file") from error
    finally:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
