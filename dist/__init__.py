"""Ranks that work together (MPI processes, threads, or one alone): worlds, collectives, parallel training.

Importing this package in a process that `mpirun` started sets what MPI and BLAS need (see
`minigrad.dist.prepare`).
"""

from minigrad.dist.prepare import prepare

prepare()  # before anything can load MPI

from minigrad.dist import checkpoint, collectives  # noqa: E402
from minigrad.dist.contiguous import ContiguousMemory  # noqa: E402
from minigrad.dist.counted_loss import CountedLoss  # noqa: E402
from minigrad.dist.data_parallel import DataParallel  # noqa: E402
from minigrad.dist.debug_mode import debug  # noqa: E402
from minigrad.dist.ledger import Ledger, Message  # noqa: E402
from minigrad.dist.memory import Meter  # noqa: E402
from minigrad.dist.mesh import Mesh  # noqa: E402
from minigrad.dist.mesh_gpt import MeshGPT, divide  # noqa: E402
from minigrad.dist.mesh_zero import MeshZeRO  # noqa: E402
from minigrad.dist.partitioning import balance, pipedream  # noqa: E402
from minigrad.dist.partitioning_tokens import slice_tokens  # noqa: E402
from minigrad.dist.pipeline import Pipeline  # noqa: E402
from minigrad.dist.request import Request  # noqa: E402
from minigrad.dist.schedule import Schedule  # noqa: E402
from minigrad.dist.schedule import parse as parse_schedule  # noqa: E402
from minigrad.dist.schedule_check import check as check_schedule  # noqa: E402
from minigrad.dist.schedules import make as make_schedule  # noqa: E402
from minigrad.dist.single import SingleWorld  # noqa: E402
from minigrad.dist.spawn import spawn, world  # noqa: E402
from minigrad.dist.sync_batch_norm import SyncBatchNorm  # noqa: E402
from minigrad.dist.tensor_parallel import (  # noqa: E402
    ColumnParallelLinear,
    RowParallelLinear,
    tensor_parallel,
)
from minigrad.dist.timing import Costs, simulate  # noqa: E402
from minigrad.dist.token_parallel import token_layers, token_loss  # noqa: E402
from minigrad.dist.trace import Recording, Trace  # noqa: E402
from minigrad.dist.verbs import balanced_counts  # noqa: E402
from minigrad.dist.world import World  # noqa: E402
from minigrad.dist.zero import ZeRO  # noqa: E402
from minigrad.dist.zero_checkpoint import partitioned_checkpoint  # noqa: E402

__all__ = [
    "ColumnParallelLinear",
    "Costs",
    "CountedLoss",
    "ContiguousMemory",
    "DataParallel",
    "Ledger",
    "Mesh",
    "MeshGPT",
    "MeshZeRO",
    "Message",
    "Meter",
    "Pipeline",
    "Recording",
    "Request",
    "RowParallelLinear",
    "Schedule",
    "SingleWorld",
    "SyncBatchNorm",
    "Trace",
    "World",
    "ZeRO",
    "balance",
    "balanced_counts",
    "check_schedule",
    "checkpoint",
    "collectives",
    "debug",
    "divide",
    "make_schedule",
    "parse_schedule",
    "partitioned_checkpoint",
    "pipedream",
    "simulate",
    "slice_tokens",
    "spawn",
    "tensor_parallel",
    "token_layers",
    "token_loss",
    "world",
]
