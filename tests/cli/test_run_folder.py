"""Run folders: checkpoints come back as they were saved, and nothing half-written is ever taken for whole."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from minigrad.cli import run_folder
from minigrad.cli.run_folder import KEPT_CHECKPOINTS, Checkpoint, RunFolder
from minigrad.errors import UsageError


def checkpoint(step: int) -> Checkpoint:
    weight = np.arange(6, dtype=np.float32).reshape(2, 3) + step
    return Checkpoint(step, 7, {"weight": weight}, {"moment": weight.T.astype(np.float64)}, {"step": step})


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "runs" / "mine", {"settings": {}}, checkpoint(0))


def names(path: Path) -> set[str]:
    return {str(found.relative_to(path)) for found in path.rglob("*")}


def fill_the_disk(monkeypatch: pytest.MonkeyPatch, *, writes_before: int) -> None:
    """Let the disk be full after so many more files: the next is cut short, as a full disk does it."""
    left = [writes_before]

    def write(path: Path, content: bytes) -> None:
        if left[0] == 0:
            path.write_bytes(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        left[0] -= 1
        path.write_bytes(content)

    monkeypatch.setattr(run_folder, "_write", write)


def test_a_checkpoint_comes_back_to_the_bit(folder: RunFolder) -> None:
    folder.save(checkpoint(3))
    found = RunFolder.open(folder.path).newest()
    assert (found.step, found.seed, found.optimizer_state) == (3, 7, {"step": 3})
    for name in ("model", "optimizer"):
        saved, loaded = getattr(checkpoint(3), name), getattr(found, name)
        assert saved.keys() == loaded.keys()
        for key in saved:
            assert saved[key].dtype == loaded[key].dtype
            assert np.array_equal(saved[key], loaded[key])


def test_only_the_newest_checkpoints_stay(folder: RunFolder) -> None:
    for step in (1, 2, 10):
        folder.save(checkpoint(step))
    assert [path.name for path in folder.saved()] == ["step_000002", "step_000010"][-KEPT_CHECKPOINTS:]


@pytest.mark.parametrize("writes_before", [0, 1, 2])
def test_a_full_disk_leaves_the_last_checkpoint_whole(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, writes_before: int
) -> None:
    folder.save(checkpoint(1))
    before = names(folder.path)
    fill_the_disk(monkeypatch, writes_before=writes_before)
    with pytest.raises(
        UsageError, match=r"checkpoint of step 2: No space left on device; .*step_000001 is whole"
    ):
        folder.save(checkpoint(2))
    assert names(folder.path) == before
    assert folder.newest().step == 1


@pytest.mark.parametrize("writes_before", [0, 1, 3])
def test_a_full_disk_at_the_start_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes_before: int
) -> None:
    fill_the_disk(monkeypatch, writes_before=writes_before)
    with pytest.raises(UsageError, match="No space left on device"):
        RunFolder.create(tmp_path / "mine", {}, checkpoint(0))
    assert names(tmp_path) == set()


def test_a_disk_that_is_too_small_is_refused_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("usage", (), {"free": 10})
    monkeypatch.setattr(run_folder.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(UsageError, match="MB free"):
        RunFolder.create(tmp_path / "mine", {}, checkpoint(0))
    assert names(tmp_path) == set()


def test_a_crash_while_saving_is_not_taken_for_a_checkpoint(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = folder.checkpoints / "step_000005.partial"
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(b"half")
    assert folder.newest().step == 0
    folder.rewind(0, {})
    assert not partial.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "remove"])
def test_a_damaged_checkpoint_is_refused(folder: RunFolder, name: str, damage: str) -> None:
    path = folder.save(checkpoint(1)) / name
    content = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    else:
        content[len(content) // 2] ^= 0x80
        path.write_bytes(content[:-5] if damage == "cut" else content)
    with pytest.raises(UsageError, match=r"damaged.*; remove that folder to go on from step_000000"):
        folder.newest()


def test_foreign_folders_are_refused(tmp_path: Path, folder: RunFolder) -> None:
    with pytest.raises(UsageError, match="there is no folder"):
        RunFolder.open(tmp_path / "missing")
    with pytest.raises(UsageError, match="no run of `minigrad train`"):
        RunFolder.open(tmp_path)
    (folder.path / "config.json").write_text("{")
    with pytest.raises(UsageError, match="damaged"):
        RunFolder.open(folder.path)
    (folder.path / "config.json").write_text('{"format": 99}')
    with pytest.raises(UsageError, match="another format"):
        RunFolder.open(folder.path)


def test_a_path_that_is_taken_is_refused_and_an_empty_folder_is_used(
    tmp_path: Path, folder: RunFolder
) -> None:
    before = names(tmp_path)
    (tmp_path / "file").touch()
    for path in (folder.path, tmp_path / "file"):
        with pytest.raises(UsageError, match="exists already"):
            RunFolder.create(path, {}, checkpoint(0))
    (tmp_path / "empty").mkdir()
    RunFolder.create(tmp_path / "empty", {}, checkpoint(0))
    assert before < names(tmp_path)


def test_rewinding_keeps_the_steps_up_to_the_checkpoint(folder: RunFolder) -> None:
    for step in range(1, 6):
        folder.append_step({"step": step, "loss": 1.0 / step})
    with folder.metrics.open("a") as file:
        file.write('{"step": 6, "lo')  # a crash in the middle of a line
    (folder.path / "report.json").write_text("{}")
    folder.rewind(3, {"settings": {"steps": 9}})
    assert [json.loads(line)["step"] for line in folder.metrics.read_text().splitlines()] == [1, 2, 3]
    assert folder.config()["settings"] == {"steps": 9}
    assert not (folder.path / "report.json").exists()
    folder.append_step({"step": 4, "loss": 0.25})
    assert [step["step"] for step in folder.steps()] == [1, 2, 3, 4]
