"""minigrad with every fused operation run as the composition of primitives that defines it."""

import minigrad as mg
from benchmarks.peers import minigrad_fused
from benchmarks.peers.step import Step
from benchmarks.workloads import Workload

DESCRIPTION = f"minigrad {mg.__version__}, fused operations off, keep_freed_memory(){minigrad_fused.PRODUCTS}"


def build(workload: Workload) -> Step:
    """The step of a workload."""
    step = minigrad_fused.build(workload)

    def run() -> float:
        with mg.fused_operations(False):
            return step.run()

    return Step(run, step.gradients)
