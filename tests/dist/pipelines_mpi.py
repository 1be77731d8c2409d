"""What `mpirun -n 2 python -m tests.dist.pipelines_mpi` runs: a fixed selection of cases, on real ranks."""

import numpy as np

from minigrad import dist
from minigrad.dist.schedules import make
from tests.dist.pipelines import Case, train_alone, train_in_stages
from tests.dist.test_pipeline_tokens import alone, in_stages
from tests.dist.test_pipeline_versions import in_stages as with_versions
from tests.dist.test_pipeline_versions import simulated

KINDS = ("tied", "keep", "dense", "norm", "words", "join", "drop", "tied")


def cases(ranks: int) -> list[Case]:
    """Every schedule with a flush, on stages of uneven layers and microbatches of uneven samples."""
    found = []
    for name in ("naive", "gpipe", "1f1b", "zb-h1", "zb-h2", "interleaved"):
        virtual = 2 if name == "interleaved" else 1
        stages = ranks * virtual
        balance = (len(KINDS) - stages + 1, *[1] * (stages - 1))
        chunks = 2 * ranks if name == "interleaved" else 2 * ranks + 1
        for recompute in (False, True):
            found.append(Case(KINDS, balance, name, chunks, 2 * chunks + 3, ranks, recompute))
    return found


def main() -> int:
    """Run all cases on this rank, compare its part, and return how many there were."""
    world = dist.world()
    assert world.kind == "mpi"
    runs = 0
    for case in cases(world.size):
        state, losses = train_alone(case)
        part, own = train_in_stages(world, case)
        np.testing.assert_allclose(own, losses, rtol=1e-10)
        for name, value in part.items():
            np.testing.assert_allclose(value, state[name], rtol=1e-10, atol=1e-12, err_msg=name)
        runs += 1
    part, _ = in_stages(world, 2, 2, {"schedule": "terapipe", "slices": [5, 4, 3]})
    expected = alone(2)[0]
    for name, value in part.items():
        wanted = expected["wte.weight" if name == "lm_head.weight" else name]
        np.testing.assert_allclose(value, wanted, rtol=1e-10, atol=1e-10, err_msg=name)
    n = world.size
    found, _ = with_versions(world, 14, 3, {"schedule": make("pipedream", n, 7), "balance": [1] * n})
    reference = simulated(n, 7, 14, 3, lambda s, t: max(0, t - (n - 1 - s)))[-1]
    for stage, arrays in found[-1].items():
        for value, wanted in zip(arrays, reference[stage], strict=True):
            np.testing.assert_allclose(value, wanted, rtol=1e-10)
    return runs + 2


if __name__ == "__main__":
    count = main()
    if dist.world().rank == 0:
        print(f"{count} runs on {dist.world().size} ranks")
