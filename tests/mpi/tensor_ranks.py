"""What `mpirun -n 4 python -m tests.mpi.tensor_ranks` runs: tensor parallelism on real ranks.

Rank 0 prints how many runs.
"""

from dataclasses import replace

from minigrad import dist
from minigrad.nn.gpt import GPTConfig
from tests.dist.tensor_training import Case, close, reference, train

CASES = [
    Case(samples=3, time=7, max_norm=0.1),
    Case(GPTConfig(vocabulary=257, context=8, layers=1, heads=5, width=15, dropout=0.3), checkpointed=True),
]


def main() -> int:
    """Run every mesh of this many ranks with token shares and without, and return how many runs that were."""
    world = dist.world()
    assert world.kind == "mpi"
    runs = 0
    for case in CASES:
        expected = reference(case)
        for sequence in (False, True):
            for algorithm in ("library", "ring"):
                alone = replace(case, tensor=world.size, sequence=sequence, algorithm=algorithm)
                close(train(world, alone), expected)
                runs += 1
            for stage in range(4) if world.size % 2 == 0 else ():
                mesh = replace(case, data=world.size // 2, tensor=2, stage=stage, sequence=sequence)
                close(train(world, mesh), expected)
                runs += 1
    return runs


if __name__ == "__main__":
    runs = main()
    if dist.world().rank == 0:
        print(f"{runs} runs on {dist.world().size} ranks")
