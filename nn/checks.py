"""What is wrong between a model, its gradients and its optimizer, said before a step hides it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minigrad.errors import UsageError
from minigrad.nn.module import Module

if TYPE_CHECKING:
    from minigrad.nn.optim.optimizer import Optimizer


def check_step(model: Module, optimizer: Optimizer) -> None:
    """Raise UsageError unless `optimizer` can learn all that `model` has to learn, by a step taken now.

    That is: every parameter that requires a gradient has one, and belongs to the optimizer (one that was
    added to the model later does not), and the optimizer's parameters are all in the model. As in torch, a
    step passes over what has no gradient and knows nothing of what it was not given: to be called once,
    between the first backward and the first step.
    """
    own = {id(parameter): name for name, parameter in model.named_parameters()}
    known = {id(parameter) for parameter in optimizer.parameters}
    learned = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    foreign = [name for name, p in learned if id(p) not in known]
    if foreign:
        raise UsageError(
            f"{_paths(model, foreign)}: not among the {len(known)} parameters of this {_kind(optimizer)}; "
            "build the optimizer after the whole model, or give them to it by add_param_group"
        )
    strange = [tuple(p.shape) for p in optimizer.parameters if id(p) not in own]
    if strange:
        raise UsageError(
            f"this {_kind(optimizer)} has {len(strange)} parameter(s) that are not in this "
            f"{type(model).__name__}, the first of shape {strange[0]}; build it from model.parameters()"
        )
    without = [name for name, p in learned if p.grad is None]
    if without:
        raise UsageError(
            f"{_paths(model, without)}: no gradient among {len(learned)} learned parameters; call backward() "
            "on a loss that they enter, or freeze them by requires_grad_(False)"
        )
    if not learned:
        raise UsageError(
            f"{type(model).__name__} has no parameter that requires a gradient; expected at least one, see "
            "requires_grad_()"
        )


def _kind(optimizer: Optimizer) -> str:
    return type(optimizer).__name__


def _paths(model: Module, names: list[str]) -> str:
    """The first of these parameters with shape and layer, and how many more there are."""
    name = names[0]
    path, _, last = name.rpartition(".")
    layer = model.get_submodule(path)
    shape = getattr(layer, last).shape if hasattr(layer, last) else ()
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{name} ({type(layer).__name__}, {shape}){more}"
