"""The floor's transformer: pre-norm blocks over flat rows, and buffers that they use one after another."""

import numpy as np

from benchmarks.peers.attention import Attention, AttentionWork
from benchmarks.peers.kernels import (
    FlatAdam,
    Scratch,
    empty,
    exact_gelu_forward,
    flat_views,
    gelu_forward,
    linear,
    linear_gradients,
    norm_backward,
    norm_forward,
)
from benchmarks.workloads import GPT, Floats, ViT


class Block:
    """One transformer block: what it keeps from forward to backward, and both passes."""

    def __init__(self, workload: GPT | ViT, name: str, values: "Stack") -> None:
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
        self.values.gelu(self.slope, self.hidden, self.values.scratch)
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


class Stack:
    """All blocks of a model, its parameters and gradients in flat arrays, and buffers that blocks share."""

    def __init__(self, workload: GPT | ViT) -> None:
        rows, width = workload.batch * workload.context, workload.width
        causal = isinstance(workload, GPT)
        self.flat, self.parameters = flat_views(workload.parameters())
        self.flat_gradients, self.gradients = flat_views(self.parameters)
        self.scratch = Scratch()
        self.adam = FlatAdam(self.flat, self.flat_gradients, workload.adam, self.scratch)
        self.gelu = gelu_forward if causal else exact_gelu_forward
        self.attention_work = AttentionWork(workload.heads, workload.context, width // workload.heads, causal)
        self.narrow = empty(rows, width)
        # The two wide cotangents are never alive together.
        self.wide = empty(rows, 4 * width)
        self.three = self.wide.reshape(-1)[: rows * 3 * width].reshape(rows, 3 * width)
        self.stream, self.cotangent = empty(rows, width), empty(rows, width)
        self.batched = (workload.batch, workload.context, width)
        self.blocks = [Block(workload, f"blocks.{layer}.", self) for layer in range(workload.layers)]

    def forward(self) -> None:
        """Takes `stream` (rows, width) through all blocks, in place."""
        for block in self.blocks:
            block.forward(self.stream)

    def backward(self) -> None:
        """Turns `cotangent`, of the stream behind the blocks, into that before them."""
        for block in reversed(self.blocks):
            block.backward(self.cotangent)
