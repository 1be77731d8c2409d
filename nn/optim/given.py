"""What an optimizer is given: parameters, alike and each once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from minigrad.errors import UsageError
from minigrad.nn.module import Module
from minigrad.nn.parameter import Parameter
from minigrad.tensor import Tensor


def listed(params: Any) -> list[Any]:
    """Parameters (or groups of them) as they were given, in a list."""
    if isinstance(params, Tensor):
        return [params]
    if isinstance(params, (Module, Mapping)) or not isinstance(params, Iterable):
        raise UsageError(
            f"an optimizer takes parameters, or a list of groups, and got a {type(params).__name__}; give it "
            "model.parameters()"
        )
    return list(params)


def check_once(parameters: Sequence[Parameter]) -> None:
    """Raise UsageError where one appears twice."""
    places = {id(p): place for place, p in enumerate(parameters)}  # the last of each
    for place, p in enumerate(parameters):
        if places[id(p)] != place:
            raise UsageError(
                f"a parameter of shape {p.shape} appears twice, as number {place} and {places[id(p)]}; give "
                "each to one group, once"
            )


def check_alike(parameters: Sequence[Parameter]) -> None:
    """Raise UsageError unless all share dtype and device."""
    kinds = {(p.dtype, p.device) for p in parameters}
    if len(kinds) > 1:
        raise UsageError(f"parameters of one optimizer share dtype and device; got {sorted(map(str, kinds))}")
