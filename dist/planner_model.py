"""What a GPT keeps while it trains, counted by running the real model on arrays without values.

A step on shape-only arrays runs the same operations and fast paths as one with numbers. Activations are the
arrays that the graph really saved, no formula, and the most that was alive at a time is seen on the way.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import minigrad as mg
from minigrad import backend
from minigrad.dist.gpt_units import unit_sizes
from minigrad.dist.memory import Meter
from minigrad.dist.partition import cut
from minigrad.dist.planner import PRECISIONS, Setup, check_stage, model_states
from minigrad.dist.single import SingleWorld
from minigrad.meter import metered
from minigrad.nn.gpt import GPT, GPTConfig


@dataclass(frozen=True)
class Count:
    """What one microbatch takes on one rank.

    parameters   entries of the model's parameters, tied ones once
    buckets      entries of each bucket in which gradients are sent
    units        entries of each unit that stage 3 gathers: what lies outside the blocks, which stays, then
                 each block or part of one (`gpt_units`)
    activations  bytes that the graph holds between forward and backward
    working      bytes that come and go beside them at the worst moment
    flops        of forward and backward
    """

    parameters: int
    buckets: tuple[int, ...]
    units: tuple[int, ...]
    activations: int
    working: int
    flops: int


def count(
    config: GPTConfig,
    *,
    batch: int,
    precision: str = "mixed",
    checkpoint: bool = False,
    bucket_bytes: int | None = None,
) -> Count:
    """Run one forward and backward of a GPT without values; `checkpoint` recomputes each block.

    Gradients lie in buffers that exist beforehand, as they do in data parallel training, and are not counted.
    In "mixed" precision the pass runs in float16. `bucket_bytes` as for stage 2 of ZeRO.

    >>> small = GPTConfig(vocabulary=256, context=64, layers=2, heads=2, width=64)
    >>> count(small, batch=8).activations > count(small, batch=8, checkpoint=True).activations
    True
    """
    dtype = "float16" if precision == "mixed" else precision
    model = GPT(config, dtype=dtype, device="shapes")
    meter, xp = Meter(), backend.of_device("shapes")
    for parameter in model.parameters():
        meter.track("parameters", parameter.data)
        parameter.grad_buffer = xp.empty(parameter.shape, dtype=dtype)
    model.checkpoint_activations = checkpoint
    tokens = mg.zeros((batch, config.context), dtype="int64", device="shapes")
    with metered() as work:
        loss = model.loss(tokens, tokens)
        activations = meter.activations(loss)
        loss.backward()
    buckets = cut(list(model.parameters()), SingleWorld(), bucket_bytes)
    return Count(
        parameters=sum(parameter.size for parameter in model.parameters()),
        buckets=tuple(bucket.size for bucket in buckets),
        units=unit_sizes(model, recompute=checkpoint),
        activations=activations,
        working=max(0, work.peak_bytes - activations),
        flops=work.flops,
    )


def rank_memory(counted: Count, setup: Setup, stage: int) -> dict[str, int]:
    """Bytes on the rank that holds most: model states, activations, and what comes and goes (`buffers`).

    Buffers are a pass's own working memory; from stage 2 on, two buckets of gradients; at stage 3, where
    buckets are units, also the parameters of the two largest neighbours and of what lies outside all blocks.
    """
    check_stage(stage)
    buckets = counted.units if stage == 3 else counted.buckets
    shard = sum(-(-bucket // setup.ranks) for bucket in buckets)
    states = model_states(setup, stage, shard=shard)
    buffers = counted.working
    if setup.ranks > 1 and stage >= 2:
        precision = PRECISIONS[setup.precision]
        root, *blocks = counted.units
        neighbours = max((sum(pair) for pair in pairwise([*blocks, 0])), default=0)
        passing = {2: 2 * max(buckets), 3: root + 2 * max(blocks)}[stage]
        buffers += passing * precision.gradient
        buffers += (root + neighbours) * precision.parameter if stage == 3 else 0
    return {**states, "activations": counted.activations, "buffers": buffers}
