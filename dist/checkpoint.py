"""Checkpoints of distributed runs: every rank writes what it holds; any other number of ranks reads it.

A checkpoint is a folder: one safetensors file of every rank that has something to write, and manifest.json,
which says where the entries of each array lie. Arrays are known by their names and *global* indices, never by
ranks: so a checkpoint of ZeRO shards loads as a whole model, as tensor-parallel slices, or as the shards of
another number of ranks, to the bit. Entries that several ranks hold alike are written once.

A folder under its final name is whole: it is written aside (`.partial`), flushed to the disk, looked through,
and moved into place by rank 0; only then do older ones go. What fails on one rank, all ranks raise with the
same message. Nothing is unpickled. All ranks must see the same folder.

Rajbhandari et al. 2020, ZeRO: Memory Optimizations Toward Training Trillion Parameter Models, §5, shards the
states that are saved here; the universal form (whole arrays by index, no trace of ranks) is what makes such
shards independent of how many there were.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from minigrad.dist.agreement import AgreedError, agreed
from minigrad.dist.checkpoint_files import (
    PARTIAL,
    Files,
    Planned,
    check_room,
    data_type,
    explained,
    write_tensors,
)
from minigrad.dist.checkpoint_manifest import Entry, Manifest, saved, step_of
from minigrad.dist.checkpoint_piece import Piece
from minigrad.dist.checkpoint_saving import save
from minigrad.dist.single import SingleWorld
from minigrad.dist.world import World
from minigrad.errors import UsageError

__all__ = ["Newest", "Piece", "consolidate", "load", "newest", "read", "save", "saved"]

CONSOLIDATED_AT_ONCE = 2**22  # entries of an array that `consolidate` holds in memory


def load(path: str | Path, world: World, pieces: Iterable[Piece]) -> dict[str, Any]:
    """Fill the arrays of `pieces` from a checkpoint, whatever ranks saved it, and return its metadata.

    Each rank asks for what it likes: any part of any of the arrays that were saved, or nothing. Raises
    UsageError, the same on all ranks, where the checkpoint is damaged or incomplete (then it also names the
    newest older one that is whole), or where it holds no such array.
    """
    path = Path(path)
    wanted = list(pieces)
    try:
        manifest = _checked(path, world)
    except AgreedError as error:
        older = [found for found in saved(path.parent) if step_of(found.name) < step_of(path.name)]
        good, _ = _first_whole(older, world)
        advice = (
            "no older one is whole" if good is None else f"the newest older one that is whole is {good[0]}"
        )
        raise AgreedError(f"{error}; {advice}") from error
    files = Files(path)

    def fill() -> None:
        for piece in wanted:
            piece.check()
            try:
                piece.check_fits(manifest.arrays.get(piece.name))
            except UsageError as error:
                raise UsageError(f"the checkpoint {path} does not fit: {error}") from error
        for piece in wanted:
            piece.fill(manifest.arrays[piece.name], files)

    agreed(world, fill)
    return manifest.metadata


def read(path: str | Path, *, prefix: str = "") -> dict[str, NDArray[Any]]:
    """The arrays of a checkpoint, whole, on this host; with `prefix` as `consolidate` chooses and names them.

    Raises UsageError for a checkpoint that is not whole.
    """
    path = Path(path)
    manifest, files = _checked(path, SingleWorld()), Files(path)
    arrays = {}
    for name, entry in _chosen(path, manifest, prefix).items():
        flat = np.empty(prod(entry.shape), dtype=data_type(entry.dtype))
        Piece(name, entry.shape, 0, flat.size, flat).fill(entry, files)
        arrays[name.removeprefix(prefix)] = flat.reshape(entry.shape)
    return arrays


@dataclass(frozen=True)
class Newest:
    """The newest checkpoint that is whole, what was saved beside its arrays, and why newer ones are not."""

    path: Path
    step: int
    metadata: dict[str, Any]
    refused: tuple[str, ...]


def newest(folder: str | Path, world: World | None = None) -> Newest:
    """Find the newest checkpoint in `folder` that is whole; `refused` says what is wrong with newer ones.

    With a `world` all its ranks call this, and share the reading. Raises UsageError where none is whole.
    """
    found, refused = _first_whole(saved(Path(folder)), world or SingleWorld())
    if found is None:
        raise UsageError("; ".join([f"{folder} holds no whole checkpoint", *refused]))
    path, manifest = found
    return Newest(path, manifest.step, manifest.metadata, tuple(refused))


def consolidate(path: str | Path, out: str | Path, *, prefix: str = "") -> None:
    """Write the arrays of a checkpoint, whole, into one safetensors file that any program can read.

    With `prefix`, only those whose names begin with it, without it. However large they are, a few million
    entries are in memory at once. Raises UsageError for a checkpoint that is not whole, a file that exists, a
    full disk.
    """
    path, out = Path(path), Path(out)
    if out.exists():
        raise UsageError(f"{out} exists already; name another file")
    manifest, files = _checked(path, SingleWorld()), Files(path)

    def planned(name: str, entry: Entry) -> Planned:
        def chunks() -> Iterator[NDArray[Any]]:
            size = prod(entry.shape)
            buffer = np.empty(min(size, CONSOLIDATED_AT_ONCE), dtype=data_type(entry.dtype))
            for start in range(0, size, CONSOLIDATED_AT_ONCE):
                stop = min(start + CONSOLIDATED_AT_ONCE, size)
                piece = Piece(name, entry.shape, start, stop, buffer[: stop - start])
                piece.fill(entry, files)
                yield piece.array

        return Planned(name.removeprefix(prefix), data_type(entry.dtype), entry.shape, chunks)

    partial = out.with_name(out.name + PARTIAL)
    plan = [planned(name, entry) for name, entry in _chosen(path, manifest, prefix).items()]
    check_room(out, sum(array.bytes for array in plan), "make room, or name a file on another disk")
    try:
        with explained(f"could not write {out}", "make room on the disk, or name another one"):
            out.parent.mkdir(parents=True, exist_ok=True)
            write_tensors(partial, plan, metadata={"metadata": json.dumps(manifest.metadata)})
            partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)


def _chosen(path: Path, manifest: Manifest, prefix: str) -> dict[str, Entry]:
    """The arrays whose names begin with `prefix`. Raises UsageError where there is none."""
    found = {name: entry for name, entry in manifest.arrays.items() if name.startswith(prefix)}
    if not found:
        raise UsageError(f"the checkpoint {path} holds no array whose name begins with {prefix!r}")
    return found


def _first_whole(found: list[Path], world: World) -> tuple[tuple[Path, Manifest] | None, list[str]]:
    """The last of these checkpoints that is whole, and what is wrong with those after it."""
    refused: list[str] = []
    for path in reversed(found):
        try:
            return (path, _checked(path, world)), refused
        except AgreedError as error:
            refused.append(str(error))
    return None, refused


def _checked(path: Path, world: World) -> Manifest:
    """The manifest of a checkpoint that is whole: all ranks look, and share the reading of its files.

    Raises AgreedError.
    """

    def check() -> Manifest:
        manifest = Manifest.read(path)
        manifest.check_whole(path, first=world.rank, step=world.size)
        return manifest

    return agreed(world, check)
