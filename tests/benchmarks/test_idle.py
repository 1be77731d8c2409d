"""The benchmark of idle time: it measures and judges what it says. No test asserts a time."""

import json

import pytest

from benchmarks import idle, report
from benchmarks.idle import ENOUGH, SCHEDULES, TINY, Row
from minigrad import dist
from minigrad.dist.launch import find_mpirun
from minigrad.dist.schedules import make
from minigrad.dist.timing import Costs, simulate
from minigrad.errors import UsageError


def test_every_schedule_is_profiled_and_judged():
    def main(world):
        return idle.measure(world, TINY, list(SCHEDULES), [2], steps=ENOUGH, seconds=60)

    rows, other = dist.spawn(main, ranks=2)
    assert [row.schedule for row in rows] == list(SCHEDULES)
    for row, again in zip(rows, other, strict=True):
        assert row == again  # ranks agree on what they saw
        assert len(row.idle) == len(row.steps) == ENOUGH
        assert len(row.model) == len(row.stages) == len(row.measured) == 2
        assert min(row.stages) > 0
        assert row.taken == 0
        for times, seconds in zip(row.idle, row.steps, strict=True):
            assert all(0 <= time < seconds for time in times)


def test_a_run_that_is_the_model_agrees_with_it():
    """Steps that take exactly what they are profiled to take are idle as long as the model says."""
    run = idle.Run.__new__(idle.Run)
    run.schedule, run.microbatches, run.taken = "zb-h1", 5, 2
    schedule = make("zb-h1", 2, 5)
    run.pipeline = type("Cut", (), {"schedule": schedule})()
    ideal = simulate(schedule, Costs(2, 5, 2), link=0.25, between=0.125)
    run.profiled, run.judged = [ideal] * 3, [ideal] * 4
    row = run.row(0.25)
    assert row.errors == [0.0, 0.0]
    assert row.passed
    assert (row.pause, row.stages, row.taken, len(row.steps)) == (0.125, [7.0, 7.0], 2, 4)
    run.judged = [simulate(schedule, Costs(2, 5, 2), link=4, between=0.125)] * 4
    assert run.row(0.25).passed is False
    run.judged = run.judged[: ENOUGH - 1]
    assert run.row(0.25).passed is None


@pytest.mark.parametrize(
    ("measured", "passed"),
    [([1.19, 0.81], True), ([1.0, 1.21], False), ([0.79, 1.0], False), ([float("nan"), 1.0], False)],
)
def test_each_rank_is_judged(measured, passed):
    assert Row("1f1b", 4, model=[1.0, 1.0], idle=[measured] * 3).passed is passed


def test_the_report(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    judged = Row("1f1b", 4, [0.02, 0.03], 0.1, [[0.021, 0.03]] * 3, [0.1] * 3, [0.02, 0.02], 1e-4, 5e-5)
    idle.report([judged, Row("zb-h1", 4, taken=7)], {"cores": 2}, "some")
    printed = capsys.readouterr().out
    assert "| 21.0 30.0 | 20.0 30.0 | +5% +0% | 3 (0 left out) | PASS |" in printed
    assert "| 0 (7 left out) | ---- |" in printed
    saved = json.loads((tmp_path / "some" / "idle.json").read_text())
    assert saved["results"][0]["measured"] == [0.021, 0.03]
    assert "PASS" in (tmp_path / "some" / "idle.md").read_text()


@pytest.mark.parametrize(
    "words", [["--schedules", "none"], ["--steps", "1"], ["--microbatches", "0"], ["--seconds", "0"]]
)
def test_misuse_is_refused_before_anything_runs(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        idle.main(words)
    assert stopped.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_processes_are_started_and_one_of_them_prints(monkeypatch, capfd):
    try:
        find_mpirun()
    except UsageError as error:
        pytest.skip(str(error))
    # So little time that nothing can be judged: what is printed says so, and the check fails.
    words = ["--schedules", "gpipe", "--microbatches", "2", "--seconds", "0.001", "--check"]
    assert idle.main(words) == 1
    assert capfd.readouterr().out.count("| gpipe ") == 1
