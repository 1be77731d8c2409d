"""ZeRO: data parallelism in which ranks share out what each of them would otherwise keep for itself.

The four stages differ in one thing only, how long a rank keeps what (Ψ: number of parameters):

| stage | parameters                  | gradients                      | optimizer | moved per step |
|-------|-----------------------------|--------------------------------|-----------|----------------|
| 0     | all, always                 | all                            | all       | 2Ψ             |
| 1     | all, always                 | all until reduced              | own shard | 2Ψ             |
| 2     | all, always                 | own shard; full buckets leave  | own shard | 2Ψ             |
| 3     | own shard; units while used | own shard; full buckets leave  | own shard | 3Ψ             |

At most, a rank so has two buckets of gradients beside its shard (`PooledGradients` says when), and at stage 3
two neighbouring units of parameters. Of what is in no unit, the root, it has all from the beginning of a pass
to its end. Frozen parameters are shared out at stage 3 as well.

Rajbhandari et al. 2020, ZeRO: Memory Optimizations Toward Training Trillion Parameter Models, §5 and §7;
stage 3 by units is what Zhao et al. 2023, PyTorch FSDP, describe in §3.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from minigrad import backend
from minigrad.dist.agreement import anywhere
from minigrad.dist.memory import Meter
from minigrad.dist.offload import Offload
from minigrad.dist.partition import BUCKET_BYTES, broadcast_rest, check_alike, check_settings, cut
from minigrad.dist.roster import Roster, Seal
from minigrad.dist.single import SingleWorld
from minigrad.dist.tensor_parallel_layout import ParameterPart
from minigrad.dist.units import Chosen, find_units
from minigrad.dist.verbs import Array
from minigrad.dist.world import World
from minigrad.dist.zero_gradients import ScatteredGradients, WholeGradients
from minigrad.dist.zero_parameters import Starts, WholeParameters, standing
from minigrad.dist.zero_pooled import PooledGradients, UnitGradients
from minigrad.dist.zero_saving import SavedZeRO
from minigrad.dist.zero_shards import ShardedParameters
from minigrad.dist.zero_units import UnitParameters
from minigrad.errors import UsageError
from minigrad.nn.amp import GradScaler
from minigrad.nn.materialize import materialize, unfilled
from minigrad.nn.module import Module, Parameter
from minigrad.nn.optim import Optimizer, Shard
from minigrad.nn.utils import clip_coefficient, clip_values, joint_norm, reproducible_norm

STAGES = (0, 1, 2, 3)


class ZeRO(SavedZeRO):
    """Trains `module` with `optimizer` on all ranks of `world`, at one of four stages.

    Give the optimizer over the module's parameters before its first step: its state is made where it is
    shared out to. Parameters and buffers are taken from rank 0 now. Then, on every rank and for every step:

        loss = ... zero(inputs) ...     # divided by the number of samples (or tokens) of all ranks
        loss.backward()
        norm = zero.step()

    stage         0 to 3: what ranks share out (see the table of this module)
    bucket_bytes  size from which on a bucket is sent (stages 0 to 2); by default 4 MiB, and at stage 2, which
                  has room for two, no more than an eighth of the model
    units         stage 3: the modules to gather one by one, or [[several, of, them], …] together; by default
                  each element of the model's lists
    algorithm     of all sums and gathers: "library", or one of minigrad's own. With "ordered" all stages
                  agree to the last bit, where a step has one walk (stages 2 and 3 sum after each)
    max_norm      scale gradients so that their joint 2-norm is at most this (Pascanu et al. 2013, §3.2)
    max_value     then bring each of their entries into [-max_value, max_value]
    finite_only   with max_norm: all ranks leave out a step whose norm is infinite or not a number
    scaler        its loss scale is divided out, all ranks leave out a step that overflowed, and it is updated
    master        dtype of the copy that the optimizer updates, for parameters in half precision
    replicas      a second axis: ranks that hold the same shards, over which gradients are summed as well
    device        where a model that has shapes only is filled; at stage 3 unit by unit, so that no rank ever
                  holds the whole. It begins to the bit as if it had been built there
    offload       "host", or a folder for a file: where the optimizer keeps its states and takes its steps
    delayed       with offload: the number of the first step whose update runs while the next one computes;
                  the last one is taken by `settle()`
    meter         books what this rank holds

    At stages 2 and 3 parameters show no `.grad`, for nobody has a whole one.
    A parameter that only some ranks used counts as zero on the others; one that no rank used is not updated.
    Several walks for one step: run all but the last in `with zero.no_sync():`; at stages 0 and 1 nothing is
    sent there; at 2 and 3 every walk has a block of its own, and its sums are added up. At stage 3 a rank
    calls the module once for every walk, or leaves the walk out. Ranks that evaluate different numbers of
    batches do it in `with zero.gathered():`.

    seconds_driving   of the latest step: in backward walks, to start messages of gradients and move them on
    seconds_waiting   of the latest step: after the walk, for gradients; and wherever parameters are gathered

    Raises UsageError, before anything starts, for settings that make no sense, an optimizer over other
    parameters than the module's, and a disk without room; CommunicationError where ranks' modules differ.

    >>> import minigrad as mg
    >>> from minigrad import dist, nn
    >>> def main(world):
    ...     model = nn.Linear(2, 2)  # 6 parameters of 4 bytes, of which Adam keeps two averages
    ...     zero = ZeRO(model, nn.optim.Adam(model.parameters()), world, stage=3)
    ...     mg.sum(zero(mg.tensor([[1.0, 2.0]]))).backward()
    ...     zero.step()
    ...     return zero.meter.current["optimizer"]
    >>> dist.spawn(main, ranks=3)
    [16, 16, 16]
    """

    is_part = False
    """Whether other ranks may train the rest of the model, and this one nothing."""

    def __init__(
        self,
        module: Module,
        optimizer: Optimizer,
        world: World,
        *,
        stage: int = 1,
        bucket_bytes: int | None = None,
        units: Chosen | None = None,
        algorithm: str = "library",
        max_norm: float | None = None,
        max_value: float | None = None,
        finite_only: bool = False,
        scaler: GradScaler | None = None,
        master: Any = None,
        replicas: World | None = None,
        device: str = "cpu",
        offload: str | Path | None = None,
        delayed: int = 0,
        meter: Meter | None = None,
    ) -> None:
        self.module, self.optimizer, self.world, self.stage = module, optimizer, world, stage
        self.max_norm, self.finite_only, self.algorithm = max_norm, finite_only, algorithm
        self.max_value = max_value
        self.scaler = scaler if scaler is not None and scaler.enabled else None
        self.replicas = replicas if replicas is not None else SingleWorld()
        self.meter = meter if meter is not None else Meter()
        self._roster = Roster(module)
        self._check(bucket_bytes, units)
        unfilled(module, device=device)  # refuses what cannot be filled
        # Who shares things out: at stage 0 every rank by itself.
        self.owners = world if stage else SingleWorld()
        check_alike(module, world)
        check_alike(module, self.replicas)
        self._offload = Offload(offload, delayed, optimizer, world, master, track=self.meter.track)
        with standing(module, device) as starts:
            self._lay_out(bucket_bytes, units, starts, device)
        materialize(module, device=device)  # what is not trained
        for axis in (self.replicas, world):
            broadcast_rest(module, axis, frozen=stage < 3)
        world.ledger.track = self.replicas.ledger.track = partial(self.meter.track, "buffers")
        for name, tensors in (("parameters", module.parameters()), ("buffers", module.buffers())):
            for tensor in tensors:
                if stage < 3 or name == "buffers":
                    self.meter.track(name, tensor.data)
        self._share_out(master)
        if self.scaler is not None and self.owners.size > 1:
            self.scaler.reduce = lambda flag: self.owners.all_reduce(flag, operation="max")
        self.seconds_driving = self.seconds_waiting = 0.0

    def _check(self, bucket_bytes: int | None, units: Chosen | None) -> None:
        """Refuse what makes no sense."""
        if self.stage not in STAGES:
            raise UsageError(f"ZeRO has stages 0, 1, 2 and 3, and not {self.stage!r}")
        if type(self) is ZeRO and any(isinstance(p, ParameterPart) for p in self.module.parameters()):
            raise UsageError(
                "ZeRO got a model of which every rank has parts, whose norms it cannot take; "
                "use MeshZeRO, which knows the other axis"
            )
        verbs = ["reduce_scatter", "all_gather"] if self.stage else ["all_reduce"]
        check_settings("ZeRO", bucket_bytes, self.algorithm, verbs)
        if self.max_norm is not None and not self.max_norm > 0:
            raise UsageError(f"the largest norm must be positive, got {self.max_norm}")
        if self.max_value is not None and not self.max_value > 0:
            raise UsageError(f"the largest value must be positive, got {self.max_value}")
        if self.finite_only and self.max_norm is None:
            raise UsageError(
                "finite_only judges a step by its norm: give max_norm too (math.inf clips nothing)"
            )
        if units is not None and self.stage != 3:
            raise UsageError(f"ZeRO got units at stage {self.stage}; only stage 3 gathers by units")
        names = {id(p): name for name, p in self.module.named_parameters() if p.requires_grad}
        optimized = {id(p) for p in self.optimizer.parameters if p.requires_grad}
        missing = [name for p, name in names.items() if p not in optimized]
        foreign = len(optimized - set(names))
        if missing or foreign or not (names or self.optimizer.part or self.is_part):
            raise UsageError(
                f"the optimizer lacks {len(missing)} of the module's {len(names)} trained parameters "
                f"({', '.join([*missing[:3], '…'])}) and has {foreign} others; "
                "build it over module.parameters()"
            )

    # ----- Sharing out -----

    def _lay_out(self, bucket_bytes: int | None, units: Chosen | None, starts: Starts, device: str) -> None:
        """Give parameters and gradients their places, and take the values from rank 0."""
        how: dict[str, Any] = {"algorithm": self.algorithm, "track": self.meter.track}
        axes = (self.replicas, self.world)
        trained = [parameter for parameter in self._roster.parameters if parameter.requires_grad]
        nothing = []
        if not trained:  # takes part in all messages nevertheless
            here = next((p.device for p in self._roster.parameters if p.device != "shapes"), device)
            trained = nothing = [Parameter([], dtype="float32", device=here)]
        self._parameters: WholeParameters | ShardedParameters
        self._gradients: WholeGradients
        if self.stage < 3:
            size = bucket_bytes or (None if self.stage == 2 else BUCKET_BYTES)
            self.buckets = cut(trained, self.owners, size)
            self._offload.reserve(self.buckets)
            self._parameters = WholeParameters(self.buckets, self.owners, starts, **how)
            self._parameters.take_over(axes)
            kind = (WholeGradients, ScatteredGradients, PooledGradients)[self.stage]
            self._gradients = kind(self.buckets, self.world, **how)
        else:
            self._parameters, self._gradients = self._by_units(units, nothing, how)
            self._parameters.take_over(axes, starts)

    def _by_units(
        self, units: Chosen | None, beside: list[Parameter], how: dict[str, Any]
    ) -> tuple[ShardedParameters, WholeGradients]:
        """Stage 3, around each use of a unit. `beside` is trained beside the module's parameters."""
        found, root = find_units(self.module, units, self.world, beside=beside)
        apart = [root.bucket] if root and root.bucket else []
        self.buckets = [*(unit.bucket for unit in reversed(found) if unit.bucket), *apart]
        self._offload.reserve(self.buckets)
        parameters = UnitParameters(self.module, found, root, self.world, **how)
        gradients = UnitGradients(self.buckets, self.world, apart=apart, patient=parameters.may_wait, **how)
        parameters.passed, parameters.reordered = gradients.pass_by, gradients.reorder
        return parameters, gradients

    def _share_out(self, master: Any) -> None:
        """Give the optimizer its shards."""
        values, gradients = self._offload.bring_here(
            [self._parameters.own(bucket) for bucket in self.buckets],
            [self._gradients.gradient(filling) for filling in self._gradients.fillings],
        )
        self._shards: dict[int, Shard] = {}
        for bucket, value, gradient in zip(self.buckets, values, gradients, strict=True):
            parts = zip(
                bucket.parameters, bucket.ranges(), bucket.pieces(value), bucket.pieces(gradient), strict=True
            )
            for parameter, (start, stop), own_values, own_gradient in parts:
                self._shards[id(parameter)] = Shard(start, stop, own_values, own_gradient)
        nothing = Shard(0, 0, values[0][:0])
        self.optimizer.shard(
            [self._shards.get(id(parameter), nothing) for parameter in self.optimizer.parameters],
            reduce=(lambda array: self.owners.all_reduce(array)) if self.owners.size > 1 else None,
            allocate=self._offload.allocate,
            master=master,
            refusal=f"{self.world.name}: ZeRO sums gradients over ranks before its optimizer's step; call "
            "zero.step() in place of optimizer.step() or scaler.step(optimizer)",
        )
        elsewhere = self.stage < 3 and (self.optimizer.has_master or self._offload.keeps_values)
        self._seal = Seal([self._parameters.shown(bucket) for bucket in self.buckets] if elsewhere else [])
        self._round_off_masters()

    def _round_off_masters(self) -> None:
        """Bring master copies in line with values that others changed: rank 0's, or loaded ones."""
        self._seal.renew()
        if not self.optimizer.has_master:
            return
        for parameter, state in zip(self.optimizer.parameters, self.optimizer.shard_state(), strict=True):
            shard = self._shards.get(id(parameter))
            if shard is not None and shard.start < shard.stop:
                values, master = shard.values, state["master"]
                xp = backend.namespace(values)
                kept = master.astype(values.dtype) == values
                master[...] = xp.where(kept, master, values.astype(master.dtype))

    # ----- A step -----

    def __call__(self, *inputs: Any, **keywords: Any) -> Any:
        return self.module(*inputs, **keywords)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """For each of several walks of a step but the last."""
        with self._gradients.no_sync():
            yield
            self._parameters.end_round()

    def zero_grad(self) -> None:
        """Forget gradients for which no step was taken; `step` itself uses them up. All ranks call it, behind
        the same walks.
        """
        self._parameters.forget()
        self._gradients.forget()

    def step(self) -> Array | None:
        """Sum the gradients over ranks and update the parameters; all ranks call it once a step.

        Returns the gradients' norm before clipping (a 0-d array), or None without `max_norm`. The next walk
        begins with no gradients.
        """
        self._offload.refuse_inside("step()")
        self._roster.check(self.world.name)
        self._seal.check(self.world.name)
        self._parameters.end_round()
        used = self._gradients.finish()
        gradients = [self._gradients.gradient(filling) for filling in self._gradients.fillings]
        if self.replicas.size > 1:
            for gradient in gradients:
                self.replicas.all_reduce(gradient, purpose="gradients", algorithm=self.algorithm)
            used = anywhere(self.replicas, used)
        norm, scale, skip = self._judge(gradients)

        def fill() -> None:
            for bucket, filling in zip(self.buckets, self._gradients.fillings, strict=True):
                for number, parameter in zip(filling.numbers, bucket.parameters, strict=True):
                    self._shards[id(parameter)].filled = used[number]

        self._offload.step(fill, scale, skip, self._parameters.publish)
        self._seal.renew()
        self._gradients.forget()
        if self.scaler is not None:
            self.scaler.update()
        self.seconds_waiting = self._gradients.seconds_waiting + self._parameters.seconds
        self.seconds_driving = self._gradients.seconds_driving
        self._gradients.seconds_driving = self._parameters.seconds = 0.0
        return norm

    def _judge(self, gradients: list[Array]) -> tuple[Array | None, Array | None, Array | None]:
        """The norm of all gradients, what to multiply them by, and whether to leave the step out."""
        norm = scale = skip = None
        if self.scaler is not None:
            skip = self.scaler.found_inf(gradients)
            scale = self.scaler.inverse_scale.astype("float64")
        if self.max_norm is not None:
            norm = self._norm(gradients)
            norm = norm if scale is None else norm * scale
            if self.finite_only and skip is None:
                xp = backend.namespace(norm)
                skip = xp.asarray(xp.logical_not(xp.isfinite(norm)))
            clip = clip_coefficient(norm, self.max_norm)
            scale = clip if scale is None else clip * scale
        if self.max_value is not None:  # of entries that the optimizer multiplies by `scale` as it reads them
            clip_values(gradients, self.max_value if scale is None else self.max_value / scale)
        return norm, scale, skip

    def _norm(self, gradients: list[Array]) -> Array:
        """The joint 2-norm over all owners; with "ordered", the same to the bit whoever owns what."""
        owners, xp = self.owners, backend.namespace(gradients[0])
        if self.algorithm == "ordered":

            def combine(array: Array, operation: str) -> None:
                owners.all_reduce(array, operation="max" if operation == "max" else "sum")

            return reproducible_norm(gradients, combine=combine if owners.size > 1 else None)
        own = joint_norm(gradients)
        if owners.size == 1:
            return own
        squares = xp.zeros(owners.size, dtype="float64")
        squares[owners.rank] = own * own
        owners.all_reduce(squares)
        return xp.asarray(xp.sqrt(xp.sum(squares)))

    # ----- Whole values -----

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """All parameters whole inside the block, to be read or loaded; all ranks enter it together.

        They are those that the model computes with: a delayed update that is under way stays so, except for
        entries that are written in the block. At stage 3 they lie in memory of their own meanwhile, and a
        graph from before cannot be walked afterwards.
        """
        try:
            with self._offload.watched(), self._parameters.gathered():
                yield
        finally:
            self._round_off_masters()

    def settle(self) -> None:
        """Take a delayed update that is under way now, at the end of training; all ranks call it together."""
        self._offload.settle(self._parameters.publish)
        self._seal.renew()
