"""Versions of weights: which one each microbatch uses, by which rule, and when one is dropped."""

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn
from minigrad.dist.schedule import B, F, Kind, parse
from minigrad.dist.schedule_check import check
from minigrad.dist.schedules import make
from minigrad.dist.weight_versions import (
    WeightVersions,
    double_buffered,
    find_versions,
    stashing,
    vertical_sync,
)
from minigrad.errors import UsageError
from tests.dist.pipelines import Dense


def test_versions_are_dropped_with_the_last_that_needs_them():
    schedule = make("pipedream", 3, 5)
    stage = type("S", (nn.Module,), {"number": 0})()
    stage.layer = Dense(np.random.default_rng(0))
    optimizer = nn.optim.SGD(stage.parameters(), lr=0.1)
    versions = WeightVersions(stage, schedule, stashing(schedule), optimizer)
    versions.begin()
    held = []
    for action in schedule.ranks[0]:
        if action.kind is F:
            with versions.used_by(action.microbatch):
                pass
        elif action.kind is Kind.UPDATE:
            mg.sum(stage.layer.weight).backward()
            versions.update(action.microbatch)
            held.append(versions.held)
    assert held == [[0, 1], [0, 1, 2], [1, 2, 3], [2, 4], [5]]  # F0 F1 F2 B0 U0 F3 B1 U1 F4 B2 U2 B3 U3 B4 U4
    assert versions.most_held == 3


def test_tables():
    schedule = make("pipedream", 3, 6)
    assert [stashing(schedule)[1, j] for j in range(6)] == [0, 0, 1, 2, 3, 4]
    assert [vertical_sync(schedule)[1, j] for j in range(6)] == [0, 0, 0, 1, 2, 3]
    double = double_buffered(make("2bw", 2, 2, batches=3))
    assert [double[0, j] for j in range(6)] == [-1, -1, 0, 0, 1, 1]  # -1 is from the run before
    assert set(stashing(make("1f1b", 3, 4)).values()) == {0}


def test_a_schedule_brings_its_rule():
    for schedule, rule in ((make("pipedream", 3, 4), stashing), (make("2bw", 2, 3), double_buffered)):
        for made in (schedule, check(schedule), schedule.only((F, B, Kind.UPDATE))):
            assert find_versions(made) == rule(schedule)
        assert find_versions(parse(str(schedule)), schedule.versions[0]) == rule(schedule)
    with pytest.raises(UsageError, match="2bw goes with the rule 2bw, and versions is 'stashing'"):
        find_versions(make("2bw", 2, 2), "stashing")
    with pytest.raises(
        UsageError, match="goes with the rule stashing or vertical-sync, and versions is '2bw'"
    ):
        find_versions(make("pipedream", 2, 2), "2bw")
    with pytest.raises(UsageError, match="schedule updates while microbatches are under way; say which"):
        find_versions(parse(str(make("2bw", 2, 2, batches=2))))


def test_weights_that_are_not_there_yet():
    late = parse("F0 B0 U0 F1 B1 U1\nF0 B0 F1 U0 B1 U1")
    assert set(find_versions(late, "stashing").values()) == {0, 1}
    with pytest.raises(UsageError, match="microbatch 1 needs version 1 of the weights on stage 1"):
        find_versions(late, "vertical-sync")
    with pytest.raises(UsageError, match="no rule 'stash'"):
        find_versions(late, "stash")
