"""What `keep_freed_memory` asks of the C library and of the kernel, in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

import minigrad as mg

PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")

PROGRAM = """
import resource
import numpy as np
import minigrad as mg

assert mg.keep_freed_memory()
assert mg.keep_freed_memory()  # once more does no harm
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
arrays = [np.ones(3 << 18, "float32") for _ in range(8)]  # too short for NumPy to ask for huge pages itself
more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
assert more < 32 << 10, f"{more} KiB for 24 MiB"
place, inside = arrays[-1].ctypes.data, False
for line in open("/proc/self/smaps"):
    first, _, rest = line.partition(" ")
    if "-" in first and not first.endswith(":"):
        start, stop = (int(part, 16) for part in first.split("-"))
        inside = start <= place < stop
    elif inside and first == "VmFlags:":
        print("hg" in rest.split())
"""


def test_memory_kept_by_the_allocator_lies_in_huge_pages():
    if not (sys.platform.startswith("linux") and PAGES.exists() and mg.keep_freed_memory()):
        pytest.skip("the C library is not glibc, or the kernel knows no transparent huge pages")
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM], check=False, capture_output=True, text=True, timeout=120
    )
    assert run.stdout == "True\n", run.stderr
