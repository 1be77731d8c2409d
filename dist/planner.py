"""How much memory and traffic a training run takes per rank, before it is run: ZeRO's arithmetic.

Papers: Rajbhandari et al. 2019, ZeRO: Memory Optimizations Toward Training Trillion Parameter Models
(1910.02054), §3, §5, §7; Ren et al. 2021, ZeRO-Offload (2101.06840), §3. With Ψ parameters, N ranks and K
bytes of optimizer state per parameter, in mixed precision:

    stage 0   (2 + 2 + K) Ψ               what plain data parallelism holds
    stage 1   (2 + 2) Ψ + K Ψ / N         each rank keeps a shard of the optimizer's state
    stage 2   2 Ψ + (2 + K) Ψ / N         … of the gradients too
    stage 3   (2 + 2 + K) Ψ / N           … and of the parameters

These are the states of the model alone. Activations are counted, not calculated: `planner_model.py`. Table 1
of the paper is made of these values, rounded in some cells and cut off in others (4187.5 GB is printed as
4187, 41.25 GB as 41.3). In its Table 2 the first row is what `largest_model` gives, and the other rows are
multiples of that row's rounded values: 15.2 billion for two model-parallel ranks is 2 · 7.6, where 2 · 7.64
would be 15.3.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from minigrad.errors import UsageError

STAGES = (0, 1, 2, 3)
STATES = ("parameters", "gradients", "optimizer")


@dataclass(frozen=True)
class Precision:
    """Bytes of one parameter, of its gradient, and of an entry of the optimizer's arrays; whether these hold
    a copy of the parameters in their own precision, the master weights.
    """

    parameter: int
    gradient: int
    state: int
    master: bool


PRECISIONS = {
    "mixed": Precision(2, 2, 4, master=True),
    "float32": Precision(4, 4, 4, master=False),
    "float64": Precision(8, 8, 8, master=False),
}
STATE_ARRAYS = {
    "sgd": 0,
    "momentum": 1,
    "nesterov": 1,
    "adagrad": 1,
    "rmsprop": 1,
    "lion": 1,
    "lars": 1,
    "adam": 2,
    "adamw": 2,
    "adamax": 2,
    "nadam": 2,
    "lamb": 2,
}
"""Arrays as large as the parameters that an optimizer keeps from step to step, with its usual options."""


@dataclass(frozen=True)
class Setup:
    """What is trained and how: parameters, ranks, the optimizer (of STATE_ARRAYS), the precision.

    Raises UsageError for counts below 1 and unknown names.
    """

    parameters: int
    ranks: int = 1
    optimizer: str = "adamw"
    precision: str = "mixed"

    def __post_init__(self) -> None:
        for name in ("parameters", "ranks"):
            if getattr(self, name) < 1:
                raise UsageError(f"a plan needs at least 1 of {name}, got {getattr(self, name)}")
        for what, name, known in (
            ("optimizer", self.optimizer, STATE_ARRAYS),
            ("precision", self.precision, PRECISIONS),
        ):
            if name not in known:
                raise UsageError(f"unknown {what} {name!r}; the planner knows {', '.join(known)}")

    @property
    def shard(self) -> int:
        """Parameters of the largest shard: shards are as even as whole numbers allow."""
        return -(-self.parameters // self.ranks)

    @property
    def widths(self) -> dict[str, int]:
        """Bytes for each parameter, by category; that of the optimizer is the papers' K."""
        precision = PRECISIONS[self.precision]
        arrays = STATE_ARRAYS[self.optimizer] + precision.master
        return {
            "parameters": precision.parameter,
            "gradients": precision.gradient,
            "optimizer": arrays * precision.state,
        }


def check_stage(stage: int) -> None:
    """Raise UsageError for what is no stage of ZeRO."""
    if stage not in STAGES:
        raise UsageError(f"ZeRO has no stage {stage}; there are 0 (data parallel), 1, 2 and 3")


def model_states(setup: Setup, stage: int, *, shard: int | None = None) -> dict[str, int]:
    """Bytes of parameters, gradients and optimizer states on the rank that holds most.

    `shard` says how many parameters that rank owns, where the pieces are cut less evenly than `Setup.shard`.

    >>> states = model_states(Setup(7_500_000_000, ranks=64), 2)
    >>> sum(states.values()) / 1e9
    16.640625
    """
    check_stage(stage)
    sharded = {"parameters": stage >= 3, "gradients": stage >= 2, "optimizer": stage >= 1}
    own = setup.shard if shard is None else shard
    return {
        name: width * (own if sharded[name] else setup.parameters) for name, width in setup.widths.items()
    }


