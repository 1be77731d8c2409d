"""A module as a function of its inputs and parameters, for the gradient sweep."""

from collections.abc import Callable
from typing import Any

import numpy as np

from minigrad import nn, random
from minigrad.tensor import Tensor


def with_parameters(module: nn.Module, inputs: int = 1) -> tuple[Callable[..., Any], list[np.ndarray]]:
    """(x..., parameters...) ↦ module(x...), and where its parameters are now.

    Masks are the same at every call. No output may depend on buffers that the module changes.
    """
    named = list(module.named_parameters())

    def function(*values: Tensor) -> Any:
        for (path, _), value in zip(named, values[inputs:], strict=True):
            parent, _, name = path.rpartition(".")
            object.__setattr__(module.get_submodule(parent), name, value)
        try:
            with random.scope(seed=0, step=0, samples=range(values[0].shape[0])):
                return module(*values[:inputs])
        finally:
            for path, parameter in named:
                parent, _, name = path.rpartition(".")
                object.__setattr__(module.get_submodule(parent), name, parameter)

    return function, [parameter.numpy().copy() for _, parameter in named]
