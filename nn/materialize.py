"""A model that was built of shapes only gets its values: here, or piece by piece by whoever shares it out."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from minigrad import backend
from minigrad.errors import UsageError
from minigrad.nn.parameter import ModuleTensor, Start

if TYPE_CHECKING:
    from minigrad.nn.module import Module

Target = TypeVar("Target", bound="Module | ModuleTensor")


def materialize(target: Target, *, device: str = "cpu") -> Target:
    """Give what has shapes only the values with which it begins, on a device. Returns the same object.

    They are those, to the bit, with which it would have been built there; what has values keeps them.
    Parameters stay the same objects, so ties and optimizers stay right. Raises as `unfilled`.

    >>> from minigrad import nn
    >>> model = nn.Linear(2000, 3000, device="shapes")  # holds nothing
    >>> materialize(model.bias).shape, model.weight.device
    ((3000,), 'shapes')
    """
    xp = backend.of_device(device)
    for tensor, start in unfilled(target, device=device).values():
        with xp.on(device):
            array = xp.empty(tensor.shape, dtype=tensor.dtype)
        start.fill(array)
        tensor.data, tensor.start = array, None
    return target


def unfilled(target: Module | ModuleTensor, *, device: str = "cpu") -> dict[str, tuple[ModuleTensor, Start]]:
    """The parameters and buffers that have shapes only and are to have values on a device, by name, and how
    they begin. On "shapes" none has.

    Raises UsageError, naming it, for one of which nobody said so; DeviceError where there is no such device.
    """
    if backend.of_device(device).name == "shapes":
        return {}
    if isinstance(target, ModuleTensor):
        named = {type(target).__name__: target}
    else:
        named = dict[str, ModuleTensor]([*target.named_parameters(), *target.named_buffers()])
    found = {name: tensor for name, tensor in named.items() if tensor.device == "shapes"}
    known = {name: (tensor, tensor.start) for name, tensor in found.items() if tensor.start is not None}
    unknown = [name for name in found if name not in known]
    if unknown:
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        raise UsageError(
            f"cannot fill {', '.join(unknown[:3])}{more}: nobody said with which values to begin; use a "
            "function of nn.init, or parameter.assign(values)"
        )
    return known
