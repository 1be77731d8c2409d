"""Large arrays in blocks that stay in a processor's cache: the arithmetic of most functions is cheap there,
and the way to memory and back is what costs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

BLOCK = 1 << 16
"""Entries of a block: 256 KiB of float32, a share of a second-level cache."""


def blocks(xp: Any, length: int, entries_each: int = 1) -> Iterator[slice]:
    """Cut `length` rows into slices of about BLOCK entries where blocking pays, otherwise one slice."""
    step = max(1, BLOCK // max(entries_each, 1)) if xp.blocked else max(length, 1)
    return (slice(start, start + step) for start in range(0, length, step))
