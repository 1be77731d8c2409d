"""Hypothesis profiles, and real MPI ranks for the few tests that need them.

The profile `ci` draws the same modest examples every time; `MINIGRAD_HYPOTHESIS=thorough pytest` draws many
new ones.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from threadpoolctl import threadpool_limits

from minigrad.cli.doctor import run_with_limit
from minigrad.dist.launch import find_mpirun, mpirun_command, mpirun_environment
from minigrad.errors import UsageError

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background jobs so, and programs inherit it; the tests of Ctrl-C need the real thing.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Small products gain nothing from a second BLAS thread, and on a busy machine they wait for it.
threadpool_limits(limits=1)

# Thread ranks, first imports and a busy machine make single examples slow now and then: no deadline.
settings.register_profile(
    "ci", max_examples=50, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("thorough", max_examples=1000, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("MINIGRAD_HYPOTHESIS", "ci"))


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave alone what only helps the tests, such as programs for ranks: doctests are for the packages."""
    helper = collection_path.suffix == ".py" and not collection_path.name.startswith("test_")
    return True if helper else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several workers share the tests (`-n 2 --dist loadgroup`), those of a file stay together, and
    those that start MPI take turns: their ranks want all cores.
    """
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            processes = "mpirun" in getattr(item, "fixturenames", ())
            item.add_marker(pytest.mark.xdist_group("mpirun" if processes else str(item.path)))


@pytest.fixture
def mpirun() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run Python on MPI ranks: `mpirun(["-c", program], ranks=2)`. No MPI skips the test; a hang fails it."""
    try:
        find_mpirun()
    except UsageError as error:
        pytest.skip(str(error))

    def start(words: list[str], *, ranks: int, seconds: float = 60) -> subprocess.CompletedProcess[str]:
        command = mpirun_command(ranks, [sys.executable, *words])
        code, output, errors = run_with_limit(command, seconds, environment=mpirun_environment())
        assert code is not None, f"{ranks} ranks did not end within {seconds:g} s:\n{output}\n{errors}"
        return subprocess.CompletedProcess(command, code, output, errors)

    return start
