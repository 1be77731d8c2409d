"""Starting values. Functions with a trailing underscore fill a tensor in place and return it, as in torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy

from minigrad import random
from minigrad.errors import ShapeError
from minigrad.tensor import Tensor


def _draw(tensor: Tensor, draw: Callable[[numpy.random.Generator], Any], generator: Any) -> Tensor:
    """Fill with what `draw` gives; a tensor without values stays without, so that models of any size can be
    counted.
    """
    if tensor.device == "shapes":
        return tensor
    values = draw(generator if generator is not None else random.next_generator())
    return tensor.assign(Tensor(values, dtype=tensor.dtype, device=tensor.device))


def fan_in_and_out(tensor: Tensor) -> tuple[int, int]:
    """Inputs and outputs of one unit of a weight (out, in, *window)."""
    if tensor.ndim < 2:
        raise ShapeError(f"fans need at least two axes, and this tensor has shape {tensor.shape}")
    window = math.prod(tensor.shape[2:])
    return tensor.shape[1] * window, tensor.shape[0] * window


def constant_(tensor: Tensor, value: float) -> Tensor:
    """Fill with one value."""
    return tensor.assign(value)


def zeros_(tensor: Tensor) -> Tensor:
    """Fill with zeros."""
    return tensor.assign(0.0)


def ones_(tensor: Tensor) -> Tensor:
    """Fill with ones."""
    return tensor.assign(1.0)


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, *, generator: Any = None) -> Tensor:
    """Fill with normal numbers, drawn in float64 on the host and rounded, so that every dtype starts from the
    same.
    """
    return _draw(tensor, lambda source: source.normal(mean, std, tensor.shape), generator)


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, *, generator: Any = None) -> Tensor:
    """Fill with uniform numbers in [a, b)."""
    return _draw(tensor, lambda source: source.uniform(a, b, tensor.shape), generator)


def kaiming_uniform_(tensor: Tensor, a: float = 0.0, *, generator: Any = None) -> Tensor:
    """Uniform in ±√(6 / ((1 + a²) · fan_in)). Paper: He et al. 2015, Delving Deep into Rectifiers, eq. 15."""
    bound = math.sqrt(6.0 / ((1.0 + a * a) * fan_in_and_out(tensor)[0]))
    return uniform_(tensor, -bound, bound, generator=generator)
