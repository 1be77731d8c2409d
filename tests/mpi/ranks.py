"""What `mpirun -n 3 python -m tests.mpi.ranks` runs: every test body. Rank 0 prints how many it ran."""

import numpy as np
import pytest

from minigrad import dist, nn
from minigrad.dist.mesh import Mesh
from minigrad.dist.mpi import MPIWorld
from minigrad.dist.single import SingleWorld
from minigrad.dist.world import World
from minigrad.errors import CommunicationError
from tests.dist.bodies import BODIES, DTYPES
from tests.dist.test_collectives import CASES, sweep
from tests.dist.training import Case, compare, train


def sizes_that_do_not_fit(world: World) -> None:
    for elements in (2, 4):
        request = world.start_send(np.zeros(elements), (world.rank + 1) % world.size)
        with pytest.raises(CommunicationError, match=f"^{world.name}: receive "):
            world.receive(np.zeros(3), (world.rank - 1) % world.size)
        request.wait()
        world.barrier()


def main() -> int:
    """Run all bodies on this rank and return how many."""
    world = dist.world()
    assert world.kind == "mpi"
    assert 0 <= world.local_rank < world.local_size <= world.size
    assert world is dist.world()
    short_calls = MPIWorld.of_all_ranks(most_elements=3)  # as if MPI could count no further
    runs = 0
    for body in BODIES:
        for seed, dtype in enumerate(DTYPES):
            for elements in (0, 1, 11):
                body(world, seed, dtype, elements)
                body(short_calls, seed, dtype, elements)
                runs += 2
    world.all_reduce(np.zeros(300_000), purpose="gradients")
    assert world.ledger.report()["traffic"]["all_reduce"]["gradients"]["bytes_sent"] == 2_400_000
    sizes_that_do_not_fit(world)
    mesh = Mesh(world, data=1, tensor=world.size)
    assert (mesh.axis("data").size, mesh.axis("tensor").rank) == (1, world.rank)
    for name in CASES:
        sweep(world, name, rows=5, seed=runs)
    for case in (Case(), Case(samples=2, parts=2, optimizer=nn.optim.AdamW), Case(samples=9, bucket_bytes=1)):
        compare(train(world, case), train(SingleWorld(), case))
    return runs


if __name__ == "__main__":
    runs = main()
    if dist.world().rank == 0:
        print(f"{runs} runs on {dist.world().size} ranks")
