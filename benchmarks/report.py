"""Results as a table, as JSON, and held to the targets."""

import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.rounds import Result
from benchmarks.workloads import WORKLOADS, Overhead

RESULTS = Path(__file__).parent / "results"
TITLES = {
    "mlp": "mlp: 784-512-512-10, relu, softmax cross-entropy, batch 128, Adam",
    "gpt": "gpt: 4 layers, width 256, 8 heads, context 128, batch 8, vocabulary 256, Adam",
    "overhead": "overhead: 333 × tanh(x * 1.0001 + 0.1) and a sum on 8 numbers, forward and backward",
    "convnet": "convnet: conv 3x3 1-32, relu, conv 3x3 32-64 stride 2, relu, linear, 28x28, batch 64, Adam",
    "lstm": "lstm: 64-128, 32 steps, linear on the last state, batch 32, Adam",
    "vit": "vit: 4 layers, width 128, 4 heads, 64 patches of 4x4 and a class token, batch 16, Adam",
}


@dataclass(frozen=True)
class Target:
    """An upper bound on the figure of minigrad (or of `peer`) over that of another."""

    workload: str
    quantity: str  # "cpu" or "memory"
    over: str
    limit: float
    peer: str = "minigrad"


TARGETS = (
    Target("gpt", "cpu", "floor", 1.05),
    Target("gpt", "cpu", "torch", 1.0),
    Target("gpt", "cpu", "floor", 1.3, "minigrad primitives"),
    Target("mlp", "cpu", "floor", 1.1),
    Target("overhead", "cpu", "torch", 0.6),
    Target("convnet", "cpu", "floor", 1.15),
    Target("lstm", "cpu", "floor", 1.2),
    Target("vit", "cpu", "floor", 1.2),
    Target("gpt", "memory", "torch", 1.15),
)


def machine() -> dict[str, Any]:
    """What the figures were measured on; nothing that names the machine itself."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(
            (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model
        )
    except OSError:
        pass
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "OPENBLAS_CORETYPE as found": os.environ.get("OPENBLAS_CORETYPE", "unset"),
    }


def load() -> float | None:
    """Mean number of processes that wanted a core over the last minute."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def number(value: float | None, digits: int = 2) -> str:
    """A figure, or a dash."""
    return "-" if value is None else f"{value:.{digits}f}"


def setting(result: Result) -> str:
    """Under which setting of OPENBLAS_CORETYPE a figure stands, and the kernels that this chose."""
    return "own products" if result.coretype is None else f"{result.coretype} ({result.blas})"


def table(results: Sequence[Result]) -> str:
    """Markdown tables, one a workload; they read well on a terminal too."""
    lines: list[str] = []
    for name, title in TITLES.items():
        rows = [result for result in results if result.workload == name]
        if not rows:
            continue
        heads = ["peer", "OPENBLAS_CORETYPE", "CPU ms", "wall ms", "/ floor", "/ torch", "loss ≈"]
        cells = [
            [
                result.peer,
                setting(result),
                number(1e3 * result.cpu_seconds),
                number(1e3 * result.wall_seconds),
                number(result.ratio_to_floor),
                number(result.ratio_to_torch),
                f"{result.loss_difference:.0e}",
            ]
            for result in rows
        ]
        if name in EXTRA_COLUMN:
            head, figure = EXTRA_COLUMN[name]
            heads.append(head)
            for row, result in zip(cells, rows, strict=True):
                row.append(figure(result))
        lines += [f"**{title}**", "", *markdown(heads, cells)]
        lines.append("")
    return "\n".join(lines)


def markdown(heads: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table, padded."""
    widths = [max(len(row[i]) for row in [heads, *cells]) for i in range(len(heads))]
    return [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in [heads, ["-" * width for width in widths], *cells]
    ]


def memory(result: Result) -> str:
    """Peak memory above the start, in MiB."""
    above = result.peak_bytes_above_start
    return number(None if above is None else above / 2**20, 0)


def operation_time(result: Result) -> str:
    """Microseconds for an operation, forward and backward."""
    workload = WORKLOADS[result.workload]
    assert isinstance(workload, Overhead)
    return number(1e6 * result.cpu_seconds / workload.operations)


# Only the transformer is big enough for its memory to mean something.
EXTRA_COLUMN: dict[str, tuple[str, Callable[[Result], str]]] = {
    "gpt": ("peak MiB", memory),
    "overhead": ("µs an operation", operation_time),
}


def verdicts(results: Sequence[Result]) -> list[tuple[bool, str]]:
    """Each target against each setting of OPENBLAS_CORETYPE; a target that could not be measured fails."""
    found: list[tuple[bool, str]] = []
    for target in TARGETS:
        rows = [r for r in results if r.workload == target.workload and r.peer == target.peer]
        text = f"{target.workload}, {target.peer}: {target.quantity} ≤ {target.limit} × {target.over}"
        if not rows:
            found.append((False, f"{text}: not measured"))
        for row in rows:
            value = ratio(target, row, results)
            passed = value is not None and value <= target.limit
            found.append((passed, f"{text}: {number(value, 3)} with OPENBLAS_CORETYPE {setting(row)}"))
    return found


def ratio(target: Target, row: Result, results: Sequence[Result]) -> float | None:
    """minigrad's figure over the other peer's."""
    if target.quantity == "cpu":
        return row.ratio_to_floor if target.over == "floor" else row.ratio_to_torch
    others = [r for r in results if r.workload == target.workload and r.peer == target.over]
    bytes_other = others[0].peak_bytes_above_start if others else None
    if row.peak_bytes_above_start is None or not bytes_other:
        return None
    return row.peak_bytes_above_start / bytes_other


def save(name: str, results: Sequence[Result], loads: tuple[float | None, float | None]) -> list[Path]:
    """Write `results/NAME/steps.json` and `results/NAME/steps.md`."""
    facts = {**machine(), "load at start": loads[0], "load at end": loads[1]}
    peers = {result.peer: result.description for result in results}
    rows = [
        {**asdict(result), "cpu_seconds": result.cpu_seconds, "wall_seconds": result.wall_seconds}
        for result in results
    ]
    text = ["# Benchmarks", ""]
    text += [f"- {key}: {value}" for key, value in facts.items()]
    text += ["- one thread each, pinned to one core; median over rounds", ""]
    text += [f"- {peer}: {description}" for peer, description in peers.items()]
    text += ["", table(results)]
    return write(name, "steps", {"machine": facts, "peers": peers, "results": rows}, "\n".join(text))


def write(name: str, stem: str, data: Any, text: str) -> list[Path]:
    """Put data as JSON and text as Markdown into the folder `results/NAME`; returns both paths."""
    folder = RESULTS / name
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for suffix, content in ((".json", json.dumps(data, indent=1, ensure_ascii=False)), (".md", text)):
        path = folder / (stem + suffix)
        aside = path.with_name(path.name + ".part")
        aside.write_text(content.rstrip() + "\n", encoding="utf-8")
        os.replace(aside, path)
        written.append(path)
    return written
