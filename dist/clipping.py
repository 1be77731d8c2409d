"""Clipping the gradients of a model whose parameters are spread over the ranks of one or more worlds."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from minigrad import backend
from minigrad.dist.verbs import Array
from minigrad.dist.world import World
from minigrad.nn.module import Parameter
from minigrad.nn.utils import clip_coefficient, whole_gradients


def clip(
    parameters: Iterable[Parameter],
    counted: Callable[[Parameter], bool],
    max_norm: float,
    worlds: Sequence[World],
    *,
    namespace: Any = None,
) -> Array:
    """Scale gradients in place so that their 2-norm over all ranks of `worlds`, the axes of a mesh, is at
    most `max_norm`. One that is not finite leaves them as they are.

    Returns the norm before: 0-d, float64, the same on all ranks. `counted` says which of them this rank
    counts; `namespace` is that of a rank without gradients (the host's unless given).
    """
    gradients = whole_gradients(parameters)
    xp = namespace
    if xp is None:
        xp = backend.namespace(gradients[0][1]) if gradients else backend.host
    total = xp.zeros(1, dtype="float64")
    for parameter, gradient in gradients:
        if counted(parameter):
            wide = gradient.reshape(-1).astype("float64")
            total += xp.vecdot(wide, wide)
    for world in worlds:
        world.all_reduce(total, purpose="control")
    norm = xp.sqrt(total.reshape(()))
    coefficient = clip_coefficient(norm, max_norm)
    for _, gradient in gradients:
        gradient *= coefficient.astype(gradient.dtype)
    return norm
