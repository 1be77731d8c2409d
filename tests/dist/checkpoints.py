"""What the tests of damaged and forged checkpoints share: one that three ranks save, and copies to spoil."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minigrad import dist
from minigrad.dist import World, checkpoint
from minigrad.dist.checkpoint import Piece
from minigrad.errors import UsageError

RANKS = 3
FILES = ["manifest.json", *(f"rank_{rank:05d}.safetensors" for rank in range(RANKS))]


def pieces(rank: int, value: float, ranks: int = RANKS) -> list[Piece]:
    """Shards of one array, and another that all hold."""
    start, stop = 12 * rank // ranks, 12 * (rank + 1) // ranks
    shard = np.arange(float(start), stop) + value
    return [Piece("w", (3, 4), start, stop, shard), Piece("scale", (), 0, 1, np.full(1, float(value)))]


def save(folder: Path, step: int) -> Path:
    path = folder / f"step_{step:03d}"
    dist.spawn(
        lambda world: checkpoint.save(path, world, pieces(world.rank, step), {"at": step}), ranks=RANKS
    )
    return path


def load(path: Path, world: World | None = None) -> np.ndarray:
    """The array that the checkpoint holds."""
    whole = np.zeros(12)
    checkpoint.load(path, world or dist.SingleWorld(), [Piece("w", (3, 4), 0, 12, whole)])
    return whole


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def refusal(action: Callable[[], Any]) -> str:
    with pytest.raises(UsageError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def two_saved(folder: Path) -> Path:
    """A folder with two checkpoints, the way they are."""
    for step in (1, 2):
        assert load(save(folder, step)).tolist() == (np.arange(12) + step).tolist()
    return folder


def copied(saved: Path, folder: Path) -> Path:
    """A copy of such a folder to spoil."""
    for path in saved.rglob("*"):
        target = folder / path.relative_to(saved)
        target.mkdir() if path.is_dir() else target.write_bytes(path.read_bytes())
    return folder
