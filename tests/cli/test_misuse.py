"""Misuse of `train` and `sample`: one clear line on stderr, exit code 2, and no trace of a run."""

import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from minigrad.cli.main import main
from tests.cli.common import TINY, write_text


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few steps."""
    folder = tmp_path_factory.mktemp("finished")
    text = write_text(folder / "text.txt")
    words = ["train", *TINY, "--text", str(text), "--steps", "2", "--out", str(folder / "run")]
    assert main(words) == 0
    return folder / "run"


@pytest.fixture
def place(tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in that holds texts of many kinds and runs in many states."""
    write_text(tmp_path / "text.txt")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "tiny.txt").write_text("tiny")
    (tmp_path / "folder").mkdir()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    for name in ("run", "damaged", "unfinished", "other-text"):
        shutil.copytree(finished, tmp_path / name)
    for shard in (tmp_path / "damaged").rglob("*.safetensors"):
        shard.write_bytes(shard.read_bytes()[:100])
    shutil.rmtree(tmp_path / "unfinished" / "checkpoints")
    (tmp_path / "unfinished" / "checkpoints").mkdir()
    config = tmp_path / "other-text" / "config.json"
    config.write_text(config.read_text().replace('"sha256": "', '"sha256": "0'))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder: Path) -> Mapping[str, bytes]:
    """Everything in a folder, to see that nothing was touched."""
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


TEXT = ["--text", "text.txt"]
TRAIN = {
    "unknown file": (["--text", "missing.txt"], "there is no file .*missing.txt"),
    "one unknown file of two": (["--text", "text.txt", "missing.txt"], "there is no file .*missing.txt"),
    "a folder as text": (["--text", "folder"], "is a folder"),
    "empty text": (["--text", "empty.txt"], "empty.txt is empty"),
    "tiny text": (["--text", "tiny.txt"], "tiny.txt is too short"),
    "context longer than the text": (
        [*TEXT, "--context", "100000"],
        "text.txt is too short.*context of at most",
    ),
    "heads that do not divide the width": ([*TEXT, "--heads", "3"], "3 heads do not divide a width of 16"),
    "no heads": ([*TEXT, "--heads", "0"], "--heads is 0"),
    "no steps": ([*TEXT, "--steps", "0"], "--steps is 0"),
    "more ranks than sequences": ([*TEXT, "--ranks", "8"], "8 ranks cannot share a batch of 7"),
    "the same as threads": ([*TEXT, "--ranks", "8", "--threads"], "8 ranks cannot share a batch of 7"),
    "no ranks": ([*TEXT, "--ranks", "0"], "--ranks is 0"),
    "no number": ([*TEXT, "--steps", "many"], "invalid int value: 'many'"),
    "unknown precision": ([*TEXT, "--precision", "float16"], "invalid choice: 'float16'"),
    "unknown stage": ([*TEXT, "--zero", "4"], "invalid choice: 4"),
    "threads added up by MPI": (
        [*TEXT, "--reduce", "mpi", "--ranks", "3", "--threads"],
        "--reduce mpi lets MPI add up, but --threads",
    ),
    "more portions than sequences": (
        [*TEXT, "--accumulate", "3", "--ranks", "3", "--threads"],
        "batch of 7 sequences on 3 ranks one has only 2",
    ),
    "ranks that are no mesh": (
        [*TEXT, "--ranks", "3", "--pipeline", "2", "--threads"],
        "3 ranks cannot be shared out: --pipeline 2 × --tensor 1 take 2, or a multiple",
    ),
    "ranks that are another mesh": (
        [*TEXT, "--ranks", "4", "--data", "3", "--tensor", "2", "--threads"],
        "--data 3 × --pipeline 1 × --tensor 2 are 6 ranks, and there are 4",
    ),
    "more copies than sequences": (
        [*TEXT, "--data", "8", "--tensor", "2", "--threads"],
        "8 copies of the model .16 ranks.* cannot share a batch of 7",
    ),
    "no copies": ([*TEXT, "--data", "0"], "--data is 0"),
    "no stages": ([*TEXT, "--pipeline", "0"], "--pipeline is 0"),
    "more stages than layers": (
        [*TEXT, "--pipeline", "6", "--threads"],
        "6 stages .6 ranks × 1 each. cannot share 5 layers: 1 blocks, and wte, wpe, ln_f, lm_head",
    ),
    "interleaved with a broken group": (
        [*TEXT, "--pipeline", "2", "--schedule", "interleaved", "--microbatches", "3", "--threads"],
        "3 microbatches are no multiple of 2 ranks",
    ),
    "a schedule without a flush": (
        [*TEXT, "--pipeline", "2", "--schedule", "2bw", "--threads"],
        "the schedule 2bw has no flush.*such as 1f1b",
    ),
    "stages for a schedule that has one": (
        [*TEXT, "--pipeline", "2", "--virtual", "2", "--threads"],
        "1f1b has no use for virtual 2",
    ),
    "a schedule without a pipeline": ([*TEXT, "--schedule", "2bw"], "--schedule 2bw has no effect without"),
    "slices without a pipeline": ([*TEXT, "--slices", "7"], "--slices 7 has no effect without a pipeline"),
    "an unknown schedule": ([*TEXT, "--schedule", "zb-h3"], "invalid choice: 'zb-h3'"),
    "portions and microbatches": (
        [*TEXT, "--accumulate", "2", "--microbatches", "3"],
        "--accumulate 2 and --microbatches 3 both say",
    ),
    "portions of a pipeline": (
        [*TEXT, "--accumulate", "2", "--pipeline", "2", "--threads"],
        "give --microbatches 2",
    ),
    "more microbatches than sequences": (
        [*TEXT, "--data", "2", "--pipeline", "2", "--microbatches", "4", "--threads"],
        "--microbatches is 4, but with a batch of 7 sequences on 2 copies of the model one has only 3",
    ),
    "offload to where it is": ([*TEXT, "--offload", "host"], "with --device cpu it is there already"),
    "unknown option": ([*TEXT, "--wide", "3"], "unrecognized arguments: --wide 3"),
    "rate of zero": ([*TEXT, "--learning-rate", "0"], "--learning-rate is 0"),
    "out that exists": ([*TEXT, "--out", "taken"], "taken exists already"),
    "out that is a file": ([*TEXT, "--out", "text.txt"], "text.txt exists already"),
}
RESUME = {
    "resume from nothing": (["--resume", "missing"], "there is no folder missing"),
    "resume from a foreign folder": (["--resume", "taken"], "taken is no run of `minigrad train`"),
    "resume from a damaged run": (
        ["--resume", "damaged", "--steps", "4"],
        r"damaged/checkpoints holds no whole checkpoint; .*step_000002 is damaged: rank_00000.safetensors",
    ),
    "resume without a checkpoint": (["--resume", "unfinished", "--steps", "4"], "no whole checkpoint"),
    "resume by MPI on threads": (
        ["--resume", "run", "--steps", "4", "--reduce", "mpi", "--threads"],
        "--reduce mpi lets MPI add up",
    ),
    "resume with another text": (["--resume", "other-text", "--steps", "4"], "trained on another text"),
    "resume with other sizes": (
        ["--resume", "run", "--steps", "4", "--width", "32", "--layers", "2"],
        r"--layers 2 \(the run has 1\), --width 32 \(the run has 16\)",
    ),
    "resume a run that is done": (["--resume", "run"], "at step 2 of 2"),
    "resume into a folder that exists": (
        ["--resume", "run", "--steps", "4", "--out", "taken"],
        "exists already",
    ),
    "resume on ranks that are no mesh": (
        ["--resume", "run", "--steps", "4", "--ranks", "5", "--tensor", "2", "--threads"],
        "5 ranks cannot be shared out",
    ),
    "resume on too many ranks": (["--resume", "run", "--steps", "4", "--ranks", "8"], "batch of 7"),
}
SAMPLE = {
    "top-k beyond the vocabulary": (["run", "--top-k", "257"], "--top-k is 257.*256"),
    "top-k of zero": (["run", "--top-k", "0"], "--top-k is 0"),
    "negative temperature": (["run", "--temperature", "-1"], "--temperature is -1"),
    "no tokens": (["run", "--tokens", "0"], "--tokens is 0"),
    "empty prompt": (["run", "--prompt", ""], "the prompt is empty"),
    "sample from nothing": (["missing"], "there is no folder missing"),
    "sample from a foreign folder": (["taken"], "taken is no run"),
    "sample from a damaged run": (["damaged"], "damaged: rank_00000.safetensors has 100 bytes"),
}


