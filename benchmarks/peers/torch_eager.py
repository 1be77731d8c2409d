"""torch, eager, on the CPU: scaled_dot_product_attention, tanh GELU, Adam with `fused=True`."""

from collections.abc import Callable, Iterable
from typing import TypeAlias

import numpy as np
import torch
from torch.nn import functional

from benchmarks.peers.step import Step, by_workload, in_turn
from benchmarks.workloads import GPT, LSTM, MLP, Adam, Convnet, Floats, Overhead, ViT

torch.set_num_threads(1)
DESCRIPTION = f"torch {torch.__version__} eager, SDPA, Adam(fused=True)"


def leaves(values: dict[str, Floats]) -> dict[str, torch.Tensor]:
    """A copy of the parameters as leaves."""
    return {name: torch.from_numpy(value.copy()).requires_grad_() for name, value in values.items()}


def adam(parameters: Iterable[torch.Tensor], settings: Adam) -> torch.optim.Optimizer:
    """torch's Adam with the workload's settings."""
    return torch.optim.Adam(
        list(parameters),
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        fused=True,
    )


def gradients(parameters: dict[str, torch.Tensor]) -> dict[str, Floats]:
    """Gradients by name."""
    found = {}
    for name, value in parameters.items():
        if value.grad is not None:
            found[name] = np.asarray(value.grad.numpy())
    return found


Logits: TypeAlias = Callable[[dict[str, torch.Tensor], torch.Tensor], torch.Tensor]


def classifier(workload: MLP | Convnet | LSTM | ViT, logits: Logits) -> Step:
    """Softmax cross-entropy of `logits(parameters, inputs)`, backward, Adam."""
    parameters = leaves(workload.parameters())
    optimizer = adam(parameters.values(), workload.adam)
    batches = in_turn([(torch.from_numpy(x), torch.from_numpy(y)) for x, y in workload.data()])

    def run() -> float:
        inputs, labels = next(batches)
        loss = functional.cross_entropy(logits(parameters, inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return Step(run, lambda: gradients(parameters))


def mlp(workload: MLP) -> Step:
    """The perceptron."""
    layers = len(workload.widths) - 1

    def logits(p: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        for layer in range(layers):
            x = functional.linear(x, p[f"layers.{layer}.weight"], p[f"layers.{layer}.bias"])
            if layer < layers - 1:
                x = torch.relu(x)
        return x

    return classifier(workload, logits)


def logits_of(workload: GPT, p: dict[str, torch.Tensor], tokens: torch.Tensor) -> torch.Tensor:
    """The transformer, (batch, time) tokens to (batch, time, vocabulary) logits."""
    x = functional.embedding(tokens, p["token_embedding.weight"]) + p["position_embedding.weight"]
    x = transformer(workload, p, x, causal=True, approximate="tanh")
    return functional.linear(x, p["token_embedding.weight"])


def transformer(
    workload: GPT | ViT, p: dict[str, torch.Tensor], x: torch.Tensor, *, causal: bool, approximate: str
) -> torch.Tensor:
    """Pre-norm blocks and the norm behind them, on (batch, time, width)."""
    batch, time, width = x.shape
    heads, epsilon = workload.heads, workload.epsilon
    for layer in range(workload.layers):
        name = f"blocks.{layer}."
        h = functional.layer_norm(x, (width,), p[name + "norm1.weight"], p[name + "norm1.bias"], epsilon)
        qkv = functional.linear(h, p[name + "attention.qkv.weight"], p[name + "attention.qkv.bias"])
        q, k, v = qkv.view(batch, time, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
        mixed = mixed.transpose(1, 2).reshape(batch, time, width)
        projection = name + "attention.projection."
        x = x + functional.linear(mixed, p[projection + "weight"], p[projection + "bias"])
        h = functional.layer_norm(x, (width,), p[name + "norm2.weight"], p[name + "norm2.bias"], epsilon)
        h = functional.linear(h, p[name + "mlp.expand.weight"], p[name + "mlp.expand.bias"])
        h = functional.gelu(h, approximate=approximate)
        x = x + functional.linear(h, p[name + "mlp.projection.weight"], p[name + "mlp.projection.bias"])
    return functional.layer_norm(x, (width,), p["norm.weight"], p["norm.bias"], epsilon)


def gpt(workload: GPT) -> Step:
    """The transformer."""
    parameters = leaves(workload.parameters())
    optimizer = adam(parameters.values(), workload.adam)
    batches = in_turn([(torch.from_numpy(x), torch.from_numpy(y)) for x, y in workload.data()])

    def run() -> float:
        tokens, targets = next(batches)
        logits = logits_of(workload, parameters, tokens)
        loss = functional.cross_entropy(logits.view(-1, workload.vocabulary), targets.view(-1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return Step(run, lambda: gradients(parameters))


def convnet(workload: Convnet) -> Step:
    """The convolutional network."""

    def logits(p: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(functional.conv2d(x, p["conv1.weight"], p["conv1.bias"], padding=1))
        x = torch.relu(functional.conv2d(x, p["conv2.weight"], p["conv2.bias"], stride=2, padding=1))
        return functional.linear(x.flatten(1), p["linear.weight"], p["linear.bias"])

    return classifier(workload, logits)


def lstm(workload: LSTM) -> Step:
    """The recurrent network, by torch.lstm, which nn.LSTM calls."""

    def logits(p: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        start = torch.zeros(1, x.shape[1], workload.hidden)
        weights = [value for name, value in p.items() if name.startswith("lstm.")]
        _, hidden, _ = torch.lstm(x, (start, start), weights, True, 1, 0.0, True, False, False)
        return functional.linear(hidden[-1], p["head.weight"], p["head.bias"])

    return classifier(workload, logits)


def vit(workload: ViT) -> Step:
    """The vision transformer."""

    def logits(p: dict[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
        x = functional.conv2d(images, p["patch.weight"], p["patch.bias"], stride=workload.patch)
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([p["class_token"].expand(len(x), 1, workload.width), x], 1) + p["position"]
        x = transformer(workload, p, x, causal=False, approximate="none")
        return functional.linear(x[:, 0], p["head.weight"], p["head.bias"])

    return classifier(workload, logits)


def overhead(workload: Overhead) -> Step:
    """The chain, with Python numbers as its constants."""
    leaf = torch.from_numpy(workload.start().copy()).requires_grad_()

    def run() -> float:
        leaf.grad = None
        x = leaf
        for _ in range(workload.repeats):
            x = (x * workload.factor + workload.shift).tanh()
        total = x.sum()
        total.backward()
        return total.item()

    return Step(run, lambda: gradients({"start": leaf}))


build = by_workload(mlp=mlp, gpt=gpt, overhead=overhead, convnet=convnet, lstm=lstm, vit=vit)
