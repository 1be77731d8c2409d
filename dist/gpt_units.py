"""The units of a GPT at stage 3: blocks, or what is in a block where a model has few of them."""

from minigrad.nn.gpt import GPT, Block
from minigrad.nn.module import Module

FEW = 8  # blocks; two neighbours of them are a quarter of the model


def gpt_units(model: GPT, *, recompute: bool) -> list[list[Module]]:
    """Groups of modules in the order of their use, for `ZeRO(units=...)`.

    Two neighbours are whole at a time, so a block that is more than an eighth of the model is cut: into its
    four pairs of a matrix and what stands beside it. What `recompute` runs again all at once comes in no more
    than two units, as more would be gathered twice.
    """
    units: list[list[Module]] = []
    most = entries(model) / FEW
    for block in model.h:
        if type(block) is not Block or entries(block) <= most:  # others may use what is within by themselves
            units.append([block])
        elif recompute:
            units += [[block.ln_1, block.attn], [block.ln_2, block.mlp]]
        else:
            units += [[block.ln_1, block.attn.c_attn], [block.attn.c_proj, block.ln_2]]
            units += [[block.mlp.c_fc], [block.mlp.c_proj]]
    return units


def unit_sizes(model: GPT, *, recompute: bool) -> tuple[int, ...]:
    """The entries of the root unit, and of each of these."""
    sizes = [sum(map(entries, unit)) for unit in gpt_units(model, recompute=recompute)]
    return entries(model) - sum(sizes), *sizes


def entries(module: Module) -> int:
    """The entries of a module's parameters, of each once."""
    return sum(parameter.size for parameter in module.parameters())
