"""In-place safety: which bytes were overwritten when, and whether a saved array is stale because of it.

Whoever writes into an array that tensors may share (an optimizer, `x.assign(...)`, an `out=`) calls
`mutated(array)`. It notes the byte range and a creation number. A walk that meets a node older than the
latest mutation compares the ranges of what that node saved; otherwise the check is one comparison of two
integers.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

from minigrad.backend import Array
from minigrad.errors import GraphError
from minigrad.graph import Leaf, Node, next_number

_lock = threading.Lock()
_ranges: dict[tuple[int, int], tuple[int, Any]] = {}
latest = 0
"""The creation number of the latest mutation, of any thread."""


def byte_range(array: Array) -> tuple[int, int] | None:
    """First and past-the-last address that the array touches; None where addresses are unknown or nothing is
    held.
    """
    if array.size == 0:
        return None
    if hasattr(array, "__array_interface__"):
        start = array.__array_interface__["data"][0]
    elif hasattr(array, "data") and hasattr(array.data, "ptr"):
        start = array.data.ptr
    else:
        return None
    low = high = start
    for length, stride in zip(array.shape, array.strides, strict=True):
        if stride > 0:
            high += (length - 1) * stride
        else:
            low += (length - 1) * stride
    return low, high + array.dtype.itemsize


def mutated(array: Array) -> None:
    """Note that the values of `array` were just overwritten in place."""
    noting(array)()


def noting(array: Array) -> Callable[[], None]:
    """What notes the same each time it is called, for whoever overwrites an array again and again."""
    span = byte_range(array)
    if span is None:
        return lambda: None
    owner = array
    while getattr(owner, "base", None) is not None and type(owner.base) is type(array):
        owner = owner.base
    try:
        # When the owner of the memory is gone nothing can hold a view of it, and the note is dropped with it.
        alive = weakref.ref(owner, partial(_forget, span))
    except TypeError:
        alive = None

    def note() -> None:
        global latest
        with _lock:
            latest = next_number()
            _ranges[span] = (latest, alive)

    return note


def overwritten(leaf: Leaf) -> None:
    """Note that the buffer of a leaf was written to, if somebody was shown it: `.grad` may be part of a
    graph.
    """
    if leaf.shown:
        leaf.shown = False
        mutated(leaf.buffer)


def _forget(span: tuple[int, int], _: Any) -> None:
    _ranges.pop(span, None)


def check(node: Node, *, since: Node | None = None) -> None:
    """Raise GraphError if an array that the node saved was overwritten after the node was made, or after
    `since`, which it computes again.
    """
    made = (since or node).number
    for array in _arrays(node.saved):
        low, high = byte_range(array) or (0, 0)  # nothing: no range overlaps that
        for (start, stop), (number, _) in _ranges.copy().items():  # a collection amidst it may forget some
            if number > made and start < high and low < stop:
                name = node.operation.name if node.operation is not None else "leaf"
                raise GraphError(
                    f"{name} (node {made}) saved an array of shape {array.shape} for its derivative, "
                    f"and it was changed in place afterwards (mutation {number}); run the walk before the "
                    "change, or compute with a copy"
                )


def _arrays(saved: Any) -> Any:
    if isinstance(saved, (tuple, list, dict)):
        for item in saved.values() if isinstance(saved, dict) else saved:
            yield from _arrays(item)
    elif hasattr(saved, "strides"):
        yield saved
