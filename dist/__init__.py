"""Ranks that work together (MPI processes, threads, or one alone): worlds, collectives, parallel training.

Importing this package in a process that `mpirun` started sets what MPI and BLAS need (see
`minigrad.dist.prepare`).
"""

from minigrad.dist.prepare import prepare

prepare()  # before anything can load MPI

from minigrad.dist.data_parallel import DataParallel  # noqa: E402
from minigrad.dist.ledger import Ledger  # noqa: E402
from minigrad.dist.request import Request  # noqa: E402
from minigrad.dist.single import SingleWorld  # noqa: E402
from minigrad.dist.spawn import spawn, world  # noqa: E402
from minigrad.dist.verbs import balanced_counts  # noqa: E402
from minigrad.dist.world import World  # noqa: E402

__all__ = ["DataParallel", "Ledger", "Request", "SingleWorld", "World", "balanced_counts", "spawn", "world"]
