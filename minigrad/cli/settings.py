"""What defines a training run: its settings, how they are checked, what may change when it is resumed."""

import math
from collections.abc import Container, Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any, get_args

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
        "pipeline",
        "tensor",
        "schedule",
        "microbatches",
        "virtual",
        "slices",
    }
)
"""Settings that may differ when a run goes on: how long it is, and who computes what. All others make it the
run it is.
"""
OF_A_PIPELINE = ("schedule", "virtual", "slices")
"""Settings without effect where no ranks share out the layers."""


class Schedules(Iterable[str], Container[str]):
    """The names of the catalogue of schedules, which is loaded when somebody asks for them."""

    def __iter__(self) -> Iterator[str]:
        from minigrad.dist.schedules import SCHEDULES

        return iter(SCHEDULES)

    def __contains__(self, name: object) -> bool:
        return name in list(self)


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
    pipeline: int = 1  # ranks that share out the layers
    tensor: int = 1  # ranks that share out each layer
    schedule: str = "1f1b"  # of the pipeline
    microbatches: int | None = None  # of a pipeline, or portions as `accumulate`; None: see `portions`
    virtual: int | None = None  # stages per rank of a pipeline; None: what the schedule is for
    slices: int | None = None  # into which a pipeline cuts each sequence; None: what the schedule is for
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

    # ----- The mesh of ranks -----

    def mesh(self, ranks: int) -> dict[str, int]:
        """How many ranks there are along each axis, of `ranks` in all."""
        data = ranks // (self.pipeline * self.tensor)
        return {"data": data, "pipeline": self.pipeline, "tensor": self.tensor}

    def portions(self, ranks: int) -> int:
        """Into how many microbatches a copy of the model cuts its sequences.

        Where nobody says, a pipeline gets four for each of its ranks (Huang et al. 2019, GPipe, §2.3: its
        bubble is small from there on), or as many as it has sequences.
        """
        if self.microbatches is not None:
            return self.microbatches
        if self.pipeline == 1:
            return self.accumulate
        from minigrad.dist.schedules import entry_of

        most = min(4 * self.pipeline, self.batch // self.mesh(ranks)["data"])
        return (most - most % self.pipeline if entry_of(self.schedule).grouped else 0) or most

    @property
    def division(self) -> dict[str, Any]:
        """What `minigrad.dist.mesh_gpt.divide` is asked for, beside ranks and microbatches."""
        usual = usual_division(self.schedule, self.context)
        return usual | {name: getattr(self, name) for name in usual if getattr(self, name) is not None}

    # ----- What is refused -----

    def check(self, *, ranks: int, threads: bool = False, data: int | None = None) -> None:
        """Refuse what cannot be trained on `ranks` ranks, of which `data` are to be copies of the model.

        Raises UsageError that names the values.
        """
        for name in COUNTS:
            if (getattr(self, name) or 0) < 1 and not (name in OPTIONAL and getattr(self, name) is None):
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
        self.check_ranks(ranks, data)
        self.check_portions(ranks)
        self.check_combinations(threads=threads)

    def check_ranks(self, ranks: int, data: int | None = None) -> None:
        """Refuse ranks that are no mesh, and more copies than sequences: some would have nothing to do.

        Raises UsageError.
        """
        if data is not None and data < 1:
            raise UsageError(f"--data is {data}; it must be at least 1")
        if ranks < 1:
            raise UsageError(f"--ranks is {ranks}; it must be at least 1")
        inside = self.pipeline * self.tensor
        axes = f"--pipeline {self.pipeline} × --tensor {self.tensor}"
        if data is not None and data * inside != ranks:
            raise UsageError(
                f"--data {data} × {axes} are {data * inside} ranks, and there are {ranks}; make them equal, "
                "or leave --data out"
            )
        if ranks % inside:
            raise UsageError(
                f"{ranks} rank{'s' * (ranks > 1)} cannot be shared out: {axes} take {inside}, or a multiple "
                "of it; change one of them"
            )
        copies = ranks // inside
        if copies > self.batch:
            who = "ranks" if inside == 1 else f"copies of the model ({ranks} ranks, {axes})"
            raise UsageError(
                f"{copies} {who} cannot share a batch of {self.batch} sequences: each takes at least one; "
                f"use at most {self.batch} of them or a --batch of at least {copies}"
            )

    def check_portions(self, ranks: int) -> None:
        """Refuse more portions than sequences, and two settings that both say how many. Raises UsageError."""
        if self.microbatches is not None and self.accumulate > 1:
            raise UsageError(
                f"--accumulate {self.accumulate} and --microbatches {self.microbatches} both say into how "
                "many portions a rank's sequences are cut; give one of them"
            )
        if self.pipeline > 1 and self.accumulate > 1:
            raise UsageError(
                f"--accumulate {self.accumulate} is for ranks without a pipeline, and --pipeline is "
                f"{self.pipeline}; give --microbatches {self.accumulate}, which pass through it"
            )
        copies, portions = self.mesh(ranks)["data"], self.portions(ranks)
        least = self.batch // copies
        if portions > least:
            name = "--accumulate" if self.microbatches is None else "--microbatches"
            who = f"{copies} rank{'s' * (copies > 1)}"
            if copies < ranks:
                who = f"{copies} cop{'y' if copies == 1 else 'ies'} of the model"
            raise UsageError(
                f"{name} is {portions}, but with a batch of {self.batch} sequences on {who} "
                f"one has only {least}; use at most {least}, or a larger --batch"
            )

    def check_effect(self, given: Container[str]) -> None:
        """Refuse settings among those given by name that change nothing. Raises UsageError."""
        for name in OF_A_PIPELINE if self.pipeline == 1 else ():
            if name in given:
                raise UsageError(
                    f"{option(name)} {getattr(self, name)} has no effect without a pipeline: give --pipeline "
                    f"with at least 2 ranks, or leave {option(name)} out"
                )

    def check_combinations(self, *, threads: bool) -> None:
        """Refuse settings that do not go together. Raises UsageError."""
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
    "pipeline",
    "tensor",
    "microbatches",
    "virtual",
    "slices",
    "save_every",
    "evaluate_every",
)
OPTIONAL = ("microbatches", "virtual", "slices")
CHOICES: dict[str, Any] = {
    "precision": tuple(PRECISIONS),
    "device": DEVICES,
    "zero": STAGES,
    "offload": OFFLOADS,
    "reduce": (None, *ALGORITHMS),
    "schedule": Schedules(),
}


