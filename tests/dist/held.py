"""What ranks that are threads of this process hold together, counted where the memory is allocated."""

import tracemalloc
from collections.abc import Callable
from typing import Any

from minigrad import dist
from minigrad.dist.world import World
from minigrad.nn import init

SLACK = 8 * init.BLOCK + 300_000  # a block of random numbers, and small things


def most_while(build: Callable[[World], Any], ranks: int) -> tuple[int, int]:
    """Bytes that all ranks hold when each has built something, and the most that they held until then."""

    def main(world: World) -> Any:
        built = build(world)
        world.barrier()  # all have built, and keep it
        return tracemalloc.get_traced_memory(), built

    dist.spawn(build, ranks=ranks)  # what is made once is there
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        results = dist.spawn(main, ranks=ranks)
        kept, most = max(figures for figures, _ in results)
        return kept - before, most - before
    finally:
        tracemalloc.stop()
