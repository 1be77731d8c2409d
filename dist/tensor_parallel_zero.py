"""ZeRO on one axis of a mesh, for a model whose matrices are cut along another.

Each rank's shards are then parts of its parts. Two things need both axes: norms, in which every entry of the
whole model counts once, and the decision to leave out a step that overflowed.
"""

from typing import Any

from minigrad import backend
from minigrad.backend import Array
from minigrad.dist.checkpoint_piece import Piece
from minigrad.dist.tensor_parallel_gpt import ParallelGPT, joint_norm
from minigrad.dist.tensor_parallel_layout import with_boxes
from minigrad.dist.world import World
from minigrad.dist.zero import ZeRO
from minigrad.nn.optim import Optimizer


class TensorParallelZeRO(ZeRO):
    """ZeRO over `world` (the data axis) for a model that `tensor_parallel` made over the tensor axis.

    Options, steps and stages are those of ZeRO; the norm that `step` returns and clips by is that of the
    whole model. `pieces` are parts of whole arrays: checkpoints load on any mesh.
    """

    module: ParallelGPT

    def __init__(self, module: ParallelGPT, optimizer: Optimizer, world: World, **options: Any) -> None:
        super().__init__(module, optimizer, world, **options)
        self._tensor = module.region.world
        self._counted = [float(module.owned(parameter)) for parameter in optimizer.parameters]
        optimizer._reduce = self._sum_squares
        if self.scaler is not None:
            self.scaler.reduce = self._agree

    def _sum_squares(self, squares: Array) -> None:
        """Sum what optimizers measure of each parameter (..., parameters) over both axes, in place."""
        if self.owners.size > 1:
            self.owners.all_reduce(squares)
        squares *= backend.namespace(squares).asarray(self._counted)
        self._tensor.all_reduce(squares)

    def _agree(self, flag: Array) -> None:
        for axis in (self.owners, self._tensor):
            axis.all_reduce(flag, operation="max")

    def _norm(self, gradients: list[Array]) -> Array:
        """The joint 2-norm over all shards of all parts."""
        parts = (
            (self.module.owned(parameter), part)
            for bucket, gradient in zip(self.buckets, gradients, strict=True)
            for parameter, part in zip(bucket.parameters, bucket.pieces(gradient), strict=True)
        )
        return joint_norm(parts, [self._tensor, self.owners])

    def pieces(self) -> list[Piece]:
        return with_boxes(super().pieces(), self.module)
