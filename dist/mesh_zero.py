"""ZeRO on the data axis of a mesh, over what a rank has of a model that the other axes cut.

Three things need all axes: norms, in which every entry of the whole model counts once; the decision to leave
out a step, which all ranks take alike; and checkpoints, where parts have the names and places they have in
the whole model.

Narayanan et al. 2021, Efficient Large-Scale Language Model Training on GPU Clusters Using Megatron-LM, §2,
combine the three axes; Rajbhandari et al. 2020, ZeRO, §1, puts ZeRO on the data axis of such a mesh.
"""

from dataclasses import replace
from typing import Any, cast

from minigrad import backend
from minigrad.backend import Array
from minigrad.dist.agreement import gathered
from minigrad.dist.checkpoint_piece import Piece
from minigrad.dist.mesh import Mesh
from minigrad.dist.pipeline import Pipeline
from minigrad.dist.schedule import Kind
from minigrad.dist.tensor_parallel_layout import ParameterPart, with_boxes
from minigrad.dist.units import Chosen
from minigrad.dist.zero import ZeRO
from minigrad.dist.zero_gradients import WholeGradients
from minigrad.dist.zero_scheduled import Scheduled, ScheduledGradients, ScheduledParameters, stage_units
from minigrad.dist.zero_shards import ShardedParameters
from minigrad.errors import UsageError
from minigrad.nn.module import Module, Parameter
from minigrad.nn.optim import Optimizer
from minigrad.nn.utils import joint_norm, reproducible_norm


