"""Compare all that torch has too: `python -m benchmarks.parity [--trials N] [--write PAGE] [case ...]`.

Prints tables in Markdown, largest differences by class, and exits with 1 if one is above 1e-9 without a
reason given here. `--write docs/parity.md` puts them in the page.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import numpy as np
import torch

from benchmarks.parity import functions, layers, losses, page, schedules, sequences, tools, training
from benchmarks.parity.compare import TOLERANCE, Parity

SECTIONS = {
    "layers": (
        layers.linear, layers.convolution, layers.pooling, layers.normalisation, layers.activation,
        losses.classes, losses.numbers, losses.pairs, losses.alignments,
        sequences.recurrent, sequences.attention, sequences.transformer, functions.functions,
    ),
    "training": (training.optimizers, schedules.schedules, schedules.combinations),
    "tools": (
        tools.starting_values, tools.averages, tools.loss_scales, tools.clipping, tools.packing,
        functions.arguments,
    ),
}  # fmt: skip
CASES = {case.__name__: case for cases in SECTIONS.values() for case in cases}
ROUNDED_IN_TORCH = {
    "CELU": "torch's backward rounds its constants to float32",
    "Hardsigmoid": "torch's backward rounds its constants to float32",
}


def main() -> int:
    """Run the cases and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", choices=[[], *CASES], help="which; all unless given")
    parser.add_argument("--trials", type=int, default=60, help="random instances of each case")
    parser.add_argument("--write", type=Path, help="a page in which to put the tables")
    arguments = parser.parse_args()
    if arguments.write and arguments.cases:
        parser.error("a page needs all cases")
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    parity = Parity()
    tables = {}
    for section, cases in SECTIONS.items():
        before = set(parity.errors)
        for case in cases:
            for seed in range(arguments.trials if case.__name__ in (arguments.cases or CASES) else 0):
                case(parity, np.random.default_rng(seed))
        if names := [name for name in parity.errors if name not in before]:
            tables[section] = page.table(parity, names)
    print(f"torch {torch.__version__}, {arguments.trials} random instances of each case, float64")
    for rows in tables.values():
        print(f"\n{rows}")
    for name in ROUNDED_IN_TORCH.keys() & parity.errors.keys():
        print(f"\n{name}: {ROUNDED_IN_TORCH[name]}")
    failed = [n for n, error in parity.errors.items() if error > TOLERANCE and n not in ROUNDED_IN_TORCH]
    if failed:
        print(f"\nabove {TOLERANCE}: {', '.join(failed)}", file=sys.stderr)
    elif arguments.write:
        page.write(arguments.write, tables, torch.__version__.partition("+")[0], arguments.trials)
    return bool(failed)


if __name__ == "__main__":
    raise SystemExit(main())
