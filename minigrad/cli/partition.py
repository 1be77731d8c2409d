"""`minigrad partition`: where to cut a model into stages, or sequences into slices."""

import argparse
import json
import math
from pathlib import Path
from typing import Any

from minigrad.errors import UsageError

MOST = 1e100
MOST_CHOICES = 10**9
"""What a planner compares at most: some minutes."""
MOST_SLICES = 512
"""Tokens of a sequence, in steps of the granularity; what is tried grows with the fourth power."""

EXAMPLES = """\
examples:
  minigrad partition balance --seconds 3,1,4,1,5 --stages 2
  minigrad partition pipedream --seconds 30,40,40,5 --outputs 32,16,8,.1 --weights .1,.3,410,16 \\
      --machines 4 --bandwidth 4
  minigrad partition pipedream profile.json --machines 4,2 --bandwidth 40,4 --variant 2019
  minigrad partition terapipe --length 12 --stages 4 --floor 4 --pair 0.0625

profile.json is {"layers": [{"seconds": ..., "output_bytes": ..., "weight_bytes": ...}, ...]}, in the place of
--seconds, --outputs and --weights. Several levels of machines are given from the innermost to the outermost.
Variant 2018 is the recurrence of the arXiv paper, 2019 the program published with the SOSP paper: there a cut
costs nothing, unless there is a --compression of activations (1: none). TeraPipe's model of a slice of l
tokens that come after c others is constant + max(floor, token·l) + pair·(l·c + l(l+1)/2) + context·l·c, or a
--table of seconds: JSON, table[l-1][c] for l tokens after c.
"""


def add_parser(subparsers: Any) -> None:
    """Add `partition` to the command line."""
    parser = subparsers.add_parser(
        "partition",
        help="cut a model into stages, or sequences into slices",
        description="Find the best stages (balance, PipeDream) or token slices (TeraPipe).",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "planner", choices=("balance", "pipedream", "terapipe"), metavar="PLANNER", help="one of %(choices)s"
    )
    parser.add_argument("profile", nargs="?", type=Path, help="a JSON file that says what each layer costs")
    parser.add_argument("--seconds", type=numbers, metavar="T,...", help="time of each layer, there and back")
    parser.add_argument("--outputs", type=numbers, metavar="A,...", help="size of what each layer hands on")
    parser.add_argument("--weights", type=numbers, metavar="W,...", help="size of each layer's weights")
    parser.add_argument("--machines", type=numbers, metavar="N,...", help="machines, level by level")
    parser.add_argument("--bandwidth", type=numbers, metavar="B,...", help="of the links of each level")
    parser.add_argument(
        "--variant",
        choices=("2018", "2019"),
        default="2018",
        help="PipeDream's paper of 2018, or its program of 2019 (default: %(default)s)",
    )
    parser.add_argument(
        "--compression", type=number, metavar="R", help="of activations between stages (variant 2019)"
    )
    parser.add_argument("--stages", type=int, metavar="P", help="stages of the pipeline")
    parser.add_argument("--length", type=int, metavar="L", help="tokens of a sequence")
    parser.add_argument(
        "--granularity", type=int, default=1, metavar="G", help="slices are multiples of this"
    )
    for name, default in (("constant", 0.0), ("floor", 0.0), ("token", 1.0), ("pair", 0.0), ("context", 0.0)):
        parser.add_argument(f"--{name}", type=number, default=default, metavar="T", help=argparse.SUPPRESS)
    parser.add_argument("--table", type=Path, metavar="FILE", help="measured seconds of slices, as JSON")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")


def number(text: str) -> float:
    """A finite number."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not abs(found) <= MOST:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of at most {MOST:g}")
    return found


def numbers(text: str) -> list[float]:
    """A list of numbers between commas."""
    return [number(word) for word in text.split(",")]


def main(args: argparse.Namespace) -> int:
    """Print the plan. Raises UsageError for options that are missing and numbers that make no sense."""
    if args.profile is not None:
        if args.planner == "terapipe":
            raise UsageError("terapipe plans for tokens, and takes no profile of layers; give --table FILE")
        for name in ("seconds", "outputs", "weights"):
            if getattr(args, name) is not None:
                raise UsageError(f"{args.profile} and --{name} both say what layers cost; leave one out")
    figures, lines = {"balance": balanced, "pipedream": planned, "terapipe": sliced}[args.planner](args)
    print(json.dumps(figures) if args.json else "\n".join(lines))
    return 0


def needed(args: argparse.Namespace, *names: str) -> list[Any]:
    """The values of these options, all of which must be given."""
    missing = [f"--{name}" for name in names if getattr(args, name) is None]
    if missing:
        raise UsageError(f"{args.planner} needs {' and '.join(missing)}")
    return [getattr(args, name) for name in names]


def balanced(args: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Stages of about equal cost."""
    from minigrad.dist.partitioning import balance

    if args.profile is not None:
        args.seconds = [layer["seconds"] for layer in read_profile(args.profile)]
    seconds, stages = needed(args, "seconds", "stages")
    check_choices(len(seconds) ** 2 * max(stages, 1), f"{len(seconds)} layers, {stages} stages")
    counts = balance(seconds, stages)
    totals, start = [], 0
    for count in counts:
        totals.append(sum(seconds[start : start + count]))
        start += count
    lines = [f"stage {i}: {n} layers, {t:g}" for i, (n, t) in enumerate(zip(counts, totals, strict=True))]
    return {"balance": counts, "seconds": totals}, lines


