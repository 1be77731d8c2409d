"""The perceptron by hand in NumPy and mpi4py: what somebody would write who needs just this loop.

Gradients lie in one flat array, added up over microbatches and summed over ranks by one Allreduce.
"""

import math

import numpy as np
from mpi4py import MPI

from benchmarks.parallel.program import LEARNING_RATE, MICROBATCHES, Program, share
from benchmarks.peers.kernels import cross_entropy, flat_views
from benchmarks.peers.step import in_turn
from benchmarks.workloads import MLP, Floats, Integers


def mlp(workload: MLP) -> Program:
    """The perceptron."""
    world = MPI.COMM_WORLD
    flat, parameters = flat_views(workload.parameters())
    flat_gradients, gradients = flat_views(parameters)
    layers = len(workload.widths) - 1
    weights = [parameters[f"layers.{layer}.weight"] for layer in range(layers)]
    biases = [parameters[f"layers.{layer}.bias"] for layer in range(layers)]
    weight_gradients = [gradients[f"layers.{layer}.weight"] for layer in range(layers)]
    bias_gradients = [gradients[f"layers.{layer}.bias"] for layer in range(layers)]
    batches = in_turn(workload.data())

    def walk(x: Floats, labels: Integers) -> float:
        """Add the gradients of one microbatch; returns its part of the loss."""
        arrived = []
        for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            arrived.append(x)
            x = x @ weight.T
            x += bias
            if layer < layers - 1:
                np.maximum(x, 0.0, out=x)
        part = len(labels) / workload.batch
        loss = cross_entropy(x, labels) * part
        x *= np.float32(part)
        for layer in reversed(range(layers)):
            below = arrived[layer]
            weight_gradients[layer] += x.T @ below
            bias_gradients[layer] += x.sum(axis=0)
            if layer:
                x = x @ weights[layer]
                x *= below > 0.0
        return loss

    def run() -> float:
        images, classes = next(batches)
        inputs, labels = share(images, world.rank, world.size), share(classes, world.rank, world.size)
        flat_gradients[:] = 0.0
        total = math.fsum(
            walk(share(inputs, number, MICROBATCHES), share(labels, number, MICROBATCHES))
            for number in range(MICROBATCHES)
        )
        if world.size > 1:
            world.Allreduce(MPI.IN_PLACE, flat_gradients)
        np.multiply(flat_gradients, LEARNING_RATE, out=flat_gradients)
        np.subtract(flat, flat_gradients, out=flat)
        return total

    description = f"plain NumPy {np.__version__} and mpi4py by hand, one Allreduce, {world.size} ranks"
    return Program(world.rank, description, run, world.Barrier)
