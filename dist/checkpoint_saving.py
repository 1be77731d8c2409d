"""Saving a checkpoint: who writes what, each rank its file, and rank 0 moves the whole into place."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minigrad import backend
from minigrad.dist.agreement import AgreedError, agreed, gathered
from minigrad.dist.checkpoint_files import (
    PARTIAL,
    Planned,
    Written,
    check_room,
    data_type,
    flush_folder,
    remove_folder,
    write_file,
    write_tensors,
)
from minigrad.dist.checkpoint_manifest import NAME, Entry, Manifest, Run, saved, step_of
from minigrad.dist.checkpoint_piece import Piece
from minigrad.dist.world import World
from minigrad.errors import UsageError


def save(
    path: str | Path,
    world: World,
    pieces: Iterable[Piece],
    metadata: Mapping[str, Any],
    *,
    keep: int = 2,
) -> None:
    """Write a checkpoint of what all ranks hold, and keep the `keep` newest of its folder, this one included.

    The name of `path` ends in the step (step_000100). `metadata` is JSON, and rank 0's counts. Where two
    ranks hold the same entries, those of the lower rank are saved. Raises UsageError, the same on all ranks,
    where pieces do not make whole arrays, or the disk is full or fails: older checkpoints are then untouched.
    """
    path, pieces = Path(path), list(pieces)
    partial = path.with_name(path.name + PARTIAL)
    described = gathered(world, agreed(world, lambda: _described(path, pieces)), root=0)
    try:
        start = agreed(world, lambda: _start(path, partial, described, metadata) if described else None)
        owned = start.owned if start else []
        mine = np.empty(len(pieces), dtype=np.uint8)
        table = np.array([flag for flags in owned for flag in flags], dtype=np.uint8)
        world.scatter(table, mine, counts=[len(flags) for flags in owned], purpose="control")
        own = [piece for piece, flag in zip(pieces, mine, strict=True) if flag]
        written = gathered(world, agreed(world, lambda: _write(path, partial, world.rank, own)), root=0)
        agreed(world, lambda: _finish(path, partial, start.manifest, written, keep) if start else None)
    except AgreedError:  # nobody writes any more
        if world.rank == 0:
            remove_folder(partial)
        world.barrier()  # a rank that leaves may end the others, and rank 0 first puts things in order
        raise


@dataclass(frozen=True)
class _Start:
    """What rank 0 decides: the manifest, but for the files, and which of its pieces each rank writes."""

    manifest: Manifest
    owned: list[list[bool]]


def _described(path: Path, pieces: Sequence[Piece]) -> list[Any]:
    """This rank's pieces, in JSON."""
    step_of(path.name)
    for piece in pieces:
        piece.check()
    return [
        [piece.name, piece.array.dtype.name, piece.shape, piece.key, piece.part, piece.start, piece.stop]
        for piece in pieces
    ]


def _start(
    path: Path, partial: Path, described: Sequence[Sequence[Any]], metadata: Mapping[str, Any]
) -> _Start:
    """Rank 0: find out who writes what, check that it makes whole arrays, make the folder to write into."""
    arrays: dict[str, tuple[Any, dict[Any, Run]]] = {}
    owned: list[list[bool]] = []
    for rank, pieces in enumerate(described):
        owned.append([])
        for name, dtype, shape, key, box, start, stop in pieces:
            kind, runs = arrays.setdefault(name, ((dtype, tuple(shape)), {}))
            if kind != (dtype, tuple(shape)):
                raise UsageError(
                    f"{name} is {dtype} of shape {tuple(shape)} on rank {rank}, but {kind[0]} of shape "
                    f"{kind[1]} on a lower one; all ranks must mean the same array"
                )
            run = Run(_file_of(rank), key, tuple(map(tuple, box)), start, stop)
            owned[-1].append(start < stop and (run.box, start, stop) not in runs)
            if owned[-1][-1]:
                runs[run.box, start, stop] = run
    entries = {
        name: Entry(dtype, shape, tuple(runs.values())) for name, ((dtype, shape), runs) in arrays.items()
    }
    manifest = Manifest(step_of(path.name), dict(metadata), {}, entries)
    manifest.check_complete()
    manifest.to_json()
    needed = sum(
        (run.stop - run.start) * data_type(entry.dtype).itemsize
        for entry in entries.values()
        for run in entry.pieces
    )
    check_room(path, needed, "make room on the disk")
    with _explained(path):
        remove_folder(partial)
        partial.mkdir(parents=True)
    return _Start(manifest, owned)


def _write(path: Path, partial: Path, rank: int, pieces: Sequence[Piece]) -> dict[str, Any] | None:
    """Every rank: write its file, if it has something to write. Returns size and hash."""
    if not pieces:
        return None
    keys = [piece.key for piece in pieces]
    if len(set(keys)) < len(keys):
        raise UsageError(f"two arrays would be called {max(keys, key=keys.count)!r} in one file; rename one")
    with _explained(path):
        written = write_tensors(partial / _file_of(rank), [_planned(piece) for piece in pieces], metadata={})
    return vars(written)


def _planned(piece: Piece) -> Planned:
    """How a piece is written; one that is the whole array keeps its shape."""
    shape = piece.shape if piece.key == piece.name else (piece.stop - piece.start,)
    dtype = data_type(piece.array.dtype.name)

    def content() -> Iterator[NDArray[Any]]:
        yield backend.namespace(piece.array).to_host(piece.array).astype(dtype, copy=False)

    return Planned(piece.key, dtype, shape, content)


def _finish(
    path: Path, partial: Path, manifest: Manifest, written: Sequence[Mapping[str, Any] | None], keep: int
) -> None:
    """Rank 0: write the manifest, look at the whole folder, move it into place, remove older ones."""
    files = {_file_of(rank): Written(**entry) for rank, entry in enumerate(written) if entry is not None}
    with _explained(path):
        write_file(partial / NAME, replace(manifest, files=files).to_json())
        flush_folder(partial)
        try:
            Manifest.read(partial, step=manifest.step).check_sizes(partial)
        except UsageError as error:
            raise UsageError(
                f"could not save the checkpoint {path}: {error}; do all ranks see one folder?"
            ) from error
        old = path.with_name(path.name + ".old" + PARTIAL)
        remove_folder(old)
        if path.exists():  # it was refused, or the run was taken up again from before it
            path.rename(old)
        partial.rename(path)
        flush_folder(path.parent)
        remove_folder(old)
    older = [found for found in saved(path.parent) if step_of(found.name) < manifest.step]
    for found in older[: max(0, len(older) - (keep - 1))]:
        remove_folder(found)


def _file_of(rank: int) -> str:
    return f"rank_{rank:05d}.safetensors"


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Make an OSError of the block one line. Raises UsageError."""
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        raise UsageError(f"could not save the checkpoint {path}: {why}; {_remedy(path)}") from error


def _remedy(path: Path) -> str:
    """What to do when the disk is full or fails: go on from the newest older one that is found whole."""
    older = [found for found in saved(path.parent) if step_of(found.name) < step_of(path.name)]
    for found in reversed(older):
        try:
            Manifest.read(found).check_whole(found)
        except UsageError:
            continue
        return f"{found} is whole: make room on the disk and go on from there"
    return "make room on the disk" + ("; no older checkpoint is whole" if older else "")
