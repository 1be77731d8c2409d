"""Compare all that torch has too: `python -m benchmarks.parity [--trials N] [case ...]`.

Prints a table in Markdown, largest differences by class, and exits with 1 if one is above 1e-9 without a
reason given here.
"""

from __future__ import annotations

import argparse
import sys
import warnings

import numpy as np
import torch

from benchmarks.parity import layers, losses, sequences, training
from benchmarks.parity.compare import TOLERANCE, Parity

CASES = {
    case.__name__: case
    for case in (
        layers.linear,
        layers.convolution,
        layers.pooling,
        layers.normalisation,
        layers.activation,
        losses.classes,
        losses.numbers,
        losses.pairs,
        losses.alignments,
        sequences.recurrent,
        sequences.attention,
        sequences.transformer,
        training.optimizers,
        training.schedules,
    )
}
ROUNDED_IN_TORCH = {
    "CELU": "torch's backward rounds its constants to float32",
    "Hardsigmoid": "torch's backward rounds its constants to float32",
}


def main() -> int:
    """Run the cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", choices=[[], *CASES], help="which; all unless given")
    parser.add_argument("--trials", type=int, default=60, help="random instances of each case")
    arguments = parser.parse_args()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    parity = Parity()
    for name in arguments.cases or CASES:
        for seed in range(arguments.trials):
            CASES[name](parity, np.random.default_rng(seed))
    print(f"torch {torch.__version__}, {arguments.trials} random instances of each case, float64\n")
    print("| class | comparisons | largest difference | |")
    print("|---|---|---|---|")
    for name, error in sorted(parity.errors.items()):
        print(f"| {name} | {parity.trials[name]} | {error:.1e} | {ROUNDED_IN_TORCH.get(name, '')} |")
    failed = [n for n, error in parity.errors.items() if error > TOLERANCE and n not in ROUNDED_IN_TORCH]
    if failed:
        print(f"\nabove {TOLERANCE}: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    raise SystemExit(main())
