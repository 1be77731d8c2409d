"""The benchmarks run, and the peers do the same work. No test here asserts a time."""

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.special

from benchmarks import report, rounds
from benchmarks.__main__ import main
from benchmarks.peers import floor, kernels, minigrad_fused, minigrad_primitives
from benchmarks.peers.step import NotWritten, Step, by_workload
from benchmarks.workloads import GPT, LSTM, MLP, Adam, Convnet, Overhead, ViT, Workload

SMALL: dict[str, Workload] = {
    "mlp": MLP(widths=(20, 16, 16, 5), batch=12),
    "gpt": GPT(layers=2, width=32, heads=4, context=16, batch=3, vocabulary=50),
    "overhead": Overhead(repeats=5),
    "convnet": Convnet(size=9, channels=(3, 5), batch=6),  # an odd size, and a block that is not full
    "convnet, even": Convnet(size=8, channels=(4, 3), batch=5),
    "lstm": LSTM(inputs=5, hidden=7, time=4, batch=3),
    "vit": ViT(image=8, patch=4, layers=2, width=16, heads=2, batch=3),
}
MODELS = [name for name in SMALL if name != "overhead"]


def result(peer: str, workload: str = "gpt", cpu: float = 1.0, **changes) -> rounds.Result:
    settings = {
        "losses": [5.5, 5.4],
        "peak_bytes_above_start": 100,
        "cpu_rounds": [cpu],
        "wall_rounds": [cpu],
    }
    return rounds.Result(workload, peer, "unset", peer, "Haswell", **{**settings, **changes})


@pytest.mark.parametrize("workload", ["overhead", "lstm"])
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


def second_gradients(build: Callable[[Workload], Step], workload: Workload) -> dict[str, np.ndarray]:
    step = build(workload)
    step.run()
    step.run()  # buffers hold what the first step left there
    assert step.gradients is not None
    return {name: np.array(gradient) for name, gradient in step.gradients().items()}


def assert_same_gradients(build: Callable[[Workload], Step], workload: Workload) -> None:
    expected = second_gradients(floor.build, workload)
    found = second_gradients(build, workload)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert np.abs(gradient).max() > 0, name
        np.testing.assert_allclose(
            found[name], gradient, rtol=0, atol=1e-5 * float(np.abs(gradient).max()), err_msg=name
        )


@pytest.mark.parametrize("peer", [minigrad_fused, minigrad_primitives])
@pytest.mark.parametrize("name", MODELS)
def test_gradients_of_minigrad_are_those_of_the_floor(peer, name):
    assert_same_gradients(peer.build, SMALL[name])


@pytest.mark.parametrize("name", list(SMALL))
def test_gradients_of_torch_are_those_of_the_floor(name):
    pytest.importorskip("torch", reason="the benchmarks extra is not installed")
    from benchmarks.peers import torch_eager

    assert_same_gradients(torch_eager.build, SMALL[name])


def test_gelu_and_its_derivative_are_the_formula_s():
    x = np.linspace(-6, 6, 1001)
    u = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    slope = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x**2)
    value, derivative = np.empty(x.shape, np.float32), x.astype(np.float32)
    kernels.gelu_forward(derivative, value, kernels.Scratch(block=64))
    np.testing.assert_allclose(value, x * (1 + np.tanh(u)) / 2, atol=1e-6)
    np.testing.assert_allclose(
        derivative, (1 + np.tanh(u) + x / np.cosh(u) ** 2 * slope) / 2, atol=4e-6
    )  # 1 − a cancels


def test_exact_gelu_and_its_derivative_are_the_formula_s():
    x = np.linspace(-30, 30, 2001)
    cumulative = (1 + scipy.special.erf(x / math.sqrt(2))) / 2
    value, derivative = np.empty(x.shape, np.float32), x.astype(np.float32)
    kernels.exact_gelu_forward(derivative, value, kernels.Scratch(block=64))
    np.testing.assert_allclose(value, x * cumulative, rtol=1e-6, atol=1e-6)
    density = np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    np.testing.assert_allclose(derivative, cumulative + x * density, atol=1e-6)


