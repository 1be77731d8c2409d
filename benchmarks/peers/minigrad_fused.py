"""minigrad as its users write it: `nn` modules, `nn.optim.AdamW` without decay, freed memory kept."""

from collections.abc import Mapping
from typing import Any

import numpy as np

import minigrad as mg
from benchmarks.peers.step import Step, by_workload, in_turn
from benchmarks.workloads import GPT, MLP, Adam, Floats, Overhead
from minigrad import nn

mg.keep_freed_memory()
DESCRIPTION = f"minigrad {mg.__version__}, NumPy {np.__version__}, fused operations, keep_freed_memory()"


def fill(module: nn.Module, values: Mapping[str, Floats]) -> None:
    """Give a module the workload's first parameters, which come in the order in which it declares its own."""
    names = [name for name, _ in module.named_parameters()]
    module.load_state_dict(dict(zip(names, values.values(), strict=True)))


def train(
    module: nn.Module, values: Mapping[str, Floats], settings: Adam, data: list[Any], loss: Any
) -> Step:
    """Loss, backward, optimizer; `loss(inputs, targets)` is a Tensor."""
    fill(module, values)
    parameters = list(module.parameters())
    optimizer = nn.optim.AdamW(
        parameters,
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        weight_decay=0.0,
    )
    batches = in_turn(data)

    def run() -> float:
        inputs, targets = next(batches)
        value = loss(inputs, targets)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        return float(value.item())

    def gradients() -> dict[str, Floats]:
        pairs = zip(values, parameters, strict=True)
        return {name: parameter.grad.numpy() for name, parameter in pairs if parameter.grad is not None}

    return Step(run, gradients)


def mlp(workload: MLP) -> Step:
    """The perceptron."""
    layers: list[nn.Module] = []
    for inputs, outputs in zip(workload.widths[:-1], workload.widths[1:], strict=True):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    module = nn.Sequential(*layers[:-1])

    def loss(inputs: Floats, labels: Any) -> mg.Tensor:
        return nn.functional.cross_entropy(module(mg.tensor(inputs)), labels)

    return train(module, workload.parameters(), workload.adam, workload.data(), loss)


def gpt(workload: GPT) -> Step:
    """The transformer: nn.GPT."""
    config = nn.GPTConfig(
        vocabulary=workload.vocabulary,
        context=workload.context,
        layers=workload.layers,
        heads=workload.heads,
        width=workload.width,
    )
    module = nn.GPT(config, dtype="float32")
    return train(module, workload.parameters(), workload.adam, workload.data(), module.loss)


def overhead(workload: Overhead) -> Step:
    """The chain, with Python numbers as its constants."""
    leaf = mg.tensor(workload.start(), requires_grad=True)

    def run() -> float:
        leaf.zero_grad()
        x = leaf
        for _ in range(workload.repeats):
            x = mg.tanh(x * workload.factor + workload.shift)
        total = x.sum()
        total.backward()
        return float(total.item())

    return Step(run)


build = by_workload(mlp, gpt, overhead)
