"""What each rank of a data × pipeline × tensor mesh holds and sends, before any of them runs.

One copy of the model is built without values, and its pipeline really runs its schedule on thread ranks: what
they keep and what they hand on is counted. Of the tensor ranks only the first takes part, which has the
largest pieces. What the others would be sent is Megatron's arithmetic, and the data axis ZeRO's.

Narayanan et al. 2021, Efficient Large-Scale Language Model Training on GPU Clusters Using Megatron-LM, §3.2;
Rajbhandari et al. 2019, ZeRO, §5, §7.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import minigrad as mg
from minigrad import backend
from minigrad.dist.gpt_units import unit_sizes
from minigrad.dist.memory import Meter
from minigrad.dist.mesh import Mesh
from minigrad.dist.mesh_gpt import MeshGPT
from minigrad.dist.partition import cut
from minigrad.dist.pipeline import Pipeline
from minigrad.dist.planner_model import Count
from minigrad.dist.schedule import F
from minigrad.dist.single import SingleWorld
from minigrad.dist.spawn import spawn
from minigrad.dist.verbs import balanced_counts
from minigrad.dist.world import World
from minigrad.errors import UsageError
from minigrad.meter import metered
from minigrad.nn.gpt import GPT, GPTConfig
from minigrad.nn.module import Module

LOSS_NUMBERS = (
    3  # for each token, to learn from logits in parts: their largest, the sum behind it, the target's
)


@dataclass(frozen=True)
class MeshRank:
    """The first tensor rank of one place in the pipeline.

    layers     what it has, by name
    count      what it holds and computes: of the whole step, which is a copy's samples in microbatches
    sent       bytes that it sends in a step on the axes "pipeline" (hand-overs, and gradients of what stages
               share) and "tensor" (on the average over ranks, by an algorithm that moves no more than a ring)
    """

    layers: tuple[str, ...]
    count: Count
    sent: dict[str, float]


class Elsewhere(SingleWorld):
    """The first of several ranks, the others of which are not there: for arrays without values, of which
    nothing is sent.
    """

    def __init__(self, ranks: int) -> None:
        super().__init__()
        self.size, self.members = ranks, tuple(range(ranks))


class _OneCopy:
    """The axes of a mesh as one copy's first tensor rank sees them."""

    def __init__(self, stages: World, tensor: int) -> None:
        self._axes = {"data": SingleWorld(), "pipeline": stages, "tensor": Elsewhere(tensor)}

    def axis(self, name: str) -> World:
        return self._axes[name]


def count_ranks(
    config: GPTConfig,
    *,
    pipeline: int = 1,
    tensor: int = 1,
    batch: int,
    microbatches: int = 1,
    precision: str = "mixed",
    checkpoint: bool = False,
    bucket_bytes: int | None = None,
    **options: Any,
) -> list[MeshRank]:
    """The ranks of one copy of a GPT, by place in the pipeline.

    batch     samples of the copy in a step, cut into `microbatches`
    options   schedule, virtual, slices: see `divide`

    In "mixed" precision walks are in float16. Raises UsageError for what cannot run.

    >>> small = GPTConfig(vocabulary=64, context=16, layers=4, heads=4, width=32)
    >>> first, last = count_ranks(small, pipeline=2, tensor=2, batch=8, microbatches=4)
    >>> first.layers, last.layers
    (('wte', 'wpe', 'h.0', 'h.1'), ('h.2', 'h.3', 'ln_f', 'lm_head'))
    >>> first.sent["pipeline"] == 8 * 16 * 32 * 2 + 64 // 2 * 32 * 4  # hand-overs; the words' gradients
    True
    """
    for name, number in (("pipeline", pipeline), ("tensor", tensor), ("microbatches", microbatches)):
        if number < 1:
            raise UsageError(f"a plan needs at least 1 of {name}, got {number}")
    if batch < microbatches:
        raise UsageError(
            f"{batch} samples of a copy cannot be cut into {microbatches} microbatches; give more"
        )
    dtype = "float16" if precision == "mixed" else precision
    options |= {"microbatches": microbatches, "recompute": checkpoint}
    run = partial(_run, config=config, tensor=tensor, batch=batch, dtype=dtype, options=options)
    return spawn(partial(run, bucket_bytes=bucket_bytes), ranks=pipeline)


