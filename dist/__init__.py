"""Ranks that work together (MPI processes, threads, or one alone): worlds, collectives, parallel training.

Importing this package in a process that `mpirun` started sets what MPI and BLAS need (see
`minigrad.dist.prepare`).
"""

from minigrad.dist.prepare import prepare

prepare()  # before anything can load MPI

from minigrad.dist import checkpoint, collectives  # noqa: E402
from minigrad.dist.contiguous import ContiguousMemory  # noqa: E402
from minigrad.dist.data_parallel import DataParallel  # noqa: E402
from minigrad.dist.debug_mode import debug  # noqa: E402
from minigrad.dist.ledger import Ledger, Message  # noqa: E402
from minigrad.dist.memory import Meter  # noqa: E402
from minigrad.dist.mesh import Mesh  # noqa: E402
from minigrad.dist.request import Request  # noqa: E402
from minigrad.dist.single import SingleWorld  # noqa: E402
from minigrad.dist.spawn import spawn, world  # noqa: E402
from minigrad.dist.sync_batch_norm import SyncBatchNorm  # noqa: E402
from minigrad.dist.trace import Recording, Trace  # noqa: E402
from minigrad.dist.verbs import balanced_counts  # noqa: E402
from minigrad.dist.world import World  # noqa: E402
from minigrad.dist.zero import ZeRO  # noqa: E402
from minigrad.dist.zero_checkpoint import partitioned_checkpoint  # noqa: E402

__all__ = [
    "ContiguousMemory",
    "DataParallel",
    "Ledger",
    "Mesh",
    "Message",
    "Meter",
    "Recording",
    "Request",
    "SingleWorld",
    "SyncBatchNorm",
    "Trace",
    "World",
    "ZeRO",
    "balanced_counts",
    "checkpoint",
    "collectives",
    "debug",
    "partitioned_checkpoint",
    "spawn",
    "world",
]
