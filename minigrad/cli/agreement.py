"""Ranks that stop together: what one rank refuses, all refuse, and none waits for one that has left."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from minigrad.errors import UsageError

if TYPE_CHECKING:
    from minigrad.dist.world import World

T = TypeVar("T")
_MESSAGE_BYTES = 4096


class AgreedError(UsageError):
    """A refusal that all ranks raise at the same place, so that none has to be ended by force."""


def agreed(world: "World", action: Callable[[], T]) -> T:
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
        prefix = f"rank {root} of {world.size}: " if root else ""
        content = (prefix + message).encode(errors="replace")[:_MESSAGE_BYTES]
        text[: len(content)] = np.frombuffer(content, dtype=np.uint8)
    world.broadcast(text, root=root, purpose="control")
    raise AgreedError(text.tobytes().rstrip(b"\0").decode(errors="replace"))


def gathered(world: "World", figures: dict[str, Any]) -> list[dict[str, Any]]:
    """Every rank's `figures` (JSON values), in rank order, on every rank."""
    content = np.frombuffer(json.dumps(figures).encode(), dtype=np.uint8)
    longest = np.array([content.size], dtype=np.int64)
    world.all_reduce(longest, operation="max", purpose="control")
    own = np.full(int(longest[0]), ord(" "), dtype=np.uint8)
    own[: content.size] = content
    everyone = np.empty((world.size, own.size), dtype=np.uint8)
    world.all_gather(own, everyone, purpose="control")
    return [json.loads(row.tobytes()) for row in everyone]
