"""What `mpirun -n 4 python -m tests.dist.composition_mpi` runs: two copies of a model in two stages each."""

import numpy as np

from minigrad import dist
from minigrad.dist.agreement import gathered
from tests.dist.mesh_training import Case, alone, train


def main() -> int:
    """Run all cases on this rank, compare, and return how many there were."""
    world = dist.world()
    assert world.kind == "mpi"
    cases = [
        Case(9, data=2, pipeline=2, options={"schedule": schedule, "microbatches": 3}, zero={"stage": stage})
        for schedule, stage in (("1f1b", 0), ("zb-h1", 1), ("zb-h2", 2), ("gpipe", 3))
    ]
    cases.append(Case(9, pipeline=2, tensor=2, options={"microbatches": 4}, zero={"stage": 1}))
    for case in cases:
        found = train(world, case)
        expected, arrays = alone(case.samples, case.config, case.optimizer)
        np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-10)
        np.testing.assert_allclose(found.norms, expected.norms, rtol=1e-10)
        for piece in found.pieces:
            if piece.name in arrays:
                box = tuple(slice(offset, offset + length) for offset, length in piece.part)
                own = arrays[piece.name][box].reshape(-1)[piece.start : piece.stop]
                np.testing.assert_allclose(piece.array, own, rtol=1e-10, atol=1e-10, err_msg=piece.name)
        names = {name for part in gathered(world, [p.name for p in found.pieces]) for name in part}
        assert set(arrays) <= names
    return len(cases)


if __name__ == "__main__":
    count = main()
    if dist.world().rank == 0:
        print(f"{count} runs on {dist.world().size} ranks")
