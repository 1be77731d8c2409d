"""Ranks that stop together: what one rank refuses, all refuse, and none waits for one that has left."""

import json
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import numpy as np

from minigrad.dist.world import World
from minigrad.errors import UsageError

T = TypeVar("T")
_MESSAGE_BYTES = 4096


class AgreedError(UsageError):
    """A refusal that all ranks raise at the same place, so that none has to be ended by force."""


def agreed(world: World, action: Callable[[], T]) -> T:
    """Run `action` on every rank; if it raises UsageError on any, raise AgreedError with its message on all.

    Every rank must call this at the same place. What must happen on rank 0 alone goes into an action that
    does nothing elsewhere.
    """
    message, result = "", None
    try:
        result = action()
    except UsageError as error:
        message = str(error)
    if world.size == 1:
        if message:
            raise AgreedError(message)
        return cast("T", result)
    first = np.array([world.rank if message else world.size], dtype=np.int64)
    world.all_reduce(first, operation="min", purpose="control")
    if first[0] == world.size:
        return cast("T", result)
    root = int(first[0])
    text = np.zeros(_MESSAGE_BYTES, dtype=np.uint8)
    if world.rank == root:
        prefix = f"{world.name}: " if root else ""
        content = (prefix + message).encode(errors="replace")[:_MESSAGE_BYTES]
        text[: len(content)] = np.frombuffer(content, dtype=np.uint8)
    world.broadcast(text, root=root, purpose="control")
    raise AgreedError(text.tobytes().rstrip(b"\0").decode(errors="replace"))


def anywhere(world: World, flags: Sequence[bool]) -> list[bool]:
    """Which of the flags are true on any rank."""
    found = np.array(flags, dtype=np.uint8)
    world.all_reduce(found, operation="max", purpose="control")
    return found.astype(bool).tolist()


def alike(world: World, what: str, advice: str) -> None:
    """See to it that all ranks do the same now. Raises AgreedError on all where they do not."""
    found = gathered(world, what)
    if len(set(found)) > 1:
        told = ", ".join(f"rank {rank} {what}" for rank, what in zip(world.members, found, strict=True))
        raise AgreedError(f"{world.name}: {told}; {advice}")


def gathered(world: World, value: Any, *, root: int | None = None) -> list[Any]:
    """Every rank's `value` (of JSON), in rank order: on every rank, or on `root` alone (others: empty)."""
    content = np.frombuffer(json.dumps(value).encode(), dtype=np.uint8)
    counts = np.empty(world.size, dtype=np.int64)
    world.all_gather(np.array([content.size], dtype=np.int64), counts, purpose="control")
    everyone = np.empty(counts.sum() if root in (None, world.rank) else 0, dtype=np.uint8)
    if root is None:
        world.all_gather(content, everyone, counts=counts.tolist(), purpose="control")
    else:
        world.gather(content, everyone, root=root, counts=counts.tolist(), purpose="control")
    if root not in (None, world.rank):
        return []
    return [json.loads(part.tobytes()) for part in np.split(everyone, np.cumsum(counts)[:-1])]
