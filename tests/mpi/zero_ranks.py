"""What `mpirun -n 3 python -m tests.mpi.zero_ranks` runs: ZeRO on real ranks. Rank 0 prints how many runs."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

from minigrad import dist, nn
from tests.dist.zero_training import Case, close, reference, same, train

CASES = [
    Case(samples=7, max_norm=0.5, seldom=1),
    Case(samples=2, parts=2, blocks=4, checkpointed=True, optimizer=nn.optim.LAMB),
    Case(samples=11, parts=3, tied=frozenset(), optimizer=partial(nn.optim.SGD, momentum=0.9)),
]


def main() -> int:
    """Run every stage with every algorithm on this rank, and return how many runs that were."""
    world = dist.world()
    assert world.kind == "mpi"
    folder = Path(os.environ["MINIGRAD_TEST_FOLDER"])
    runs = 0
    for case in CASES:
        expected = reference(case)
        for stage in range(4):
            for algorithm in ("library", "ring", "halving", "ordered"):
                zero = {"stage": stage, "algorithm": algorithm, "bucket_bytes": 200}
                close(train(world, replace(case, zero=zero)), expected)
                runs += 1
            close(train(world, replace(case, zero={"stage": stage, "offload": folder})), expected)
            runs += 1
    case = CASES[0]
    expected = reference(case, world.size, ordered=True)
    for stage in range(4):
        same(train(world, replace(case, zero={"stage": stage, "algorithm": "ordered"})), expected)
        runs += 1
    return runs


if __name__ == "__main__":
    runs = main()
    if dist.world().rank == 0:
        print(f"{runs} runs on {dist.world().size} ranks")
