"""MyGrad with memory guarding off (its advice for speed); Adam is the floor's."""

from collections.abc import Callable
from typing import Any

import mygrad
import numpy as np
from mygrad.nnet.activations import relu, softmax
from mygrad.nnet.losses import softmax_crossentropy

from benchmarks.peers.numpy_adam import NumpyAdam
from benchmarks.peers.step import Step, by_workload, in_turn
from benchmarks.workloads import GPT, MLP, Adam, Floats, Overhead

mygrad.turn_memory_guarding_off()
DESCRIPTION = f"MyGrad {mygrad.__version__}, memory guarding off, the floor's Adam"


def trainer(loss: Callable[..., Any], values: dict[str, Floats], data: list[Any], settings: Adam) -> Step:
    """Loss, backward, Adam."""
    adam = NumpyAdam(values, settings)
    batches = in_turn(data)

    def run() -> float:
        leaves = {name: mygrad.tensor(view, copy=False) for name, view in adam.parameters.items()}
        value = loss(leaves, *next(batches))
        value.backward()
        adam.step({name: leaf.grad for name, leaf in leaves.items()})
        return float(value.item())

    return Step(run, lambda: adam.gradients)


def mlp(workload: MLP) -> Step:
    """The perceptron."""
    layers = len(workload.widths) - 1

    def loss(p: Any, x: Any, labels: Any) -> Any:
        for layer in range(layers):
            x = mygrad.matmul(x, p[f"layers.{layer}.weight"].T) + p[f"layers.{layer}.bias"]
            if layer < layers - 1:
                x = relu(x)
        return softmax_crossentropy(x, labels)

    return trainer(loss, workload.parameters(), workload.data(), workload.adam)


def gpt(workload: GPT) -> Step:
    """The transformer."""
    heads, width = workload.heads, workload.width
    mask = np.triu(np.full((workload.context, workload.context), -np.inf, np.float32), 1)

    def norm(x: Any, gain: Any, bias: Any) -> Any:
        centred = x - mygrad.mean(x, axis=-1, keepdims=True)
        variance = mygrad.mean(centred * centred, axis=-1, keepdims=True)
        return centred / mygrad.sqrt(variance + workload.epsilon) * gain + bias

    def loss(p: Any, tokens: Any, targets: Any) -> Any:
        batch, time = tokens.shape
        x = p["token_embedding.weight"][tokens] + p["position_embedding.weight"]
        x = x.reshape(batch * time, width)
        for layer in range(workload.layers):
            name = f"blocks.{layer}."
            h = norm(x, p[name + "norm1.weight"], p[name + "norm1.bias"])
            qkv = mygrad.matmul(h, p[name + "attention.qkv.weight"].T) + p[name + "attention.qkv.bias"]
            qkv = qkv.reshape(batch, time, 3, heads, width // heads).transpose(2, 0, 3, 1, 4)
            scores = mygrad.matmul(qkv[0] * (width // heads) ** -0.5, mygrad.swapaxes(qkv[1], -1, -2)) + mask
            mixed = mygrad.matmul(softmax(scores), qkv[2]).transpose(0, 2, 1, 3).reshape(batch * time, width)
            projection = name + "attention.projection."
            x = x + mygrad.matmul(mixed, p[projection + "weight"].T) + p[projection + "bias"]
            h = norm(x, p[name + "norm2.weight"], p[name + "norm2.bias"])
            h = mygrad.matmul(h, p[name + "mlp.expand.weight"].T) + p[name + "mlp.expand.bias"]
            h = 0.5 * h * (1 + mygrad.tanh(0.7978845608 * (h + 0.044715 * h * h * h)))
            x = x + mygrad.matmul(h, p[name + "mlp.projection.weight"].T) + p[name + "mlp.projection.bias"]
        x = norm(x, p["norm.weight"], p["norm.bias"])
        logits = mygrad.matmul(x, p["token_embedding.weight"].T)
        return softmax_crossentropy(logits, targets.reshape(-1))

    return trainer(loss, workload.parameters(), workload.data(), workload.adam)


def overhead(workload: Overhead) -> Step:
    """The chain."""
    start = workload.start()

    def run() -> float:
        x = leaf = mygrad.tensor(start)
        for _ in range(workload.repeats):
            x = mygrad.tanh(x * workload.factor + workload.shift)
        total = x.sum()
        total.backward()
        leaf.null_grad()
        return float(total.item())

    return Step(run)


build = by_workload(mlp=mlp, gpt=gpt, overhead=overhead)
