"""The folder of a training run, and its checkpoints: written aside, flushed to the disk, moved into place.

    DIR/config.json                     what defines the run: settings, hash of the text, version
    DIR/metrics.jsonl                   one object a step
    DIR/checkpoints/step_000100/        model.safetensors, optimizer.safetensors, state.json
    DIR/loss.svg, DIR/report.json       once the run is done

A folder that bears its final name is whole: what a crash or a full disk cuts short keeps a name ending in
`.partial`. All randomness is a function of (seed, step), so those two numbers in state.json are the whole
random state.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minigrad.errors import UsageError

FORMAT = 1
KEPT_CHECKPOINTS = 2
_PARTIAL = ".partial"
_ROOM = "make room on the disk and go on with --resume"


@dataclass(frozen=True)
class Checkpoint:
    """All that a run needs to go on after `step` steps. `optimizer_state` is JSON, the rest arrays."""

    step: int
    seed: int
    model: Mapping[str, NDArray[Any]]
    optimizer: Mapping[str, NDArray[Any]]
    optimizer_state: Mapping[str, Any]

    @property
    def size(self) -> int:
        """The bytes of all its arrays."""
        return sum(array.nbytes for arrays in (self.model, self.optimizer) for array in arrays.values())


class RunFolder:
    """Reads and writes one run folder. Only rank 0 holds one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def checkpoints(self) -> Path:
        """The folder that holds the checkpoints."""
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        """The file of one JSON object a step."""
        return self.path / "metrics.jsonl"

    @classmethod
    def create(
        cls, path: Path, config: Mapping[str, Any], checkpoint: Checkpoint, *, metrics: str = ""
    ) -> "RunFolder":
        """Make a run folder with its first checkpoint; either all of it appears or nothing.

        Raises UsageError where the path is taken or the disk cannot take the folder.
        """
        check_out_is_free(path)
        _check_space(path, 3 * checkpoint.size)  # two that are kept, and the one being written
        partial = path.with_name("." + path.name + _PARTIAL)
        remedy = "make room or name another folder with --out"
        with _explained(f"could not make the run folder {path}", remedy, leftover=partial):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            folder = cls(partial)
            folder.write_json("config.json", {"format": FORMAT, **config})
            folder.metrics.write_text(metrics, encoding="utf-8")
            folder.save(checkpoint)
            if path.is_dir():
                path.rmdir()  # it is empty; some systems move nothing onto a folder
            os.replace(partial, path)
        return cls(path)

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
        return _read_json(self.path / "config.json")

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file of the folder in one go."""
        self.write_text(name, json.dumps(content, indent=2, allow_nan=False) + "\n")

    def write_text(self, name: str, content: str) -> None:
        """Write a text file of the folder in one go."""
        partial = self.path / (name + _PARTIAL)
        with _explained(f"could not write {self.path / name}", _ROOM, leftover=partial):
            _write(partial, content.encode("utf-8"))
            os.replace(partial, self.path / name)

    def append_step(self, content: Mapping[str, Any]) -> None:
        """Add one object to metrics.jsonl. Raises UsageError where the disk is full."""
        line = json.dumps(content, allow_nan=False) + "\n"
        what = f"could not write {self.metrics}"
        with _explained(what, _ROOM), self.metrics.open("a", encoding="utf-8") as file:
            file.write(line)

    def rewind(self, step: int, config: Mapping[str, Any]) -> None:
        """Make the folder what it was after `step` steps, to go on from there with a changed `config`."""
        for stale in [self.path / "report.json", self.path / "loss.svg"]:
            stale.unlink(missing_ok=True)
        for stale in self.checkpoints.glob("*" + _PARTIAL):
            shutil.rmtree(stale, ignore_errors=True)
        self.write_text("metrics.jsonl", metrics_until(self.steps(), step))
        self.write_json("config.json", {"format": FORMAT, **config})

    def steps(self) -> list[dict[str, Any]]:
        """The objects of metrics.jsonl, up to the first line that is cut short or no JSON."""
        found: list[dict[str, Any]] = []
        with self.metrics.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                try:
                    found.append(json.loads(line))
                except ValueError:
                    break
        return found

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint; remove older ones, but for the last, once the new one is whole and on the disk.

        Raises UsageError where the disk is full or fails; the older checkpoints are then untouched.
        """
        from safetensors.numpy import save

        path = self.checkpoints / f"step_{checkpoint.step:06d}"
        partial = path.with_name(path.name + _PARTIAL)
        kept = self.saved()
        remedy = f"{kept[-1]} is whole: {_ROOM}" if kept else _ROOM
        with _explained(f"could not save the checkpoint of step {checkpoint.step}", remedy, leftover=partial):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            hashes = {}
            for name, arrays in (("model", checkpoint.model), ("optimizer", checkpoint.optimizer)):
                content = save({key: np.ascontiguousarray(array) for key, array in arrays.items()})
                _write(partial / f"{name}.safetensors", content)
                hashes[f"{name}.safetensors"] = hashlib.sha256(content).hexdigest()
            state = {
                "format": FORMAT,
                "step": checkpoint.step,
                "seed": checkpoint.seed,
                "optimizer": dict(checkpoint.optimizer_state),
                "sha256": hashes,
            }
            _write(partial / "state.json", (json.dumps(state, indent=2) + "\n").encode())
            _flush_folder(partial)
            os.replace(partial, path)
            _flush_folder(self.checkpoints)
        for old in self.saved()[:-KEPT_CHECKPOINTS]:
            shutil.rmtree(old, ignore_errors=True)
        return path

    def saved(self) -> list[Path]:
        """The checkpoints that were finished, oldest first."""
        found = self.checkpoints.glob("step_*") if self.checkpoints.is_dir() else []
        return sorted((path for path in found if path.name[5:].isdigit()), key=_step_of)

    def newest(self) -> Checkpoint:
        """Load the newest checkpoint and compare it with the hashes taken when it was saved.

        Raises UsageError where there is none or it is damaged: going on from an older one is the user's
        choice to make.
        """
        found = self.saved()
        if not found:
            raise UsageError(
                f"{self.path} holds no finished checkpoint; start the run anew with `minigrad train`"
            )
        try:
            return _load(found[-1])
        except UsageError as error:
            remedy = "start the run anew"
            if len(found) > 1:
                remedy = f"remove that folder to go on from {found[-2].name}"
            raise UsageError(f"{error}; {remedy}") from error


