"""What an optimizer is given: parameters, alike and each once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from minigrad.errors import UsageError
from minigrad.nn.module import Module
from minigrad.nn.parameter import Parameter
from minigrad.tensor import Tensor


class OwnPart(Iterator[Any]):
    """The parameters of this rank's part of a model, whose other parts are trained by other ranks.

    An optimizer over them may have none, and its step may find no gradient, since all may be elsewhere.
    `walked()` says whether there was a backward walk at all.
    """

    def __init__(self, parameters: Iterable[Any], walked: Callable[[], bool]) -> None:
        self.walked, self._rest = walked, iter(parameters)

    def __next__(self) -> Any:
        return next(self._rest)

    @staticmethod
    def among(params: Any, given: Iterable[Any]) -> OwnPart | None:
        """What an optimizer was given, or one of its groups, if it is such a part."""
        several = [params, *(one.get("params") for one in given if isinstance(one, Mapping))]
        return next((one for one in several if isinstance(one, OwnPart)), None)


def check_some(parameters: Sequence[Parameter], part: OwnPart | None) -> None:
    """Raise UsageError for none, unless it is a part of a model that has none."""
    if not parameters and part is None:
        raise UsageError(
            "an optimizer needs at least one parameter, and got none; where a rank of a pipeline may have "
            "none to train, give pipeline.parameters() as it is, not a list made of it"
        )


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
