"""`python -m benchmarks.idle`: how long pipeline ranks wait, beside what the timing model says.

Two ranks (processes, needs MPI; one BLAS thread each) train a GPT cut into stages of equal measured cost, by
each schedule and number of microbatches in turn, round after round. Of every other step actions are profiled;
of the steps between, idle time is read off the trace of the run: the time from a step's first computation on
any rank to its last in which a rank computes nothing. The model runs the schedule on a clock with the median
seconds of each kind of action on each stage, of a rank's pause from one action to the next where nothing has
to be waited for (a rank copies its messages itself), and of a message, sent to and fro between the two ranks.

PASS: on each rank, the median of the measured idle times is within 20 % of the model's. A core that another
program takes would show as waiting. Ranks that wait for MPI keep their core busy, so CPU time tells: steps in
which a rank had less than 98 % of a core are left out, and others run in their place, while time lasts.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import minigrad as mg
from benchmarks.report import load, machine, markdown, write
from benchmarks.rounds import THREAD_VARIABLES
from minigrad import dist, nn
from minigrad.dist.launch import run_under_mpirun
from minigrad.dist.partitioning import balance
from minigrad.dist.pipeline import Pipeline
from minigrad.dist.pipeline_costs import layer_seconds, pause, profile
from minigrad.dist.pipeline_gpt import gpt_layers, token_loss
from minigrad.dist.timing import Timeline, measured, simulate
from minigrad.dist.world import World
from minigrad.nn.gpt import GPT, GPTConfig
from minigrad.nn.module import Module

SCHEDULES = {"naive": 1, "gpipe": 1, "1f1b": 1, "zb-h1": 1, "interleaved": 2}  # stages per rank
TOLERANCE = 0.2
FREE = 0.98  # of a core, that a rank has while nobody else wants it
ENOUGH = 3  # steps on free cores, to be profiled and to be judged
WORDS = {True: "PASS", False: "FAIL", None: "----"}


@dataclass(frozen=True)
class Size:
    """The model, and the samples of a microbatch."""

    layers: int = 4
    width: int = 256
    heads: int = 8
    context: int = 128
    vocabulary: int = 256
    samples: int = 2


TINY = Size(layers=4, width=8, heads=2, context=4, vocabulary=5)


@dataclass
class Row:
    """What was found for one schedule. Seconds; lists are by rank.

    model, idle   idle time of a step: the model's, and for each step that was judged the measured one
    steps         from the first computation of a step to the last
    stages        forward and backward of one microbatch on all stages of a rank
    pause         from one action to the next, if nothing has to be waited for
    link          a message between the two
    taken         steps left out because a rank had to share its core
    """

    schedule: str
    microbatches: int
    model: list[float] = field(default_factory=list)
    model_step: float = 0.0
    idle: list[list[float]] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)
    stages: list[float] = field(default_factory=list)
    pause: float = 0.0
    link: float = 0.0
    taken: int = 0

    @property
    def measured(self) -> list[float]:
        """The median of each rank's idle time."""
        return [statistics.median(times) for times in zip(*self.idle, strict=True)]

    @property
    def errors(self) -> list[float]:
        """How far the measured idle time of each rank is off the model's, relative to it."""
        return [there / said - 1 for there, said in zip(self.measured, self.model, strict=True)]

    @property
    def passed(self) -> bool | None:
        """None where cores were hardly ever free."""
        return all(abs(error) <= TOLERANCE for error in self.errors) if self.errors else None