def planned(args: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """PipeDream's stages."""
    from minigrad.dist.partitioning import Layer, Level, PlannedStage, pipedream

    machines, bandwidth = needed(args, "machines", "bandwidth")
    if len(machines) != len(bandwidth) or any(n < 1 or n != int(n) for n in machines):
        raise UsageError(
            f"--machines and --bandwidth are {machines} and {bandwidth}; give, for each level, a whole "
            "number of at least 1, and one bandwidth"
        )
    if args.profile is not None:
        layers = [Layer(**entry) for entry in read_profile(args.profile)]
    else:
        columns = needed(args, "seconds", "outputs", "weights")
        if len({len(column) for column in columns}) != 1:
            lengths = ", ".join(str(len(column)) for column in columns)
            raise UsageError(f"--seconds, --outputs and --weights have {lengths} numbers; give one per layer")
        layers = [Layer(*row) for row in zip(*columns, strict=True)]
    *inner, outer = machines
    choices = len(layers) ** 2 * int(outer**2 + len(layers) * sum(n**2 for n in inner))
    check_choices(choices, f"{len(layers)} layers, {', '.join(f'{n:g}' for n in machines)} machines")
    levels = [Level(int(n), b) for n, b in zip(machines, bandwidth, strict=True)]
    plan = pipedream(layers, levels, variant=args.variant, compression=args.compression)
    if not math.isfinite(plan.seconds):
        raise UsageError(f"times and sizes over the bandwidths {bandwidth} are no number; give larger ones")

    def described(stage: PlannedStage) -> dict[str, Any]:
        inner = [described(part) for part in stage.inner]
        return {"start": stage.start, "stop": stage.stop, "replicas": stage.replicas, "inner": inner}

    lines = [f"layers {s.start} to {s.stop - 1}: {s}" for s in plan.stages]
    lines += [f"time per minibatch {plan.seconds:.9g}", f"in flight          {plan.in_flight}"]
    return {
        "variant": args.variant,
        "seconds": plan.seconds,
        "in_flight": plan.in_flight,
        "stages": [described(stage) for stage in plan.stages],
    }, lines


def sliced(args: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """TeraPipe's slices."""
    from minigrad.dist.partitioning_tokens import pipeline_seconds, slice_tokens

    length, stages = needed(args, "length", "stages")
    if length > MOST_SLICES * max(args.granularity, 1):
        raise UsageError(
            f"{length} tokens in steps of {args.granularity} are more than {MOST_SLICES} steps, the most "
            f"that is planned here; give --granularity {-(-length // MOST_SLICES)} or more"
        )

    def modelled(tokens: int, before: int) -> float:
        scores = tokens * before
        own = scores + tokens * (tokens + 1) / 2
        return args.constant + max(args.floor, args.token * tokens) + args.pair * own + args.context * scores

    table = None if args.table is None else read_json(args.table)

    def tabled(tokens: int, before: int) -> float:
        try:
            found = float(table[tokens - 1][before])  # type: ignore[index]
        except (IndexError, KeyError, TypeError, ValueError):
            found = math.nan
        if not 0 <= found <= MOST:
            raise UsageError(
                f"{args.table} has no number from 0 to {MOST:g} for {tokens} tokens after {before}"
            )
        return found

    cost = modelled if table is None else tabled
    slicing = slice_tokens(cost, length, stages, granularity=args.granularity)
    uniform = {
        size: pipeline_seconds([cost(size, before) for before in range(0, length, size)], stages)
        for size in range(args.granularity, length + 1, args.granularity)
        if length % size == 0
    }
    best = min(uniform, key=uniform.__getitem__)
    lines = [
        f"slices             {' '.join(map(str, slicing.slices))}",
        f"time               {slicing.seconds:.9g}",
        f"best equal slices  {uniform[best]:.9g}, of {best} tokens",
    ]
    return {
        "slices": slicing.slices,
        "seconds": slicing.seconds,
        "uniform": {"length": best, "seconds": uniform[best]},
    }, lines


def check_choices(number: int, what: str) -> None:
    """Raise UsageError for more than anybody waits for."""
    if number > MOST_CHOICES:
        raise UsageError(
            f"a plan for {what} compares {number:.1g} choices, and at most {MOST_CHOICES:.1g} are "
            "compared here; give fewer"
        )


def read_json(path: Path) -> Any:
    """What a JSON file holds."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as JSON: {error}") from None


def read_profile(path: Path) -> list[dict[str, float]]:
    """The layers of a profile."""
    found = read_json(path)
    layers = found.get("layers") if isinstance(found, dict) else None
    keys = {"seconds", "output_bytes", "weight_bytes"}
    if (
        not isinstance(layers, list)
        or not layers
        or any(not isinstance(x, dict) or set(x) != keys for x in layers)
    ):
        raise UsageError(f'{path} is no profile; give {{"layers": [{{{", ".join(sorted(keys))}}}, ...]}}')
    for place, layer in enumerate(layers):
        for name, value in layer.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST:
                raise UsageError(
                    f"{path}: {name} of layer {place} is {value!r}; give a number from 0 to {MOST:g}"
                )
    return layers
