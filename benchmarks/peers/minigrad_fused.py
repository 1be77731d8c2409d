"""minigrad as its users write it: `nn` modules, `nn.optim.AdamW` without decay, freed memory kept."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

import minigrad as mg
from benchmarks.peers.step import Step, by_workload, in_turn
from benchmarks.products import choose
from benchmarks.workloads import GPT, LSTM, MLP, Adam, Convnet, Floats, Overhead, ViT
from minigrad import nn
from minigrad.nn import layers, models

mg.keep_freed_memory()
PRODUCTS = choose()
DESCRIPTION = (
    f"minigrad {mg.__version__}, NumPy {np.__version__}, fused operations, keep_freed_memory(){PRODUCTS}"
)


def fill(module: nn.Module, values: Mapping[str, Floats]) -> None:
    """Give a module the workload's first parameters, which come in the order in which it declares its own."""
    names = [name for name, _ in module.named_parameters()]
    module.load_state_dict(dict(zip(names, values.values(), strict=True)))


def adam(parameters: Iterable[nn.Parameter], settings: Adam) -> nn.optim.Optimizer:
    """AdamW with the workload's settings and no decay."""
    return nn.optim.AdamW(
        parameters,
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        weight_decay=0.0,
    )


def train(
    module: nn.Module, values: Mapping[str, Floats], settings: Adam, data: list[Any], loss: Any
) -> Step:
    """Loss, backward, optimizer; `loss(inputs, targets)` is a Tensor."""
    fill(module, values)
    parameters = list(module.parameters())
    optimizer = adam(parameters, settings)
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


def classifier(module: nn.Module, workload: MLP | Convnet | LSTM | ViT) -> Step:
    """A module from inputs to logits, under softmax cross-entropy."""

    def loss(inputs: Floats, labels: Any) -> mg.Tensor:
        return nn.functional.cross_entropy(module(mg.tensor(inputs)), labels)

    return train(module, workload.parameters(), workload.adam, workload.data(), loss)


def perceptron(workload: MLP) -> nn.Module:
    """nn.models.MLP with the workload's first parameters."""
    module = models.MLP(workload.widths)
    fill(module, workload.parameters())
    return module


def mlp(workload: MLP) -> Step:
    """The perceptron."""
    return classifier(perceptron(workload), workload)


def transformer(workload: GPT) -> nn.GPT:
    """nn.GPT with the workload's first parameters."""
    config = nn.GPTConfig(
        vocabulary=workload.vocabulary,
        context=workload.context,
        layers=workload.layers,
        heads=workload.heads,
        width=workload.width,
    )
    module = nn.GPT(config, dtype="float32")
    fill(module, workload.parameters())
    return module


def gpt(workload: GPT) -> Step:
    """The transformer."""
    module = transformer(workload)
    return train(module, workload.parameters(), workload.adam, workload.data(), module.loss)


def convnet(workload: Convnet) -> Step:
    """The convolutional network."""
    first, second = workload.channels
    module = nn.Sequential(
        layers.Conv2d(1, first, 3, padding=1),
        nn.ReLU(),
        layers.Conv2d(first, second, 3, stride=2, padding=1),
        nn.ReLU(),
        layers.Flatten(),
        nn.Linear(second * workload.reduced**2, workload.classes),
    )
    return classifier(module, workload)


class LastState(nn.Module):
    """An LSTM and a linear layer on its last hidden state."""

    def __init__(self, workload: LSTM) -> None:
        self.lstm = layers.LSTM(workload.inputs, workload.hidden)
        self.head = nn.Linear(workload.hidden, workload.classes)

    def forward(self, x: mg.Tensor) -> mg.Tensor:
        _, (hidden, _) = self.lstm(x)
        out: mg.Tensor = self.head(hidden[-1])
        return out


def lstm(workload: LSTM) -> Step:
    """The recurrent network."""
    return classifier(LastState(workload), workload)


def vit(workload: ViT) -> Step:
    """The vision transformer: nn.models.ViT."""
    module = models.ViT(
        workload.image,
        workload.patch,
        workload.layers,
        workload.heads,
        workload.width,
        4 * workload.width,
        num_classes=workload.classes,
        channels=workload.channels,
    )
    return classifier(module, workload)


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


build = by_workload(mlp=mlp, gpt=gpt, overhead=overhead, convnet=convnet, lstm=lstm, vit=vit)
