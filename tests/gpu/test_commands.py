"""`minigrad train` and `minigrad run` with `--device gpu`: by one rank, by threads and by processes."""

import json
import re
import sys
from pathlib import Path

import pytest

from minigrad.cli.main import main

WAYS = {
    "one": [],
    "threads": ["--ranks", "2", "--threads"],
    "processes": ["--ranks", "2"],
    "zero 1": ["--ranks", "2", "--threads", "--zero", "1"],
    "zero 3": ["--ranks", "2", "--threads", "--zero", "3"],
    "offload": ["--ranks", "2", "--threads", "--zero", "2", "--offload", "host"],
    "offload, alone": ["--offload", "host"],
    "accumulated": ["--ranks", "2", "--threads", "--accumulate", "2"],
    "checkpointed": ["--checkpoint-activations"],
    "pipeline": ["--ranks", "2", "--threads", "--pipeline", "2"],
    "tensor": ["--ranks", "2", "--threads", "--tensor", "2"],
}
TEXT = "It is a truth universally acknowledged that a gradient is a sum over paths. " * 40


def losses(folder: Path, words: list[str]) -> list[float]:
    text, out = folder / "text.txt", folder / "run"
    text.write_text(TEXT)
    common = ["train", "--text", str(text), "--steps", "2", "--layers", "2", "--width", "16", "--heads", "2"]
    assert main([*common, "--context", "16", "--batch", "4", *words, "--out", str(out)]) == 0
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def of_host(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    return losses(tmp_path_factory.mktemp("host"), ["--precision", "float64"])


@pytest.mark.usefixtures("device_of_processes")
@pytest.mark.parametrize("way", WAYS)
def test_training_reaches_the_losses_of_the_host(
    way: str, of_host: list[float], tmp_path: Path, request: pytest.FixtureRequest
):
    if way == "processes":
        request.getfixturevalue("mpirun")
    device = losses(tmp_path, ["--precision", "float64", *WAYS[way], "--device", "gpu"])
    assert device == pytest.approx(of_host, rel=1e-9)


@pytest.mark.usefixtures("device")
@pytest.mark.filterwarnings("ignore:.*(overflow|invalid).*:RuntimeWarning")
def test_mixed_precision_is_near_the_host(of_host: list[float], tmp_path: Path):
    words = ["--precision", "mixed-float16", "--ranks", "2", "--threads", "--zero", "1", "--device", "gpu"]
    assert losses(tmp_path, words) == pytest.approx(of_host, rel=2e-2)


@pytest.mark.usefixtures("device_of_processes")
def test_a_lesson_on_two_ranks_that_say_where_they_compute(mpirun, monkeypatch, tmp_path, capfd):
    monkeypatch.setenv("MINIGRAD_QUICK", "1")
    monkeypatch.setenv("MINIGRAD_FIGURES", str(tmp_path / "figures"))
    monkeypatch.setenv("MINIGRAD_DEVICE", "cpu")  # and back, when the test is over
    printed = []
    for words in ([], ["--device", "gpu"]):
        assert main(["run", "-n", "2", *words, "20"]) == 0
        printed.append(capfd.readouterr())
    assert re.findall(r"rank \d of 2 computes on gpu:\d", printed[0].err) == []
    mapped = sorted(re.findall(r"rank (\d) of 2 computes on gpu:(\d)", printed[1].err))
    assert [rank for rank, _ in mapped] == ["0", "1"]
    moved = [re.findall(r"over Ψ \(N - 1\): .*", output.out) for output in printed]
    assert moved[0] == moved[1] != []


@pytest.mark.usefixtures("device")
def test_a_script_that_asks_for_no_device_is_named(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("MINIGRAD_DEVICE", "cpu")
    script = tmp_path / "script.py"
    script.write_text("print(1 + 1)")
    assert main(["run", "--device", "gpu", str(script)]) == 0
    shown = capfd.readouterr()
    assert shown.out == "2\n"
    assert "script.py never asks where to compute, so it stays on the CPU" in shown.err


def test_without_a_gpu_a_lesson_is_skipped_in_a_sentence(monkeypatch, capfd):
    from minigrad import backend

    monkeypatch.setitem(sys.modules, "cupy", None)
    monkeypatch.delitem(backend._devices, "gpu", raising=False)
    assert main(["run", "-n", "2", "--device", "gpu", "20"]) == 0
    (line,) = capfd.readouterr().out.splitlines()
    assert line.startswith("skipped: a GPU was asked for, and CuPy is not installed")
