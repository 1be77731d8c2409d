"""Tensor parallelism: every rank has a part of every large matrix, and all ranks work on every token.

    model = tensor_parallel(GPT(config), mesh.axis("tensor"))
    loss = model.loss(tokens, targets)      # the same on all ranks of that axis
    loss.backward()

What needs no plan is a GPT. For another model, a plan says by names what becomes of its modules:

    tensor_parallel(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 8)), world,
                    plan={"0": ColumnParallelLinear, "2": RowParallelLinear})

Shoeybi et al. 2019, Megatron-LM: Training Multi-Billion Parameter Language Models Using Model Parallelism.
"""

import hashlib
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from minigrad import backend
from minigrad.dist.algorithms import LIBRARY
from minigrad.dist.tensor_parallel_gpt import ParallelGPT
from minigrad.dist.tensor_parallel_layers import ColumnParallelLinear, RowParallelLinear
from minigrad.dist.tensor_parallel_layout import layouts_of, with_boxes
from minigrad.dist.tensor_parallel_region import Region
from minigrad.dist.tensor_parallel_trial import try_plan
from minigrad.dist.world import World
from minigrad.errors import CommunicationError, UsageError
from minigrad.graph import mode
from minigrad.nn.gpt import GPT
from minigrad.nn.module import Module

__all__ = [
    "ColumnParallelLinear",
    "ParallelGPT",
    "Plan",
    "Region",
    "RowParallelLinear",
    "layouts_of",
    "tensor_parallel",
    "with_boxes",
]

Plan = Mapping[str, Callable[[Any, Region], Module]]
"""From names of modules (`*` stands for anything) to what makes their parallel form of them, in a region."""


def tensor_parallel(
    model: Module,
    world: World,
    *,
    plan: Plan | None = None,
    example: Any = None,
    sequence: bool = False,
    algorithm: str = LIBRARY,
) -> Any:
    """This rank's part of a model that is the same on all ranks of `world`.

    A GPT is copied; a `plan` replaces modules of the model itself. Parameters that are cut are ParameterParts
    then, which know the box of the whole that they are; their names stay.

    plan        for models other than a GPT; a column-parallel layer begins a region, a row-parallel one ends
                it, and what is between acts on each feature by itself. It is tried first, on a copy with
                other weights: its outputs and gradients have to be those of the whole model. (A model that
                has shapes only is taken at its word)
    example     a small input of the whole model, or a tuple of several, to try a plan with; needed where the
                first layer is neither linear nor an embedding. With token shares, a rank's part of axis 1
                goes in, but integers go in whole
    sequence    share out the tokens between regions, where norms and dropout are: fewer activations, as many
                bytes moved
    algorithm   of the collectives: "library", or one of minigrad's own

    >>> from minigrad import dist
    >>> from minigrad.nn.gpt import GPTConfig
    >>> def main(world):
    ...     model = tensor_parallel(GPT(GPTConfig(vocabulary=5, layers=1, heads=3, width=6)), world)
    ...     return model.wte.weight.shape, model.h[0].attn.c_attn.weight.shape
    >>> dist.spawn(main, ranks=2)
    [((3, 6), (12, 6)), ((2, 6), (6, 6))]

    Raises UsageError for a model without a plan, for names in a plan that the model has not, and for a plan
    that would make another model, naming its entries, before the model is touched; CommunicationError where
    ranks have different models.
    """
    region = Region(world, sequence, algorithm)
    _check_same(model, world)
    if plan is None:
        if not isinstance(model, GPT):
            raise UsageError(
                f"tensor_parallel knows what to do with a GPT, and got a {type(model).__name__}; give a plan "
                'of its modules, such as plan={"0": ColumnParallelLinear, "2": RowParallelLinear}'
            )
        return ParallelGPT(model, region)
    entries = _entries(model, plan)

    def carry_out(model: Module) -> None:
        modules = dict(model.named_modules())
        for name, pattern in entries.items():
            parent, _, own = name.rpartition(".")
            try:
                made = plan[pattern](modules[name], region)
            except (AttributeError, TypeError) as error:
                kind = type(modules[name]).__name__
                raise UsageError(
                    f"{world.name}: the plan's {pattern!r} can make nothing of {name}, a {kind}: {error}"
                ) from error
            setattr(model.get_submodule(parent), own, made.train(modules[name].training))

    if world.size > 1 and not any(p.device == "shapes" for p in model.parameters()):
        with mode(recording=True):
            try_plan(model, carry_out, entries, region, example)
    carry_out(model)
    return model


def _entries(model: Module, plan: Plan) -> dict[str, str]:
    """The entry of the plan for each module, by its name. Raises UsageError for one that is for none."""
    modules = dict(model.named_modules())
    entries = {}
    for pattern in plan:
        names = [name for name in modules if name and fnmatchcase(name, pattern)]
        if not names:
            raise UsageError(
                f"the plan names {pattern!r}, and the model has no such module; it has "
                f"{', '.join(name for name in modules if name)}"
            )
        entries.update(dict.fromkeys(names, pattern))
    return entries


def _check_same(model: Module, world: World) -> None:
    """Compare the values of all ranks' parameters by their hashes. Raises CommunicationError."""
    if world.size == 1 or any(p.device == "shapes" for p in model.parameters()):
        return
    found = hashlib.blake2b(digest_size=8)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        found.update(f"{name} {tensor.shape} {tensor.dtype}".encode())
        found.update(np.ascontiguousarray(backend.namespace(tensor.data).to_host(tensor.data)).data.cast("B"))
    own = np.frombuffer(found.digest(), dtype=np.int64)
    every = np.empty(world.size, dtype=np.int64)
    world.all_gather(own, every, purpose="control")
    for rank, other in enumerate(every):
        if other != every[0]:
            raise CommunicationError(
                f"{world.name}: the model of rank {rank} of this world is not that of rank 0; build the same "
                "on all ranks, from one seed"
            )
