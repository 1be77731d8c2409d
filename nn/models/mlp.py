"""Multi-layer perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import chain, pairwise
from operator import attrgetter
from typing import Any

from minigrad.errors import UsageError
from minigrad.nn.containers import Sequential
from minigrad.nn.layers import Dropout, Flatten, Linear, ReLU
from minigrad.nn.location import MISFITS
from minigrad.nn.module import Module
from minigrad.ops import perceptron

FEW = 128
"""How many samples run as one operation: the work on more of them dwarfs what that saves."""

_weight_and_bias = attrgetter("weight", "bias")
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
        values = tuple(vars(self).values())
        plain = _plain(tuple(map(type, values)))
        if plain is not None:
            modules = values[plain]
            rows = x if x.ndim == 2 else modules[0](x)
            if rows.shape[0] <= FEW and all(map(_undisturbed, map(vars, modules))):
                layers = chain.from_iterable(map(_weight_and_bias, modules[1::2]))
                rectified = (True,) * (len(modules) // 2 - 1) + (False,)
                try:
                    return perceptron(rows, *layers, rectified=rectified)
                except MISFITS:
                    pass  # the layer that minds says so itself, and where it is
        return super().forward(x)


@cache
def _plain(kinds: tuple[type, ...]) -> slice | None:
    """Where among a module's attributes of these classes its modules are, if they are what `perceptron` runs
    (and of no classes that are derived from those).
    """
    places = [place for place, kind in enumerate(kinds) if issubclass(kind, Module)]
    modules = kinds[places[0] : places[-1] + 1] if places else ()
    if (
        modules[:1] == (Flatten,)
        and set(modules[1::2]) == {Linear}
        and set(modules[2::2]) <= {ReLU}
        and modules[-1] is Linear
    ):
        return slice(places[0], places[-1] + 1)
    return None