def usual_division(schedule: str, context: int) -> dict[str, Any]:
    """How a schedule divides a model where nobody says more: two stages per rank, or four slices, if it has a
    use for them. Raises UsageError for one that is not there.
    """
    from minigrad.dist.schedules import entry_of

    uses = entry_of(schedule).uses
    return {
        "schedule": schedule,
        "virtual": 2 if "virtual" in uses else 1,
        "slices": min(4, context) if "slices" in uses else 1,
    }


def settings_from_json(values: dict[str, Any]) -> Settings:
    """The inverse of `Settings.as_json`. Raises UsageError where names are missing or unknown."""
    names = {field.name for field in fields(Settings)}
    if set(values) != names:
        odd = _listed(sorted(set(values) ^ names))
        raise UsageError(f"the recorded settings do not fit this version of minigrad: they differ in {odd}")
    for field in fields(Settings):
        value, kinds = values[field.name], get_args(field.type) or (field.type,)
        if field.name == "text":
            fits = value is None or (type(value) is list and all(type(name) is str for name in value))
        else:
            fits = type(value) in kinds or (float in kinds and type(value) is int)
        if not fits:
            raise UsageError(f"the recorded setting {field.name} is {value!r:.80}; config.json was changed")
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
    for name, other, default in (("accumulate", "microbatches", None), ("microbatches", "accumulate", 1)):
        if name in changes:
            changes.setdefault(other, default)  # both say the same; what is given now counts
    if "schedule" in changes:
        for name in ("virtual", "slices"):
            changes.setdefault(name, None)  # they belong to a schedule
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
