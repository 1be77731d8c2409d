"""The folder of a training run: written aside, flushed to the disk, moved into place.

    DIR/config.json                     what defines the run: settings, hash of the text, version
    DIR/metrics.jsonl                   one object a step
    DIR/checkpoints/step_000100/        what `minigrad.dist.checkpoint` saves: shards and a manifest
    DIR/loss.svg, DIR/report.json       once the run is done

A folder that bears its final name is whole: what a crash or a full disk cuts short keeps a name ending in
`.partial`. All randomness is a function of (seed, step), so those two numbers are the whole random state.
"""

import json
import os
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from minigrad.cli.settings import RESUMABLE
from minigrad.dist.checkpoint_files import (
    PARTIAL,
    explained,
    flush_folder,
    remove_folder,
    write_file,
)
from minigrad.errors import UsageError

FORMAT = 2
_ROOM = "make room on the disk and go on with --resume"


class RunFolder:
    """Reads and writes one run folder. Only rank 0 holds one; all ranks write its checkpoints."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._held: int | None = None

    @property
    def checkpoints(self) -> Path:
        """The folder that holds the checkpoints."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """The file of one JSON object a step."""
        return self.path / "metrics.jsonl"

    @classmethod
    def begin(cls, path: Path, config: Mapping[str, Any], *, metrics: str = "") -> "RunFolder":
        """Make the folder of a new run, aside; `finish` moves it to `path` once a checkpoint is in it.

        Raises UsageError where the path is taken or the disk cannot take the folder.
        """
        check_out_is_free(path)
        folder = cls(begun(path))
        with _explained_start(path):
            if folder.path.exists():  # of a run that was cut short, or another process is at it
                folder.hold()
                folder.discard()
            folder.path.mkdir(parents=True)
            folder.hold()
        try:
            with _explained_start(path):
                folder.write_json("config.json", {"format": FORMAT, **config})
                write_file(folder.metrics, metrics.encode("utf-8"))
        except UsageError:
            folder.discard()
            raise
        return folder

    def hold(self) -> None:
        """Keep other processes from writing to the folder, under whatever name, until `let_go`.

        Raises UsageError where another one writes to it. Systems and disks that know no such lock do without.
        """
        try:
            import fcntl
        except ImportError:
            return
        self._held = os.open(self.path, os.O_RDONLY)
        alone = True
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = os.path.samestat(os.fstat(self._held), self.path.stat())
        except (BlockingIOError, FileNotFoundError):  # another process has it, or has put its own there
            alone = False
        except OSError:
            pass  # a disk without locks
        if not alone:
            self.let_go()
            raise UsageError(
                f"another process writes to {self.path}; wait until it has ended, or name another folder "
                "with --out"
            )

    def let_go(self) -> None:
        """Let others write to the folder again."""
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def discard(self) -> None:
        """Remove the folder, which this process holds."""
        remove_folder(self.path)
        self.let_go()

    def finish(self, path: Path) -> None:
        """Move the folder that `begin` made to its place. Raises UsageError where that fails."""
        with _explained_start(path):
            if path.is_dir():
                path.rmdir()  # it is empty; some systems move nothing onto a folder
            flush_folder(self.path)
            os.replace(self.path, path)
            flush_folder(path.absolute().parent)
        self.path = path

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Open a run folder that exists. Raises UsageError for any other folder."""
        folder = cls(path)
        if not path.is_dir():
            raise UsageError(f"there is no folder {path}; name that of a run, as `minigrad train` printed it")
        if not (path / "config.json").is_file() or not folder.checkpoints.is_dir():
            raise UsageError(
                f"{path} is no run of `minigrad train`: that has config.json and checkpoints/; check the name"
            )
        if folder.config().get("format") != FORMAT:
            raise UsageError(
                f"{path}/config.json is of another format than {FORMAT}; this version cannot read that run"
            )
        return folder

    def config(self) -> dict[str, Any]:
        """The content of config.json. Raises UsageError where it is damaged."""
        path = self.path / "config.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(f"{path} is damaged or missing: it is no readable JSON") from error
        if not isinstance(content, dict):
            raise UsageError(f"{path} is damaged: it holds no JSON object")
        for name in ("settings", "text"):
            if not isinstance(content.get(name, {}), dict):
                raise UsageError(f"{path} is damaged: its {name} are {content[name]!r:.40}, no JSON object")
        return content

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file of the folder in one go."""
        self.write_text(name, json.dumps(content, indent=2, allow_nan=False) + "\n")

    def write_text(self, name: str, content: str) -> None:
        """Write a text file of the folder in one go. A file's name in it may be no Unicode."""
        partial = self.path / (name + PARTIAL)
        try:
            with explained(f"could not write {self.path / name}", _ROOM):
                write_file(partial, content.encode("utf-8", errors="replace"))
                os.replace(partial, self.path / name)
        finally:
            partial.unlink(missing_ok=True)

    def append_step(self, content: Mapping[str, Any], *, flush: bool = False) -> None:
        """Add one object to metrics.jsonl; with `flush`, wait until the disk has it, as it should before a
        checkpoint of that step. Raises UsageError where the disk is full.
        """
        line = json.dumps(content, allow_nan=False) + "\n"
        what = f"could not write {self.metrics}"
        with explained(what, _ROOM), self.metrics.open("a", encoding="utf-8") as file:
            file.write(line)
            if flush:
                file.flush()
                os.fsync(file.fileno())

    def rewind(self, step: int, config: Mapping[str, Any]) -> None:
        """Make the folder what it was after `step` steps, to go on from there with a changed `config`."""
        metrics = self.metrics_until(step)
        with explained(f"could not go on in {self.path}", "go on elsewhere, with --out"):
            for stale in [self.path / "report.json", self.path / "loss.svg"]:
                stale.unlink(missing_ok=True)
        for partial in self.checkpoints.glob("*" + PARTIAL):
            remove_folder(partial)
        self.write_text("metrics.jsonl", metrics)
        self.write_json("config.json", {"format": FORMAT, **config})

    def steps(self) -> list[dict[str, Any]]:
        """The objects of metrics.jsonl, up to the first line that is cut short or no step's.

        Raises UsageError where it cannot be read.
        """
        found: list[dict[str, Any]] = []
        what, remedy = f"could not read {self.metrics}", "bring it back, or start a new run"
        with (
            explained(what, remedy),
            self.metrics.open(encoding="utf-8", errors="replace") as lines,
            suppress(ValueError, KeyError, TypeError),
        ):
            for line in lines:
                content = json.loads(line)
                found.append({**content, "step": int(content["step"])})
        return found

    def metrics_until(self, step: int) -> str:
        """The text of a metrics.jsonl that ends with `step`. Prints which steps it should have and lacks."""
        contents = [content for content in self.steps() if content["step"] <= step]
        lost = sorted(set(range(1, step + 1)) - {content["step"] for content in contents})
        if lost:
            which = f"step {lost[0]}" if len(lost) == 1 else f"steps {lost[0]} to {lost[-1]}"
            print(
                f"{self.metrics} has no whole line for {which}, before the checkpoint of step {step}: "
                "the run goes on, and what is lost there stays lost",
                file=sys.stderr,
                flush=True,
            )
        return "".join(json.dumps(content) + "\n" for content in contents)


