"""Starting values. Functions with a trailing underscore fill a tensor in place and return it, as in torch.

A tensor without values (on the device "shapes") takes its turn among the draws and notes what it would have
drawn; `materialize` gives it these values, to the bit.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy

from minigrad import random
from minigrad.backend import Array
from minigrad.errors import GraphError, ShapeError, UsageError
from minigrad.mutation import mutated
from minigrad.nn.materialize import materialize as materialize
from minigrad.nn.parameter import ModuleTensor, Start, given
from minigrad.tensor import Tensor

BLOCK = 2**16  # numbers drawn at a time: they stay in the cache, and are no second array beside a large one
Draw = Callable[..., Any]  # (generator, how many or which shape, settings) to float64 numbers on the host


def _fill(tensor: Tensor, write: Callable[..., None], *arguments: Any) -> Tensor:
    """Let `write(array, *arguments)` fill a tensor, now or once it has values."""
    if not tensor.is_leaf:
        raise GraphError("a tensor with history cannot be overwritten; compute a new one instead")
    if tensor.device != "shapes":
        write(tensor.data, *arguments)
        mutated(tensor.data)
    elif isinstance(tensor, ModuleTensor):
        tensor.start = Start(write, arguments)
    return tensor


def _draw(
    tensor: Tensor, draw: Draw, settings: tuple[float, ...], generator: Any, *, at_once: bool = False
) -> Tensor:
    """Fill with what `draw` gives: number after number, or all `at_once` where that is not the same."""
    source = random.next_key() if generator is None else generator
    if tensor.device == "shapes" and not isinstance(source, tuple):
        kept = copy.deepcopy(source)
        for _ in _drawn(tensor.shape, draw, settings, source, at_once):
            pass  # what this generator gives next comes after what it would have given now
        source = partial(copy.deepcopy, kept)
    return _fill(tensor, _draws, draw, settings, source, at_once)


def _draws(array: Array, draw: Draw, settings: tuple[float, ...], source: Any, at_once: bool) -> None:
    """Write numbers from a source: a generator, a function that makes one, or the parts of its key."""
    at_once = at_once or not array.flags.c_contiguous
    out = array if at_once else array.reshape(-1)
    for place, numbers in _drawn(array.shape, draw, settings, source, at_once):
        given(out[place], numbers)


def _drawn(
    shape: tuple[int, ...], draw: Draw, settings: tuple[float, ...], source: Any, at_once: bool
) -> Iterator[tuple[Any, Any]]:
    """Numbers, and their places in an array of this shape: flat ones, a block at a time, unless `at_once`."""
    if isinstance(source, tuple):
        source = random.generator(*source)
    elif callable(source):
        source = source()
    if at_once:
        yield ..., draw(source, shape, *settings)
        return
    size = math.prod(shape)
    for start in range(0, size, BLOCK):
        count = min(BLOCK, size - start)
        yield slice(start, start + count), draw(source, count, *settings)


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

    `generator` is, here and below, one of NumPy's, or the parts of a key: for `random.generator`.
    """
    return _draw(tensor, _normal, (mean, std), generator)


def _normal(source: numpy.random.Generator, size: Any, mean: float, std: float) -> Any:
    return source.normal(mean, std, size)


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, *, generator: Any = None) -> Tensor:
    """Fill with uniform numbers in [a, b)."""
    return _draw(tensor, _uniform, (a, b), generator)


def _uniform(source: numpy.random.Generator, size: Any, a: float, b: float) -> Any:
    return source.uniform(a, b, size)


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
    return _draw(tensor, _truncated, (mean, std, a, b), generator, at_once=True)


def _truncated(
    source: numpy.random.Generator, shape: Any, mean: float, std: float, a: float, b: float
) -> Any:
    from scipy.stats import truncnorm

    low, high = (a - mean) / std, (b - mean) / std
    return truncnorm.ppf(source.uniform(size=shape), low, high, loc=mean, scale=std)


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
    return _fill(tensor, _identity)


def _identity(array: Array) -> None:
    given(array, numpy.eye(*array.shape))


def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """Fill a convolution's weight so that channels pass through as they are, in each group."""
    if not 3 <= tensor.ndim <= 5 or groups < 1 or tensor.shape[0] % groups:
        raise ShapeError(f"dirac_: expected a convolution's weight in {groups} groups, got {tensor.shape}")
    return _fill(tensor, _passing, groups)


def _passing(array: Array, groups: int) -> None:
    array[...] = 0.0
    outer, inner = array.shape[0] // groups, array.shape[1]
    middle = tuple(n // 2 for n in array.shape[2:])
    for group in range(groups):
        for channel in range(min(outer, inner)):
            array[(group * outer + channel, channel, *middle)] = 1.0


def orthogonal_(tensor: Tensor, gain: float = 1.0, *, generator: Any = None) -> Tensor:
    """Fill with orthonormal rows (or columns, where there are fewer of these), times `gain`.

    The first axis are the rows, all others together the columns. Paper: Saxe et al. 2014, Exact Solutions to
    the Nonlinear Dynamics of Learning.
    """
    if tensor.ndim < 2:
        raise ShapeError(f"orthogonal_: expected at least two axes, got shape {tensor.shape}")
    return _draw(tensor, _orthogonal, (gain,), generator, at_once=True)


def _orthogonal(source: numpy.random.Generator, shape: tuple[int, ...], gain: float) -> Any:
    rows, columns = shape[0], math.prod(shape[1:])
    tall = source.normal(size=(max(rows, columns), min(rows, columns)))
    q, r = numpy.linalg.qr(tall)
    q = q * numpy.where(numpy.diag(r) < 0, -1.0, 1.0)  # otherwise not uniform over the rotations
    return gain * (q if rows >= columns else q.T).reshape(shape)


def sparse_(tensor: Tensor, sparsity: float, std: float = 0.01, *, generator: Any = None) -> Tensor:
    """Fill a matrix with normal numbers, a share `sparsity` of each column (rounded up) being 0.

    Paper: Martens 2010, Deep Learning via Hessian-free Optimization, §5.
    """
    if tensor.ndim != 2 or not 0.0 <= sparsity <= 1.0:
        raise ShapeError(f"sparse_: expected a matrix and a share, got {tensor.shape} and {sparsity}")
    return _draw(tensor, _sparse, (sparsity, std), generator, at_once=True)


def _sparse(source: numpy.random.Generator, shape: tuple[int, int], sparsity: float, std: float) -> Any:
    values = source.normal(0.0, std, shape)
    for column in range(shape[1]):
        values[source.permutation(shape[0])[: math.ceil(sparsity * shape[0])], column] = 0.0
    return values