def assert_refused(words: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Run the command line; it must refuse in one line and leave the folder as it was."""
    before = contents(folder)
    try:
        code = main(words)
    except SystemExit as stop:  # argparse's way out
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    assert code == 2, err
    assert len(err.strip().splitlines()) == 1, err
    assert re.search(message, err), err
    assert "Traceback" not in out + err
    assert contents(folder) == before


@pytest.mark.parametrize("case", TRAIN)
def test_train_refuses(case: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words, message = TRAIN[case]
    assert_refused(["train", *TINY, *words], message, place, capsys)


@pytest.mark.parametrize("case", RESUME)
def test_resume_refuses(case: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words, message = RESUME[case]
    assert_refused(["train", *words], message, place, capsys)


@pytest.mark.parametrize("case", SAMPLE)
def test_sample_refuses(case: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words, message = SAMPLE[case]
    assert_refused(["sample", *words], message, place, capsys)


def test_a_gpu_that_is_not_there_is_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)  # importing it fails, wherever this runs
    words = ["train", *TINY, *TEXT, "--device", "gpu"]
    assert_refused(words, "a GPU was asked for, and CuPy is not installed: pip install", place, capsys)


def test_bfloat16_without_its_package_is_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    words = ["train", *TINY, *TEXT, "--precision", "mixed-bfloat16"]
    assert_refused(words, "bfloat16 arrays need the package ml_dtypes; install it", place, capsys)


def test_a_config_that_was_changed_is_refused(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = place / "run" / "config.json"
    config.write_text(config.read_text().replace('"float32"', '"float7"'))
    for words in (["sample", "run"], ["train", "--resume", "run", "--steps", "4"]):
        assert_refused(words, "--precision is 'float7'", place, capsys)


def test_ranks_without_mpi_are_refused_and_threads_offered(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    words = ["train", *TINY, *TEXT, "--ranks", "4"]
    assert_refused(words, r'pip install "minigrad\[mpi\]".*--threads', place, capsys)


@pytest.mark.parametrize(
    ("words", "free", "takes"),
    [
        ([], 1_000, "0.3"),  # three checkpoints: 7,664 parameters and twice as many numbers of the optimizer
        (["--offload", "disk"], 300_000, "0.3"),
        (["--resume", "run", "--steps", "4", "--offload", "disk"], 50_000, "0.1"),
    ],
)
def test_a_disk_without_room_is_refused(
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    free: int,
    takes: str,
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("usage", (), {"free": free}))
    words = words if "--resume" in words else [*TINY, *TEXT, *words]
    assert_refused(
        ["train", *words], rf"takes {takes} MB, and the disk of .* MB free; make room", place, capsys
    )
