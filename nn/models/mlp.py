"""Multi-layer perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

from minigrad.errors import UsageError
from minigrad.nn.containers import Sequential
from minigrad.nn.layers import Dropout, Flatten, Linear, ReLU
from minigrad.nn.location import MISFITS
from minigrad.nn.module import Module
from minigrad.ops import perceptron

FEW = 128
"""How many samples run as one operation: the work on more of them dwarfs what that saves."""

_undisturbed = frozenset({"_hooks", "forward"}).isdisjoint  # of what a module has that others have not


class MLP(Sequential):
    """Linear layers of these sizes, an activation (and dropout) between them: x (N, ...) → (N, sizes[-1]).

    `activation` is a class of module, made anew for each place. All behind the batch axis is flattened first.

    With ReLU and without dropout, the layers run a small batch as one operation (`ops.perceptron`), unless
    one of them has hooks or was replaced by another kind of module.
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

    def forward(self, x: Any) -> Any:
        modules = [module for module in vars(self).values() if isinstance(module, Module)]
        rows = x if x.ndim == 2 else modules[0](x)
        few = rows.shape[0] <= FEW
        if few and _plain(tuple(map(type, modules))) and all(map(_undisturbed, map(vars, modules))):
            layers: list[Any] = []
            for layer in modules[1::2]:
                assert isinstance(layer, Linear)
                layers += (layer.weight, layer.bias)
            rectified = (True,) * (len(modules) // 2 - 1) + (False,)
            try:
                return perceptron(rows, *layers, rectified=rectified)
            except MISFITS:
                pass  # the layer that minds says so itself, and where it is
        return super().forward(x)


@cache
def _plain(kinds: tuple[type, ...]) -> bool:
    """Whether modules of these classes, and of none that is derived from them, are what `perceptron` runs."""
    return (
        kinds[:1] == (Flatten,)
        and set(kinds[1::2]) == {Linear}
        and set(kinds[2::2]) <= {ReLU}
        and kinds[-1] is Linear
    )
