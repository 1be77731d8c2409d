"""How to fit a large model: the ways to need less memory, one rung after another, and what each costs.

The order is that of their price: first what changes nothing but the size of a batch, then what costs time on
one device, then what needs more devices. Each rung keeps what the rungs before it saved, but for sharding,
which takes the place of the host.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from minigrad.dist.planner import STAGES, Setup, model_states, offloaded, smallest_ranks, traffic
from minigrad.dist.planner_model import Count, count, rank_memory
from minigrad.draw_svg import bytes_text
from minigrad.nn.gpt import GPTConfig

RANKS = 8  # to show what sharding does, where nobody said how many


@dataclass(frozen=True)
class Rung:
    """One way to train: what is done, what it costs, and the bytes of a device by category.

    `option` is what `minigrad train` calls it, and `host` are bytes on the host of each device.
    """

    name: str
    price: str
    memory: dict[str, int]
    host: int = 0
    option: str = ""

    @property
    def total(self) -> int:
        return sum(self.memory.values())


def ladder(
    setup: Setup, *, config: GPTConfig | None = None, batch: int = 1, memory: float | None = None
) -> list[Rung]:
    """The rungs for a model of so many parameters, or with a `config` for that GPT, activations included.

    Sharding takes the ranks of `setup`; where that is one, the fewest (from 2 on) that fit into `memory`, or
    8; each rank then takes its part of the batch, one sequence a pass. A config brings its own number of
    parameters, whatever `setup` says.
    """
    rungs: list[Rung] = []
    recomputed = None
    if config is not None:
        rungs, recomputed = _activation_rungs(setup, config, batch)
        setup = replace(setup, parameters=recomputed.parameters)
    else:
        rungs.append(Rung("as asked", "nothing", model_states(setup, 0)))
    kept = {name: rungs[-1].memory[name] for name in rungs[-1].memory if name in ("activations", "buffers")}
    for gradients in (False, True):
        halves = offloaded(setup, gradients=gradients, update=True)
        widths = setup.widths
        moved = setup.parameters * (widths["gradients"] + widths["parameters"])
        rungs.append(
            Rung(
                "+ optimizer and gradients on the host" if gradients else "+ optimizer on the host",
                f"{bytes_text(moved)} between host and device a step; the host computes the update",
                {**halves["device"], **kept},
                host=sum(halves["host"].values()),
                option="" if gradients else "--offload host",
            )
        )
    return rungs + list(_sharded(setup, recomputed, batch, memory))


def _activation_rungs(setup: Setup, config: GPTConfig, batch: int) -> tuple[list[Rung], Count]:
    """The rungs that change what a pass keeps, and the count of the last of them."""
    precision = setup.precision
    asked = count(config, batch=batch, precision=precision)
    one = count(config, batch=1, precision=precision)
    again = count(config, batch=1, precision=precision, checkpoint=True)
    alone = Setup(asked.parameters, optimizer=setup.optimizer, precision=precision)
    rungs = [Rung(f"batch {batch}, as asked", "nothing", rank_memory(asked, alone, 0))]
    if batch > 1:
        smaller = rank_memory(one, alone, 0)
        price = "another training: noisier gradients"
        rungs.append(Rung("batch 1", price, smaller, option="--batch 1"))
        name, price = f"batch {batch} as {batch} accumulated passes", "the same sums, in small products"
        rungs.append(Rung(name, price, smaller, option=f"--accumulate {batch}"))
    more = again.flops / one.flops - 1
    price = f"{more:.0%} more computation: a second forward"
    memory, option = rank_memory(again, alone, 0), "--checkpoint-activations"
    rungs.append(Rung("+ activation checkpointing", price, memory, option=option))
    return rungs, again


def _sharded(setup: Setup, counted: Count | None, batch: int, memory: float | None) -> Iterator[Rung]:
    for stage in STAGES[1:]:

        def held(at: Setup, stage: int = stage) -> dict[str, int]:
            return model_states(at, stage) if counted is None else rank_memory(counted, at, stage)

        ranks = setup.ranks if setup.ranks > 1 else RANKS
        if memory is not None and setup.ranks == 1:
            ranks = max(2, smallest_ranks(setup, stage, memory, held=held) or ranks)
        many = replace(setup, ranks=ranks)
        passes = -(-batch // ranks)
        sent = sum(traffic(many, stage, microbatches=passes).values())
        price = f"each rank sends {bytes_text(sent)} a step" + (f" of {passes} passes" if passes > 1 else "")
        name = f"ZeRO stage {stage} on {ranks:,} ranks instead"
        yield Rung(name, price, held(many), option=f"--zero {stage} --ranks {ranks}")
