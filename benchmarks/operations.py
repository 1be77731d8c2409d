"""`python -m benchmarks.operations`: every operation, forward and backward, beside torch in one process.

Both compute on the same float32 inputs with one thread. Nothing is timed unless values and gradients agree.
Rounds alternate between the two, so that a slow minute hits both; figures are medians of process CPU time.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from time import process_time
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

import minigrad as mg
from benchmarks.operation_rows import TABLE, Row
from benchmarks.report import RESULTS, load, machine

LIMIT = 3.0
PASSES = "NumPy goes through memory once for each arithmetic operation, torch's kernel once in all"
REASONS = {
    "gelu": "the error function is 15 passes in NumPy, forwards and backwards",
    "hardswish": PASSES,
    "layer_norm": PASSES,
    "silu": PASSES,
    "softplus": PASSES,
    "softmax": PASSES,
    "log_softmax": PASSES,
    "prod": "by cumulative products where a product is near 0: right with zeros and underflow",
    "cumulative_prod": "a recurrence in log n steps: right with zeros",
    "take, axis 1": "columns are gathered and added as rows, between two transpositions in memory",
    "conv2d, depthwise": "no matrix product in it: two passes over memory for each place in the kernel",
    "adaptive_max_pool2d": "a few NumPy calls for each cell",
    "interpolate, nearest": "rows and columns are gathered one after the other",
    "cholesky": "NumPy solves stacks of triangular systems as general ones",
    "solve_triangular": "NumPy solves stacks of triangular systems as general ones",
}
TOLERANCE = 2e-3  # relative to the largest entry; float32


@dataclass(frozen=True)
class Timing:
    """Median CPU time of one run, forward and backward, and the median of the ratios of the rounds."""

    row: Row
    own_seconds: float
    torch_seconds: float
    ratio: float

    @property
    def excused(self) -> bool:
        """Whether it is within the limit, or there is a reason why not."""
        return self.ratio <= LIMIT or bool(self.reason)

    @property
    def reason(self) -> str:
        """Why it is slow where it is."""
        return self.row.reason or REASONS.get(self.row.name, "")


def cotangent(shape: tuple[int, ...]) -> np.ndarray:
    """What both walks start with."""
    return np.random.default_rng(9).normal(size=shape).astype("float32")


def ours(row: Row) -> tuple[Callable[[], Any], list[Any]]:
    """What runs the row once in minigrad, and the leaves that get gradients."""
    leaves = [mg.tensor(x, requires_grad=True) for x in row.arrays()]
    start: list[Any] = []

    def run() -> Any:
        for x in leaves:
            x.zero_grad()
        y = row.ours(*leaves)
        if y.requires_grad:
            if not start:
                start.append(cotangent(y.shape))
            y.backward(start[0])
        return y

    return run, leaves


def theirs(row: Row) -> tuple[Callable[[], Any], list[Any]]:
    """The same in torch."""
    leaves = [torch.tensor(x, requires_grad=True) for x in row.arrays()]
    start: list[Any] = []

    def run() -> Any:
        for x in leaves:
            x.grad = None
        y = row.theirs(*leaves)
        if y.requires_grad:
            if not start:
                start.append(torch.as_tensor(cotangent(tuple(y.shape))))
            y.backward(start[0])
        return y

    return run, leaves


def _grad(x: Any) -> np.ndarray | None:
    return None if x.grad is None else np.asarray(x.grad.detach())


def disagreement(row: Row) -> float:
    """The largest relative difference between values and gradients of the two."""
    (run, own), (run_theirs, other) = ours(row), theirs(row)
    y, z = run(), run_theirs()
    pairs: list[Any] = [(y.numpy(), z.detach().numpy())]
    pairs += [(_grad(a), _grad(b)) for a, b in zip(own, other, strict=True)]
    worst = 0.0
    for a, b in pairs:
        a, b = (np.zeros_like(c) if d is None else d for c, d in ((b, a), (a, b)))
        if a is None or b is None or not a.size:
            continue
        scale = float(np.max(np.abs(b))) or 1.0
        difference = float(np.max(np.abs(a.astype("float64") - b))) / scale
        worst = difference if not difference <= worst else worst  # (a NaN stays)
    return worst


def seconds(run: Callable[[], Any], repetitions: int) -> float:
    """Process CPU time of one run."""
    start = process_time()
    for _ in range(repetitions):
        run()
    return (process_time() - start) / repetitions


def timed(row: Row, rounds: int, slice_seconds: float) -> Timing:
    """Alternate between the two for some rounds, each with about `slice_seconds` a round."""
    runs = [ours(row)[0], theirs(row)[0]]
    counts = []
    for run in runs:
        run()
        once = min(seconds(run, 1) for _ in range(3))
        counts.append(max(1, min(2000, round(slice_seconds / max(once, 1e-6)))))
    figures = [[seconds(run, n) for run, n in zip(runs, counts, strict=True)] for _ in range(rounds)]
    own, other = (median(column) for column in zip(*figures, strict=True))
    return Timing(row, own, other, median(a / b for a, b in figures))


def markdown(timings: dict[str, list[Timing]], before: float | None) -> str:
    """The table, with what it was measured on."""
    lines = ["# Operations beside torch", ""]
    lines += [f"- {key}: {value}" for key, value in machine().items()]
    lines += [f"- load at start: {before}", f"- load at end: {load()}"]
    lines += [f"- minigrad {mg.__version__}, NumPy {np.__version__}, keep_freed_memory()"]
    lines += [
        f"- torch {torch.__version__}, one thread each, float32, forward and backward, process CPU time"
    ]
    every = [t for part in timings.values() for t in part]
    slow = [t for t in every if t.ratio > LIMIT]
    faster = sum(t.ratio < 1 for t in every)
    lines += [
        f"- {len(every)} operations: {faster} faster than torch, {len(slow)} more than {LIMIT:g} times "
        "slower, "
        f"all with a reason: {'yes' if all(t.excused for t in slow) else 'NO'}",
    ]
    for title, part in timings.items():
        lines += ["", f"**{title}**", "", "| operation | inputs | minigrad ms | torch ms | / torch | |"]
        lines.append("| --- | --- | ---: | ---: | ---: | --- |")
        for t in part:
            inputs = ", ".join("×".join(map(str, s)) for s in t.row.shapes)
            why = (t.reason or "NO REASON") if t.ratio > LIMIT else ""
            cells = [t.row.name, inputs, f"{t.own_seconds * 1e3:.3f}", f"{t.torch_seconds * 1e3:.3f}"]
            lines.append("| " + " | ".join([*cells, f"{t.ratio:.2f}", why]) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Check and time the rows; returns 1 if one is too slow without a reason."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.operations", description=__doc__)
    parser.add_argument("--only", default="", help="rows whose name holds this text")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.02, help="CPU time of each in a round")
    parser.add_argument("--save", metavar="NAME", help="write benchmarks/results/NAME.md")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    threadpool_limits(1)
    mg.keep_freed_memory()
    before = load()
    timings: dict[str, list[Timing]] = {}
    for title, rows in TABLE.items():
        for row in rows:
            if options.only not in row.name:
                continue
            different = disagreement(row)
            if not different <= TOLERANCE:
                parser.exit(
                    1, f"{row.name}: minigrad and torch differ by {different:.1e}; nothing is timed\n"
                )
            timings.setdefault(title, []).append(timed(row, options.rounds, options.seconds))
            t = timings[title][-1]
            print(
                f"{row.name:28} {t.own_seconds * 1e3:9.3f} ms {t.torch_seconds * 1e3:9.3f} ms {t.ratio:6.2f}"
            )
    if options.save:
        temporary = RESULTS / f".{options.save}.md.partial"
        temporary.write_text(markdown(timings, before))
        temporary.replace(RESULTS / f"{options.save}.md")
    return 0 if all(t.excused for part in timings.values() for t in part) else 1


if __name__ == "__main__":
    raise SystemExit(main())
