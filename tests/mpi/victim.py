"""Ranks that come to grief: rank 2 does what the first word says, while the others wait for it."""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from minigrad import dist
from minigrad.dist import farewell
from minigrad.errors import UsageError


def compute(seconds: float) -> None:
    """One long step that says nothing, in Python and in NumPy."""
    end = time.monotonic() + seconds
    matrix = np.ones((300, 300))
    while time.monotonic() < end:
        sum(k * k for k in range(100_000))
        matrix = np.tanh(matrix @ matrix)


def hold(seconds: float) -> None:
    """The same in single calls that let no other thread run, the last of them that long."""
    numbers, took = 10**6, 0.0
    while took < seconds:
        start = time.monotonic()
        sum(range(numbers))
        numbers, took = 2 * numbers, time.monotonic() - start


def main(what: str) -> None:
    world = dist.world()
    folder = Path(os.environ["MINIGRAD_TEST_FOLDER"])
    array = np.ones(4)
    world.all_reduce(array)
    (folder / f"{world.rank}.new").write_text(str(os.getpid()))
    (folder / f"{world.rank}.new").rename(folder / f"{world.rank}.pid")
    world.barrier()
    if world.rank == 2:
        if what == "raise":
            raise ValueError("boom")
        if what == "misuse":
            raise UsageError("no such file")
        if what == "exit":
            sys.exit(5)
        if what == "quit":
            quit(4)
        if what == "system exit":
            raise SystemExit(1)
        if what in ("leave", "leave others waiting"):
            sys.exit()
        if what in ("return", "leave others at work"):
            return
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if what == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        if what == "compute":
            compute(seconds=float(os.environ["MINIGRAD_SECONDS_OF_SILENCE"]) * 2)
        if what == "hold":
            hold(seconds=float(os.environ["MINIGRAD_SECONDS_OF_SILENCE"]) * 2)
        if what == "sleep":
            time.sleep(600)
    if what == "leave":
        print(f"rank {world.rank} ends well", flush=True)
        sys.exit(0)
    if what == "leave others at work":
        compute(seconds=4 * farewell.SECONDS_UNTIL_CERTAIN)
        if world.rank == 0:  # a message between those who are left
            compute(seconds=4 * farewell.SECONDS_UNTIL_CERTAIN)
            world.send(array, 1)
        else:
            world.receive(array, 0)
        return
    if what == "wait":
        world.receive(array, (world.rank + 1) % world.size)
    if what == "wait in turn":  # always in something, for longer than ranks may wait for each other
        end = time.monotonic() + 3 * float(os.environ["MINIGRAD_SECONDS_OF_SILENCE"])
        while array[0]:
            array[0] = time.monotonic() < end
            world.all_reduce(array, operation="min")
    world.barrier()


if __name__ == "__main__":
    farewell.SECONDS_UNTIL_CERTAIN = float(
        os.environ.get("MINIGRAD_TEST_CERTAIN", farewell.SECONDS_UNTIL_CERTAIN)
    )
    main(sys.argv[1])
