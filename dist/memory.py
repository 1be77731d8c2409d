"""The meter: what one rank holds, in bytes, by category, counted from the arrays themselves.

An array is booked when it is tracked and taken off the books when its memory is freed, which the owner of the
memory tells by a weak reference: nobody has to say when something is gone, and nothing stays alive for being
counted.
"""

from __future__ import annotations

import mmap
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np

from minigrad import backend
from minigrad.backend import Array
from minigrad.errors import UsageError
from minigrad.tensor import Tensor
from minigrad.walk import gather

CATEGORIES = ("parameters", "gradients", "optimizer", "activations", "buffers")
DISK = "disk"


class Meter:
    """Bytes that one rank holds, by category: now, and the most there were at a time.

    All views of one memory count once, as much as the whole memory, for a view keeps the whole alive. Memory
    that is tracked again under another category moves there. Memory-mapped files fill no memory: they stand
    under their category in `on_disk` and nowhere else. A meter belongs to one rank, and any thread of it
    may use it.

    >>> import numpy
    >>> meter = Meter()
    >>> weight = meter.track("parameters", numpy.zeros(1000))
    >>> _ = meter.track("parameters", weight[10:20])
    >>> meter.current["parameters"], meter.current["total"]
    (8000, 8000)
    >>> del weight, _
    >>> meter.current["total"], meter.peak["total"]
    (0, 8000)
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._memories: dict[Any, _Memory] = {}
        self._ended: deque[tuple[_Memory, Any]] = deque()  # filled by the collector, maybe amidst a sum
        self._in_memory = _Books()
        self._places: dict[str, _Books] = {}

    def track(self, category: str, array: Array) -> Array:
        """Book the memory of an array (NumPy, CuPy or shape-only) until it is freed; returns the array.

        Raises UsageError for an unknown category or what is no array.
        """
        if category not in CATEGORIES:
            raise UsageError(f"the meter knows no category {category!r}; it has {', '.join(CATEGORIES)}")
        if not (hasattr(array, "nbytes") and hasattr(array, "dtype")):
            raise UsageError(f"the meter tracks arrays, got {type(array).__name__}; of a Tensor, give .data")
        owner = owner_of(array)
        if owner.nbytes:
            with self._lock:
                self._book(category, owner)
        return array

    def _book(self, category: str, owner: Array) -> None:
        key = _address(owner)
        self._settle()
        memory = self._memories.get(key)
        while memory is not None and not memory.alive:  # it died just now, and its address is used again
            self._settle()
            memory = self._memories.get(key)
        if memory is None:
            memory = self._memories[key] = _Memory(key, category, owner.nbytes, _place(owner))
            self._add(memory, memory.nbytes)
        elif memory.category != category:
            self._add(memory, -memory.nbytes)
            memory.category = category
            self._add(memory, memory.nbytes)
        memory.watch(owner, self._ended)

    def activations(self, *tensors: Tensor) -> int:
        """Book as activations what the graph below these tensors saved for the backward walk.

        Each memory counts once, and not at all where it is tracked under another category (track parameters
        and gradients before). Returns the bytes that this graph holds so.
        """
        self._settle()
        found: dict[Any, int] = {}
        for array in saved_arrays(*tensors):
            owner = owner_of(array)
            key = _address(owner)
            memory = self._memories.get(key)
            if key not in found and owner.nbytes and (memory is None or memory.category == "activations"):
                self.track("activations", array)
                found[key] = owner.nbytes
        return sum(found.values())

    @property
    def current(self) -> dict[str, int]:
        """Bytes in memory now, by category, and their `total`."""
        self._settle()
        return dict(self._in_memory.current)

    @property
    def peak(self) -> dict[str, int]:
        """The most bytes since the start or `reset_peak`, of each category by itself and of the `total`."""
        return dict(self._in_memory.peak)

    @property
    def at_peak(self) -> dict[str, int]:
        """What was in memory, by category, when the total was at its peak for the first time."""
        return dict(self._in_memory.at_peak)

    @property
    def on_disk(self) -> dict[str, int]:
        """Bytes of memory-mapped files now, by category, and their `total`."""
        self._settle()
        return dict(self._places.get(DISK, _Books()).current)

    def reset_peak(self) -> None:
        """Let peaks begin again at what is held now."""
        self._settle()
        for books in (self._in_memory, *self._places.values()):
            books.peak, books.at_peak = dict(books.current), dict(books.current)

    def report(self) -> dict[str, Any]:
        """Plain numbers, ready for JSON: `current`, `peak`, `at_peak`; the first two also by `places`.

        Places are "cpu", "gpu:0", … and "disk", whose bytes are in no other figure.
        """
        self._settle()
        places = {
            name: {"current": dict(books.current), "peak": dict(books.peak)}
            for name, books in sorted(self._places.items())
        }
        return {"current": self.current, "peak": self.peak, "at_peak": self.at_peak, "places": places}

    def _settle(self) -> None:
        """Take off the books what died since the last call, before anything that could have its address."""
        with self._lock:
            while self._ended:
                memory, reference = self._ended.popleft()
                memory.owners = [owner for owner in memory.owners if owner is not reference]
                if not memory.owners:
                    self._add(memory, -memory.nbytes)
                    del self._memories[memory.key]

    def _add(self, memory: _Memory, count: int) -> None:
        if memory.place != DISK:
            self._in_memory.add(memory.category, count)
        self._places.setdefault(memory.place, _Books()).add(memory.category, count)


class _Books:
    """Bytes by category and in total, now and at most."""

    def __init__(self) -> None:
        self.current = dict.fromkeys((*CATEGORIES, "total"), 0)
        self.peak, self.at_peak = dict(self.current), dict(self.current)

    def add(self, category: str, count: int) -> None:
        current, peak = self.current, self.peak
        now = current[category] = current[category] + count
        total = current["total"] = current["total"] + count
        if now > peak[category]:
            peak[category] = now
        if total > peak["total"]:
            peak["total"], self.at_peak = total, dict(current)


class _Memory:
    """One piece of memory, and weak references to the arrays that own it: on a GPU there may be several."""

    __slots__ = ("category", "key", "nbytes", "owners", "place")

    def __init__(self, key: Any, category: str, nbytes: int, place: str) -> None:
        self.key, self.category, self.nbytes, self.place = key, category, nbytes, place
        self.owners: list[weakref.ref[Any]] = []

    @property
    def alive(self) -> bool:
        return any(owner() is not None for owner in self.owners)

    def watch(self, owner: Array, ended: deque[tuple[_Memory, Any]]) -> None:
        if all(known() is not owner for known in self.owners):
            self.owners.append(weakref.ref(owner, lambda reference: ended.append((self, reference))))


def owner_of(array: Array) -> Array:
    """The array that owns the memory which `array` shows: itself, or what it is a view of."""
    owner, below = array, getattr(array, "base", None)
    while below is not None:
        if hasattr(below, "nbytes") and hasattr(below, "dtype"):
            owner = below
        below = getattr(below, "base", None)
    return owner


def saved_arrays(*tensors: Tensor) -> Iterator[Array]:
    """Every array that nodes below these tensors saved, as often as it was saved.

    The engine's constants are left out: 0-d, read-only, and shared by all graphs.
    """
    for node in gather([x.node for x in tensors if x.node is not None]):
        for array in _arrays(node.saved):
            if array.ndim or getattr(array.flags, "writeable", True):
                yield array


def _arrays(saved: Any) -> Iterator[Array]:
    if isinstance(saved, (tuple, list)):
        for item in saved:
            yield from _arrays(item)
    elif isinstance(saved, dict):
        for item in saved.values():
            yield from _arrays(item)
    elif backend.is_array(saved):
        yield saved


def _address(owner: Array) -> Any:
    """What two arrays that own the same memory have in common."""
    if isinstance(owner, np.ndarray):
        return owner.__array_interface__["data"][0]
    pointer = getattr(getattr(owner, "data", None), "ptr", None)
    return id(owner) if pointer is None else (_place(owner), pointer)


def _place(owner: Array) -> str:
    if isinstance(owner, np.ndarray):
        below = owner.base.obj if isinstance(owner.base, memoryview) else owner.base
        return DISK if isinstance(below, mmap.mmap) else "cpu"
    return backend.namespace(owner).device(owner)
