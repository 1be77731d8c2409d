"""What the lessons themselves use: printing once, figures, ranks, and a short form for tests."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from minigrad import dist
from minigrad.dist.agreement import gathered
from minigrad.dist.world import World
from minigrad.errors import UsageError

shown: list[dict[str, Any]] | None = None
"""Where figures are kept while the site runs a lesson; otherwise None, and they go to files."""


def quick() -> bool:
    """Whether the lesson is to take its short form, of a few seconds (MINIGRAD_QUICK=1): tests do."""
    return os.environ.get("MINIGRAD_QUICK", "") not in ("", "0")


def say(*values: object) -> None:
    """Print on rank 0 only, at once."""
    if dist.world().rank == 0:
        print(*values, flush=True)


def on_ranks(main: Callable[..., Any], *arguments: Any, ranks: int = 4) -> list[Any]:
    """Run `main(world, *arguments)` on several ranks and return what they return, by rank, on every rank.

    Under `mpirun` these are its processes, however many; otherwise they are `ranks` threads of this process.
    What `main` returns is made of numbers, strings, lists and dicts (tuples become lists).
    """
    here = dist.world()
    if here.size > 1:
        return gathered(here, main(here, *arguments))
    return [json.loads(json.dumps(result)) for result in dist.spawn(main, ranks=ranks, arguments=arguments)]


def rank_count(ranks: int = 4) -> int:
    """The number of ranks that `on_ranks(..., ranks=ranks)` will have."""
    size = dist.world().size
    return ranks if size == 1 else size


def figure(name: str, svg: str | Sequence[str], caption: str, *, labels: Sequence[str] = ()) -> None:
    """Keep a picture (SVG text) of the lesson, on rank 0, and say where it is.

    A sequence of pictures, each with its label, is a figure that the site steps through; the last one is
    shown where nothing moves. Files go to the folder MINIGRAD_FIGURES, or else to runs/lessons/NN_name in the
    working folder. Raises UsageError for a name that is no identifier, or labels that do not fit.
    """
    if dist.world().rank != 0:
        return
    frames = [svg] if isinstance(svg, str) else list(svg)
    if not name.isidentifier():
        raise UsageError(f"a figure's name becomes a file's name and an id; {name!r} is no identifier")
    if not frames or (len(frames) > 1 and len(labels) != len(frames)):
        raise UsageError(
            f"figure {name} has {len(frames)} pictures and {len(labels)} labels; give one for each"
        )
    if shown is not None:
        shown.append({"name": name, "frames": frames, "caption": caption, "labels": list(labels)})
        return
    lesson = Path(getattr(sys.modules["__main__"], "__file__", None) or "lesson.py").resolve().parent.name
    folder = Path(os.environ.get("MINIGRAD_FIGURES") or Path("runs", "lessons", lesson))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.svg"
    partial = path.with_suffix(".partial")
    partial.write_text(frames[-1], encoding="utf-8")
    os.replace(partial, path)
    say(f"[figure {path}] {caption}")


def device(world: World) -> str:
    """Where a rank computes: "cpu", or with MINIGRAD_DEVICE=gpu the GPU that its local rank is dealt.

    That GPU becomes the one of this rank's thread. Ranks beyond the number of GPUs share them; stderr says
    who has which. Raises DeviceError where there is no GPU.
    """
    if os.environ.get("MINIGRAD_DEVICE", "cpu") != "gpu":
        return "cpu"
    from minigrad import backend

    count = backend.gpu().count()
    place = f"gpu:{world.local_rank % count}"
    backend.gpu().use(place)
    one_host = world.local_size == world.size  # where rank 0 speaks for all; else each for itself
    if world.size not in _told and (world.rank == 0 or not one_host):
        _told.add(world.size)
        dealt = {rank: f"gpu:{rank % count}" for rank in range(world.size)}
        lines = [
            f"rank {rank} of {world.size} computes on {where}"
            for rank, where in (dealt if one_host else {world.rank: place}).items()
        ]
        print("; ".join(lines), file=sys.stderr, flush=True)
    return place


_told: set[int] = set()