def test_adam_is_the_paper_s():
    generator = np.random.default_rng(0)
    settings = Adam(learning_rate=0.1, beta1=0.8, beta2=0.9, epsilon=1e-2)
    theta = generator.standard_normal(100)
    first, second = np.zeros(100), np.zeros(100)
    flat, gradient = theta.astype(np.float32), np.empty(100, np.float32)
    adam = kernels.FlatAdam(flat, gradient, settings, kernels.Scratch(block=64))
    for step in range(1, 21):
        gradient[:] = generator.standard_normal(100)
        adam.step()
        first = 0.8 * first + 0.2 * gradient
        second = 0.9 * second + 0.1 * gradient.astype(np.float64) ** 2
        theta -= 0.1 * (first / (1 - 0.8**step)) / (np.sqrt(second / (1 - 0.9**step)) + 1e-2)
    np.testing.assert_allclose(flat, theta, atol=1e-5)


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


def test_a_peer_for_which_a_workload_is_not_written_says_so():
    with pytest.raises(NotWritten, match="not written for lstm"):
        by_workload(mlp=floor.mlp)(SMALL["lstm"])


def test_a_peer_of_ours_that_does_not_import_is_an_error(monkeypatch):
    monkeypatch.setitem(rounds.PEERS, "broken", ("benchmarks.peers.no_such_peer", False))
    with pytest.raises(rounds.BenchmarkError, match="broken worker for overhead ended with exit code 1"):
        rounds.compare("overhead", ["broken"], [rounds.UNSET], rounds=1, seconds=0.01, say=print)


def test_a_failing_workload_does_not_lose_the_others(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    real = rounds.PEERS["floor"]
    started: list[str] = []

    class Worker(rounds.Worker):
        def __init__(self, workload: str, peer: str, coretype: str | None) -> None:
            rounds.PEERS["floor"] = ("benchmarks.peers.no_such_peer", True) if workload == "mlp" else real
            started.append(workload)
            super().__init__(workload, peer, coretype)

    monkeypatch.setattr(rounds, "Worker", Worker)
    monkeypatch.setattr(rounds, "PEERS", dict(rounds.PEERS))
    words = ["--quick", "--workloads", "mlp,overhead", "--peers", "floor", "--save", "partial"]
    assert main(words) == 1
    printed = capsys.readouterr()
    assert started == ["mlp", "overhead"]
    assert "the floor worker for mlp ended with exit code 1" in printed.err
    assert "| floor " in printed.out
    assert "784" not in printed.out
    assert list(tmp_path.iterdir()) == []  # figures that are not whole are not saved


def measured(slow: float, bytes_held: int) -> list[rounds.Result]:
    results = []
    for workload in report.TITLES:
        results += [result("floor", workload), result("torch", workload)]
        results += [result("minigrad", workload, slow, peak_bytes_above_start=bytes_held)]
    results += [result("minigrad primitives", "gpt", slow)]
    rounds.set_ratios(results)
    return results


def test_targets_pass_and_fail_on_the_right_side():
    def failed(slow: float, bytes_held: int) -> list[str]:
        judged = report.verdicts(measured(slow, bytes_held))
        assert len(judged) == len(report.TARGETS)
        return [text.split(":")[0].split(",")[0] for passed, text in judged if not passed]

    assert failed(0.55, 115) == []
    assert failed(0.65, 115) == ["overhead"]
    assert failed(1.12, 116) == ["gpt", "gpt", "mlp", "overhead", "gpt"]
    assert failed(1.4, 115) == ["gpt", "gpt", "gpt", "mlp", "overhead", "convnet", "lstm", "vit"]
    assert not any(passed for passed, _ in report.verdicts([]))


def test_results_are_saved_whole(monkeypatch, tmp_path):
    monkeypatch.setattr(report, "RESULTS", tmp_path / "results")
    written = report.save("trial", measured(1.1, 131), (0.5, 0.6))
    assert sorted(path.name for path in tmp_path.glob("results/trial/*")) == ["steps.json", "steps.md"]
    data = json.loads(written[0].read_text(encoding="utf-8"))
    assert [row["ratio_to_floor"] for row in data["results"] if row["peer"] == "minigrad"] == [1.1] * 6
    assert data["machine"].keys() >= {"processor", "cores", "python", "OPENBLAS_CORETYPE as found"}
    assert "| minigrad | unset (Haswell)" in written[1].read_text(encoding="utf-8")


@pytest.mark.parametrize("words", [["--workloads", "cnn"], ["--peers", "tinygrad"], ["--rounds", "0"]])
def test_misuse_is_refused_before_anything_runs(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert "error:" in capsys.readouterr().err
