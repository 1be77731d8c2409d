"""Faults: a loss that diverges, a full disk, Ctrl-C, a dead rank: all end soon, with a whole checkpoint."""

import errno
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from minigrad.cli.main import main
from minigrad.cli.run_folder import RunFolder
from minigrad.dist import checkpoint, checkpoint_files
from tests.cli.common import TINY, losses, running, start, wait_until, write_text

ENDLESS = ["--steps", "1000000", "--save-every", "5", "--evaluate-every", "1000000"]
SECONDS_TO_END = 15  # a few, and time for a busy machine


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return write_text(tmp_path / "text.txt")


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that are ended with all they started, whatever happens to the test."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def wait_for_checkpoint(out: Path, process: subprocess.Popen[str]) -> None:
    """Wait until the run has saved a checkpoint after some steps."""

    def saved() -> bool:
        assert process.poll() is None, process.communicate()
        return out.exists() and checkpoint.saved(out / "checkpoints")[-1].name != "step_000000"

    wait_until(saved, seconds=60, what="the first checkpoint")


def assert_whole(out: Path) -> None:
    """The newest checkpoint loads, and the metrics reach at least as far."""
    newest = checkpoint.newest(RunFolder.open(out).checkpoints)
    assert newest.step > 0
    assert newest.refused == ()
    assert len(losses(out)) >= newest.step


def test_a_loss_that_diverges_stops_the_run(text: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "run"
    words = ["train", *TINY, "--text", str(text), "--steps", "50", "--out", str(out)]
    assert main([*words, "--learning-rate", "1e38", "--save-every", "1"]) == 1
    err = capsys.readouterr().err
    found = re.search(r"stopped at step (\d+): .*not finite; the last good checkpoint is (\S+);", err)
    assert found is not None, err
    assert len(err.strip().splitlines()) == 1
    assert len(losses(out)) in (int(found[1]) - 1, int(found[1]))
    assert checkpoint.saved(out / "checkpoints")[-1] == Path(found[2])
    arrays = checkpoint.read(Path(found[2]))
    assert all((abs(array) < float("inf")).all() for array in arrays.values())
    assert not (out / "report.json").exists()


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_disk_that_fills_up_ends_the_run_in_one_line(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, ranks: int
) -> None:
    flush = checkpoint_files._flush

    def full_after_step_5(file: Any) -> None:
        if "step_000010" in file.name and f"rank_{ranks - 1:05d}" in file.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(file)

    monkeypatch.setattr(checkpoint_files, "_flush", full_after_step_5)
    out = tmp_path / "run"
    words = ["train", *TINY, "--text", str(text), "--steps", "20", "--save-every", "5", "--out", str(out)]
    assert main([*words, "--ranks", str(ranks), "--threads", "--zero", "1"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert re.search(
        r"could not save the checkpoint .*step_000010: No space left .*step_000005 is whole", line
    )
    assert ("rank 2 of 3: " in line) == (ranks == 3)
    assert {path.name for path in (out / "checkpoints").iterdir()} == {"step_000000", "step_000005"}
    assert checkpoint.newest(out / "checkpoints").step == 5


def test_a_disk_that_is_full_at_the_start_leaves_nothing(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    flush = checkpoint_files._flush

    def full(file: Any) -> None:
        if "rank_00001" in file.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(file)

    monkeypatch.setattr(checkpoint_files, "_flush", full)
    words = ["train", *TINY, "--text", str(text), "--out", str(tmp_path / "run"), "--zero", "3"]
    assert main([*words, "--ranks", "3", "--threads"]) == 2
    assert "rank 1 of 3: could not save the checkpoint" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [text]


@pytest.mark.parametrize("launch", [["--ranks", "1"], ["--ranks", "3", "--threads"]])
def test_ctrl_c_ends_one_process_and_leaves_a_whole_checkpoint(
    text: Path, tmp_path: Path, processes: list[subprocess.Popen[str]], launch: list[str]
) -> None:
    out = tmp_path / "run"
    words = ["train", *TINY, "--text", str(text), *ENDLESS, "--out", str(out), *launch]
    processes.append(process := start(words, folder=tmp_path))
    wait_for_checkpoint(out, process)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=SECONDS_TO_END)
    assert process.returncode == 130, err
    assert "interrupted" in err
    assert "Traceback" not in err
    assert_whole(out)


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="finds the ranks through /proc"
)


@needs_proc
@pytest.mark.usefixtures("mpirun")
def test_ctrl_c_ends_every_process(
    text: Path, tmp_path: Path, processes: list[subprocess.Popen[str]]
) -> None:
    out = tmp_path / "run"
    words = ["train", *TINY, "--text", str(text), *ENDLESS, "--out", str(out), "--ranks", "3"]
    processes.append(process := start(words, folder=tmp_path))
    wait_for_checkpoint(out, process)
    assert len(running(out)) >= 4  # the ranks and who started them
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=SECONDS_TO_END)
    assert process.returncode == 130, err
    wait_until(lambda: not running(out), seconds=SECONDS_TO_END, what="the ranks to end")
    assert_whole(out)


@needs_proc
@pytest.mark.usefixtures("mpirun")
def test_the_death_of_a_rank_ends_every_process_and_is_told(
    text: Path, tmp_path: Path, processes: list[subprocess.Popen[str]]
) -> None:
    out = tmp_path / "run"
    words = ["train", *TINY, "--text", str(text), *ENDLESS, "--out", str(out), "--ranks", "3", "--zero", "3"]
    processes.append(process := start(words, folder=tmp_path))
    wait_for_checkpoint(out, process)
    (victim,) = [
        pid
        for pid, variables in running(out).items()
        if re.search(r"PMIX?_RANK=1\b|_WORLD_RANK=1\b", variables)
    ]
    os.kill(victim, signal.SIGKILL)
    printed, err = process.communicate(timeout=SECONDS_TO_END)
    assert process.returncode not in (0, None)
    assert re.search(r"rank 1\b.*(died|killed|SIGKILL|signal)", printed + err), printed + err
    wait_until(lambda: not running(out), seconds=SECONDS_TO_END, what="the ranks to end")
    assert_whole(out)
    # What is left is enough to go on with, on fewer ranks that share nothing out.
    newest = checkpoint.newest(out / "checkpoints").step
    assert main(["train", "--resume", str(out), "--zero", "0", "--steps", str(newest + 2)]) == 0
    assert len(losses(out)) == newest + 2
