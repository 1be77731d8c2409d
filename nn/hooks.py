"""Functions that run before and after a module's forward."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minigrad.nn.module import Module

BeforeForward = Callable[["Module", tuple[Any, ...]], Any]
AfterForward = Callable[["Module", tuple[Any, ...], Any], Any]

_numbers = itertools.count()


class Hooks:
    """The hooks of one module, each kind in the order of registration. A copy of the module calls the same
    ones.
    """

    def __init__(self) -> None:
        self.before: dict[int, BeforeForward] = {}
        self.after: dict[int, AfterForward] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Hooks:
        twin = Hooks()
        twin.before, twin.after = dict(self.before), dict(self.after)
        return twin

    def run(
        self,
        module: Module,
        inputs: tuple[Any, ...],
        keywords: dict[str, Any],
        forward: Callable[..., Any] | None = None,
    ) -> Any:
        """The module's forward, or what stands in for it here, with its hooks around it."""
        for before in list(self.before.values()):
            changed = before(module, inputs)
            if changed is not None:
                inputs = changed if isinstance(changed, tuple) else (changed,)
        output = (forward or module.forward)(*inputs, **keywords)
        for after in list(self.after.values()):
            changed = after(module, inputs, output)
            if changed is not None:
                output = changed
        return output


class Handle:
    """What registering a hook returns. `remove()` takes the hook away; a second time it does nothing."""

    def __init__(self, hooks: dict[int, Any], hook: Any) -> None:
        self.hooks, self.number = hooks, next(_numbers)
        hooks[self.number] = hook

    def remove(self) -> None:
        self.hooks.pop(self.number, None)
