"""What goes wrong with checkpoints: full disks, deaths, flipped bits. All is named and refused."""

import errno
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minigrad import dist
from minigrad.dist import World, checkpoint, checkpoint_files, checkpoint_saving
from tests.dist.checkpoints import FILES, RANKS, copied, load, names, pieces, refusal, save, two_saved

# ------------------------------------------------------------------------------------- while it is written


@pytest.mark.parametrize("file", FILES)
def test_a_full_disk_is_everybodys_refusal_and_leaves_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    """A rank's file or the manifest is cut short, as a full disk does it."""
    save(tmp_path, 1)
    before, flush = names(tmp_path), checkpoint_files._flush

    def full(opened: Any) -> None:
        if Path(opened.name).name == file:
            opened.truncate(10)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(opened)

    monkeypatch.setattr(checkpoint_files, "_flush", full)

    def main(world: World) -> str:
        path = tmp_path / "step_002"
        return refusal(lambda: checkpoint.save(path, world, pieces(world.rank, 2), {}))

    heard = set(dist.spawn(main, ranks=RANKS))
    assert len(heard) == 1
    says = (
        r"could not save the checkpoint .*step_002: No space left on device; .*step_001 is whole: make room"
    )
    found = re.search(says, heard.pop())
    assert found is not None
    (rank,) = re.findall(r"rank_0000([12])", file) or "0"
    assert found.string.startswith(f"rank {rank} of 3: " if rank != "0" else "could not")
    assert names(tmp_path) == before
    assert checkpoint.newest(tmp_path).step == 1


@pytest.mark.parametrize(
    ("damaged", "says"),
    [
        ([2], r"No space left on device; \S*step_001 is whole: make room"),
        ([1, 2], "No space left on device; make room on the disk; no older checkpoint is whole"),
    ],
)
def test_a_full_disk_names_only_what_is_whole_to_go_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: list[int], says: str
) -> None:
    save(tmp_path, 1)
    save(tmp_path, 2)
    for step in damaged:
        shard = tmp_path / f"step_{step:03d}" / "rank_00001.safetensors"
        content = bytearray(shard.read_bytes())
        content[-1] ^= 1
        shard.write_bytes(content)

    def full(opened: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint_files, "_flush", full)
    assert re.search(says, refusal(lambda: save(tmp_path, 3)))


def test_a_disk_without_room_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint_files.shutil, "disk_usage", lambda path: type("usage", (), {"free": 103}))
    says = refusal(lambda: save(tmp_path, 1))  # 13 numbers of 8 bytes
    assert "takes 0.0 MB, and the disk of" in says
    assert names(tmp_path) == set()


@pytest.mark.parametrize("writes_before", [0, 1, 2, 3, 4])
def test_a_death_between_files_leaves_the_last_checkpoint_and_no_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes_before: int
) -> None:
    save(tmp_path, 1)
    done: list[str] = []

    def dying(name: str) -> Callable[..., Any]:
        action = getattr(checkpoint_saving, name)

        def do(*given: Any, **options: Any) -> Any:
            if len(done) == writes_before:
                raise KeyboardInterrupt  # nothing is put in order after it, as after a kill
            done.append(name)
            return action(*given, **options)

        return do

    with monkeypatch.context() as patch:
        for name in ("write_tensors", "write_file", "flush_folder"):
            patch.setattr(checkpoint_saving, name, dying(name))
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, 2)
    assert [path.name for path in checkpoint.saved(tmp_path)] == ["step_001"]
    assert (checkpoint.newest(tmp_path).step, checkpoint.newest(tmp_path).refused) == (1, ())
    assert load(save(tmp_path, 2)).tolist() == (np.arange(12) + 2).tolist()
    assert not list(tmp_path.glob("*.partial"))


KILLED = """
import os, signal, sys
from minigrad.dist import checkpoint_saving
from tests.dist.checkpoints import Path, save
save(Path(sys.argv[1]), 1)
write = checkpoint_saving.write_file
def kill(*given):
    os.kill(os.getpid(), signal.SIGKILL)
checkpoint_saving.write_file = kill
save(Path(sys.argv[1]), 2)
"""


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_a_killed_process_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    ended = subprocess.run(
        command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, timeout=60, check=False
    )
    assert ended.returncode == -signal.SIGKILL
    assert {path.name for path in tmp_path.iterdir()} == {"step_001", "step_002.partial"}
    assert checkpoint.newest(tmp_path).step == 1


# --------------------------------------------------------------------------------------- once it is there


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return two_saved(tmp_path_factory.mktemp("good"))


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    return copied(good, tmp_path)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["cut", "flip", "remove", "grow", "empty", "link"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_damage_is_named_and_the_one_before_is_found(
    folder: Path, file: str, damage: str, ranks: int
) -> None:
    path = folder / "step_002" / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if damage in ("remove", "link"):
        path.unlink()
    if damage == "link":
        path.symlink_to(folder / "step_001" / file)
    elif damage != "remove":
        spoilt = {"cut": content[:-3], "flip": content, "grow": content + b"\0", "empty": bytearray()}
        path.write_bytes(spoilt[damage])

    def main(world: World) -> tuple[str, checkpoint.Newest]:
        return refusal(lambda: load(folder / "step_002", world)), checkpoint.newest(folder, world)

    heard = dist.spawn(main, ranks=ranks)
    assert len({said for said, _ in heard}) == 1
    said, newest = heard[0]
    if not (damage == "link" and file == "manifest.json"):  # step_001's own tells on itself by its step
        assert file in said
    assert said.endswith(f"the newest older one that is whole is {folder / 'step_001'}")
    assert newest.step == 1
    assert newest.metadata == {"at": 1}
    assert newest.refused == (said.partition("; the newest older")[0],)
    assert load(newest.path).tolist() == (np.arange(12) + 1).tolist()


def test_the_last_of_all_has_nothing_to_fall_back_on(folder: Path) -> None:
    for step in (1, 2):
        (folder / f"step_00{step}" / FILES[1]).unlink()
    assert refusal(lambda: load(folder / "step_002")).endswith("no older one is whole")
    says = refusal(lambda: checkpoint.newest(folder))
    assert says.startswith(f"{folder} holds no whole checkpoint; ")
    assert says.count("rank_00000.safetensors is missing") == 2
    assert "holds no whole checkpoint" in refusal(lambda: checkpoint.newest(folder / "nowhere"))
    assert "no finished checkpoint" in refusal(lambda: load(folder / "step_003"))


@given(st.data())
@settings(max_examples=60)
def test_any_flipped_bit_anywhere_is_seen(good: Path, data: st.DataObject) -> None:
    with TemporaryDirectory() as name:
        copy = Path(name, "step_002")
        copy.mkdir()
        for file in FILES:
            (copy / file).write_bytes((good / "step_002" / file).read_bytes())
        path = copy / data.draw(st.sampled_from(FILES))
        content = bytearray(path.read_bytes())
        bit = data.draw(st.integers(0, 8 * len(content) - 1))
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        assert "damaged" in refusal(lambda: load(copy))


def test_a_file_that_exists_is_not_overwritten_by_consolidation(folder: Path) -> None:
    out = folder / "model.safetensors"
    out.write_text("mine")
    assert "exists already" in refusal(lambda: checkpoint.consolidate(folder / "step_002", out))
    assert out.read_text() == "mine"
    says = refusal(lambda: checkpoint.consolidate(folder / "step_002", folder / "x.safetensors", prefix="v"))
    assert "begins with 'v'" in says