class Run:
    """One pipeline, its batch, and the timelines of its steps."""

    def __init__(self, world: World, size: Size, schedule: str, microbatches: int) -> None:
        self.schedule, self.microbatches = schedule, microbatches
        layers, tokens = model(size), data(size, microbatches)
        costs = np.array(layer_seconds(layers.values(), tokens[0][: size.samples], repeats=7))
        world.broadcast(costs)  # one cut for all
        self.pipeline = Pipeline(
            layers,
            balance=balance(costs.tolist(), SCHEDULES[schedule] * world.size),
            chunks=microbatches,
            schedule=schedule,
            loss=token_loss,
            world=world,
        )
        self.tokens = tokens
        self.optimizer = nn.optim.SGD(self.pipeline.parameters(), lr=1e-3)
        self.profiled: list[Timeline] = []
        self.judged: list[Timeline] = []
        self.taken = 0

    def step(self) -> None:
        """Train on the batch once; keep the timeline if cores were free, to profile and to judge in turn."""
        wall, processor = time.perf_counter(), time.process_time()
        self.pipeline.step(*self.tokens)
        share = np.array([(time.process_time() - processor) / (time.perf_counter() - wall)])
        self.optimizer.step()
        self.optimizer.zero_grad()
        timeline = self.pipeline.timeline()
        self.pipeline.world.all_reduce(share, operation="min")
        if share[0] < FREE and self.pipeline.world.kind == "mpi":  # threads take turns
            self.taken += 1
        else:
            min(self.profiled, self.judged, key=len).append(timeline)

    def forget(self) -> None:
        """What was so far only warmed up."""
        self.profiled, self.judged, self.taken = [], [], 0

    def row(self, link: float) -> Row:
        """The model's idle times beside the measured ones."""
        if min(len(self.profiled), len(self.judged)) < ENOUGH:
            return Row(self.schedule, self.microbatches, link=link, taken=self.taken)
        costs = profile(self.profiled)
        short = pause(self.profiled)
        said = simulate(self.pipeline.schedule, measured(costs), link=link, between=short)
        ranks = self.pipeline.schedule.rank_of
        stages = [0.0] * len(self.pipeline.schedule.ranks)
        for (stage, *_), seconds in costs.items():
            stages[ranks[stage]] += seconds
        return Row(
            self.schedule,
            self.microbatches,
            said.idle,
            said.makespan,
            [one.idle for one in self.judged],
            [one.makespan for one in self.judged],
            stages,
            short,
            link,
            self.taken,
        )


def model(size: Size) -> dict[str, Module]:
    """The layers of a GPT."""
    mg.random.manual_seed(0)
    config = GPTConfig(
        vocabulary=size.vocabulary,
        context=size.context,
        layers=size.layers,
        heads=size.heads,
        width=size.width,
    )
    return gpt_layers(GPT(config))


