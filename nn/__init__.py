"""Modules, layers, losses, optimizers and models, under torch's names."""

from minigrad.nn import functional, init, lr_scheduler, optim, utils
from minigrad.nn.gpt import GPT, GPTConfig
from minigrad.nn.layers import GELU, Dropout, Embedding, LayerNorm, Linear, ReLU, Tanh
from minigrad.nn.module import Buffer, Module, ModuleList, Parameter, Sequential

__all__ = [
    "GELU",
    "GPT",
    "Buffer",
    "Dropout",
    "Embedding",
    "GPTConfig",
    "LayerNorm",
    "Linear",
    "Module",
    "ModuleList",
    "Parameter",
    "ReLU",
    "Sequential",
    "Tanh",
    "functional",
    "init",
    "lr_scheduler",
    "optim",
    "utils",
]
