"""Affine layers, and the parameters that layers start with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from minigrad.errors import UsageError
from minigrad.graph import state
from minigrad.nn import functional, init
from minigrad.nn.functional.arguments import flags, refuse, sizes, whole
from minigrad.nn.module import Module, Parameter
from minigrad.ops import creation, linear
from minigrad.tensor import Tensor


def new_parameter(shape: Sequence[int], *, dtype: Any, device: str | None) -> Parameter:
    """A parameter of zeros, to be filled."""
    return Parameter(creation.zeros(shape, dtype=dtype or state.default_dtype, device=device))


class Identity(Module):
    """x. Arguments of any kind are ignored."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        pass

    def forward(self, x: Any) -> Any:
        return x


class Linear(Module):
    """y = x Wᵀ + b. Parameters: weight (out_features, in_features), bias (out_features,)."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        (self.in_features,) = whole(self, in_features=in_features)
        (self.out_features,) = whole(self, 0, out_features=out_features)
        flags(self, bias=bias)
        shape = (self.out_features, self.in_features)
        self.weight = new_parameter(shape, dtype=dtype, device=device)
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        self.bias: Parameter | None = None
        if bias:
            self.bias = new_parameter(shape[:1], dtype=dtype, device=device)
            init.uniform_(self.bias, -1 / math.sqrt(in_features), 1 / math.sqrt(in_features))

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        )


class Bilinear(Module):
    """y_k = x₁ᵀ W_k x₂ + b_k. Parameters: weight (out, in1, in2), bias (out,)."""

    def __init__(
        self,
        in1_features: int,
        in2_features: int,
        out_features: int,
        bias: bool = True,
        *,
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        shape = whole(self, out_features=out_features, in1_features=in1_features, in2_features=in2_features)
        flags(self, bias=bias)
        self.out_features, self.in1_features, self.in2_features = shape
        bound = 1 / math.sqrt(in1_features)
        self.weight = new_parameter(shape, dtype=dtype, device=device)
        init.uniform_(self.weight, -bound, bound)
        self.bias: Parameter | None = None
        if bias:
            self.bias = new_parameter(shape[:1], dtype=dtype, device=device)
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input1: Tensor, input2: Tensor) -> Tensor:
        return functional.bilinear(input1, input2, self.weight, self.bias)

    def extra_repr(self) -> str:
        return (
            f"in1_features={self.in1_features}, in2_features={self.in2_features}, "
            f"out_features={self.out_features}, bias={self.bias is not None}"
        )


class Flatten(Module):
    """Axes from `start_dim` to `end_dim` become one."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        self.start_dim, self.end_dim = whole(self, None, start_dim=start_dim, end_dim=end_dim)

    def forward(self, x: Tensor) -> Tensor:
        start, end = (d % max(x.ndim, 1) for d in (self.start_dim, self.end_dim))
        size = math.prod(x.shape[start : end + 1])
        return x.reshape(*x.shape[:start], size, *x.shape[end + 1 :])

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Module):
    """Axis `dim` becomes several, of sizes `unflattened_size`; one of them may be -1."""

    def __init__(self, dim: int, unflattened_size: Sequence[int]) -> None:
        (self.dim,) = whole(self, None, dim=dim)
        (self.unflattened_size,) = sizes(self, None, -1, unflattened_size=unflattened_size)
        if self.unflattened_size.count(-1) > 1:
            refuse(self, "unflattened_size", unflattened_size, "at most one -1, the size that is left over")

    def forward(self, x: Tensor) -> Tensor:
        place, parts = self.dim % x.ndim, self.unflattened_size
        known = math.prod(n for n in parts if n != -1)
        fits = x.shape[place] % known == 0 if -1 in parts and known else x.shape[place] == known
        if not fits:
            raise UsageError(f"Unflatten: axis {self.dim} of {x.shape} does not come apart into {parts}")
        parts = tuple(x.shape[place] // known if n == -1 else n for n in parts)
        return x.reshape(*x.shape[:place], *parts, *x.shape[place + 1 :])

    def extra_repr(self) -> str:
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"
