"""The benchmarks run, and the peers do the same work. No test here asserts a time."""

import json
from collections.abc import Callable

import numpy as np
import pytest

from benchmarks import report, rounds
from benchmarks.__main__ import main
from benchmarks.peers import floor, minigrad_fused, minigrad_primitives
from benchmarks.peers.step import Step
from benchmarks.workloads import GPT, MLP, Overhead, Workload

SMALL: dict[str, Workload] = {
    "mlp": MLP(widths=(20, 16, 16, 5), batch=12),
    "gpt": GPT(layers=2, width=32, heads=4, context=16, batch=3, vocabulary=50),
    "overhead": Overhead(repeats=5),
}


def result(peer: str, workload: str = "gpt", cpu: float = 1.0, **changes) -> rounds.Result:
    settings = {
        "losses": [5.5, 5.4],
        "peak_bytes_above_start": 100,
        "cpu_rounds": [cpu],
        "wall_rounds": [cpu],
    }
    return rounds.Result(workload, peer, "unset", peer, "Haswell", **{**settings, **changes})


@pytest.mark.parametrize("workload", ["mlp", "gpt", "overhead"])
def test_quick_run_of_floor_and_minigrad_agrees_on_losses(workload):
    said: list[str] = []
    results = rounds.compare(
        workload, ["floor", "minigrad"], [rounds.UNSET], rounds=1, seconds=0.01, say=said.append
    )
    assert [r.peer for r in results] == ["floor", "minigrad"]
    assert len(results[1].losses) == 5
    assert results[1].loss_difference <= 1e-6  # float32, relative; agreement is about 1e-8
    assert all(r.cpu_seconds > 0 and r.wall_seconds > 0 for r in results)
    assert results[1].ratio_to_floor == pytest.approx(results[1].cpu_seconds / results[0].cpu_seconds)
    assert "1 of 1" in said[-1]


def first_gradients(build: Callable[[Workload], Step], workload: Workload) -> dict[str, np.ndarray]:
    step = build(workload)
    step.run()
    assert step.gradients is not None
    return {name: np.array(gradient) for name, gradient in step.gradients().items()}


def assert_same_gradients(build: Callable[[Workload], Step], workload: Workload) -> None:
    expected = first_gradients(floor.build, workload)
    found = first_gradients(build, workload)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert np.abs(gradient).max() > 0, name
        np.testing.assert_allclose(
            found[name], gradient, rtol=0, atol=1e-5 * float(np.abs(gradient).max()), err_msg=name
        )


@pytest.mark.parametrize("peer", [minigrad_fused, minigrad_primitives])
@pytest.mark.parametrize("name", ["mlp", "gpt"])
def test_gradients_of_minigrad_are_those_of_the_floor(peer, name):
    assert_same_gradients(peer.build, SMALL[name])


@pytest.mark.parametrize("name", ["mlp", "gpt", "overhead"])
def test_gradients_of_torch_are_those_of_the_floor(name):
    pytest.importorskip("torch", reason="the benchmarks extra is not installed")
    from benchmarks.peers import torch_eager

    assert_same_gradients(torch_eager.build, SMALL[name])


@pytest.mark.parametrize("wrong", [5.41, float("nan")])
def test_a_peer_that_computes_something_else_is_refused(wrong):
    rounds.check_losses([result("floor"), result("torch")])
    with pytest.raises(rounds.BenchmarkError, match="losses of torch"):
        rounds.check_losses([result("floor"), result("torch", losses=[5.5, wrong])])


def test_a_peer_that_is_not_installed_is_left_out_with_the_reason(monkeypatch):
    monkeypatch.setitem(rounds.PEERS, "absent", ("no_such_library_anywhere", False))
    said: list[str] = []
    results = rounds.compare("overhead", ["absent"], [rounds.UNSET], rounds=1, seconds=0.01, say=said.append)
    assert results == []
    assert "absent left out: No module named 'no_such_library_anywhere'" in said[0]


def test_a_peer_of_ours_that_does_not_import_is_an_error(monkeypatch):
    monkeypatch.setitem(rounds.PEERS, "broken", ("benchmarks.peers.no_such_peer", False))
    with pytest.raises(rounds.BenchmarkError, match="broken worker for overhead ended with exit code 1"):
        rounds.compare("overhead", ["broken"], [rounds.UNSET], rounds=1, seconds=0.01, say=print)


def measured(slow: float, bytes_held: int) -> list[rounds.Result]:
    results = []
    for workload in ("gpt", "mlp", "overhead"):
        results += [result("floor", workload), result("torch", workload)]
        results += [result("minigrad", workload, slow, peak_bytes_above_start=bytes_held)]
    rounds.set_ratios(results)
    return results


def test_targets_pass_and_fail_on_the_right_side():
    assert [passed for passed, _ in report.verdicts(measured(0.65, 125))] == [True] * 4
    assert [passed for passed, _ in report.verdicts(measured(1.1, 131))] == [True, True, False, False]
    assert [passed for passed, _ in report.verdicts(measured(1.2, 125))] == [False, False, False, True]
    assert not any(passed for passed, _ in report.verdicts([]))


def test_results_are_saved_whole(monkeypatch, tmp_path):
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    written = report.save("trial", measured(1.1, 131), (0.5, 0.6))
    assert sorted(path.name for path in tmp_path.glob("results/*")) == ["trial.json", "trial.md"]
    data = json.loads(written[0].read_text(encoding="utf-8"))
    assert [row["ratio_to_floor"] for row in data["results"] if row["peer"] == "minigrad"] == [1.1] * 3
    assert data["machine"].keys() >= {"processor", "cores", "python", "OPENBLAS_CORETYPE as found"}
    assert "| minigrad | unset (Haswell)" in written[1].read_text(encoding="utf-8")


@pytest.mark.parametrize("words", [["--workloads", "cnn"], ["--peers", "tinygrad"], ["--rounds", "0"]])
def test_misuse_is_refused_before_anything_runs(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert "error:" in capsys.readouterr().err
