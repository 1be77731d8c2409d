"""Batch normalisation over the batch of all ranks: the statistics are those that one rank would find."""

from __future__ import annotations

from functools import partial
from typing import Any

from minigrad.dist.collectives import all_reduce
from minigrad.dist.world import World
from minigrad.errors import UsageError
from minigrad.nn.layers.batch_norm import BatchNorm
from minigrad.nn.module import Module


class SyncBatchNorm(BatchNorm):
    """`nn.BatchNorm1d` and `nn.BatchNorm2d` with the statistics of the whole batch, however unevenly the
    ranks share it, empty shares included.

    Two messages of `num_features` numbers forward (sums with the count, then squares of distances from the
    mean), two backward. Every rank must run it as often as the others. Parameters, buffers and arguments are
    those of BatchNorm.
    """

    dimensions = (2, 3, 4)

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        world: World,
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype)
        self.combine = partial(all_reduce, world=world, replicated=False)

    @classmethod
    def convert_sync_batchnorm(cls, module: Module, world: World) -> Module:
        """The module with every BatchNorm in it replaced, at each of its places; parameters and buffers are
        kept. Returns the module itself, or its replacement if it is a BatchNorm.
        """
        twins: dict[int, SyncBatchNorm] = {}

        def twin(norm: BatchNorm) -> SyncBatchNorm:
            if id(norm) not in twins:
                made = cls(norm.num_features, norm.eps, norm.momentum, False, False, world=world)
                for name, value in vars(norm).items():
                    if name != "combine":
                        setattr(made, name, value)
                twins[id(norm)] = made
            return twins[id(norm)]

        if isinstance(module, BatchNorm):
            return twin(module)
        for parent in list(module.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, BatchNorm):
                    setattr(parent, name, twin(child))
        if not twins:
            raise UsageError(f"convert_sync_batchnorm: {type(module).__name__} has no BatchNorm to replace")
        return module
