"""minigrad's contenders, as its users write them."""

from typing import Any

import numpy as np

import minigrad as mg
from benchmarks.parallel.program import LEARNING_RATE, MICROBATCHES, Program, share
from benchmarks.peers.minigrad_fused import adam, perceptron, transformer
from benchmarks.peers.step import in_turn
from benchmarks.products import choose
from benchmarks.workloads import GPT, MLP
from minigrad import dist, nn
from minigrad.dist.pipeline import Pipeline
from minigrad.dist.pipeline_gpt import gpt_layers, token_loss
from minigrad.dist.world import World

mg.keep_freed_memory()
PRODUCTS = choose()


def describe(world: World, what: str) -> str:
    """Which versions, on which ranks, by which means."""
    ranks = "one rank" if world.size == 1 else f"{world.size} ranks ({world.kind})"
    return f"minigrad {mg.__version__}, NumPy {np.__version__}, {ranks}, {what}{PRODUCTS}"


def data_parallel(workload: GPT, world: World | None = None) -> Program:
    """`DataParallel` and AdamW without decay; on one rank the plain loop."""
    world = world or dist.world()
    module = transformer(workload)
    parallel = dist.DataParallel(module, world)
    optimizer = adam(module.parameters(), workload.adam)
    batches = in_turn(workload.data())

    def run() -> float:
        tokens, targets = (share(array, world.rank, world.size) for array in next(batches))
        loss = module.loss(tokens, targets) * (len(tokens) / workload.batch)
        optimizer.zero_grad()
        loss.backward()
        parallel.synchronize()
        optimizer.step()
        return float(loss.item())

    return Program(
        world.rank, describe(world, "DataParallel" if world.size > 1 else "plain loop"), run, world.barrier
    )


def sharded(workload: GPT, stage: int, world: World | None = None) -> Program:
    """`ZeRO` at a stage."""
    world = world or dist.world()
    module = transformer(workload)
    zero = dist.ZeRO(module, adam(module.parameters(), workload.adam), world, stage=stage)
    batches = in_turn(workload.data())

    def run() -> float:
        tokens, targets = (share(array, world.rank, world.size) for array in next(batches))
        loss = module.loss(tokens, targets) * (len(tokens) / workload.batch)
        loss.backward()
        zero.step()
        return float(loss.item())

    return Program(world.rank, describe(world, f"ZeRO(stage={stage})"), run, world.barrier)


def zero_1(workload: GPT, world: World | None = None) -> Program:
    """Optimizer states shared out."""
    return sharded(workload, 1, world)


def zero_2(workload: GPT, world: World | None = None) -> Program:
    """Gradients, too."""
    return sharded(workload, 2, world)


def zero_3(workload: GPT, world: World | None = None) -> Program:
    """Parameters, too."""
    return sharded(workload, 3, world)


def pipeline(workload: GPT, schedule: str, world: World | None = None) -> Program:
    """`Pipeline` with one stage a rank."""
    world = world or dist.world()
    layers = gpt_layers(transformer(workload))
    stages = Pipeline(
        layers,
        balance=dist.balanced_counts(len(layers), world.size),
        chunks=MICROBATCHES,
        schedule=schedule,
        loss=token_loss,
        world=world,
    )
    optimizer = adam(stages.parameters(), workload.adam)
    batches = in_turn(workload.data())
    last = world.rank + 1 == world.size

    def run() -> float:
        loss = stages.step(*next(batches))
        optimizer.step()
        optimizer.zero_grad()
        return float(loss) if last else 0.0  # every rank knows it; it counts once

    return Program(world.rank, describe(world, f"Pipeline, {schedule}"), run, world.barrier)


def one_forward_one_backward(workload: GPT, world: World | None = None) -> Program:
    """1F1B."""
    return pipeline(workload, "1f1b", world)


def gpipe(workload: GPT, world: World | None = None) -> Program:
    """All forwards, then all backwards."""
    return pipeline(workload, "gpipe", world)


def mlp(workload: MLP, world: World | None = None) -> Program:
    """The perceptron: each rank's rows in microbatches, gradients summed over ranks once a step."""
    world = world or dist.world()
    module = perceptron(workload)
    parallel = dist.DataParallel(module, world)
    optimizer = nn.optim.SGD(module.parameters(), lr=LEARNING_RATE)
    batches = in_turn(workload.data())

    def walk(inputs: Any, labels: Any) -> float:
        loss = nn.functional.cross_entropy(module(mg.tensor(inputs)), labels)
        loss = loss * (len(labels) / workload.batch)
        loss.backward()
        return float(loss.item())

    def run() -> float:
        inputs, labels = (share(array, world.rank, world.size) for array in next(batches))
        parts = [
            (share(inputs, number, MICROBATCHES), share(labels, number, MICROBATCHES))
            for number in range(MICROBATCHES)
        ]
        optimizer.zero_grad()
        with parallel.no_sync():
            total = sum(walk(*part) for part in parts[:-1])
        total += walk(*parts[-1])
        parallel.synchronize()
        optimizer.step()
        return total

    return Program(world.rank, describe(world, "DataParallel, SGD"), run, world.barrier)
