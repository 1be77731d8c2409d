"""Keys and values that attention has computed already, so that every new token is read alone."""

from __future__ import annotations

from typing import Any

from minigrad import backend
from minigrad.errors import ShapeError, UsageError
from minigrad.tensor import Tensor


class Cache:
    """Keys and values of the positions that one attention layer has seen: (batch, heads, up to `context`,
    width of a head).

    With `whole` they are those of something that does not change, such as an encoder's output: the first call
    keeps them, and later ones only read. A cache keeps numbers and no history, so no derivative passes it.
    """

    def __init__(self, context: int, *, whole: bool = False) -> None:
        self.context, self.whole, self.length = context, whole, 0
        self._keys: Any = None
        self._values: Any = None

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append keys and values (batch, heads, time, width) and return all so far.

        Raises ShapeError where they do not fit, and UsageError where derivatives are asked for.
        """
        if keys.requires_grad or values.requires_grad:
            raise UsageError(
                "a cache of keys and values keeps no history, and these require a gradient; generate under "
                "no_grad(), and train without a cache"
            )
        stop = self.length + keys.shape[2]
        if stop > self.context:
            raise ShapeError(f"{stop} positions do not fit a context of {self.context}")
        if self._keys is None:
            xp = backend.namespace(keys.data)
            room = self.context if not self.whole else stop
            self._keys, self._values = (
                xp.empty((*x.shape[:2], room, x.shape[3]), dtype=x.dtype) for x in (keys, values)
            )
        if keys.shape[0] != self._keys.shape[0]:
            raise ShapeError(
                f"a cache of {self._keys.shape[0]} sequences got keys of {keys.shape[0]}; select() says "
                "which go on"
            )
        self._keys[:, :, self.length : stop] = keys.data
        self._values[:, :, self.length : stop] = values.data
        self.length = stop
        return self.seen()

    def seen(self) -> tuple[Tensor, Tensor]:
        """All keys and values so far."""
        return Tensor.of(self._keys[:, :, : self.length]), Tensor.of(self._values[:, :, : self.length])

    def select(self, rows: Any) -> None:
        """Go on with these of the sequences, in this order; one may come several times, as in a beam."""
        if self._keys is None:
            return
        xp = backend.namespace(self._keys)
        rows = xp.asarray(rows)
        self._keys, self._values = (xp.take(x, rows, axis=0) for x in (self._keys, self._values))


class DecoderCache:
    """The caches of a stack of decoder layers: of each, one of the targets so far and one of the memory."""

    def __init__(self, layers: int, context: int, memory: int) -> None:
        self.layers = [(Cache(context), Cache(memory, whole=True)) for _ in range(layers)]

    @property
    def length(self) -> int:
        """How many targets have been read."""
        return self.layers[0][0].length if self.layers else 0

    def select(self, rows: Any) -> None:
        """Go on with these of the sequences; see `Cache.select`."""
        for pair in self.layers:
            for cache in pair:
                cache.select(rows)