class MeshZeRO(ZeRO):
    """ZeRO over the axis "data" of a mesh with the axes data, pipeline and tensor.

    module     this rank's part of the model: cut by `tensor_parallel`, a pipeline's `module`, or both
    pipeline   the pipeline whose stages it is, if there is one

    Options, stages and steps are those of ZeRO; on three data ranks or more, stages that share parameters
    sum gradients in rank order, whatever the algorithm. The norm that `step` returns and clips by is that of
    the whole model. All ranks of the mesh call `step`, `state` and `loaded` together.
    """

    def __init__(
        self,
        module: Module,
        optimizer: Optimizer,
        mesh: Mesh,
        *,
        pipeline: Pipeline | None = None,
        **options: Any,
    ) -> None:
        self.mesh, self.pipeline, self.is_part = mesh, pipeline, pipeline is not None
        self._scheduled = pipeline is not None and pipeline.gathers
        if self._scheduled and options.get("stage", 1) != 3:
            raise UsageError(
                f"the pipeline's schedule gathers parameters and reduces gradients, and ZeRO has stage "
                f"{options.get('stage', 1)}; give stage=3"
            )
        super().__init__(module, optimizer, mesh.axis("data"), **options)
        self._whole = mesh.world.size == mesh.axis("data").size  # no other axis cuts anything
        if self._whole:
            return
        if pipeline is not None and pipeline.shared_groups and self.world.size > 2:
            # Which of three is added last may hang on the place in a bucket, where copies of one parameter on
            # two stages differ; in rank order they stay alike to the bit. It moves as much as a ring does.
            self._gradients.how["algorithm"] = "ordered"
        self._counted = [float(self._lies_here(parameter)) for parameter in optimizer.parameters]
        self._places = {id(parameter): place for place, parameter in enumerate(optimizer.parameters)}
        optimizer._reduce = self._sum_squares
        if self.scaler is not None:
            self.scaler.reduce = lambda flag: mesh.world.all_reduce(flag, operation="max")

    def _by_units(
        self, units: Chosen | None, beside: list[Parameter], how: dict[str, Any]
    ) -> tuple[ShardedParameters, WholeGradients]:
        """Stage 3: where the pipeline's schedule gathers and reduces, by whole stages, when it says so."""
        if not self._scheduled:
            return super()._by_units(units, beside, how)
        pipeline = cast("Pipeline", self.pipeline)
        if units is not None:
            raise UsageError(
                f"the schedule {pipeline.schedule.name} gathers whole stages, and ZeRO got units; leave "
                "units out"
            )
        stages, root = stage_units(
            pipeline.stages, self.module, pipeline.shared_groups, self.world, beside=beside
        )
        order = [a.stage for a in pipeline.executor.program if a.kind is Kind.REDUCE]
        found = [unit.bucket for unit in (*(stages[number] for number in order), root) if unit]
        self.buckets = [bucket for bucket in found if bucket]
        self._offload.reserve(self.buckets)
        parameters = ScheduledParameters(stages, root, self.world, **how)
        gradients = ScheduledGradients(self.buckets, self.world, stages=stages, root=root, **how)
        pipeline.sharing = Scheduled(parameters, gradients)
        return parameters, gradients

    def _lies_here(self, parameter: Parameter) -> bool:
        """Whether this is the tensor rank that counts a parameter: what all of them have, the first does."""
        return isinstance(parameter, ParameterPart) or self.mesh.coordinates["tensor"] == 0

    def counted(self, parameter: Parameter) -> bool:
        """Whether this rank counts its part of a parameter in sums over all stages and parts."""
        return self._lies_here(parameter) and (self.pipeline is None or self.pipeline.owned(parameter))

    def _sum_squares(self, squares: Array) -> None:
        """Sum what optimizers measure of each parameter (..., parameters) over its shards and parts."""
        if self.owners.size > 1:
            self.owners.all_reduce(squares)
        squares *= backend.namespace(squares).asarray(self._counted)
        self.mesh.axis("tensor").all_reduce(squares)
        for group in self.pipeline.shared_groups if self.pipeline is not None else ():
            # Stages add up in other orders; one rounding apart, copies of one parameter would drift apart.
            columns = [self._places[id(p)] for p in group.parameters if id(p) in self._places]
            first = squares[..., columns].reshape(-1)
            group.world.broadcast(first, purpose="control")
            squares[..., columns] = first.reshape(*squares.shape[:-1], len(columns))

    def _norm(self, gradients: list[Array]) -> Array:
        """The joint 2-norm over all shards of all parts of all stages."""
        if self._whole:
            return super()._norm(gradients)
        # At stage 0 all data-parallel ranks have the same gradients, and the first counts them.
        here = self.owners.size > 1 or self.mesh.coordinates["data"] == 0
        parts = [
            part
            for bucket, gradient in zip(self.buckets, gradients, strict=True)
            for parameter, part in zip(bucket.parameters, bucket.pieces(gradient), strict=True)
            if here and self.counted(parameter)
        ]
        world, xp = self.mesh.world, backend.namespace(gradients[0])
        if self.algorithm == "ordered":
            return reproducible_norm(
                parts, combine=lambda array, how: world.all_reduce(array, operation=how), like=gradients[0]
            )
        squares = xp.zeros(world.size, dtype="float64")  # a place for each: the same sum on all ranks
        if parts:
            own = joint_norm(parts)
            squares[world.rank] = own * own
        world.all_reduce(squares, purpose="control")
        return xp.asarray(xp.sqrt(xp.sum(squares)))

    # ----- Checkpoints -----

    def _name_in_model(self, name: str) -> str:
        return name if self.pipeline is None else self.pipeline.name_in_model(name)

    def pieces(self) -> list[Piece]:
        """What this rank contributes to a checkpoint, as parts of whole arrays: it loads on any mesh."""
        found = []
        for piece in with_boxes(super().pieces(), self.module):
            kind, _, name = piece.name.partition(".")
            name, dot, state = name.rpartition(".") if kind == "optimizer" else (name, "", "")
            found.append(replace(piece, name=f"{kind}.{self._name_in_model(name)}{dot}{state}"))
        return found

    def state(self) -> dict[str, Any]:
        """What belongs to a checkpoint beside its arrays; the same on all ranks."""
        own = super().state()
        steps = {self._name_in_model(name): number for name, number in own["steps"].items()}
        every = gathered(self.mesh.axis("pipeline"), steps)
        return own | {"steps": {name: number for part in every for name, number in part.items()}}

    def loaded(self, state: dict[str, Any]) -> None:
        steps = {
            name: state["steps"].get(self._name_in_model(name), 0)
            for name, _ in self.module.named_parameters()
        }
        super().loaded(state | {"steps": steps})
