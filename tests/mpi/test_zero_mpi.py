"""ZeRO on real ranks gives the numbers of one rank, by MPI's own reductions and by minigrad's."""

import pytest

from tests.mpi.conftest import SECONDS, Start


@pytest.mark.parametrize("ranks", [2, 3])
def test_all_stages(launcher: Start, ranks: int):
    process = launcher(ranks, ["-m", "tests.mpi.zero_ranks"])
    output, errors = process.communicate(timeout=2 * SECONDS)
    assert output.strip() == f"64 runs on {ranks} ranks", errors