def data(size: Size, microbatches: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and those that follow them, (samples, context) each."""
    shape = (microbatches * size.samples, size.context + 1)
    tokens = np.random.default_rng(0).integers(0, size.vocabulary, shape)
    return tokens[:, :-1], tokens[:, 1:]


def message_seconds(world: World, size: Size, repeats: int = 20) -> float:
    """Half a round trip of one activation between ranks 0 and 1, the median; on all ranks."""
    array = np.zeros((size.samples, size.context, size.width), dtype=np.float32)
    trips = []
    for _ in range(repeats):
        start = time.perf_counter()
        if world.rank == 0:
            world.send(array, 1)
            world.receive(array, 1)
        else:
            world.receive(array, 0)
            world.send(array, 0)
        trips.append(time.perf_counter() - start)
    found = np.array([statistics.median(trips) / 2])
    world.broadcast(found)
    return float(found[0])


def measure(
    world: World,
    size: Size,
    schedules: Sequence[str],
    microbatches: Sequence[int],
    *,
    steps: int,
    seconds: float,
) -> list[Row]:
    """All rows, on every rank: `steps` of each that are judged, or as many as cores were free for in time."""
    mg.keep_freed_memory()
    runs = [Run(world, size, schedule, number) for schedule in schedules for number in microbatches]
    for run in runs:
        run.step()
        run.forget()
    stop = time.perf_counter() + seconds
    late = np.zeros(1)
    while not late[0] and (left := [run for run in runs if len(run.judged) < steps]):
        for run in left:
            run.step()
        late[0] = time.perf_counter() > stop
        world.broadcast(late)  # ranks end together
    link = message_seconds(world, size)
    return [run.row(link) for run in runs]


def table(rows: Sequence[Row]) -> list[str]:
    """The rows, to be read; times in milliseconds, by rank."""

    def list_of(seconds: Sequence[float]) -> str:
        return " ".join(f"{1e3 * one:.1f}" for one in seconds)

    heads = [
        "schedule",
        "microbatches",
        "stage",
        "pause",
        "message",
        "step",
        "model's",
        "idle",
        "model's",
        "off by",
        "steps",
        "",
    ]
    cells = [
        [
            row.schedule,
            str(row.microbatches),
            list_of(row.stages),
            f"{1e3 * row.pause:.2f}" if row.steps else "",
            f"{1e3 * row.link:.2f}" if row.steps else "",
            list_of([statistics.median(row.steps)] if row.steps else []),
            list_of([row.model_step] if row.steps else []),
            list_of(row.measured),
            list_of(row.model),
            " ".join(f"{error:+.0%}" for error in row.errors),
            f"{len(row.steps)} ({row.taken} left out)",
            WORDS[row.passed],
        ]
        for row in rows
    ]
    return markdown(heads, cells)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.idle", description=__doc__)
    parser.add_argument("--schedules", default=",".join(SCHEDULES), help="default: all of %(default)s")
    parser.add_argument("--microbatches", default="4,8", help="default %(default)s")
    parser.add_argument("--steps", type=int, default=9, help="to be judged of each; default 9")
    parser.add_argument("--seconds", type=float, default=300, help="after which to stop; default 300")
    parser.add_argument("--check", action="store_true", help="exit code 1 on FAIL")
    parser.add_argument("--save", metavar="NAME", help="write benchmarks/results/NAME/idle.json and idle.md")
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)  # where ranks leave what they found
    options = parser.parse_args(arguments)
    options.schedules = options.schedules.split(",")
    for name in options.schedules:
        if name not in SCHEDULES:
            parser.error(f"unknown schedule {name!r}; known are {', '.join(SCHEDULES)}")
    options.microbatches = [int(number) for number in options.microbatches.split(",")]
    if options.steps < ENOUGH or min(options.microbatches) < 1 or not options.seconds > 0:
        parser.error(f"--steps must be at least {ENOUGH}, --microbatches 1, and --seconds positive")
    return options


def report(rows: Sequence[Row], facts: dict[str, Any], name: str | None) -> None:
    """Print the rows, and save them under a name."""
    lines = [f"- {key}: {value}" for key, value in facts.items()]
    lines += ["- two ranks, one BLAS thread each; medians over steps, milliseconds, by rank"]
    lines += [f"- steps in which a rank had less than {FREE:.0%} of a core are left out", ""]
    lines += table(rows)
    print("\n".join(lines))
    if name:
        results = [asdict(row) | {"measured": row.measured, "errors": row.errors} for row in rows]
        text = "\n".join(["# Idle time of pipelines", "", *lines])
        for path in write(name, "idle", {"machine": facts, "results": results}, text):
            print(f"wrote benchmarks/results/{name}/{path.name}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Start two ranks that measure; print, save and judge what they found."""
    options = parse(arguments)
    if options.into is not None:
        chosen = options.schedules, options.microbatches
        rows = measure(dist.world(), Size(), *chosen, steps=options.steps, seconds=options.seconds)
        if dist.world().rank == 0:
            options.into.write_text(json.dumps([asdict(row) for row in rows]))
        return 0
    at_start = load()
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, "1"))
    words = [sys.executable, "-m", "benchmarks.idle", *(sys.argv[1:] if arguments is None else arguments)]
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder, "rows.json")
        code = run_under_mpirun([*words, "--into", str(found)], ranks=2)
        if code:
            return code
        rows = [Row(**row) for row in json.loads(found.read_text())]
    report(rows, {**machine(), "load at start": at_start, "load at end": load()}, options.save)
    return int(options.check and not all(row.passed for row in rows))  # nor where nothing could be judged


if __name__ == "__main__":
    sys.exit(main())
