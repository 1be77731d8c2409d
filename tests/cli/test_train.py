"""Training: the same losses in every kind of world, resumed or not, and a run folder that tells all."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from minigrad import dist
from minigrad.cli.main import main
from minigrad.cli.settings import Settings
from minigrad.cli.trainer import Trainer
from minigrad.dist import World, checkpoint
from minigrad.nn.text import text_from_files
from tests.cli.common import TINY, losses, metrics, start, write_text

STEPS = 20
TOLERANCE = {"float64": 1e-10, "float32": 1e-6}


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    """Show no progress: these runs take a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINIGRAD_PROGRESS", "off")
        yield


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("text") / "text.txt")


def words(text: Path, out: Path, *more: str, dtype: str = "float64") -> list[str]:
    sizes = [*TINY, "--dropout", "0.1", "--precision", dtype, "--text", str(text)]
    return ["train", *sizes, "--steps", str(STEPS), "--save-every", "10", "--out", str(out), *more]


@pytest.fixture(scope="module")
def one_rank(text: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The run folder of a run on one rank, by dtype."""
    folder = tmp_path_factory.mktemp("one")
    for dtype in TOLERANCE:
        assert main(words(text, folder / dtype, dtype=dtype)) == 0
    return {dtype: folder / dtype for dtype in TOLERANCE}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("ranks", [3, 4])
def test_thread_ranks_lose_as_much_as_one(
    text: Path, one_rank: dict[str, Path], tmp_path: Path, ranks: int, dtype: str
) -> None:
    out = tmp_path / "run"
    assert main(words(text, out, "--ranks", str(ranks), "--threads", dtype=dtype)) == 0
    assert losses(out) == pytest.approx(losses(one_rank[dtype]), rel=TOLERANCE[dtype])


def test_the_start_is_not_chaotic_at_default_size(text: Path) -> None:
    """With a steeper warm-up, a model of this size tells one rank from three by 1e-5 after a few steps."""
    settings = Settings(steps=STEPS, context=64)
    read = text_from_files([text])

    def main(world: World) -> list[float]:
        trainer = Trainer(world, settings, read)
        return [trainer.step().loss for _ in range(STEPS)]

    alone, shared = (dist.spawn(main, ranks=ranks)[0] for ranks in (1, 3))
    assert shared == pytest.approx(alone, rel=TOLERANCE["float32"])


@pytest.mark.usefixtures("mpirun")
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_four_processes_started_by_the_command_lose_as_much_as_one(
    text: Path, one_rank: dict[str, Path], tmp_path: Path, dtype: str
) -> None:
    process = start(words(text, Path("run"), "--ranks", "4", dtype=dtype), folder=tmp_path)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    assert "mpirun" in out + err  # the line that starts the ranks is shown
    assert "ranks   4 (mpi)" in out
    assert losses(tmp_path / "run") == pytest.approx(losses(one_rank[dtype]), rel=TOLERANCE[dtype])


def test_three_processes_under_mpirun_lose_as_much_as_one(
    text: Path, one_rank: dict[str, Path], tmp_path: Path, mpirun: Callable
) -> None:
    result = mpirun(["-m", "minigrad", *words(text, tmp_path / "run", "--ranks", "3")], ranks=3, seconds=120)
    assert result.returncode == 0, result.stdout + result.stderr
    assert losses(tmp_path / "run") == pytest.approx(losses(one_rank["float64"]), rel=TOLERANCE["float64"])


def test_ranks_that_mpirun_did_not_start_are_refused(text: Path, tmp_path: Path, mpirun: Callable) -> None:
    result = mpirun(["-m", "minigrad", *words(text, tmp_path / "run", "--ranks", "4")], ranks=2)
    assert result.returncode == 2
    (line,) = result.stderr.strip().splitlines()  # rank 0 speaks for all, and MPI has nothing to add
    assert "--ranks is 4, but mpirun started 2 ranks" in line
    assert not (tmp_path / "run").exists()


def stopped(folder: Path, copy: Path) -> Path:
    """A copy of a run as it was after ten steps: what came later is gone, but for a few metrics."""
    shutil.copytree(folder, copy)
    shutil.rmtree(copy / "checkpoints" / f"step_{STEPS:06d}")
    for name in ("report.json", "loss.svg"):
        (copy / name).unlink()
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (copy / "metrics.jsonl").write_text("".join(lines[:13]))
    return copy


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_resumed_run_repeats_the_uninterrupted_one_to_the_bit(
    one_rank: dict[str, Path], tmp_path: Path, dtype: str
) -> None:
    copy = stopped(one_rank[dtype], tmp_path / "run")
    assert main(["train", "--resume", str(copy)]) == 0
    assert losses(copy) == losses(one_rank[dtype])
    last = Path("checkpoints", f"step_{STEPS:06d}", "rank_00000.safetensors")
    assert (copy / last).read_bytes() == (one_rank[dtype] / last).read_bytes()


def test_a_run_on_thread_ranks_resumes_to_the_bit(text: Path, tmp_path: Path) -> None:
    ranks = ["--ranks", "3", "--threads"]
    assert main(words(text, tmp_path / "whole", *ranks)) == 0
    copy = stopped(tmp_path / "whole", tmp_path / "copy")
    assert main(["train", "--resume", str(copy), *ranks]) == 0
    assert losses(copy) == losses(tmp_path / "whole")


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_run_resumed_on_other_ranks_stays_within_tolerance(
    one_rank: dict[str, Path], tmp_path: Path, dtype: str
) -> None:
    copy = stopped(one_rank[dtype], tmp_path / "run")
    assert main(["train", "--resume", str(copy), "--ranks", "4", "--threads"]) == 0
    assert losses(copy) == pytest.approx(losses(one_rank[dtype]), rel=TOLERANCE[dtype])


def test_resuming_into_another_folder_leaves_the_first_alone(
    one_rank: dict[str, Path], tmp_path: Path
) -> None:
    copy = stopped(one_rank["float64"], tmp_path / "run")
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert main(["train", "--resume", str(copy), "--out", str(tmp_path / "other")]) == 0
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before
    assert losses(tmp_path / "other") == losses(one_rank["float64"])


def test_the_run_folder_tells_all(one_rank: dict[str, Path]) -> None:
    folder = one_rank["float32"]
    steps = metrics(folder)
    assert [step["step"] for step in steps] == list(range(1, STEPS + 1))
    assert all(step["seconds"] > 0 and step["gradient_norm"] > 0 for step in steps)
    assert [step["step"] for step in steps if "validation_loss" in step] == [10, 20]
    assert steps[0]["learning_rate"] < max(step["learning_rate"] for step in steps)
    report = json.loads((folder / "report.json").read_text())
    assert report["ranks"] == 1
    assert report["validation_loss"] == pytest.approx(steps[-1]["validation_loss"], rel=0.05)
    assert report["train_loss"] == pytest.approx(sum(losses(folder)) / STEPS)
    assert list(report["baselines"]) == ["uniform", "H(byte)", "H(next byte | previous byte)"]
    ElementTree.fromstring((folder / "loss.svg").read_text())
    assert checkpoint.newest(folder / "checkpoints").step == STEPS


def test_ranks_report_what_they_sent(text: Path, tmp_path: Path) -> None:
    assert main(words(text, tmp_path / "run", "--ranks", "3", "--threads", dtype="float32")) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    newest = checkpoint.newest(tmp_path / "run" / "checkpoints").path
    parameters = sum(array.size for array in checkpoint.read(newest, prefix="model.").values())
    assert len(report["bytes_sent"]) == 3
    for verbs in report["bytes_sent"]:
        assert verbs["all_reduce"] >= 4 * parameters * STEPS


def test_the_model_learns_and_samples(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--steps", "150", "--learning-rate", "0.01", "--out", str(tmp_path / "run")]
    assert main(["train", *TINY, "--text", str(text), *more]) == 0
    assert "what the model writes" in capsys.readouterr().out
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["validation_loss"] < report["baselines"]["H(byte)"]
    drawn = []
    for seed in (1, 1, 2):
        assert (
            main(
                ["sample", str(tmp_path / "run"), "--tokens", "60", "--seed", str(seed), "--prompt", "line "]
            )
            == 0
        )
        drawn.append(capsys.readouterr().out)
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0].startswith("line ")
    assert len(drawn[0].encode()) >= len("line ") + 60


@pytest.mark.usefixtures("mpirun")
def test_the_first_command_of_the_readme_with_few_steps(tmp_path: Path) -> None:
    process = start(["train", "--ranks", "4", "--steps", "2"], folder=tmp_path)
    out, err = process.communicate(timeout=150)
    assert process.returncode == 0, out + err
    (folder,) = (tmp_path / "runs").iterdir()
    assert len(losses(folder)) == 2
    assert "standard library" in out
    assert "H(next byte | previous byte)" in out
    assert sys.version.split()[0] in json.loads((folder / "config.json").read_text())["text"]["name"]
