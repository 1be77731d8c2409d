"""Pipelines on real MPI ranks, where messages are under way while ranks compute."""

import pytest


@pytest.mark.parametrize("ranks", [2, 4])
def test_a_selection(mpirun, ranks: int):
    result = mpirun(["-m", "tests.dist.pipelines_mpi"], ranks=ranks, seconds=120)
    assert result.returncode == 0, result.stderr
    assert f"14 runs on {ranks} ranks" in result.stdout