def _run(
    world: World,
    config: GPTConfig,
    tensor: int,
    batch: int,
    dtype: str,
    options: dict[str, Any],
    bucket_bytes: int | None,
) -> MeshRank:
    """One step of one stage, on arrays without values."""
    mesh = cast("Mesh", _OneCopy(world, tensor))
    part = MeshGPT(GPT(config, dtype=dtype, device="shapes"), mesh, **options)
    meter, xp = Meter(), backend.of_device("shapes")
    parameters = list(part.module.parameters())
    for parameter in parameters:
        meter.track("parameters", parameter.data)
        parameter.grad_buffer = xp.empty(parameter.shape, dtype=dtype)
    world.ledger.clear()
    samples = batch if part.pipeline is not None else -(-batch // options["microbatches"])
    tokens = mg.zeros((samples, config.context), dtype="int64", device="shapes")
    with metered() as work:
        if part.pipeline is not None:
            part.pipeline.executor.meter = meter
            part.pipeline.step(tokens, tokens, count=batch * config.context)
        else:
            loss = cast("GPT", part.module).loss(tokens, tokens)
            meter.activations(loss)
            loss.backward()
    held = meter.peak["activations"]
    stages = _layers(part)
    layers = {
        name: sum(p.size for p in layer.parameters())
        for stage in stages.values()
        for name, layer in stage.items()
    }
    total = sum(parameter.size for parameter in parameters)
    if part.pipeline:
        units = (0, *(size for size in layers.values() if size))
    else:
        units = unit_sizes(cast("GPT", part.module), recompute=options["recompute"])
    count = Count(
        parameters=total,
        buckets=tuple(bucket.size for bucket in cut(parameters, SingleWorld(), bucket_bytes)),
        units=units,
        activations=held,
        working=max(0, work.peak_bytes - held),
        flops=work.flops * (1 if part.pipeline else options["microbatches"]),
    )
    handed_on = sum(
        entry.bytes_sent
        for (_, purpose), entry in world.ledger.by_kind.items()
        if purpose in ("activations", "gradients")
    )
    item = parameters[0].dtype.itemsize
    summed = _summed_bytes(part, stages, config, batch, item) if tensor > 1 else 0
    sent = {"pipeline": handed_on, "tensor": 2 * (tensor - 1) / tensor * summed}
    return MeshRank(tuple(layers), count, sent)


def _layers(part: MeshGPT) -> dict[int, dict[str, Module]]:
    """The layers of each stage of a rank, by name."""
    if part.pipeline is not None:
        return {number: dict(stage.named_children()) for number, stage in part.pipeline.stages.items()}
    model = cast("GPT", part.module)
    blocks = {f"h.{number}": block for number, block in enumerate(model.h)}
    return {0: {"wte": model.wte, "wpe": model.wpe, **blocks, "ln_f": model.ln_f, "lm_head": Module()}}


def _summed_bytes(
    part: MeshGPT, stages: dict[int, dict[str, Module]], config: GPTConfig, batch: int, item: int
) -> int:
    """The bytes of all that tensor ranks sum in a step: two activations of each block on the way there and
    two back; that of the embedding, the gradient at the output layer, and the numbers of the loss.
    """
    total = 0
    for stage, layers in stages.items():
        blocks = sum(name.startswith("h.") for name in layers)
        there, back = 2 * blocks + ("wte" in layers), 2 * blocks + ("lm_head" in layers)
        loss = LOSS_NUMBERS * max(item, 4) * ("lm_head" in layers)
        tokens = batch * config.context
        total += tokens * ((there + back) * config.width * item + loss)
        if part.pipeline is not None:
            total += _again(part.pipeline, stage, batch, config) * (there * config.width * item + loss)
        elif cast("GPT", part.module).checkpoint_activations:
            total += tokens * 2 * blocks * config.width * item  # of blocks only
    return total


def _again(pipeline: Pipeline, stage: int, batch: int, config: GPTConfig) -> int:
    """For how many tokens the forward of a stage is computed again."""
    samples = balanced_counts(batch, pipeline.schedule.microbatches)
    lengths = balanced_counts(config.context, pipeline.schedule.slices)
    return sum(
        samples[action.microbatch] * lengths[action.slice]
        for action in pipeline.executor.program
        if action.kind is F and action.stage == stage and pipeline.executor.recomputes(action)
    )