def traffic(setup: Setup, stage: int, *, microbatches: int = 1) -> dict[str, float]:
    """Bytes that a rank sends in one step, by purpose, on the average over ranks (ZeRO §7).

    An all-reduce of Ψ entries makes each rank send 2 (N − 1)/N Ψ, a reduce-scatter or an all-gather half of
    it. Stages 0 and 1 reduce once a step, however many microbatches are accumulated; stage 2 reduces, and
    stage 3 gathers twice and reduces, for each of them.
    """
    check_stage(stage)
    moved = setup.parameters * (setup.ranks - 1) / setup.ranks
    gathers = {0: 0, 1: 1, 2: 1, 3: 2 * microbatches}[stage]
    reductions = {0: 2, 1: 1, 2: microbatches, 3: microbatches}[stage]
    widths = setup.widths
    return {
        "gradients": reductions * moved * widths["gradients"],
        "parameters": gathers * moved * widths["parameters"],
    }


def payload(setup: Setup, stage: int, *, microbatches: int = 1) -> dict[str, float]:
    """The same step as `traffic`, as ranks hand it to a library, which alone knows what it then sends: the
    whole array into an all-reduce or a reduce-scatter, the own shard into an all-gather.
    """
    check_stage(stage)
    gathers = {0: 0, 1: 1, 2: 1, 3: 2 * microbatches}[stage]
    reductions = microbatches if stage >= 2 else 1
    widths = setup.widths
    return {
        "gradients": reductions * setup.parameters * widths["gradients"],
        "parameters": gathers * setup.parameters / setup.ranks * widths["parameters"],
    }


def smallest_ranks(
    setup: Setup, stage: int, memory: float, *, held: Callable[[Setup], Mapping[str, int]] | None = None
) -> int | None:
    """The smallest number of ranks on which all that a rank holds fits into `memory` bytes.

    `held` says what a rank holds (default: the model states); from two ranks on it must not grow with their
    number. None where no number is enough. The ranks of `setup` do not matter.
    """

    def fits(ranks: int) -> bool:
        at = replace(setup, ranks=ranks)
        return sum((held(at) if held else model_states(at, stage)).values()) <= memory

    most = max(2, setup.parameters)  # with more ranks, some would own nothing
    if fits(1):
        return 1
    return most - _most(lambda fewer: fits(most - fewer), most - 2) if fits(most) else None


def largest_model(setup: Setup, stage: int, memory: float) -> int:
    """The most parameters whose states fit into `memory` on each of the ranks (ZeRO, Table 2, first row).

    Parameters of `setup` do not matter. Returns 0 where not even one fits.
    """

    def fits(parameters: int) -> bool:
        return sum(model_states(replace(setup, parameters=parameters), stage).values()) <= memory

    return _most(lambda parameters: parameters == 0 or fits(parameters), int(memory) * setup.ranks)


def offloaded(setup: Setup, *, gradients: bool, update: bool) -> dict[str, dict[str, int]]:
    """Bytes of a single device and of its host where parts of the states live on the host (ZeRO-Offload,
    Table 1): the gradients, and what the update works on, which is then done there.

    In mixed precision with Adam the device holds 16, 14, 4 and 2 bytes a parameter, for neither, gradients
    only, the update only, and both. The paper's last row prints 4M where its own reduction, 8 times, is 2M.
    """
    states = {name: width * setup.parameters for name, width in setup.widths.items()}
    on_host = {"parameters": False, "gradients": gradients, "optimizer": update}
    return {
        place: {name: size if on_host[name] == there else 0 for name, size in states.items()}
        for place, there in (("device", False), ("host", True))
    }


def published_activations(*, layers: int, width: int, context: int, batch: int) -> int:
    """Bytes of activations by the papers' rule of thumb, 12 · width · batch · context · layers of 2 bytes.

    It gives the 60 GB that ZeRO §3.2 states for GPT-2 with 1.5 billion parameters; what minigrad really keeps
    is counted by `planner_model.count`.
    """
    return 2 * 12 * width * batch * context * layers


def _most(fits: Callable[[int], bool], high: int) -> int:
    """The largest number up to `high` that fits; 0 does, and so does every number below one that does."""
    low = 0
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