def metrics_until(steps: list[dict[str, Any]], step: int) -> str:
    """The text of a metrics.jsonl that ends with `step`."""
    return "".join(json.dumps(content) + "\n" for content in steps if content["step"] <= step)


def check_out_is_free(path: Path) -> None:
    """Refuse a path that holds something already. Raises UsageError."""
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.exists() or path.is_symlink():
        raise UsageError(
            f"{path} exists already; name another folder with --out, or go on with it: --resume {path}"
        )


def _load(path: Path) -> Checkpoint:
    from safetensors.numpy import load

    state = _read_json(path / "state.json")
    arrays = {}
    for name in ("model", "optimizer"):
        file = path / f"{name}.safetensors"
        try:
            content = file.read_bytes()
        except OSError as error:
            raise UsageError(
                f"the checkpoint {path} is damaged: {file.name} cannot be read ({error.strerror})"
            ) from error
        if hashlib.sha256(content).hexdigest() != state.get("sha256", {}).get(file.name):
            raise UsageError(
                f"the checkpoint {path} is damaged: {file.name} is not what was saved (its hash differs)"
            )
        arrays[name] = load(content)
    if state.get("step") != _step_of(path):
        raise UsageError(f"the checkpoint {path} is damaged: state.json says step {state.get('step')}")
    try:
        return Checkpoint(
            state["step"], state["seed"], arrays["model"], arrays["optimizer"], state["optimizer"]
        )
    except KeyError as error:
        raise UsageError(f"the checkpoint {path} is damaged: state.json lacks {error}") from error


def _step_of(path: Path) -> int:
    return int(path.name[5:])


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is damaged or missing: it is no readable JSON") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} is damaged: it holds no JSON object")
    return content


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(path: Path) -> None:
    """Make a rename last through a crash of the machine (POSIX; elsewhere there is nothing to do)."""
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _check_space(path: Path, needed: int) -> None:
    """Refuse a disk that visibly lacks room. Raises UsageError."""
    parent = path.absolute().parent
    while not parent.exists():
        parent = parent.parent
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise UsageError(
            f"the disk of {parent} has {free / 1e6:.1f} MB free, but the checkpoints of this run take "
            f"{needed / 1e6:.1f} MB; make room or name a folder on another disk with --out"
        )


@contextmanager
def _explained(what: str, remedy: str, *, leftover: Path | None = None) -> Iterator[None]:
    """Remove what a failed block leaves behind; make an OSError one line: what failed, why, what to do."""
    try:
        yield
    except BaseException as error:
        if leftover is not None and leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        elif leftover is not None:
            leftover.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise UsageError(f"{what}: {error.strerror or error}; {remedy}") from error
        raise
