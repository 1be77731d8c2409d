"""`python -m benchmarks`: one training step of each workload, timed side by side. `--help` explains."""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence

from benchmarks.products import add_option, ask
from benchmarks.report import load, machine, save, table, verdicts
from benchmarks.rounds import CORETYPE, LOSS_TOLERANCE, PEERS, UNSET, BenchmarkError, Result, compare
from benchmarks.workloads import WORKLOADS


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Times one training step of each workload for each peer that is installed, one thread, "
        "in interleaved rounds, after checking that all compute the same losses.",
    )
    parser.add_argument(
        "--workloads", default=",".join(WORKLOADS), help=f"some of {','.join(WORKLOADS)} (default: all)"
    )
    parser.add_argument("--peers", default=",".join(PEERS), help=f"some of {','.join(PEERS)} (default: all)")
    parser.add_argument(
        "--coretypes",
        default=None,
        help="settings of OPENBLAS_CORETYPE to time side by side (default: as found and unset; where it is "
        "unset already: unset,Haswell)",
    )
    parser.add_argument("--rounds", type=int, default=7, help="default 7")
    parser.add_argument(
        "--seconds", type=float, default=0.5, help="CPU time a peer gets in each round (default 0.5)"
    )
    add_option(parser)
    parser.add_argument("--quick", action="store_true", help="smoke run: one short round, one core type")
    parser.add_argument(
        "--check", action="store_true", help="say PASS or FAIL for each target; exit code 1 on FAIL"
    )
    parser.add_argument(
        "--save", metavar="NAME", help="write benchmarks/results/NAME/steps.json and steps.md"
    )
    options = parser.parse_args(arguments)
    ask(parser, options)
    options.workloads = chosen(parser, options.workloads, WORKLOADS, "workload")
    options.peers = chosen(parser, options.peers, PEERS, "peer")
    if options.rounds < 1 or not options.seconds > 0:
        parser.error("--rounds must be at least 1 and --seconds positive")
    found = os.environ.get(CORETYPE, UNSET)
    if options.quick:
        options.rounds, options.seconds = 1, 0.05
    if options.coretypes is not None:
        options.coretypes = options.coretypes.split(",")
    elif options.quick:
        options.coretypes = [found]
    else:
        options.coretypes = [UNSET, "Haswell"] if found == UNSET else [found, UNSET]
    return options


def chosen(parser: argparse.ArgumentParser, text: str, known: Mapping[str, object], kind: str) -> list[str]:
    """The names in a comma-separated list, in the order of the known ones; anything else is refused."""
    names = [name.strip() for name in text.split(",")]
    unknown = [name for name in names if name not in known]
    if unknown:
        parser.error(f"unknown {kind} {unknown[0]!r}; known are {', '.join(known)}")
    return [name for name in known if name in names]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print, save, judge."""
    options = parse(arguments)
    load_at_start = load()
    for key, value in machine().items():
        print(f"{key}: {value}")
    print(f"losses of the first steps must agree to {LOSS_TOLERANCE:.0e} (relative)\n", flush=True)
    results: list[Result] = []
    failed = False
    for workload in options.workloads:
        try:
            results += compare(
                workload,
                options.peers,
                options.coretypes,
                rounds=options.rounds,
                seconds=options.seconds,
                say=lambda text: print(text, file=sys.stderr, flush=True),
            )
        except BenchmarkError as error:
            failed = True
            print(f"error: {error}", file=sys.stderr)
    print(table(results))
    for peer, description in {result.peer: result.description for result in results}.items():
        print(f"{peer}: {description}")
    if options.save and not failed:
        for path in save(options.save, results, (load_at_start, load())):
            print(f"wrote benchmarks/results/{options.save}/{path.name}")
    if not options.check:
        return int(failed)
    judged = verdicts(results)
    print()
    for passed, text in judged:
        print(f"{'PASS' if passed else 'FAIL'}  {text}")
    return int(failed or not all(passed for passed, _ in judged))


if __name__ == "__main__":
    sys.exit(main())