def identity(settings: Mapping[str, Any], text_sha256: str) -> dict[str, Any]:
    """What makes a run the one it is: the settings that no resume may change, and what it learns."""
    own = {name: value for name, value in settings.items() if name not in RESUMABLE and name != "text"}
    return {**own, "text": text_sha256}


def check_same_run(checkpoint: Path, metadata: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of a run with another identity. Raises UsageError that names what differs.

    Checkpoints of earlier versions say less of their run: what they say has to agree.
    """
    found = metadata.get("run", {"seed": metadata.get("seed", expected["seed"])})
    differing = [
        f"another {name}" if name == "text" else f"{name} {found[name]} ({expected[name]} in config.json)"
        for name in expected
        if name in found and found[name] != expected[name]
    ]
    if differing:
        raise UsageError(
            f"{checkpoint} is of another run than {checkpoint.parent.parent}: it has {', '.join(differing)}; "
            "take it away to go on from an older one, or resume the run that it belongs to"
        )


def begun(path: Path) -> Path:
    """Where the folder of a new run is until it is whole."""
    return path.with_name("." + path.name + PARTIAL)


def check_out_is_free(path: Path) -> None:
    """Refuse a path that holds something already. Raises UsageError."""
    if path.is_dir() and path.samefile("."):
        raise UsageError(f"--out {path} is the folder that we are in; name one that does not exist yet")
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.exists() or path.is_symlink():
        raise UsageError(
            f"{path} exists already; name another folder with --out, or go on with it: --resume {path}"
        )


def _explained_start(path: Path) -> AbstractContextManager[None]:
    return explained(f"could not make the run folder {path}", "make room or name another folder with --out")
