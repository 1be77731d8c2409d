"""Multi-layer perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from minigrad.errors import UsageError
from minigrad.nn.containers import Sequential
from minigrad.nn.layers import Dropout, Flatten, Linear, ReLU
from minigrad.nn.module import Module


class MLP(Sequential):
    """Linear layers of these sizes, an activation (and dropout) between them: x (N, ...) → (N, sizes[-1]).

    `activation` is a class of module, made anew for each place. All behind the batch axis is flattened first.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        activation: type[Module] = ReLU,
        dropout: float = 0.0,
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        if len(sizes) < 2:
            raise UsageError(f"MLP: expected at least the sizes of input and output, got {list(sizes)}")
        modules: list[Module] = [Flatten()]
        for number, (inputs, outputs) in enumerate(pairwise(sizes), 2):
            modules.append(Linear(inputs, outputs, device=device, dtype=dtype))
            if number < len(sizes):
                modules.append(activation())
                if dropout:
                    modules.append(Dropout(dropout))
        super().__init__(*modules)
