"""torch, eager, on the CPU: scaled_dot_product_attention, tanh GELU, Adam with `fused=True`."""

from collections.abc import Iterable

import numpy as np
import torch
from torch.nn import functional

from benchmarks.peers.step import Step, by_workload, in_turn
from benchmarks.workloads import GPT, MLP, Adam, Floats, Overhead

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


def mlp(workload: MLP) -> Step:
    """The perceptron."""
    parameters = leaves(workload.parameters())
    optimizer = adam(parameters.values(), workload.adam)
    batches = in_turn([(torch.from_numpy(x), torch.from_numpy(y)) for x, y in workload.data()])
    layers = len(workload.widths) - 1

    def run() -> float:
        x, labels = next(batches)
        for layer in range(layers):
            x = functional.linear(x, parameters[f"layers.{layer}.weight"], parameters[f"layers.{layer}.bias"])
            if layer < layers - 1:
                x = torch.relu(x)
        loss = functional.cross_entropy(x, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return Step(run, lambda: gradients(parameters))


def logits_of(workload: GPT, p: dict[str, torch.Tensor], tokens: torch.Tensor) -> torch.Tensor:
    """The transformer, (batch, time) tokens to (batch, time, vocabulary) logits."""
    batch, time = tokens.shape
    width, heads, epsilon = workload.width, workload.heads, workload.epsilon
    x = functional.embedding(tokens, p["token_embedding.weight"]) + p["position_embedding.weight"]
    for layer in range(workload.layers):
        name = f"blocks.{layer}."
        h = functional.layer_norm(x, (width,), p[name + "norm1.weight"], p[name + "norm1.bias"], epsilon)
        qkv = functional.linear(h, p[name + "attention.qkv.weight"], p[name + "attention.qkv.bias"])
        q, k, v = qkv.view(batch, time, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        mixed = mixed.transpose(1, 2).reshape(batch, time, width)
        projection = name + "attention.projection."
        x = x + functional.linear(mixed, p[projection + "weight"], p[projection + "bias"])
        h = functional.layer_norm(x, (width,), p[name + "norm2.weight"], p[name + "norm2.bias"], epsilon)
        h = functional.linear(h, p[name + "mlp.expand.weight"], p[name + "mlp.expand.bias"])
        h = functional.gelu(h, approximate="tanh")
        x = x + functional.linear(h, p[name + "mlp.projection.weight"], p[name + "mlp.projection.bias"])
    x = functional.layer_norm(x, (width,), p["norm.weight"], p["norm.bias"], epsilon)
    return functional.linear(x, p["token_embedding.weight"])


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


build = by_workload(mlp, gpt, overhead)
