"""Contenders compared: the same losses first, then wall time in interleaved rounds, then the targets."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

from benchmarks.parallel.jobs import Absent, Contender, Job
from benchmarks.rounds import LOSS_TOLERANCE, BenchmarkError

_OURS, _TORCH, _HAND = (f"benchmarks.parallel.{name}_ranks" for name in ("minigrad", "torch", "numpy"))

CONTENDERS: tuple[Contender, ...] = (
    Contender("one rank", "gpt", _OURS, "data_parallel", 1, "plain", True),
    Contender("data parallel", "gpt", _OURS, "data_parallel", 2, "mpi", True),
    Contender("ZeRO 1", "gpt", _OURS, "zero_1", 2, "mpi", True),
    Contender("ZeRO 2", "gpt", _OURS, "zero_2", 2, "mpi", True),
    Contender("ZeRO 3", "gpt", _OURS, "zero_3", 2, "mpi", True),
    Contender("pipeline 1F1B", "gpt", _OURS, "one_forward_one_backward", 2, "mpi", True),
    Contender("pipeline GPipe", "gpt", _OURS, "gpipe", 2, "mpi", True),
    Contender("torch one rank", "gpt", _TORCH, "one_rank", 1, "plain", False),
    Contender("torch DDP", "gpt", _TORCH, "ddp", 2, "plain", False),
    Contender("torch FSDP2", "gpt", _TORCH, "fsdp2", 2, "plain", False),
    Contender("torch 1F1B", "gpt", _TORCH, "one_forward_one_backward", 2, "plain", False),
    Contender("torch GPipe", "gpt", _TORCH, "gpipe", 2, "plain", False),
    Contender("mlp by hand, one rank", "mlp", _HAND, "mlp", 1, "plain", True),
    Contender("mlp, one rank", "mlp", _OURS, "mlp", 1, "plain", True),
    Contender("mlp by hand", "mlp", _HAND, "mlp", 2, "mpi", True),
    Contender("mlp", "mlp", _OURS, "mlp", 2, "mpi", True),
)


@dataclass(frozen=True)
class Target:
    """`name` takes at most `limit` × the time of `over`."""

    name: str
    over: str
    limit: float


IDEAL = 0.5 * 5 / 4  # of one rank's time: two stages, and four microbatches that wait once

TARGETS = (
    Target("data parallel", "one rank", 1 / 1.7),
    Target("data parallel", "torch DDP", 1.0),
    Target("ZeRO 1", "data parallel", 1.1),
    Target("ZeRO 2", "data parallel", 1.1),
    Target("ZeRO 3", "data parallel", 1.3),
    Target("ZeRO 3", "torch FSDP2", 1.0),
    Target("pipeline 1F1B", "one rank", 1.15 * IDEAL),
    Target("pipeline 1F1B", "torch 1F1B", 1.0),
    Target("pipeline GPipe", "torch GPipe", 1.0),
    Target("mlp, one rank", "mlp by hand, one rank", 1 / 0.85),
    Target("mlp", "mlp by hand", 1 / 0.85),
)


@dataclass
class Row:
    """What one contender did with one setting of OPENBLAS_CORETYPE."""

    contender: Contender
    coretype: str | None  # None where NumPy's products are not used
    description: str
    blas: str
    losses: list[float]
    rounds: list[float] = field(default_factory=list)  # wall seconds of a step on the slowest rank
    loss_difference: float = 0.0

    @property
    def seconds(self) -> float:
        """Median over rounds."""
        return median(self.rounds)

    def over(self, other: "Row") -> float:
        """The median of the ratios of each round."""
        return median(a / b for a, b in zip(self.rounds, other.rounds, strict=True))


def compare(
    contenders: Sequence[Contender],
    coretypes: Sequence[str],
    *,
    rounds: int,
    seconds: float,
    say: Callable[[str], None],
    size: str = "full",
) -> list[Row]:
    """Check that contenders of one workload learn the same, then time all in turn, `rounds` times.

    `say` is told who is not installed. Raises BenchmarkError where losses differ or a rank dies.
    """
    jobs: list[Job] = []
    rows: list[Row] = []
    absent: set[str] = set()
    try:
        for contender in contenders:
            for coretype in coretypes if contender.numpy else [None]:
                if contender.name in absent:
                    continue
                try:
                    job = Job(contender, coretype, size)
                except Absent as error:
                    absent.add(contender.name)
                    say(f"{contender.name} left out: {error}")
                    continue
                jobs.append(job)
                rows.append(Row(contender, coretype, job.description, job.blas, job.losses))
        check_losses(rows)
        for number in range(rounds):
            for job, row in zip(jobs, rows, strict=True):
                row.rounds.append(job.measure(max(1, round(seconds / job.seconds))))
            say(f"round {number + 1} of {rounds} done")
    finally:
        for job in jobs:
            job.stop()
    return rows


def check_losses(rows: Sequence[Row]) -> None:
    """Hold the losses of every contender to those of the first with the same workload."""
    first: dict[str, Row] = {}
    for row in rows:
        reference = first.setdefault(row.contender.workload, row)
        differences = [
            abs(loss - expected) / abs(expected)
            for loss, expected in zip(row.losses, reference.losses, strict=True)
        ]
        row.loss_difference = max(differences)
        if not all(difference <= LOSS_TOLERANCE for difference in differences):  # so that NaN is refused
            raise BenchmarkError(
                f"losses of {row.contender.name} {row.losses} differ from {reference.losses} of "
                f"{reference.contender.name}; more than {LOSS_TOLERANCE:.0e} is not rounding"
            )


def find(rows: Sequence[Row], name: str, coretype: str | None) -> Row | None:
    """The row of a contender with that setting, or the one that no setting concerns."""
    own = [row for row in rows if row.contender.name == name]
    return next((row for row in own if row.coretype in (coretype, None)), None)


def verdicts(rows: Sequence[Row]) -> list[tuple[bool | None, str]]:
    """Each target with each setting: passed, failed, or None where a peer is not installed."""
    found: list[tuple[bool | None, str]] = []
    for target in TARGETS:
        text = f"{target.name} ≤ {target.limit:.3f} × {target.over}"
        ours = [row for row in rows if row.contender.name == target.name]
        if not ours:
            found.append((False, f"{text}: not measured"))
        for row in ours:
            other = find(rows, target.over, row.coretype)
            if other is None:
                found.append((None, f"{text}: no {target.over} here"))
            else:
                value = row.over(other)
                setting = f"OPENBLAS_CORETYPE {row.coretype} ({row.blas})"
                found.append((value <= target.limit, f"{text}: {value:.3f} with {setting}"))
    return found
