"""`python -m benchmarks.parallel`: training on two ranks, side by side. `--help` explains."""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.parallel.comparison import CONTENDERS, Row, compare, find, verdicts
from benchmarks.products import add_option, ask
from benchmarks.report import load, machine, markdown, write
from benchmarks.rounds import CORETYPE, LOSS_TOLERANCE, UNSET, BenchmarkError

WORDS = {True: "PASS", False: "FAIL", None: "----"}
REFERENCES = {"gpt": "one rank", "mlp": "mlp by hand"}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.parallel",
        description="Trains on two ranks by each strategy, and by what is installed of its peers, in "
        "interleaved rounds, one BLAS thread a rank, after checking that all learn the same. Figures are "
        "wall time: leave both cores to it.",
    )
    names = ", ".join(contender.name for contender in CONTENDERS)
    parser.add_argument("--only", default="", help=f"contenders, separated by semicolons, of: {names}")
    parser.add_argument(
        "--coretypes", default=None, help="settings of OPENBLAS_CORETYPE (default: as found, and unset)"
    )
    parser.add_argument("--rounds", type=int, default=7, help="default 7")
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="a contender gets in each round (default 1)"
    )
    parser.add_argument(
        "--check", action="store_true", help="PASS or FAIL for each target; exit code 1 on FAIL"
    )
    parser.add_argument("--json", action="store_true", help="print JSON and no table")
    parser.add_argument(
        "--save", metavar="NAME", help="write benchmarks/results/NAME/parallel.json and parallel.md"
    )
    add_option(parser)
    options = parser.parse_args(arguments)
    ask(parser, options)
    if options.rounds < 1 or not options.seconds > 0:
        parser.error("--rounds must be at least 1 and --seconds positive")
    known = {contender.name: contender for contender in CONTENDERS}
    chosen = [name.strip() for name in options.only.split(";") if name.strip()] or list(known)
    unknown = [name for name in chosen if name not in known]
    if unknown:
        parser.error(f"unknown contender {unknown[0]!r}; known are {names}")
    options.contenders = [known[name] for name in known if name in chosen]
    found = os.environ.get(CORETYPE, UNSET)
    options.coretypes = (
        options.coretypes.split(",") if options.coretypes else list(dict.fromkeys([found, UNSET]))
    )
    return options


def table(rows: Sequence[Row]) -> str:
    """One table a workload; ratios are to the first reference with the same setting."""
    texts = []
    for workload, reference in REFERENCES.items():
        cells = []
        for row in [row for row in rows if row.contender.workload == workload]:
            other = find(rows, reference, row.coretype) or next(
                (one for one in rows if one.contender.name == reference), None
            )
            cells.append(
                [
                    row.contender.name,
                    str(row.contender.ranks),
                    "own products" if row.coretype is None else f"{row.coretype} ({row.blas})",
                    f"{1e3 * row.seconds:.2f}",
                    f"{1e3 * min(row.rounds):.2f}",
                    "-" if other is None else f"{row.over(other):.2f}",
                    f"{row.loss_difference:.0e}",
                ]
            )
        heads = ["", "ranks", "OPENBLAS_CORETYPE", "wall ms", "best", f"/ {reference}", "loss ≈"]
        if cells:
            texts += [f"**{workload}**", "", *markdown(heads, cells), ""]
    return "\n".join(texts)


def as_data(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows as JSON."""
    return [{**asdict(row), "seconds": row.seconds} for row in rows]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, save, judge."""
    options = parse(arguments)
    at_start = load()

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    try:
        rows = [
            row
            for workload in REFERENCES
            for row in compare(
                [one for one in options.contenders if one.workload == workload],
                options.coretypes,
                rounds=options.rounds,
                seconds=options.seconds,
                say=say,
            )
        ]
    except BenchmarkError as error:
        say(f"error: {error}")
        return 1
    facts = {**machine(), "load at start": at_start, "load at end": load()}
    judged = verdicts(rows) if options.check else []
    data = {
        "machine": facts,
        "results": as_data(rows),
        "targets": [{"verdict": WORDS[passed], "target": text} for passed, text in judged],
    }
    lines = [f"- {key}: {value}" for key, value in facts.items()]
    lines += [f"- losses of the first steps agree to {LOSS_TOLERANCE:.0e} (relative); one BLAS thread a rank"]
    lines += ["- wall time of a step on the slowest rank: median, and best round", ""]
    lines += [f"- {row.contender.name}: {row.description}" for row in once(rows)]
    lines += ["", table(rows)]
    lines += [f"    {WORDS[passed]}  {text}" for passed, text in judged]
    if options.save:
        for path in write(options.save, "parallel", data, "\n".join(["# Two ranks", "", *lines])):
            say(f"wrote benchmarks/results/{options.save}/{path.name}")
    if options.json:
        import json

        print(json.dumps(data, indent=1, ensure_ascii=False))
    else:
        print("\n".join(lines))
    return int(any(passed is False for passed, _ in judged))


def once(rows: Sequence[Row]) -> list[Row]:
    """The first row of every contender."""
    return list({row.contender.name: row for row in reversed(rows)}.values())[::-1]


if __name__ == "__main__":
    sys.exit(main())
