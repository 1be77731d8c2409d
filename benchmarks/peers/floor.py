"""The floor, what an engine can hope to reach: each workload by hand in plain NumPy, buffers made once."""

import numpy as np
from scipy.sparse import csr_array

from benchmarks.peers.floor_blocks import Stack
from benchmarks.peers.floor_convnet import convnet
from benchmarks.peers.floor_lstm import lstm
from benchmarks.peers.floor_vit import vit
from benchmarks.peers.kernels import (
    FlatAdam,
    Scratch,
    cross_entropy,
    empty,
    flat_views,
    linear,
    linear_gradients,
    norm_backward,
    norm_forward,
)
from benchmarks.peers.step import Step, by_workload, in_turn, trained
from benchmarks.workloads import GPT, MLP, Floats, Integers, Overhead

DESCRIPTION = f"plain NumPy {np.__version__} by hand (SciPy for the gradient of the embedding)"


def mlp(workload: MLP) -> Step:
    """The perceptron: activations and cotangents in buffers, relu in place."""
    flat, parameters = flat_views(workload.parameters())
    flat_gradients, gradients = flat_views(parameters)
    scratch = Scratch()
    adam = FlatAdam(flat, flat_gradients, workload.adam, scratch)
    batches = in_turn(workload.data())
    layers = len(workload.widths) - 1
    activations = [empty(workload.batch, width) for width in workload.widths[1:]]
    cotangents = [empty(workload.batch, width) for width in workload.widths[1:-1]]
    positive = [np.empty((workload.batch, width), bool) for width in workload.widths[1:-1]]

    def run() -> float:
        inputs, labels = next(batches)
        x = inputs
        for layer, out in enumerate(activations):
            linear(x, parameters[f"layers.{layer}.weight"], parameters[f"layers.{layer}.bias"], out)
            if layer < layers - 1:
                np.maximum(out, 0.0, out=out)
            x = out
        loss = cross_entropy(x, labels)
        cotangent = x
        for layer in reversed(range(layers)):
            x = activations[layer - 1] if layer else inputs
            name = f"layers.{layer}"
            linear_gradients(x, cotangent, gradients[f"{name}.weight"], gradients[f"{name}.bias"])
            if layer:
                below = cotangents[layer - 1]
                np.matmul(cotangent, parameters[f"{name}.weight"], out=below)
                np.greater(x, 0.0, out=positive[layer - 1])
                np.multiply(below, positive[layer - 1], out=below)
                cotangent = below
        adam.step()
        return loss

    return Step(run, lambda: gradients)


class Model(Stack):
    """The whole GPT: embeddings, blocks, tied head."""

    def __init__(self, workload: GPT) -> None:
        super().__init__(workload)
        rows, width = self.stream.shape
        self.normal, self.scale, self.last = empty(rows, width), empty(rows), empty(rows, width)
        self.logits = empty(rows, workload.vocabulary)
        self.epsilon = workload.epsilon

    def loss_and_gradients(self, tokens: Integers, targets: Integers) -> float:
        """Mean cross-entropy; gradients of all parameters are left in the flat buffer."""
        p, g, stream, cotangent = self.parameters, self.gradients, self.stream, self.cotangent
        token_weight, position_weight = p["token_embedding.weight"], p["position_embedding.weight"]
        np.take(token_weight, tokens.reshape(-1), axis=0, out=stream, mode="clip")
        np.add(stream.reshape(self.batched), position_weight, out=stream.reshape(self.batched))
        self.forward()
        gain, bias = p["norm.weight"], p["norm.bias"]
        norm_forward(stream, gain, bias, self.epsilon, self.normal, self.scale, self.last)
        np.matmul(self.last, token_weight.T, out=self.logits)
        loss = cross_entropy(self.logits, targets.reshape(-1))
        np.matmul(self.logits.T, self.last, out=g["token_embedding.weight"])
        np.matmul(self.logits, token_weight, out=self.narrow)
        cotangent[:] = 0
        norm_backward(
            self.narrow,
            self.normal,
            self.scale,
            gain,
            g["norm.weight"],
            g["norm.bias"],
            self.scratch,
            cotangent,
        )
        self.backward()
        np.add.reduce(cotangent.reshape(self.batched), axis=0, out=g["position_embedding.weight"])
        add_rows(g["token_embedding.weight"], tokens.reshape(-1), cotangent)
        return loss


def add_rows(table: Floats, indices: Integers, rows: Floats) -> None:
    """table[indices[i]] += rows[i], as a sparse 0/1 matrix times `rows`: 10 times faster than NumPy alone."""
    count = len(indices)
    pick = csr_array((np.ones(count, np.float32), indices, np.arange(count + 1)), shape=(count, len(table)))
    np.add(table, pick.T @ rows, out=table)


def gpt(workload: GPT) -> Step:
    """The transformer."""
    return trained(Model(workload), workload)


def overhead(workload: Overhead) -> Step:
    """The chain with outputs kept in one table: two ufuncs and tanh forward, their derivatives backward."""
    start = workload.start()
    outputs = empty(workload.repeats, *start.shape)
    rows = list(outputs)
    factor, shift, one = np.float32(workload.factor), np.float32(workload.shift), np.float32(1.0)
    constants = [np.asarray(value) for value in (factor, shift, one)]
    gradient, work = empty(*start.shape), empty(*start.shape)

    def run() -> float:
        multiply, add, tanh, subtract = np.multiply, np.add, np.tanh, np.subtract
        by, plus, unit = constants
        x = start
        for row in rows:
            multiply(x, by, row)
            add(row, plus, row)
            tanh(row, row)
            x = row
        total = float(np.add.reduce(x))
        gradient.fill(1.0)
        for row in reversed(rows):
            multiply(row, row, work)
            subtract(unit, work, work)
            multiply(gradient, work, gradient)
            multiply(gradient, by, gradient)
        return total

    return Step(run, lambda: {"start": gradient})


build = by_workload(mlp=mlp, gpt=gpt, overhead=overhead, convnet=convnet, lstm=lstm, vit=vit)
