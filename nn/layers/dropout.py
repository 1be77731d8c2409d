"""Dropout layers, each with a stream of random numbers of its own."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from minigrad.nn import functional
from minigrad.nn.functional.arguments import flags, real, refuse
from minigrad.nn.module import Module
from minigrad.tensor import Tensor


class _Numbers(threading.local):
    def __init__(self) -> None:
        self.next, self.prefix = itertools.count().__next__, ""


_numbers = _Numbers()


def new_stream(kind: str) -> str:
    """A name for the random numbers of one more layer that this thread makes."""
    return f"{kind} {_numbers.prefix}{_numbers.next()}"


@contextmanager
def numbered(prefix: str) -> Iterator[None]:
    """The layers made inside the block are numbered by themselves, behind a prefix."""
    before = _numbers.next, _numbers.prefix
    _numbers.next, _numbers.prefix = itertools.count().__next__, prefix
    try:
        yield
    finally:
        _numbers.next, _numbers.prefix = before


def named_stream(layer: Module, kind: str, stream: str | None) -> str:
    """The stream that a layer was given, or else a new one. Raises UsageError unless it is a word."""
    if stream is not None and not isinstance(stream, str):
        refuse(layer, "stream", stream, "a name for the layer's random numbers, in words")
    return new_stream(kind) if stream is None else stream


class Dropout(Module):
    """Zero entries at random while training.

    `stream` names this layer's random numbers. By default it is the number of the layer in the order this
    thread made them, the same on all ranks that build the same model; a model that ranks build in parts
    should name them itself. torch's `inplace` is accepted and means nothing here.
    """

    drop: Callable[..., Tensor] = staticmethod(functional.dropout)

    def __init__(self, p: float = 0.5, inplace: bool = False, *, stream: str | None = None) -> None:
        real(self, 0.0, 1.0, p=p)
        flags(self, inplace=inplace)
        self.p, self.stream = p, named_stream(self, "dropout", stream)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(x, self.p, self.training, stream=self.stream)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Dropout1d(Dropout):
    """Zero whole channels of x (N, C, L) at random."""

    drop = staticmethod(functional.feature_dropout)


class Dropout2d(Dropout1d):
    """Zero whole channels of x (N, C, H, W) at random."""


class AlphaDropout(Dropout):
    """Dropout that keeps mean 0 and variance 1 behind SELU."""

    drop = staticmethod(functional.alpha_dropout)


class StochasticDepth(Dropout):
    """Zero whole samples at random: the branch beside a skip connection is left out for them."""

    drop = staticmethod(functional.stochastic_depth)
