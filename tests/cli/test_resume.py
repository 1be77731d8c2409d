"""Resuming what is not as it was: a checkpoint of another run, a folder that lost or changed its files."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from minigrad.cli.main import main
from minigrad.cli.run_folder import RunFolder
from minigrad.dist.checkpoint_manifest import NAME, Manifest
from tests.cli.common import STEPS, metrics, quiet, text, words

__all__ = ["quiet", "text"]  # fixtures

LAST = Path("checkpoints", f"step_{STEPS:06d}")


@pytest.fixture(scope="module")
def trained(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "mine"
    assert main(words(text, out)) == 0
    return out


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "mine"))


def resume(run: Path, steps: int = STEPS + 2) -> int:
    return main(["train", "--resume", str(run), "--steps", str(steps)])


def refused(run: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What is said on one line about a run that is not taken up, and is left as it was."""
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert resume(run) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    return line


def test_a_run_that_another_process_goes_on_with_is_left_alone(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("fcntl")
    other = RunFolder.open(run)
    other.hold()
    assert "another process writes to" in refused(run, capsys)
    assert (
        main(["train", "--resume", str(run), "--steps", str(STEPS + 2), "--out", str(tmp_path / "new")]) == 0
    )
    other.let_go()
    assert resume(run) == 0


# ----- Whose checkpoint it is -----


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (["--seed", "1"], r"it has seed 1 (0 in config.json)"),
        (["--learning-rate", "0.5"], "it has learning_rate 0.5 (0.004 in config.json)"),
        (["--dropout", "0.2", "--batch", "8"], "it has batch 8 (7 in config.json), dropout 0.2 (0.1 in"),
        (["--text", __file__], "it has another text"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(
    run: Path, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: list[str], says: str
) -> None:
    assert main([*words(text, tmp_path / "other"), *changed]) == 0
    shutil.rmtree(run / LAST)
    shutil.copytree(tmp_path / "other" / LAST, run / LAST)
    capsys.readouterr()
    line = refused(run, capsys)
    assert f"{run / LAST} is of another run than {run}: {says}" in line


def test_a_run_that_went_on_otherwise_is_the_same_run(run: Path, tmp_path: Path) -> None:
    assert main(["train", "--resume", str(run), "--steps", "8", "--zero", "1", "--accumulate", "2"]) == 0
    assert main(["train", "--resume", str(run), "--steps", "9", "--out", str(tmp_path / "moved")]) == 0
    assert resume(tmp_path / "moved", 10) == 0


@pytest.mark.parametrize(("seed", "code"), [(0, 0), (1, 2)])
def test_a_checkpoint_that_does_not_say_of_which_run_it_is(run: Path, seed: int, code: int) -> None:
    """Those of earlier versions say no more than the seed."""
    manifest = Manifest.read(run / LAST)
    metadata = {name: value for name, value in manifest.metadata.items() if name != "run"}
    assert metadata != manifest.metadata
    older = replace(manifest, metadata={**metadata, "seed": seed})
    (run / LAST / NAME).write_bytes(older.to_json())
    assert resume(run) == code


# ----- What the folder lost -----


def test_a_step_whose_line_was_cut_short_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(lines[:-20])
    assert resume(run) == 0
    said = capsys.readouterr().err
    assert f"metrics.jsonl has no whole line for step {STEPS}, before the checkpoint of step {STEPS}" in said
    assert [step["step"] for step in metrics(run)] == [*range(1, STEPS), STEPS + 1, STEPS + 2]


@pytest.mark.parametrize("line", ["[1, 2]", '"word"', '{"loss": 1.0}', '{"step": [], "loss": 1.0}', "7"])
def test_a_line_that_is_no_steps_ends_the_metrics(
    run: Path, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join([*lines[: STEPS - 2], line, *lines[STEPS - 1 :]]))
    assert resume(run) == 0
    assert f"no whole line for steps {STEPS - 1} to {STEPS}, " in capsys.readouterr().err


def test_a_whole_run_goes_on_without_a_word(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert resume(run) == 0
    assert "whole line" not in capsys.readouterr().err


def test_metrics_that_are_gone_are_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "metrics.jsonl").unlink()
    assert f"could not read {run / 'metrics.jsonl'}: No such file" in refused(run, capsys)


def change(name: str, value: object) -> Callable[[dict], None]:
    return lambda config: config["settings"].update({name: value})


@pytest.mark.parametrize(
    ("forge", "says"),
    [
        (change("seed", "x"), "the recorded setting seed is 'x'"),
        (change("seed", True), "the recorded setting seed is True"),
        (change("layers", 2.0), "the recorded setting layers is 2.0"),
        (change("microbatches", "4"), "the recorded setting microbatches is '4'"),
        (change("text", "a.txt"), "the recorded setting text is 'a.txt'"),
        (change("text", [3]), "the recorded setting text is [3]"),
        (change("learning_rate", None), "the recorded setting learning_rate is None"),
        (lambda config: config.update(settings=[]), "settings are [], no JSON object"),
        (lambda config: config.update(text="mine"), "text are 'mine', no JSON object"),
    ],
)
def test_a_setting_that_is_none_is_named(
    run: Path, capsys: pytest.CaptureFixture[str], forge: Callable[[dict], None], says: str
) -> None:
    config = json.loads((run / "config.json").read_text())
    forge(config)
    (run / "config.json").write_text(json.dumps(config))
    assert says in refused(run, capsys)


def test_a_rate_that_is_written_as_a_whole_number_is_one(run: Path, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "steep"
    assert main([*words(text, out), "--learning-rate", "1"]) == 0
    config = json.loads((out / "config.json").read_text())
    change("learning_rate", 1)(config)
    (out / "config.json").write_text(json.dumps(config))
    assert resume(out) == 0
