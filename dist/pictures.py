"""The drawings of `docs/parallel.md`: what the algorithms, the meter and the trace really show.

python -m minigrad.dist.pictures docs                  memory by stage, messages of a ring
mpirun -n 2 python -m minigrad.dist.pictures docs      a step of two ranks, by the clock
"""

import sys
from collections import deque
from pathlib import Path

import numpy as np

from minigrad.dist.algorithms import Place, rounds_of
from minigrad.dist.memory import Meter
from minigrad.dist.spawn import spawn, world
from minigrad.dist.trace import Recording, Trace
from minigrad.dist.transfer import Round
from minigrad.dist.verbs import Call
from minigrad.dist.world import World
from minigrad.dist.zero import ZeRO
from minigrad.draw_arrows import Arrow, message_arrows
from minigrad.draw_bars import bar_chart
from minigrad.draw_svg import bytes_text
from minigrad.errors import CommunicationError
from minigrad.nn import optim
from minigrad.nn.gpt import GPT, GPTConfig

SMALL = GPTConfig(vocabulary=256, context=32, layers=6, heads=4, width=64)
LARGE = GPTConfig(vocabulary=256, context=128, layers=4, heads=8, width=256)


# ----- Memory, measured -----


def held_by_stage(*, ranks: int = 4, config: GPTConfig = SMALL) -> dict[str, dict[str, int]]:
    """Train a GPT for three steps at each stage of ZeRO; bytes of rank 0 by category, at its worst moment."""
    held = {}
    for stage in range(4):
        (parts, *_) = spawn(_worst_moment, ranks=ranks, arguments=(stage, config))
        held[f"stage {stage}"] = {name: count for name, count in parts.items() if count and name != "total"}
    return held


def _worst_moment(world: World, stage: int, config: GPTConfig) -> dict[str, int]:
    meter = Meter()
    model = GPT(config)
    zero = ZeRO(model, optim.AdamW(model.parameters()), world, stage=stage, meter=meter, bucket_bytes=2**17)
    tokens = np.zeros((1, config.context), dtype=np.int64)
    for step in range(3):
        if step == 1:  # states exist from the first step on; how they came is another story
            meter.reset_peak()
        loss = model.loss(tokens, tokens) / world.size
        meter.activations(loss)
        loss.backward()
        zero.step()
    return meter.at_peak


def memory_by_stage(*, ranks: int = 4) -> str:
    """The bars of `held_by_stage` as SVG text."""
    held = held_by_stage(ranks=ranks)
    parameters = sum(p.size for p in GPT(SMALL, device="shapes").parameters())
    return bar_chart(
        held,
        title=f"What one of {ranks} ranks holds, at its worst moment",
        caption=f"A GPT of {parameters:,} parameters in float32 with AdamW, one sequence of "
        f"{SMALL.context} tokens per rank, buckets of {bytes_text(2**17)}. Counted from the arrays of rank 0 "
        "during two steps: what was there when their sum was largest.",
    )


# ----- Messages, by carrying the algorithm out -----


class Share:
    """A piece of an array in which the values of some ranks are summed up."""

    def __init__(self, piece: int, ranks: frozenset[int]) -> None:
        self.piece, self.ranks = piece, ranks

    def __add__(self, other: "Share") -> "Share":
        return Share(self.piece, self.ranks | other.ranks)

    def __str__(self) -> str:
        return f"{chr(ord('a') + self.piece)} {'+'.join(map(str, sorted(self.ranks)))}"


