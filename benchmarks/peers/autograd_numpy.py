"""autograd (HIPS), written as its users write: NumPy functions and `value_and_grad`; Adam is the floor's."""

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import autograd.numpy as anp
from autograd import value_and_grad
from autograd.scipy.special import logsumexp

from benchmarks.peers.numpy_adam import NumpyAdam
from benchmarks.peers.step import Step, by_workload, in_turn
from benchmarks.workloads import GPT, MLP, Adam, Floats, Overhead

DESCRIPTION = f"autograd {version('autograd')}, the floor's Adam"


def cross_entropy(logits: Any, targets: Any) -> Any:
    """Mean over rows."""
    picked = logits[anp.arange(len(targets)), targets]
    return anp.mean(logsumexp(logits, axis=1) - picked)


def trainer(loss: Callable[..., Any], values: dict[str, Floats], data: list[Any], settings: Adam) -> Step:
    """Loss, gradients, Adam."""
    adam = NumpyAdam(values, settings)
    differentiate = value_and_grad(loss)
    batches = in_turn(data)

    def run() -> float:
        inputs, targets = next(batches)
        value, gradients = differentiate(adam.parameters, inputs, targets)
        adam.step(gradients)
        return float(value)

    return Step(run, lambda: adam.gradients)


def mlp(workload: MLP) -> Step:
    """The perceptron."""
    layers = len(workload.widths) - 1

    def loss(p: Any, x: Any, labels: Any) -> Any:
        for layer in range(layers):
            x = anp.dot(x, p[f"layers.{layer}.weight"].T) + p[f"layers.{layer}.bias"]
            if layer < layers - 1:
                x = anp.maximum(x, 0)
        return cross_entropy(x, labels)

    return trainer(loss, workload.parameters(), workload.data(), workload.adam)


def gpt(workload: GPT) -> Step:
    """The transformer; rows are kept flat, since autograd's 3-D products are slow."""
    heads, width = workload.heads, workload.width
    mask = anp.triu(anp.full((workload.context, workload.context), -anp.inf, "float32"), 1)

    def norm(x: Any, gain: Any, bias: Any) -> Any:
        centred = x - anp.mean(x, axis=-1, keepdims=True)
        variance = anp.mean(centred * centred, axis=-1, keepdims=True)
        return centred / anp.sqrt(variance + workload.epsilon) * gain + bias

    def loss(p: Any, tokens: Any, targets: Any) -> Any:
        batch, time = tokens.shape
        x = p["token_embedding.weight"][tokens] + p["position_embedding.weight"]
        x = anp.reshape(x, (batch * time, width))
        for layer in range(workload.layers):
            name = f"blocks.{layer}."
            h = norm(x, p[name + "norm1.weight"], p[name + "norm1.bias"])
            qkv = anp.dot(h, p[name + "attention.qkv.weight"].T) + p[name + "attention.qkv.bias"]
            qkv = anp.transpose(anp.reshape(qkv, (batch, time, 3, heads, width // heads)), (2, 0, 3, 1, 4))
            scores = anp.matmul(qkv[0] * (width // heads) ** -0.5, anp.swapaxes(qkv[1], -1, -2)) + mask
            weights = anp.exp(scores - anp.max(scores, axis=-1, keepdims=True))
            weights = weights / anp.sum(weights, axis=-1, keepdims=True)
            mixed = anp.transpose(anp.matmul(weights, qkv[2]), (0, 2, 1, 3))
            mixed = anp.reshape(mixed, (batch * time, width))
            projection = name + "attention.projection."
            x = x + anp.dot(mixed, p[projection + "weight"].T) + p[projection + "bias"]
            h = norm(x, p[name + "norm2.weight"], p[name + "norm2.bias"])
            h = anp.dot(h, p[name + "mlp.expand.weight"].T) + p[name + "mlp.expand.bias"]
            h = 0.5 * h * (1 + anp.tanh(0.7978845608 * (h + 0.044715 * h * h * h)))
            x = x + anp.dot(h, p[name + "mlp.projection.weight"].T) + p[name + "mlp.projection.bias"]
        x = norm(x, p["norm.weight"], p["norm.bias"])
        return cross_entropy(anp.dot(x, p["token_embedding.weight"].T), anp.reshape(targets, -1))

    return trainer(loss, workload.parameters(), workload.data(), workload.adam)


def overhead(workload: Overhead) -> Step:
    """The chain."""

    def chain(x: Any) -> Any:
        for _ in range(workload.repeats):
            x = anp.tanh(x * workload.factor + workload.shift)
        return anp.sum(x)

    differentiate = value_and_grad(chain)
    start = workload.start()
    return Step(lambda: float(differentiate(start)[0]))


build = by_workload(mlp=mlp, gpt=gpt, overhead=overhead)
