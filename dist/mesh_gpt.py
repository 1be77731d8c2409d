"""A GPT on a mesh of data × pipeline × tensor ranks: what one rank has of it, and its part of a step.

    mesh = Mesh(world, data=2, pipeline=2, tensor=2)
    part = MeshGPT(GPT(config), mesh, schedule="zb-h1", microbatches=8)
    zero = part.share_out(nn.optim.AdamW(part.module.parameters()), stage=1, max_norm=1.0)
    loss = part.learn(tokens, targets, count=tokens_of_all_ranks)
    zero.step()

Tensor parallelism is inside a stage, as it moves most; each stage holds its parts of the blocks; copies of
all that share the samples, and what can be shared out between copies, ZeRO does.

Narayanan et al. 2021, Efficient Large-Scale Language Model Training on GPU Clusters Using Megatron-LM, §3.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from minigrad import backend, random
from minigrad.backend import Array
from minigrad.dist.algorithms import LIBRARY
from minigrad.dist.counted_loss import wide
from minigrad.dist.gpt_units import gpt_units
from minigrad.dist.memory import Meter
from minigrad.dist.mesh import Mesh
from minigrad.dist.mesh_zero import MeshZeRO
from minigrad.dist.partitioning import balance as balanced
from minigrad.dist.pipeline import Pipeline
from minigrad.dist.pipeline_costs import layer_flops
from minigrad.dist.pipeline_gpt import gpt_layers
from minigrad.dist.pipeline_schedule import find_schedule
from minigrad.dist.schedule import Kind, Schedule
from minigrad.dist.schedule_check import check
from minigrad.dist.tensor_parallel import ParallelGPT, tensor_parallel
from minigrad.dist.tensor_parallel_layout import Layout
from minigrad.dist.token_parallel import token_layers
from minigrad.dist.verbs import balanced_counts
from minigrad.dist.vocabulary_parallel import vocabulary_cross_entropy
from minigrad.errors import CommunicationError, UsageError
from minigrad.graph import no_grad
from minigrad.nn.amp import GradScaler
from minigrad.nn.gpt import GPT
from minigrad.nn.module import Module, Parameter
from minigrad.nn.optim import Optimizer
from minigrad.nn.parameter import Start
from minigrad.ops import cross_entropy
from minigrad.tensor import Tensor

DROPOUT = "drop"  # a layer of its own in some chains; it has no parameters and stays with the one before


@dataclass(frozen=True)
class Division:
    """How a pipeline divides a GPT: its schedule, layers per stage by name, and lengths of token slices."""

    schedule: Schedule
    stages: tuple[tuple[str, ...], ...]
    slices: tuple[int, ...]

    def balance(self, layers: dict[str, Module]) -> list[int]:
        """Layers per stage of a chain that may have a dropout of its own, too."""
        extra = DROPOUT in layers
        return [len(names) + (extra and "wpe" in names) for names in self.stages]


def divide(
    model: GPT,
    ranks: int,
    *,
    schedule: str | Schedule = "1f1b",
    microbatches: int = 1,
    virtual: int = 1,
    slices: int = 1,
) -> Division:
    """Divide a GPT, which may be without values, over `ranks` pipeline ranks, by the work of its layers.

    virtual   stages per rank
    slices    about equal token slices of each sequence (TeraPipe)

    Raises UsageError for what cannot run, and for schedules that update while they run: ZeRO and clipping by
    a norm of all gradients need one moment at which all gradients are there.
    """
    stages = ranks * virtual
    names = [name for name in gpt_layers(model) if name != DROPOUT]
    if stages > len(names):
        raise UsageError(
            f"{stages} stages ({ranks} ranks × {virtual} each) cannot share {len(names)} layers: "
            f"{model.config.layers} blocks, and {', '.join(n for n in names if not n.startswith('h.'))}; "
            f"use at most {len(names)} stages, or more blocks"
        )
    if slices > model.config.context:
        raise UsageError(f"{slices} token slices cannot share a context of {model.config.context}")
    lengths = balanced_counts(model.config.context, slices) if slices > 1 else ()
    found = find_schedule(schedule, ranks, microbatches, stages, lengths, 1, virtual=virtual > 1)
    if any(action.kind is Kind.UPDATE for row in found.ranks for action in row):
        raise UsageError(
            f"the schedule {found.name} has no flush: it updates each stage at a time of its own, while "
            "clipping and ZeRO need all gradients at one time; take one with a flush, such as 1f1b or zb-h1"
        )
    check(found)
    tokens = Tensor(backend.host.zeros((1, model.config.context), dtype="int64"))
    layers = gpt_layers(model)
    flops = dict(zip(layers, layer_flops(layers.values(), tokens), strict=True))
    counts = balanced([flops[name] for name in names], stages)
    ends = [sum(counts[: stage + 1]) for stage in range(stages)]
    parts = tuple(tuple(names[end - count : end]) for end, count in zip(ends, counts, strict=True))
    return Division(found, parts, tuple(lengths))


class MeshGPT:
    """This rank's part of a GPT on a mesh with the axes data, pipeline and tensor.

    model          the whole GPT, the same on all ranks; what this rank needs of it is taken over or copied.
                   It may have shapes only: `share_out` fills what is this rank's
    schedule       of the pipeline, virtual stages per rank and token slices: see `divide`
    microbatches   into which the samples of a copy are cut: they pass through the pipeline, or without one
                   are worked through one after the other
    recompute      keep only what enters each block (each stage of a pipeline), and compute the rest again
    algorithm      of the sums over tensor ranks

    module     what this rank has of the parameters, under their names in the whole model
    pipeline   the pipeline, if that axis has several ranks

    Raises UsageError, before any message, for what cannot run.
    """

    def __init__(
        self,
        model: GPT,
        mesh: Mesh,
        *,
        schedule: str | Schedule = "1f1b",
        microbatches: int = 1,
        virtual: int = 1,
        slices: int = 1,
        recompute: bool = False,
        algorithm: str = LIBRARY,
    ) -> None:
        self.mesh, self.microbatches = mesh, microbatches
        wholes = dict(model.named_parameters())
        self._starts = random.key(*((name, p.start) for name, p in wholes.items() if p.device == "shapes"))
        self.pipeline: Pipeline | None = None
        self.zero: MeshZeRO | None = None
        stages, tensor = mesh.axis("pipeline"), mesh.axis("tensor")
        division = None
        if stages.size > 1:
            division = divide(
                model,
                stages.size,
                schedule=schedule,
                microbatches=microbatches,
                virtual=virtual,
                slices=slices,
            )
        model.checkpoint_activations = recompute
        if tensor.size > 1 or (division and division.slices):
            model = tensor_parallel(model, tensor, algorithm=algorithm)
            for name, parameter in model.named_parameters():
                parameter.start = start_of_part(wholes[name], parameter)
        self.module: Module = model
        self._model = model
        self._loss = loss_of_logits(model)
        if division is not None:
            if isinstance(model, ParallelGPT):
                layers = token_layers(model, length=model.config.context)
            else:
                layers = gpt_layers(model)
            self.pipeline = Pipeline(
                layers,
                balance=division.balance(layers),
                chunks=microbatches,
                schedule=division.schedule,
                loss=self._loss,
                world=stages,
                recompute=recompute,
                slices=division.slices,
                device="shapes",
            )
            self.module = self.pipeline.module
            del self._model  # other stages' parameters go with it

    def share_out(self, optimizer: Optimizer, *, stage: int = 0, **options: Any) -> MeshZeRO:
        """ZeRO on the data axis over `module`; options are those of ZeRO. What it returns takes the steps.

        Raises CommunicationError, before anything is filled, where ranks' models begin differently.
        """
        self._check_starts()
        if stage == 3 and isinstance(self.module, GPT):
            recompute = self.module.checkpoint_activations
            options.setdefault("units", gpt_units(self.module, recompute=recompute))
        self.zero = MeshZeRO(
            self.module, optimizer, self.mesh, pipeline=self.pipeline, stage=stage, **options
        )
        if self.pipeline is not None:
            self.pipeline.executor.quiet = self.zero.no_sync
        return self.zero

    def _check_starts(self) -> None:
        """Compare how the models of all ranks begin that have shapes only."""
        world = self.mesh.world
        starts = np.empty(world.size, dtype=np.uint64)
        world.all_gather(np.array([self._starts], dtype=np.uint64), starts, purpose="control")
        for rank, other in enumerate(starts):
            if other != starts[0]:
                raise CommunicationError(
                    f"{world.name}: the model of rank {rank} begins otherwise than that of rank 0; build the "
                    "same on all ranks, from one seed"
                )

    # ----- A step -----

    def train(self, mode: bool = True) -> None:
        """Switch to training (or, with False, evaluation) behaviour."""
        (self.module if self.pipeline is None else self.pipeline).train(mode)

    def learn(
        self,
        inputs: Any,
        targets: Any,
        *,
        count: int,
        scaler: GradScaler | None = None,
        meter: Meter | None = None,
    ) -> float:
        """Add the gradients of the tokens' losses divided by `count`: tokens of all copies' samples together.

        Shapes: inputs and targets (samples, time), those of this copy; at least as many as microbatches. In a
        `random.scope` the samples are those of the scope. Returns the sum of the tokens' losses, in nats, the
        same on all ranks of this copy. `meter` books what is kept for the backward.
        """
        if self.pipeline is None:
            return self._learn_in_portions(inputs, targets, count, scaler, meter)
        self.pipeline.executor.meter = meter
        scale: Any = 1.0
        if scaler is not None:
            one = self.pipeline.module.computes_with.asarray(1.0, dtype="float32")
            scale = scaler.scale(Tensor.of(one)).data
        return float(self.pipeline.step(inputs, targets, scale=scale, count=count)) * count

    def _learn_in_portions(
        self, inputs: Any, targets: Any, count: int, scaler: GradScaler | None, meter: Meter | None
    ) -> float:
        model, total, start = self._model, 0.0, 0
        quiet = nullcontext if self.zero is None else self.zero.no_sync
        for portion, size in enumerate(balanced_counts(len(inputs), self.microbatches), start=1):
            rows = slice(start, start + size)
            with nullcontext() if portion == self.microbatches else quiet(), of_samples(rows):
                loss = model.loss(inputs[rows], targets[rows], reduction="sum")
                mean = loss * (1.0 / count)
                if scaler is not None:
                    mean = scaler.scale(mean)
                if meter is not None:
                    meter.activations(mean)
                mean.backward()
            total += loss.item()
            start += size
        return total

    def loss(self, inputs: Any, targets: Any) -> float:
        """The sum of the tokens' losses, in nats, the same on all ranks of this copy; nothing is learned.

        Shapes as for `learn`; any number of samples will do, also none.
        """
        with no_grad():
            if self.pipeline is None:
                return float(self._model.loss(inputs, targets, reduction="sum").item())
            samples = len(inputs)
            missing = max(0, self.microbatches - samples)  # rows whose losses do not count
            filled = np.concatenate([inputs, np.zeros((missing, inputs.shape[1]), dtype=inputs.dtype)])
            logits, total = self.pipeline.predict(filled), np.zeros(1)
            if logits is not None:
                total[0] = self._loss(logits[:samples], targets).item()
        stages = self.pipeline.world
        stages.broadcast(total, root=stages.size - 1, purpose="control")
        return float(total[0])


def start_of_part(whole: Parameter, part: Parameter) -> Start | None:
    """How a rank's part of a parameter begins that has a shape only, or its copy of the whole."""
    layout = getattr(part, "layout", None)
    if whole.start is None or layout is None:
        return whole.start
    return Start(_write_part, (whole.start, layout))


def _write_part(array: Array, start: Start, layout: Layout) -> None:
    whole = backend.namespace(array).empty(layout.shape, dtype=array.dtype)
    start.fill(whole)
    array[...] = layout.cut(whole)


def loss_of_logits(model: GPT) -> Callable[[Tensor, Any], Tensor]:
    """A function from logits, of this rank's words, and targets to the sum of all tokens' cross-entropies."""
    region, vocabulary = getattr(model, "region", None), model.config.vocabulary

    def loss(logits: Tensor, targets: Any) -> Tensor:
        logits = wide(logits)
        if region is None:
            return cross_entropy(logits, Tensor(targets, device=logits.device), reduction="sum")
        return vocabulary_cross_entropy(logits, targets, region, vocabulary, reduction="sum")

    return loss


@contextmanager
def of_samples(rows: slice) -> Iterator[None]:
    """Random numbers of these rows of the samples of the scope around, if there is one."""
    seed, _, step, samples, *_ = random.snapshot()
    if step is None or samples is None:
        yield
    else:
        with random.scope(seed=seed, step=step, samples=samples[rows]):
            yield
