"""One rank of one contender: `python -m benchmarks.parallel.rank MODULE FUNCTION WORKLOAD SIZE PORT`.

It builds its program, takes the first steps, and sends its parts of their losses over a connection to the
process that asked; then for each line `{"steps": n}` it meets the other ranks, takes n steps and answers with
the seconds of one. Between questions it waits in the operating system and takes no core from the others, as
it would if ranks waited for each other in MPI.
"""

import importlib
import json
import socket
import sys
import time
from typing import Any

from benchmarks.parallel.program import TINY, WORKLOADS
from benchmarks.worker import FIRST_STEPS, blas_kernels


def main() -> None:
    """Connect, build, answer until the connection is cut."""
    module, function, workload, size, port = sys.argv[1:]
    with socket.create_connection(("127.0.0.1", int(port))) as connection, connection.makefile("rw") as lines:

        def reply(answer: dict[str, Any]) -> None:
            lines.write(json.dumps(answer) + "\n")
            lines.flush()

        try:
            build = getattr(importlib.import_module(module), function)
        except ImportError as error:
            if (error.name or "").split(".")[0] in ("benchmarks", "minigrad"):
                raise  # a mistake of ours, not a library that is not there
            reply({"missing": str(error)})
            return
        program = build((TINY if size == "tiny" else WORKLOADS)[workload])
        losses = [program.run() for _ in range(FIRST_STEPS)]
        program.meet()
        start = time.perf_counter()
        program.run()
        reply(
            {
                "rank": program.rank,
                "description": program.description,
                "blas": blas_kernels(),
                "losses": losses,
                "seconds": time.perf_counter() - start,
            }
        )
        for line in lines:
            steps = json.loads(line)["steps"]
            program.meet()
            start = time.perf_counter()
            for _ in range(steps):
                program.run()
            reply({"seconds": (time.perf_counter() - start) / steps})


if __name__ == "__main__":
    main()
