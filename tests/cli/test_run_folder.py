"""Run folders: they appear whole or not at all, and go back to any step."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from minigrad.cli.run_folder import RunFolder, begun, check_out_is_free
from minigrad.dist import checkpoint_files
from minigrad.errors import UsageError


def create(path: Path, config: dict[str, Any]) -> RunFolder:
    """A run folder with nothing in its checkpoints."""
    folder = RunFolder.begin(path, config)
    folder.checkpoints.mkdir()
    folder.finish(path)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return create(tmp_path / "runs" / "mine", {"settings": {}})


def names(path: Path) -> set[str]:
    return {str(found.relative_to(path)) for found in path.rglob("*")}


def test_a_run_that_begins_is_aside_until_it_is_finished(tmp_path: Path) -> None:
    path = tmp_path / "mine"
    (begun(path) / "checkpoints" / "of_a_run_that_was_cut_short").mkdir(parents=True)
    folder = RunFolder.begin(path, {}, metrics="{}")
    assert names(tmp_path) == {begun(path).name, *(f"{begun(path).name}/{name}" for name in FILES)}
    folder.finish(path)
    assert names(path) == FILES
    assert folder.path == path


FILES = {"config.json", "metrics.jsonl"}


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_full_disk_at_the_start_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    flush = checkpoint_files._flush

    def full(file: Any) -> None:
        if Path(file.name).name.startswith(name):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(file)

    monkeypatch.setattr(checkpoint_files, "_flush", full)
    with pytest.raises(UsageError, match="No space left on device"):
        RunFolder.begin(tmp_path / "mine", {})
    assert not (tmp_path / "mine").exists()


def test_a_full_disk_leaves_the_text_that_was_there(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (folder.path / "config.json").read_text()

    def full(file: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint_files, "_flush", full)
    with pytest.raises(UsageError, match=r"could not write .*config.json: No space left .*--resume"):
        folder.write_json("config.json", {"settings": 5})
    assert (folder.path / "config.json").read_text() == before
    assert names(folder.path) == {*FILES, "checkpoints"}


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
            RunFolder.begin(path, {})
    (tmp_path / "empty").mkdir()
    create(tmp_path / "empty", {})
    assert before < names(tmp_path)


def test_the_folder_that_we_are_in_is_no_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path in (Path(), tmp_path):
        with pytest.raises(UsageError, match="is the folder that we are in"):
            check_out_is_free(path)


def test_a_folder_in_which_another_process_writes_is_left_alone(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    path = tmp_path / "mine"
    first = RunFolder.begin(path, {"settings": {"seed": 1}})
    with pytest.raises(UsageError, match=r"another process writes to .*mine\.partial; .*--out"):
        RunFolder.begin(path, {"settings": {"seed": 2}})
    first.checkpoints.mkdir()
    first.finish(path)
    assert first.config()["settings"] == {"seed": 1}
    with pytest.raises(UsageError, match=r"another process writes to .*mine;"):
        RunFolder.open(path).hold()  # its name has changed since
    first.let_go()
    second = RunFolder.open(path)
    second.hold()
    second.let_go()


def test_what_a_process_left_that_is_gone_makes_room(tmp_path: Path) -> None:
    path = tmp_path / "mine"
    RunFolder.begin(path, {"settings": {"seed": 1}}).let_go()
    folder = RunFolder.begin(path, {"settings": {"seed": 2}})
    assert folder.config()["settings"] == {"seed": 2}
    folder.discard()
    assert not any(tmp_path.iterdir())


def test_a_run_that_may_not_be_changed_is_told_in_one_line(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "unlink", denied)
    with pytest.raises(UsageError, match=r"could not go on in .*mine: Permission denied; .*--out"):
        folder.rewind(0, {"settings": {}})


def test_a_name_that_is_no_unicode_is_written_as_far_as_it_is(folder: RunFolder) -> None:
    name = os.fsdecode(b"caf\xe9.txt")
    folder.write_text("loss.svg", f"<svg>{name}</svg>")
    assert (folder.path / "loss.svg").read_text() == "<svg>caf?.txt</svg>"
    folder.write_json("config.json", {"text": {"name": name}})
    assert folder.config()["text"]["name"] == name


def test_rewinding_keeps_the_steps_up_to_the_checkpoint(folder: RunFolder) -> None:
    for step in range(1, 6):
        folder.append_step({"step": step, "loss": 1.0 / step})
    with folder.metrics.open("a") as file:
        file.write('{"step": 6, "lo')  # a crash in the middle of a line
    (folder.path / "report.json").write_text("{}")
    (folder.checkpoints / "step_000006.partial").mkdir()
    folder.rewind(3, {"settings": {"steps": 9}})
    assert not any(folder.checkpoints.iterdir())
    assert [json.loads(line)["step"] for line in folder.metrics.read_text().splitlines()] == [1, 2, 3]
    assert folder.config()["settings"] == {"steps": 9}
    assert not (folder.path / "report.json").exists()
    folder.append_step({"step": 4, "loss": 0.25})
    assert [step["step"] for step in folder.steps()] == [1, 2, 3, 4]
