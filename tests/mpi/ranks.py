"""What `mpirun -n N python -m tests.mpi.ranks` runs: every test body on real ranks. Rank 0 prints how many it ran."""

import numpy as np

from minigrad import dist
from minigrad.dist.mpi import MPIWorld
from minigrad.dist.world import World
from minigrad.errors import CommunicationError, ShapeError
from tests.dist.bodies import BODIES, DTYPES


def sizes_that_do_not_fit(world: World) -> None:
    for elements in (2, 4):
        request = world.start_send(np.zeros(elements), (world.rank + 1) % world.size)
        try:
            world.receive(np.zeros(3), (world.rank - 1) % world.size)
        except (ShapeError, CommunicationError) as error:
            assert str(error).startswith(f"{world.name}: receive ")
        else:
            raise AssertionError("a message of another size was taken")
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
    return runs


if __name__ == "__main__":
    runs = main()
    if dist.world().rank == 0:
        print(f"{runs} runs on {dist.world().size} ranks")
