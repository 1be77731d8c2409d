"""`python -m benchmarks.collectives`: minigrad's own collectives beside the library's, by algorithm and size.

On ranks that are processes (`--processes`, needs MPI) the library is MPI; on thread ranks it is a sum in the
order of ranks. All algorithms take turns, round after round, on the same arrays; a figure is the median over
rounds of the ratio to the library's time in that round, on the slowest rank. Below 1 is faster.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence

import numpy as np

from minigrad import dist
from minigrad.dist.algorithms import ALGORITHMS, LIBRARY
from minigrad.dist.launch import run_under_mpirun
from minigrad.dist.world import World

SIZES = (2**8, 2**14, 2**20)  # elements of float32: 1 KiB, 64 KiB, 4 MiB
VERBS = ("all_reduce", "reduce_scatter", "all_gather", "broadcast", "reduce")


def seconds(world: World, verb: str, algorithm: str, array: np.ndarray, repeats: int) -> float:
    """The time of one call on the slowest rank."""
    piece = array[: dist.balanced_counts(array.size, world.size)[world.rank]].copy()
    arrays = {"reduce_scatter": (array, piece), "all_gather": (piece, array)}.get(verb, (array,))
    run = getattr(world, verb)
    world.barrier()
    start = time.perf_counter()
    for _ in range(repeats):
        run(*arrays, algorithm=algorithm)
    longest = np.array([(time.perf_counter() - start) / repeats])
    world.all_reduce(longest, operation="max")
    return float(longest[0])


def measure(world: World, rounds: int) -> list[str]:
    """The table, line by line."""
    lines = [f"{world.size} ranks ({world.kind}), ratio to the library's time (its own in milliseconds)"]
    lines.append(f"{'':<26}" + "".join(f"{4 * size // 1024:>16} KiB" for size in SIZES))
    for verb in VERBS:
        names = [LIBRARY, *ALGORITHMS[verb]]
        cells: dict[str, list[str]] = {name: [] for name in names}
        for size in SIZES:
            array = np.zeros(size, dtype=np.float32)
            repeats = max(1, 2**16 // size)
            taken = [
                {name: seconds(world, verb, name, array, repeats) for name in names}
                for _ in range(rounds + 1)  # the first warms up
            ][1:]
            for name in names:
                ratio = statistics.median(one[name] / one[LIBRARY] for one in taken)
                cells[name].append(f"{ratio:.2f}")
            library = statistics.median(one[LIBRARY] for one in taken)
            cells[LIBRARY][-1] = f"({1e3 * library:.3f})"
        lines += [f"{verb:<15}{name:<11}" + "".join(f"{c:>20}" for c in cells[name]) for name in names]
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Run on thread ranks, or start processes that do."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.collectives", description=__doc__)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--processes", action="store_true", help="on MPI ranks")
    options = parser.parse_args(arguments)
    words = [sys.executable, "-m", "benchmarks.collectives", "--rounds", str(options.rounds)]
    world = dist.world()
    if options.processes and world.kind != "mpi":
        return run_under_mpirun([*words, "--processes"], ranks=options.ranks)
    if world.kind == "mpi":
        tables = [measure(world, options.rounds)]
    else:
        tables = dist.spawn(lambda world: measure(world, options.rounds), ranks=options.ranks)
    if world.rank == 0:
        print("\n".join(tables[0]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
