"""The floor, what an engine can hope to reach: each workload by hand in plain NumPy, buffers made once."""

import numpy as np
from scipy.sparse import csr_array

from benchmarks.peers.attention import Attention, AttentionWork
from benchmarks.peers.kernels import (
    FlatAdam,
    Scratch,
    cross_entropy,
    flat_views,
    gelu_forward,
    linear,
    linear_gradients,
    norm_backward,
    norm_forward,
)
from benchmarks.peers.step import Step, by_workload, in_turn
from benchmarks.workloads import GPT, MLP, Floats, Integers, Overhead

DESCRIPTION = f"plain NumPy {np.__version__} by hand (SciPy for the gradient of the embedding)"


def empty(*shape: int) -> Floats:
    """An uninitialised float32 buffer."""
    return np.empty(shape, np.float32)


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


class Block:
    """One transformer block: what it keeps from forward to backward, and both passes."""

    def __init__(self, workload: GPT, name: str, values: "Model") -> None:
        rows, width = workload.batch * workload.context, workload.width
        self.values = values
        self.parameters = {
            key.removeprefix(name): value for key, value in values.parameters.items() if key.startswith(name)
        }
        self.gradients = {
            key.removeprefix(name): value for key, value in values.gradients.items() if key.startswith(name)
        }
        self.epsilon = workload.epsilon
        self.normal1, self.normal2 = empty(rows, width), empty(rows, width)
        self.scale1, self.scale2 = empty(rows), empty(rows)
        self.input1, self.input2 = empty(rows, width), empty(rows, width)
        self.qkv, self.mixed = empty(rows, 3 * width), empty(rows, width)
        self.slope, self.hidden = empty(rows, 4 * width), empty(rows, 4 * width)
        self.attention = Attention(workload.batch, workload.heads, workload.context, values.attention_work)
        heads = (workload.heads, width // workload.heads)
        self.packed = (workload.batch, workload.context, 3, *heads)
        self.apart = (workload.batch, workload.context, *heads)

    def forward(self, x: Floats) -> None:
        """Adds attention and perceptron to the residual stream x (rows, width)."""
        p, step = self.parameters, self.values.narrow
        norm_forward(
            x, p["norm1.weight"], p["norm1.bias"], self.epsilon, self.normal1, self.scale1, self.input1
        )
        linear(self.input1, p["attention.qkv.weight"], p["attention.qkv.bias"], self.qkv)
        self.attention.forward(self.qkv.reshape(self.packed), self.mixed.reshape(self.apart))
        linear(self.mixed, p["attention.projection.weight"], p["attention.projection.bias"], step)
        np.add(x, step, out=x)
        norm_forward(
            x, p["norm2.weight"], p["norm2.bias"], self.epsilon, self.normal2, self.scale2, self.input2
        )
        linear(self.input2, p["mlp.expand.weight"], p["mlp.expand.bias"], self.slope)
        gelu_forward(self.slope, self.hidden, self.values.scratch)
        linear(self.hidden, p["mlp.projection.weight"], p["mlp.projection.bias"], step)
        np.add(x, step, out=x)

    def backward(self, cotangent: Floats) -> None:
        """Turns the cotangent of the block's output into that of its input, in place."""
        p, g, v = self.parameters, self.gradients, self.values
        linear_gradients(self.hidden, cotangent, g["mlp.projection.weight"], g["mlp.projection.bias"])
        np.matmul(cotangent, p["mlp.projection.weight"], out=v.wide)
        np.multiply(v.wide, self.slope, out=v.wide)
        linear_gradients(self.input2, v.wide, g["mlp.expand.weight"], g["mlp.expand.bias"])
        np.matmul(v.wide, p["mlp.expand.weight"], out=v.narrow)
        norm_backward(
            v.narrow,
            self.normal2,
            self.scale2,
            p["norm2.weight"],
            g["norm2.weight"],
            g["norm2.bias"],
            v.scratch,
            cotangent,
        )
        linear_gradients(
            self.mixed, cotangent, g["attention.projection.weight"], g["attention.projection.bias"]
        )
        np.matmul(cotangent, p["attention.projection.weight"], out=v.narrow)
        self.attention.backward(
            self.qkv.reshape(self.packed),
            self.mixed.reshape(self.apart),
            v.narrow.reshape(self.apart),
            v.three.reshape(self.packed),
        )
        linear_gradients(self.input1, v.three, g["attention.qkv.weight"], g["attention.qkv.bias"])
        np.matmul(v.three, p["attention.qkv.weight"], out=v.narrow)
        norm_backward(
            v.narrow,
            self.normal1,
            self.scale1,
            p["norm1.weight"],
            g["norm1.weight"],
            g["norm1.bias"],
            v.scratch,
            cotangent,
        )


class Model:
    """The whole GPT: embeddings, blocks, tied head, and the buffers that blocks use one after another."""

    def __init__(self, workload: GPT) -> None:
        rows, width = workload.batch * workload.context, workload.width
        self.flat, self.parameters = flat_views(workload.parameters())
        self.flat_gradients, self.gradients = flat_views(self.parameters)
        self.scratch = Scratch()
        self.attention_work = AttentionWork(workload.heads, workload.context, width // workload.heads)
        self.narrow = empty(rows, width)
        # The two wide cotangents are never alive together.
        self.wide = empty(rows, 4 * width)
        self.three = self.wide.reshape(-1)[: rows * 3 * width].reshape(rows, 3 * width)
        self.stream, self.cotangent = empty(rows, width), empty(rows, width)
        self.normal, self.scale, self.last = empty(rows, width), empty(rows), empty(rows, width)
        self.logits = empty(rows, workload.vocabulary)
        self.workload = workload
        self.blocks = [Block(workload, f"blocks.{layer}.", self) for layer in range(workload.layers)]

    def loss_and_gradients(self, tokens: Integers, targets: Integers) -> float:
        """Mean cross-entropy; gradients of all parameters are left in the flat buffer."""
        p, g, stream, cotangent = self.parameters, self.gradients, self.stream, self.cotangent
        token_weight, position_weight = p["token_embedding.weight"], p["position_embedding.weight"]
        batched = (*tokens.shape, self.workload.width)
        np.take(token_weight, tokens.reshape(-1), axis=0, out=stream, mode="clip")
        np.add(stream.reshape(batched), position_weight, out=stream.reshape(batched))
        for block in self.blocks:
            block.forward(stream)
        gain, bias = p["norm.weight"], p["norm.bias"]
        norm_forward(stream, gain, bias, self.workload.epsilon, self.normal, self.scale, self.last)
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
        for block in reversed(self.blocks):
            block.backward(cotangent)
        np.add.reduce(cotangent.reshape(batched), axis=0, out=g["position_embedding.weight"])
        add_rows(g["token_embedding.weight"], tokens.reshape(-1), cotangent)
        return loss


def add_rows(table: Floats, indices: Integers, rows: Floats) -> None:
    """table[indices[i]] += rows[i], as a sparse 0/1 matrix times `rows`: 10 times faster than NumPy alone."""
    count = len(indices)
    pick = csr_array((np.ones(count, np.float32), indices, np.arange(count + 1)), shape=(count, len(table)))
    np.add(table, pick.T @ rows, out=table)


def gpt(workload: GPT) -> Step:
    """The transformer."""
    model = Model(workload)
    adam = FlatAdam(model.flat, model.flat_gradients, workload.adam, model.scratch)
    batches = in_turn(workload.data())

    def run() -> float:
        loss = model.loss_and_gradients(*next(batches))
        adam.step()
        return loss

    return Step(run, lambda: model.gradients)


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


build = by_workload(mlp, gpt, overhead)
