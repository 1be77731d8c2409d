"""What defines a training run: its settings, how they are checked, what may change when it is resumed."""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from minigrad.errors import UsageError

PRECISIONS = {
    "float32": ("float32", None),
    "float64": ("float64", None),
    "mixed-float16": ("float16", "float32"),
    "mixed-bfloat16": ("bfloat16", "float32"),
}
"""The data type in which a model computes, and that of the copy which the optimizer updates, if any."""
DEVICES = ("cpu", "gpu")
STAGES = (0, 1, 2, 3)
OFFLOADS = ("none", "host", "disk")
ALGORITHMS = {"mpi": "library", "ring": "ring", "halving": "halving", "ordered": "ordered"}
"""What sums are called on the command line, and in `minigrad.dist`."""
RESUMABLE = frozenset(
    {
        "steps",
        "device",
        "save_every",
        "evaluate_every",
        "zero",
        "offload",
        "checkpoint_activations",
        "accumulate",
        "reduce",
    }
)
"""Settings that may differ when a run goes on: how long it is, and who computes what. All others make it the
run it is.
"""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a run. The number of ranks is not among them: it changes who computes, not what."""

    text: tuple[str, ...] | None = None  # files; None is the default corpus
    steps: int = 800
    layers: int = 2
    width: int = 128
    heads: int = 4
    context: int = 128
    batch: int = 16  # sequences a step, over all ranks
    seed: int = 0
    learning_rate: float = 4e-3
    dropout: float = 0.0
    precision: str = "float32"
    device: str = "cpu"
    zero: int = 0  # stage: what ranks share out
    offload: str = "none"  # where the optimizer's state lies
    checkpoint_activations: bool = False
    accumulate: int = 1  # portions in which a rank works through its part of the batch
    reduce: str | None = None  # who adds up over ranks; None: whatever the ranks bring
    save_every: int = 100
    evaluate_every: int = 50

    @property
    def dtype(self) -> str:
        """The data type of parameters, activations and gradients."""
        return PRECISIONS[self.precision][0]

    @property
    def master(self) -> str | None:
        """The data type of the copy that the optimizer updates; None: it updates the parameters."""
        return PRECISIONS[self.precision][1]

    def check(self, *, ranks: int, threads: bool = False) -> None:
        """Refuse what cannot be trained on `ranks` ranks. Raises UsageError that names the values."""
        for name in COUNTS:
            if getattr(self, name) < 1:
                raise UsageError(f"{option(name)} is {getattr(self, name)}; it must be at least 1")
        if self.width % self.heads:
            raise UsageError(
                f"{self.heads} heads do not divide a width of {self.width}; each takes an equal share of it: "
                f"with this width there can be {_listed(_divisors(self.width))} heads"
            )
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"--seed is {self.seed}; it must be between 0 and 2^63 - 1")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise UsageError(
                f"--learning-rate is {self.learning_rate}; it must be above 0, for example 0.001"
            )
        if not 0 <= self.dropout < 1:
            raise UsageError(
                f"--dropout is {self.dropout}; it is the share set to zero: at least 0 and below 1"
            )
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                expected = _listed([str(choice) for choice in known if choice is not None])
                raise UsageError(f"{option(name)} is {getattr(self, name)!r}; expected {expected}")
        self.check_ranks(ranks)
        self.check_combinations(ranks, threads=threads)

    def check_ranks(self, ranks: int) -> None:
        """Refuse more ranks than sequences: some would have nothing to do. Raises UsageError."""
        if ranks < 1:
            raise UsageError(f"--ranks is {ranks}; it must be at least 1")
        if ranks > self.batch:
            raise UsageError(
                f"{ranks} ranks cannot share a batch of {self.batch} sequences: each takes at least one; "
                f"use at most {self.batch} ranks or a --batch of at least {ranks}"
            )

    def check_combinations(self, ranks: int, *, threads: bool) -> None:
        """Refuse settings that do not go together. Raises UsageError."""
        least = self.batch // ranks
        if self.accumulate > least:
            raise UsageError(
                f"--accumulate is {self.accumulate}, but with a batch of {self.batch} sequences on {ranks} "
                f"rank{'s' * (ranks > 1)} one has only {least}; use at most {least}, or a larger --batch"
            )
        if self.reduce == "mpi" and threads:
            raise UsageError(
                "--reduce mpi lets MPI add up, but --threads makes ranks that know no MPI; leave one of them "
                "out, or use --reduce ring, halving or ordered"
            )
        if self.offload == "host" and self.device != "gpu":
            raise UsageError(
                f"--offload host moves the optimizer's state from a GPU to the memory of its host, and with "
                f"--device {self.device} it is there already; use --offload disk, or --device gpu"
            )

    def warmup_steps(self) -> int:
        """Steps over which the learning rate rises: a tenth of the run, but at least 50, however short it is.

        A faster start overshoots, and training turns chaotic: a difference in the last bit grows a
        million-fold within 20 steps, so that no two numbers of ranks would agree on the loss.
        """
        return max(50, self.steps // 10)

    def as_json(self) -> dict[str, Any]:
        """The settings as JSON values, by name."""
        return asdict(self) | {"text": None if self.text is None else list(self.text)}


COUNTS = (
    "steps",
    "layers",
    "width",
    "heads",
    "context",
    "batch",
    "accumulate",
    "save_every",
    "evaluate_every",
)
CHOICES: dict[str, tuple[Any, ...]] = {
    "precision": tuple(PRECISIONS),
    "device": DEVICES,
    "zero": STAGES,
    "offload": OFFLOADS,
    "reduce": (None, *ALGORITHMS),
}


def settings_from_json(values: dict[str, Any]) -> Settings:
    """The inverse of `Settings.as_json`. Raises UsageError where names are missing or unknown."""
    names = {field.name for field in fields(Settings)}
    if set(values) != names:
        odd = _listed(sorted(set(values) ^ names))
        raise UsageError(f"the recorded settings do not fit this version of minigrad: they differ in {odd}")
    text = values["text"]
    return Settings(**{**values, "text": None if text is None else tuple(text)})


def resumed_settings(recorded: Settings, given: dict[str, Any], *, step: int) -> Settings:
    """The settings with which a run at `step` goes on: the recorded ones, changed where that is allowed.

    Raises UsageError that names every given value that differs where it may not, or where no step is left.
    """
    differing = [
        f"{option(name)} {_shown(value)} (the run has {_shown(getattr(recorded, name))})"
        for name, value in given.items()
        if name not in RESUMABLE and value != getattr(recorded, name)
    ]
    if differing:
        raise UsageError(
            f"a run is resumed with its own settings, but these differ: {', '.join(differing)}; "
            "leave them out, or start a new run without --resume"
        )
    changes = {name: value for name, value in given.items() if name in RESUMABLE}
    settings = Settings(**{**recorded.__dict__, **changes})
    if settings.steps <= step:
        raise UsageError(
            f"the run is at step {step} of {settings.steps}, so there is nothing left to do; "
            f"give more than {step} with --steps to train on"
        )
    return settings


def option(name: str) -> str:
    """The command-line option of a setting, such as --learning-rate."""
    return "--" + name.replace("_", "-")


def _shown(value: Any) -> str:
    if value is None:
        return "the default corpus"
    return " ".join(value) if isinstance(value, tuple) else str(value)


def _divisors(number: int) -> list[str]:
    return [str(divisor) for divisor in range(1, number + 1) if number % divisor == 0]


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " or " + names[-1]
