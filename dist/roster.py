"""What has to stay as it is while a model is wrapped, and fast ways to see that it does."""

from collections.abc import Sequence
from itertools import chain
from operator import is_

from minigrad import mutation
from minigrad.dist.verbs import Array
from minigrad.errors import GraphError, UsageError
from minigrad.graph import Node
from minigrad.nn.module import Module, Parameter


class Roster:
    """The parameters that a module has now, and which of them are trained.

    One that is frozen, unfrozen or moved gets another leaf, of which whoever sums gradients knows nothing.
    """

    def __init__(self, module: Module) -> None:
        self.module = module
        self.parameters = list(module.parameters())
        self._leaves = [(parameter, parameter.node) for parameter in self.parameters]
        self._look()

    def _look(self) -> None:
        self._inside = [vars(module) for module in self.module.modules()]
        self._seen, self._held = self._identities(), self._found()

    def _identities(self) -> list[int]:
        """Of all that the modules hold: the same as before wherever nothing was assigned."""
        return [*map(id, chain.from_iterable(map(dict.values, self._inside)))]

    def _found(self) -> list[Module | Parameter]:
        """What the modules hold now, in their order. Another module may bring other parameters."""
        values = chain.from_iterable(map(dict.values, self._inside))
        return [value for value in values if isinstance(value, (Module, Parameter))]

    def check(self, where: str) -> None:
        """Raises UsageError if parameters came, went, were replaced or moved, or are trained no more."""
        for parameter, leaf in self._leaves:
            if parameter.node is not leaf:
                self._refuse(where, parameter)
        seen, self._seen = self._seen, self._identities()
        if seen == self._seen:
            return
        found = self._found()
        if len(found) == len(self._held) and all(map(is_, found, self._held)):
            return
        now = list(self.module.parameters())
        if list(map(id, now)) != list(map(id, self.parameters)):
            raise UsageError(
                f"{where}: the module had {len(self.parameters)} parameters when it was wrapped, and has "
                f"{len(now)} now, or others; wrap it when it is complete"
            )
        self._look()

    def _refuse(self, where: str, changed: Parameter) -> None:
        names = {id(parameter): name for name, parameter in self.module.named_parameters()}
        name = names.get(id(changed), "a parameter")
        raise UsageError(
            f"{where}: {name} was frozen, unfrozen or moved after the module was wrapped, and its gradient "
            "would not be summed over ranks; move a model and choose what is trained first, then build the "
            "optimizer and wrap it"
        )


class Seal:
    """Notices writes into arrays of a model (or what they are slices of) that others are to overwrite.

    A write is what `minigrad.mutation` was told of: `assign`, `load_state_dict` and the like.
    """

    def __init__(self, arrays: Sequence[Array]) -> None:
        bases = [getattr(array, "base", None) for array in arrays]
        wholes = [array if base is None else base for array, base in zip(arrays, bases, strict=True)]
        self.arrays = list({id(whole): whole for whole in wholes}.values())  # fewer to look through
        self.renew()

    def renew(self) -> None:
        """From now on."""
        self._sealed = Node(None, (), self.arrays, {}, (), None)

    def check(self, where: str) -> None:
        """Raises UsageError where somebody wrote into an array since."""
        try:
            mutation.check(self._sealed)
        except GraphError:
            raise UsageError(
                f"{where}: parameters were written to, which the next step would undo: the values that count "
                "are the optimizer's master copy, or a delayed update's; write (or load a state) in "
                "`with zero.gathered():`"
            ) from None