def messages_of(verb: str, algorithm: str, *, ranks: int) -> list[Arrow]:
    """Carry out a collective on all ranks in lockstep; each of its messages, with what is in it.

    verb   all_reduce, reduce_scatter or all_gather, on one element for each rank
    """
    call = Call(verb, np.dtype(object), operation="sum", counts=(1,) * ranks, algorithm=algorithm)
    walks = []
    for rank in range(ranks):
        pieces = [rank] if verb == "all_gather" else range(ranks)
        array = np.array([Share(piece, frozenset([rank])) for piece in pieces], dtype=object)
        out = np.empty(ranks if verb == "all_gather" else 1, dtype=object)
        walks.append(rounds_of(call, Place(rank, ranks), array, out))
    under_way: dict[tuple[int, int], deque[tuple[int, list[Share]]]] = {}
    found: list[Arrow] = []

    def begin(rank: int, step: int) -> Round | None:
        """Go on to the next round of a rank and send what it sends there. Returns what it waits for."""
        transfers = next(walks[rank], None)
        for transfer in transfers or ():
            if transfer.sends:
                shares = list(transfer.buffer)
                under_way.setdefault((rank, transfer.peer), deque()).append((step, shares))
                found.append(Arrow(step, rank, transfer.peer, ", ".join(map(str, shares))))
        return None if transfers is None else [t for t in transfers if not t.sends]

    steps = [0] * ranks
    waiting = [begin(rank, 0) for rank in range(ranks)]
    while any(takes is not None for takes in waiting):
        moved = False
        for rank, takes in enumerate(waiting):
            if takes is None or not all(under_way.get((take.peer, rank)) for take in takes):
                continue
            for take in takes:
                step, shares = under_way[take.peer, rank].popleft()
                take.buffer[...] = shares
                steps[rank] = max(steps[rank], step)
            steps[rank] += 1
            waiting[rank] = begin(rank, steps[rank])
            moved = True
        if not moved:
            raise CommunicationError(f"{algorithm} {verb} on {ranks} ranks: all wait, and nobody sends")
    return sorted(found, key=lambda arrow: (arrow.step, arrow.source, arrow.target))


def ring_messages(*, ranks: int = 4) -> str:
    """The messages of a ring all-reduce as SVG text."""
    last = chr(96 + ranks)
    return message_arrows(
        messages_of("all_reduce", "ring", ranks=ranks),
        title=f"A ring all-reduce on {ranks} ranks",
        caption=f"The array is cut into {ranks} pieces, a to {last}. “{last} 0+1” is piece {last}, summed "
        f"over ranks 0 and 1. After {ranks - 1} steps every rank has one piece that is summed over all; "
        f"after {ranks - 1} more, everybody has everything.",
    )


# ----- A step, by the clock -----


def record_step(world: World, *, stage: int = 2, config: GPTConfig = LARGE) -> Recording | None:
    """Trace the third step of a GPT on every rank; rank 0 gets the recording."""
    model = GPT(config)
    zero = ZeRO(model, optim.AdamW(model.parameters()), world, stage=stage)
    tokens = np.zeros((2, config.context), dtype=np.int64)
    with Trace(world) as trace:
        for _ in range(3):  # the first ones make arrays that the others find
            world.barrier()
            trace.events.clear()
            with trace.span("forward"):
                loss = model.loss(tokens, tokens) / world.size
            with trace.span("backward"):
                loss.backward()
            with trace.span("update"):
                zero.step()
    return trace.gather()


def step_timeline(recording: Recording, *, stage: int = 2) -> str:
    """A recorded step as SVG text."""
    ranks = len({event.rank for event in recording.events})
    return recording.svg(
        title=f"A step at stage {stage} on {ranks} ranks",
        caption="Computing above, messages below: gradients are on their way while the backward pass goes "
        "on, updated parameters go round at the end. A message lasts from the moment it was started until "
        "its rank saw that it was done.",
    )


def main(folder: Path) -> None:
    """Write the drawings that this number of ranks can make."""
    here = world()
    if here.size == 1:
        (folder / "parallel_memory.svg").write_text(memory_by_stage(), encoding="utf-8")
        (folder / "parallel_ring.svg").write_text(ring_messages(), encoding="utf-8")
        return
    recording = record_step(here)
    if recording is not None:
        (folder / "parallel_step.svg").write_text(step_timeline(recording), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
