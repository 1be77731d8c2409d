"""Tensor parallelism on real ranks gives the numbers of one rank: alone, and beside data parallelism."""

import pytest

from tests.mpi.conftest import SECONDS, Start


@pytest.mark.parametrize(("ranks", "runs"), [(2, 24), (4, 24)])
def test_every_mesh(launcher: Start, ranks: int, runs: int):
    process = launcher(ranks, ["-m", "tests.mpi.tensor_ranks"])
    output, errors = process.communicate(timeout=2 * SECONDS)
    assert output.strip() == f"{runs} runs on {ranks} ranks", errors
