"""Pieces: runs of parameters whose values and gradients are contiguous, so that a step takes them at once."""

from __future__ import annotations

from collections.abc import Sequence

from minigrad import mutation
from minigrad.backend import Array
from minigrad.errors import UsageError


class Piece:
    """Parameters that are updated together: flat `values` and `gradient`, whose state begins at `start`.

    `members` are their numbers, all of one group and with one number of steps; `mutated()` notes that their
    values were overwritten.
    """

    __slots__ = (
        "_gradients",
        "_values",
        "gradient",
        "group",
        "members",
        "mutated",
        "start",
        "stop",
        "values",
    )

    def __init__(self, index: int, group: int, start: int, values: Array, gradient: Array) -> None:
        self.group, self.start, self.stop = group, start, start + values.size
        self.members = [index]
        # Held as they were given, so that no other array can take the identity of one.
        self._values, self._gradients = [values], [gradient]

    def takes(self, index: int, start: int, values: Array, gradient: Array) -> bool:
        """Take in the parameter too, if all of it begins where the piece ends."""
        fits = (
            self.stop == start
            and adjoins(self._gradients[-1], gradient)
            and adjoins(self._values[-1], values)
        )
        if fits:
            self.members.append(index)
            self._values.append(values)
            self._gradients.append(gradient)
            self.stop += values.size
        return fits

    def join(self) -> None:
        """Make one flat view of all values, and one of all gradients."""
        self.values, self.gradient = joined(self._values), joined(self._gradients)
        self.mutated = mutation.noting(self.values)


def contiguous(array: Array) -> bool:
    """Whether the entries lie one after the other, in C order."""
    flags = getattr(array, "flags", None)  # arrays without values have none
    return flags is None or bool(flags.c_contiguous)


def check_gradient(index: int, values: Array, gradient: Array | None) -> None:
    """Raise UsageError where a step could not read the gradient of parameter `index`."""
    if gradient is None:
        raise UsageError(f"parameter {index} is marked as filled, and its shard has no gradient")
    if gradient.size != values.size or not contiguous(gradient):
        raise UsageError(
            f"the gradient buffer of parameter {index} has {gradient.size} entries with strides "
            f"{getattr(gradient, 'strides', None)}, not {values.size} contiguous ones; give it a slice of a "
            "flat array, reshaped"
        )


def adjoins(first: Array, second: Array) -> bool:
    """Whether `second` begins where `first` ends, within one flat array of its kind."""
    owner = second.base
    if owner is None or owner is not first.base or getattr(owner, "dtype", None) != second.dtype:
        return False
    before, after = mutation.byte_range(first), mutation.byte_range(second)
    return contiguous(owner) and before is not None and after is not None and before[1] == after[0]


def joined(arrays: Sequence[Array]) -> Array:
    """One flat view of arrays that adjoin each other."""
    first = arrays[0]
    if len(arrays) == 1:
        return first.reshape(-1)
    flat = first.base.reshape(-1)
    whole, own = mutation.byte_range(flat), mutation.byte_range(first)
    assert whole is not None  # `adjoins` has seen to it
    assert own is not None
    offset = (own[0] - whole[0]) // flat.dtype.itemsize
    return flat[offset : offset + sum(array.size for array in arrays)]
