"""Starting values. Functions with a trailing underscore fill a tensor in place and return it, as in torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy

from minigrad import random
from minigrad.errors import ShapeError, UsageError
from minigrad.tensor import Tensor


def _draw(tensor: Tensor, draw: Callable[[numpy.random.Generator], Any], generator: Any) -> Tensor:
    """Fill with what `draw` gives; a tensor without values stays without, so that models of any size can be
    counted.
    """
    if tensor.device == "shapes":
        return tensor
    return _fill(tensor, draw(generator if generator is not None else random.next_generator()))


def _fill(tensor: Tensor, values: Any) -> Tensor:
    return tensor.assign(Tensor(values, dtype=tensor.dtype, device=tensor.device))


def fan_in_and_out(tensor: Tensor) -> tuple[int, int]:
    """Inputs and outputs of one unit of a weight (out, in, *window)."""
    if tensor.ndim < 2:
        raise ShapeError(f"fans need at least two axes, and this tensor has shape {tensor.shape}")
    window = math.prod(tensor.shape[2:])
    return tensor.shape[1] * window, tensor.shape[0] * window


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """By what to multiply standard deviations so that activations keep their size behind `nonlinearity`.

    `param` is the negative slope of "leaky_relu". Raises UsageError for a name that torch does not have.
    """
    if nonlinearity == "leaky_relu":
        return math.sqrt(2.0 / (1.0 + (0.01 if param is None else param) ** 2))
    gains = {"tanh": 5.0 / 3.0, "relu": math.sqrt(2.0), "selu": 0.75}
    linear = ("linear", "sigmoid", *(f"conv{t}{n}d" for t in ("", "_transpose") for n in (1, 2, 3)))
    gains.update(dict.fromkeys(linear, 1.0))
    if nonlinearity not in gains:
        raise UsageError(
            f"there is no gain for {nonlinearity!r}; known: leaky_relu, {', '.join(sorted(gains))}"
        )
    return gains[nonlinearity]


# ----- One distribution for all entries ---------------------------------------------------------------


def constant_(tensor: Tensor, val: float) -> Tensor:
    """Fill with one value."""
    return tensor.assign(val)


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


def trunc_normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    *,
    generator: Any = None,
) -> Tensor:
    """Fill with normal numbers drawn again until they lie in [a, b]."""
    if not a < b:
        raise UsageError(f"trunc_normal_: expected a < b, got {a} and {b}")

    def draw(source: numpy.random.Generator) -> Any:
        from scipy.stats import truncnorm

        low, high = (a - mean) / std, (b - mean) / std
        return truncnorm.ppf(source.uniform(size=tensor.shape), low, high, loc=mean, scale=std)

    return _draw(tensor, draw, generator)


# ----- By how many inputs and outputs a unit has ------------------------------------------------------


def _fan(tensor: Tensor, mode: str) -> int:
    if mode not in ("fan_in", "fan_out"):
        raise UsageError(f'mode is "fan_in" or "fan_out", not {mode!r}')
    return fan_in_and_out(tensor)[mode == "fan_out"]


def _kaiming_std(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    return calculate_gain(nonlinearity, a) / math.sqrt(max(_fan(tensor, mode), 1))


def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    *,
    generator: Any = None,
) -> Tensor:
    """Uniform in ±gain · √(3 / fan). Paper: He et al. 2015, Delving Deep into Rectifiers, eq. 15."""
    bound = math.sqrt(3.0) * _kaiming_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound, generator=generator)


def kaiming_normal_(
    tensor: Tensor,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    *,
    generator: Any = None,
) -> Tensor:
    """Normal with standard deviation gain / √fan. Paper: He et al. 2015, Delving Deep into Rectifiers, §2."""
    return normal_(tensor, 0.0, _kaiming_std(tensor, a, mode, nonlinearity), generator=generator)


def _xavier_std(tensor: Tensor, gain: float) -> float:
    return gain * math.sqrt(2.0 / max(sum(fan_in_and_out(tensor)), 1))


def xavier_uniform_(tensor: Tensor, gain: float = 1.0, *, generator: Any = None) -> Tensor:
    """Uniform in ±gain · √(6 / (fan in + fan out)). Paper: Glorot, Bengio 2010, Understanding the Difficulty,
    eq. 16.
    """
    bound = math.sqrt(3.0) * _xavier_std(tensor, gain)
    return uniform_(tensor, -bound, bound, generator=generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, *, generator: Any = None) -> Tensor:
    """Normal with standard deviation gain · √(2 / (fan in + fan out))."""
    return normal_(tensor, 0.0, _xavier_std(tensor, gain), generator=generator)


# ----- With a structure -------------------------------------------------------------------------------


def eye_(tensor: Tensor) -> Tensor:
    """Fill a matrix with the identity: what comes in goes out."""
    if tensor.ndim != 2:
        raise ShapeError(f"eye_: expected a matrix, got shape {tensor.shape}")
    return _fill(tensor, numpy.eye(tensor.shape[0], tensor.shape[1]))


def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """Fill a convolution's weight so that channels pass through as they are, in each group."""
    if not 3 <= tensor.ndim <= 5 or groups < 1 or tensor.shape[0] % groups:
        raise ShapeError(f"dirac_: expected a convolution's weight in {groups} groups, got {tensor.shape}")
    values = numpy.zeros(tensor.shape)
    outer, inner = tensor.shape[0] // groups, tensor.shape[1]
    middle = tuple(n // 2 for n in tensor.shape[2:])
    for group in range(groups):
        for channel in range(min(outer, inner)):
            values[(group * outer + channel, channel, *middle)] = 1.0
    return _fill(tensor, values)


def orthogonal_(tensor: Tensor, gain: float = 1.0, *, generator: Any = None) -> Tensor:
    """Fill with orthonormal rows (or columns, where there are fewer of these), times `gain`.

    The first axis are the rows, all others together the columns. Paper: Saxe et al. 2014, Exact Solutions to
    the Nonlinear Dynamics of Learning.
    """
    if tensor.ndim < 2:
        raise ShapeError(f"orthogonal_: expected at least two axes, got shape {tensor.shape}")
    rows, columns = tensor.shape[0], math.prod(tensor.shape[1:])

    def draw(source: numpy.random.Generator) -> Any:
        tall = source.normal(size=(max(rows, columns), min(rows, columns)))
        q, r = numpy.linalg.qr(tall)
        q = q * numpy.where(numpy.diag(r) < 0, -1.0, 1.0)  # otherwise not uniform over the rotations
        return gain * (q if rows >= columns else q.T).reshape(tensor.shape)

    return _draw(tensor, draw, generator)


def sparse_(tensor: Tensor, sparsity: float, std: float = 0.01, *, generator: Any = None) -> Tensor:
    """Fill a matrix with normal numbers, a share `sparsity` of each column (rounded up) being 0.

    Paper: Martens 2010, Deep Learning via Hessian-free Optimization, §5.
    """
    if tensor.ndim != 2 or not 0.0 <= sparsity <= 1.0:
        raise ShapeError(f"sparse_: expected a matrix and a share, got {tensor.shape} and {sparsity}")
    rows, columns = tensor.shape
    zeros = math.ceil(sparsity * rows)

    def draw(source: numpy.random.Generator) -> Any:
        values = source.normal(0.0, std, (rows, columns))
        for column in range(columns):
            values[source.permutation(rows)[:zeros], column] = 0.0
        return values

    return _draw(tensor, draw, generator)
