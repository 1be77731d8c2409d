"""ZeRO on a device that its ranks share, real or standing in; its update there or on the host."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.dist.zero_training import Case, close, reference, run, same

pytestmark = pytest.mark.usefixtures("device")
CASE = Case(samples=7, max_norm=0.5, seldom=1, device="gpu")


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_all_stages_agree_with_the_host(stage: int, ranks: int):
    expected = reference(replace(CASE, device="cpu"))
    for actual in run(replace(CASE, zero={"stage": stage, "bucket_bytes": 200}), ranks):
        close(actual, expected)


def test_ordered_stages_agree_to_the_last_bit():
    ordered = [run(replace(CASE, zero={"stage": s, "algorithm": "ordered"}), 3)[0] for s in range(4)]
    for result in ordered[1:]:
        same(result, ordered[0])


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("where", ["host", "disk"])
def test_the_update_runs_on_the_host(tmp_path: Path, stage: int, where: str):
    offload = tmp_path if where == "disk" else where
    expected = reference(replace(CASE, device="cpu"))
    for actual in run(replace(CASE, zero={"stage": stage, "offload": offload}), 2):
        close(actual, expected)
        assert actual.zero is not None
        states = actual.zero.optimizer.flat_state.values()
        assert all(isinstance(array, np.ndarray) for array in states)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_update_runs_on_the_host_where_ranks_own_nothing(stage: int):
    small = replace(CASE, width=1, blocks=2)
    expected = reference(replace(small, device="cpu"))
    options = {"offload": "host"} | ({"bucket_bytes": 1} if stage < 3 else {})
    for actual in run(replace(small, zero={"stage": stage, **options}), 5):
        close(actual, expected)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_delayed_updates_agree_with_the_host(stage: int):
    zero = {"stage": stage, "offload": "host", "delayed": 2}
    expected = run(replace(CASE, device="cpu", zero=zero), 2)
    for actual, right in zip(run(replace(CASE, zero=zero), 2), expected, strict=True):
        close(actual, right)
