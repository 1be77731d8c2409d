"""Pipeline: a model in stages on several ranks, trained in microbatches by any schedule.

    pipeline = dist.Pipeline(nn.Sequential(...), balance=[2, 2], chunks=8, schedule="1f1b", loss=loss)
    optimizer = nn.optim.AdamW(pipeline.parameters(), lr=1e-3)
    for inputs, targets in batches:
        loss = pipeline.step(inputs, targets)
        optimizer.step()
        optimizer.zero_grad()

Huang et al. 2019, GPipe; Kim et al. 2020, torchgpipe, whose `balance` and `chunks` these are.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Protocol

import numpy as np

from minigrad import random
from minigrad.dist.checkpoint_piece import Piece
from minigrad.dist.clipping import clip
from minigrad.dist.executor import Executor
from minigrad.dist.memory import Meter
from minigrad.dist.pipeline_batches import Batches
from minigrad.dist.pipeline_schedule import find_schedule, whole_numbers
from minigrad.dist.pipeline_shared import Group, Shared, across, buffers_across, tie
from minigrad.dist.pipeline_stages import (
    Stage,
    build,
    cut,
    find_boundaries,
    refuse_other_tokens,
    refuse_unknown_starts,
)
from minigrad.dist.pipeline_statistics import Statistics
from minigrad.dist.schedule import Kind, Schedule
from minigrad.dist.schedule_check import check
from minigrad.dist.schedule_passes import forward_only
from minigrad.dist.spawn import world as this_world
from minigrad.dist.timing import Span, Timeline
from minigrad.dist.verbs import Array
from minigrad.dist.weight_versions import Updates, WeightVersions
from minigrad.dist.world import World
from minigrad.errors import CommunicationError, UsageError
from minigrad.nn.materialize import materialize
from minigrad.nn.module import Parameter
from minigrad.nn.optim import Optimizer
from minigrad.nn.optim.given import OwnPart
from minigrad.tensor import Tensor


class Sharing(Protocol):
    """Who shares out the parameters of stages; `gathered` is a context in which all of them are whole."""

    gathered: Callable[[], AbstractContextManager[None]]

    def gather(self, stage: int) -> None: ...

    def reduce(self, stage: int) -> None: ...


class Pipeline:
    """Spreads the layers of a model over the ranks of `world` and trains them by a schedule.

    layers      an nn.Sequential (or derived from it, with its forward), or a list or mapping of Modules; of
                these, also functions that make them, so that a rank makes only its own. They begin alike for
                every balance. A layer takes what the one before returned: tensor or tuple
    balance     layers per stage; more stages than ranks are dealt out in turn (stage s on rank s mod ranks),
                also by a schedule that was made for one stage on each rank.
                By default one stage per rank, about equal in number of layers
    chunks      microbatches per batch
    schedule    a name of the catalogue, or a Schedule
    loss        loss(output, target): the mean over the samples of a microbatch, one number. Microbatches are
                weighted by their samples, so uneven ones count right; where targets are ignored, by those
                that count: minigrad's cross-entropies and other `CountedLoss`es. For a sum, see `step`
    recompute   keep only what arrives at each stage, and compute the rest again in the backward
    shared      groups of names of parameters that are one, where layers are made by functions: all begin as
                the one of the first layer. Parameters that Modules of `layers` share are found
    slices      lengths of token slices, cut from axis 1 of inputs and targets (TeraPipe)
    optimizer   function from parameters to an Optimizer, for schedules that update while they run
    versions    which weights such a schedule uses, where it leaves a choice: pipedream "stashing" (unless
                said) or "vertical-sync", one of your own any of "stashing", "vertical-sync", "2bw"
    batches     how many batches such a schedule runs in one step (2bw)
    device      where layers that have shapes only are filled, by each rank its own: to the bit as if they had
                been built there. On "shapes" they stay as they are
    clock       seconds, for the timeline (default: the world's own, or the machine's)
    meter       books the parameters, and what stages keep for their backward as activations

    All ranks call everything together, with the same inputs and targets; only the first and the last stage
    look at the values. Raises UsageError before any message for what cannot run.

    module, stages   this rank's layers as one Module, and by stage
    gathers          whether the schedule says when parameters are gathered and gradients are reduced; then
                     `MeshZeRO(..., stage=3, pipeline=pipeline)` does it
    executor         what runs them; set `executor.quiet = parallel.no_sync` where `module` is copied over a
                     data-parallel axis
    """

    def __init__(
        self,
        layers: Any,
        *,
        balance: Sequence[int] | None = None,
        chunks: int = 1,
        schedule: str | Schedule = "1f1b",
        loss: Callable[..., Tensor] | None = None,
        world: World | None = None,
        recompute: bool = False,
        shared: Iterable[Sequence[str]] = (),
        slices: Sequence[int] = (),
        optimizer: Callable[[Iterable[Parameter]], Optimizer] | None = None,
        versions: str | None = None,
        batches: int = 1,
        device: str = "cpu",
        clock: Callable[[], float] | None = None,
        meter: Meter | None = None,
    ) -> None:
        self.world = this_world() if world is None else world
        balance = None if balance is None else whole_numbers("balance", balance)
        slices = whole_numbers("slices", slices)
        stages = self.world.size if balance is None else len(balance)
        self.schedule = find_schedule(schedule, self.world.size, chunks, stages, slices, batches)
        self.gathers = any(action.kind is Kind.GATHER for action in self.schedule)
        complete = check(self.schedule)
        self.cut, named = cut(layers, balance, self.schedule.stages)
        refuse_unknown_starts(named, device)
        tied = Shared.find(self.cut, named, shared)
        mine = complete.stages_of(self.world.rank)
        number = random.next_key()[-1]
        self.stages = {stage: build(self.cut, named, stage, number) for stage in mine}
        tie(self.world, self.cut, tied, self.stages)
        self.module = materialize(Stage.joined(list(self.stages.values())), device=device)
        if slices:
            for name, layer in self.module.named_children():
                refuse_other_tokens(name, layer)
        starts = [sum(slices[:part]) for part in range(len(slices))] if slices else None
        find = partial(find_boundaries, self.world, self.stages, complete.rank_of, starts=starts)
        self._batches = Batches(self.schedule, slices, loss, find, lambda: self.module.training)
        self._steps = 0
        self._last_rank = complete.rank_of[-1]
        self._updates = Updates.find(
            self.schedule,
            self.stages,
            optimizer,
            versions,
            tied=bool(across(self.cut, tied)),
            meter=meter,
        )
        apart = buffers_across(self.cut, named)
        self._statistics = {stage: Statistics(module, apart) for stage, module in self.stages.items()}
        if self.world.size > 1:
            self._check_alike(slices, tied)
        self._shared = Shared(self.world, tied, self.stages, self.cut, complete.rank_of)
        handlers: dict[Kind, Callable[[int, int], None]] = {
            Kind.GATHER: self._gather,
            Kind.REDUCE: self._reduce,
        }
        if self._updates:
            handlers[Kind.UPDATE] = self._updates.update
        self.sharing: Sharing | None = None
        self.executor = Executor(
            self.world,
            complete,
            self.stages,
            recompute=recompute,
            weights=self._weights,
            handlers=handlers,
            clock=clock,
            meter=meter,
        )
        if meter is not None:
            for parameter in self.parameters():
                meter.track("parameters", parameter.data)
        self._forward: Executor | None = None

    # ----- What is inside -----

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """This rank's parameters, each once, under the names of the whole model. Where it trains none of
        them, or has none, an optimizer takes them nevertheless, as they come from here or from `parameters`.
        """
        return self._own_part(self.module.named_parameters())

    def parameters(self) -> Iterator[Parameter]:
        return self._own_part(self.module.parameters())

    def _own_part(self, parameters: Iterator[Any]) -> Iterator[Any]:
        """Parameters beside which other ranks may train others."""
        return parameters if self.world.size == 1 else OwnPart(parameters, lambda: self._steps > 0)

    def state_dict(self) -> dict[str, Tensor]:
        """This rank's parameters and buffers under the names of the whole model."""
        return self.module.state_dict()

    def name_in_model(self, name: str) -> str:
        """What a parameter or buffer of this rank is called in the whole model, however that is cut: of the
        names of one that stages share, the first.
        """
        return self._shared.name_in_model(name)

    def pieces(self) -> list[Piece]:
        """This rank's parameters and buffers for `checkpoint.save` and `load`, on any number of stages."""
        tensors = [*self.named_parameters(), *self.module.named_buffers()]
        for _, x in tensors:
            if not x.data.flags.c_contiguous:  # a flat view of it would be a copy
                x.data = x.data.copy()
        return [
            Piece(self.name_in_model(name), tuple(x.shape), 0, x.size, x.data.reshape(-1))
            for name, x in tensors
            if getattr(x, "persistent", True)
        ]

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take this rank's part out of the state of the whole model; what is one parameter, by the first of
        its names that is there.
        """
        self.module.load_state_dict(self._shared.taken_from(state, self.state_dict()))
        if self._updates:
            self._updates.forget()

    def train(self, mode: bool = True) -> "Pipeline":
        """Switch all layers to training (or, with False, evaluation) behaviour. Returns itself."""
        for stage in (self.module, *self.stages.values()):
            stage.train(mode)
        return self

    def eval(self) -> "Pipeline":
        return self.train(False)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        self.module.zero_grad()

    def owned(self, parameter: Parameter) -> bool:
        """Whether this rank counts a parameter; one that is shared is counted by the first that has it."""
        return self._shared.owned(parameter)

    @property
    def shared_groups(self) -> Sequence[Group]:
        """What this rank shares with other stages' ranks."""
        return self._shared.groups

    @property
    def weight_versions(self) -> Mapping[int, WeightVersions]:
        """The versions of weights that each stage of this rank holds; none where updates wait for a flush."""
        return self._updates.versions if self._updates else {}

    @property
    def optimizers(self) -> Mapping[int, Optimizer]:
        """By stage, the optimizers of a schedule that updates while it runs: for learning-rate schedules, and
        for checkpoints, into which `state_dict()` of each of `weight_versions` belongs, too.
        """
        return self._updates.optimizers if self._updates else {}

    def clip_grad_norm_(self, max_norm: float) -> Array:
        """Scale all gradients, of all ranks, so that their joint 2-norm is at most `max_norm`.

        Returns the norm before (a 0-d array, the same on all ranks); one that is not finite leaves them as
        they are. A parameter on several ranks counts once.
        """
        namespace = self.module.computes_with
        return clip(self.parameters(), self.owned, max_norm, [self.world], namespace=namespace)

    # ----- A step -----

    def step(
        self, inputs: Any, targets: Any = None, *, scale: Any = 1.0, count: float | None = None
    ) -> Array:
        """Run the schedule once over a batch and return its loss, a 0-d array, on every rank.

        inputs    a tensor or array, or a tuple of several; the first axis counts samples
        targets   what the loss gets beside the output: any nest of such arrays, or None
        scale     multiplies all gradients (this copy's share of the batch, a loss scale); not the loss
        count     for a loss that is a sum, not a mean: by what to divide it, such as the number of tokens in
                  the batch that count (microbatches may have different shares of them). For a `CountedLoss`
                  the number in the batches of all data-parallel copies; by default that of this one

        Gradients are added to those that are there, those of shared parameters summed over the ranks that
        have them.

        A schedule that updates while it runs leaves none; its loss is the mean over its batches. The pipeline
        drains at the end of each call: the delays of PipeDream begin anew with the next (in update t of a
        call, stage s of n takes weights min(t, n-1-s) updates old, with vertical sync min(t, n-1)), so give
        it many minibatches at a time (`chunks`). The delay of 2BW, one update, is carried over: its
        trajectory is the same in calls of any number of batches.
        """
        if self._batches.loss is None:
            raise UsageError(
                "the pipeline has no loss to learn from; give loss=, a function (output, target)"
            )
        if count is not None and not count > 0:
            raise UsageError(f"the loss is to be divided by {count}; give a number above 0")
        self._refuse_unshared()
        parts, sizes = self._batches.cut(inputs, targets, learn=True, count=count)
        if self._updates:
            self._updates.begin()
        with self._scope(sum(sizes)), self._shared.apart():
            results = self.executor.run(parts, scale=scale)
        self._steps += 1
        if not self._updates:
            for statistics in self._statistics.values():
                statistics.finish(self._batches.shares(sizes))
            self._shared.deliver()
        total = self.module.computes_with.zeros(1, dtype="float64")
        for loss in results.values():
            total += loss.astype("float64") / self._batches.updates
        self.world.broadcast(total, root=self._last_rank, purpose="control")
        return total.reshape(())

    def predict(self, inputs: Any) -> Any:
        """What the last stage returns for a whole batch, on its rank; None elsewhere. Nothing is learned."""
        if self._forward is None:
            complete = check(forward_only(self.schedule), forward_only=True)
            self._forward = Executor(self.world, complete, self.stages)
        self._refuse_unshared()
        parts, sizes = self._batches.cut(inputs, None, learn=False)
        with self._scope(sum(sizes)), self.sharing.gathered() if self.sharing else nullcontext():
            results = self._forward.run(parts, learn=False)
        if not results:
            return None
        return self._batches.join(results, sizes)

    def _refuse_unshared(self) -> None:
        if self.gathers and self.sharing is None:
            raise UsageError(
                f"the schedule {self.schedule.name} gathers parameters and reduces gradients, and nobody "
                "shares them out; give MeshZeRO(..., stage=3, pipeline=pipeline), or leave G and R out"
            )

    def _gather(self, stage: int, _: int) -> None:
        assert self.sharing is not None
        self.sharing.gather(stage)

    def _reduce(self, stage: int, _: int) -> None:
        assert self.sharing is not None
        self.sharing.reduce(stage)

    def timeline(self) -> Timeline:
        """What every rank did when in the latest step, on every rank; clocks of one host agree."""
        own = np.array([[span.start, span.stop] for span in self.executor.spans]).reshape(-1, 2)
        rows = [self.executor.recorded(rank) for rank in range(self.world.size)]
        every = np.empty((sum(map(len, rows)), 2))
        self.world.all_gather(own, every, counts=[2 * len(row) for row in rows], purpose="control")
        ranked = [(rank, action) for rank, row in enumerate(rows) for action in row]
        return Timeline(
            self.schedule,
            tuple(
                Span(rank, action, float(start), float(stop))
                for (rank, action), (start, stop) in zip(ranked, every, strict=True)
            ),
        )

    def _check_alike(self, slices: Sequence[int], tied: Sequence[Sequence[str]]) -> None:
        """Compare, in 8 bytes each, what all ranks must have been given alike."""
        rule = self._updates and sorted(self._updates.table.items())
        given = (str(self.schedule), self.cut, list(slices), rule, tied)
        digest = np.frombuffer(hashlib.sha256(repr(given).encode()).digest()[:8], dtype=np.int64)
        digests = np.empty(self.world.size, dtype=np.int64)
        self.world.all_gather(digest, digests, purpose="control")
        for rank, other in enumerate(digests):
            if other != digests[0]:
                raise CommunicationError(
                    f"{self.world.name}: rank {rank} of this pipeline was given another schedule, other "
                    "layers, another balance, or other slices or shared parameters than rank 0; build the "
                    "same on all ranks"
                )

    def _weights(self, stage: int, microbatch: int) -> AbstractContextManager[None]:
        """What a stage is run with: the weights meant for the microbatch, and statistics of their own."""
        if self._updates:
            return self._updates.weights(stage, microbatch)
        return self._statistics[stage].of(microbatch)

    def _scope(self, count: int) -> AbstractContextManager[None]:
        """Random numbers by step and sample, unless the caller has said more already."""
        seed, _, step, *_ = random.snapshot()
        if step is not None:
            return nullcontext()
        return random.scope(seed=seed, step=self._steps, samples=range(count))
