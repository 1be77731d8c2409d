"""The layers that a transformer is made of, with torch's arguments, defaults and parameter names."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Sequence
from typing import Any

from minigrad.errors import UsageError
from minigrad.graph import state
from minigrad.nn import functional, init
from minigrad.nn.module import Module, Parameter
from minigrad.ops import creation
from minigrad.tensor import Tensor


def new_parameter(shape: Sequence[int], *, dtype: Any, device: str | None) -> Parameter:
    """A parameter of zeros, to be filled."""
    return Parameter(creation.zeros(shape, dtype=dtype or state.default_dtype, device=device))


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
        if in_features < 1 or out_features < 0:
            raise UsageError(f"Linear({in_features}, {out_features}): sizes must be positive")
        self.in_features, self.out_features = in_features, out_features
        self.weight = new_parameter((out_features, in_features), dtype=dtype, device=device)
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        self.bias: Parameter | None = None
        if bias:
            self.bias = new_parameter((out_features,), dtype=dtype, device=device)
            init.uniform_(self.bias, -1 / math.sqrt(in_features), 1 / math.sqrt(in_features))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)


class Embedding(Module):
    """A table of vectors. Parameter: weight (num_embeddings, embedding_dim); input: integers of any shape."""

    def __init__(
        self, num_embeddings: int, embedding_dim: int, *, device: str | None = None, dtype: Any = None
    ) -> None:
        self.num_embeddings, self.embedding_dim = num_embeddings, embedding_dim
        self.weight = new_parameter((num_embeddings, embedding_dim), dtype=dtype, device=device)
        init.normal_(self.weight)

    def forward(self, indices: Any) -> Tensor:
        return functional.embedding(indices, self.weight)


class LayerNorm(Module):
    """Normalise over the last axes. Parameters: weight and bias of shape `normalized_shape`."""

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.normalized_shape, self.eps = shape, eps
        self.weight: Parameter | None = None
        self.bias: Parameter | None = None
        if elementwise_affine:
            self.weight = new_parameter(shape, dtype=dtype, device=device)
            init.ones_(self.weight)
            if bias:
                self.bias = new_parameter(shape, dtype=dtype, device=device)

    def forward(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class _Numbers(threading.local):
    def __init__(self) -> None:
        self.next = itertools.count().__next__


_numbers = _Numbers()


class Dropout(Module):
    """Zero entries at random while training.

    `stream` names this layer's random numbers. By default it is the number of the layer in the order this
    thread made them, the same on all ranks that build the same model; a model that ranks build in parts
    should name them itself.
    """

    def __init__(self, p: float = 0.5, *, stream: str | None = None) -> None:
        if not 0.0 <= p <= 1.0:
            raise UsageError(f"dropout probability must lie between 0 and 1, got {p}")
        self.p = p
        self.stream = f"dropout {_numbers.next()}" if stream is None else stream

    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.p, self.training, stream=self.stream)


class ReLU(Module):
    """max(x, 0)"""

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x)


class Tanh(Module):
    """tanh x"""

    def forward(self, x: Tensor) -> Tensor:
        return functional.tanh(x)


class GELU(Module):
    """x · Φ(x); approximate="tanh" for the form that GPT-2 uses."""

    def __init__(self, approximate: str = "none") -> None:
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        return functional.gelu(x, approximate=self.approximate)
