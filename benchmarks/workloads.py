"""What is timed: three workloads, their sizes, first parameters and data, the same for every peer.

All arrays are float32 (labels and tokens int64) and a function of the workload alone, so every peer starts
from the same numbers and sees the same batches in the same order.
"""

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float32]
Integers: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class Adam:
    """The optimizer of both models: Adam without weight decay (Kingma & Ba 2015, algorithm 1)."""

    learning_rate: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8


@dataclass(frozen=True)
class MLP:
    """Linear layers with relu between them, softmax cross-entropy (mean over the batch)."""

    widths: tuple[int, ...] = (784, 512, 512, 10)
    batch: int = 128
    batches: int = 16
    adam: Adam = field(default_factory=Adam)

    def parameters(self) -> dict[str, Floats]:
        """Weights (out, in) and biases (out,), named `layers.0.weight` and so on."""
        generator = np.random.default_rng(1)
        parameters: dict[str, Floats] = {}
        for layer, (inputs, outputs) in enumerate(zip(self.widths[:-1], self.widths[1:], strict=True)):
            bound = 1.0 / np.sqrt(inputs)
            for name, shape in (("weight", (outputs, inputs)), ("bias", (outputs,))):
                drawn = generator.uniform(-bound, bound, shape)
                parameters[f"layers.{layer}.{name}"] = drawn.astype(np.float32)
        return parameters

    def data(self) -> list[tuple[Floats, Integers]]:
        """Batches of (inputs (batch, 784), labels (batch,)), to be used in turn."""
        generator = np.random.default_rng(2)
        shape = (self.batch, self.widths[0])
        return [
            (
                generator.standard_normal(shape).astype(np.float32),
                generator.integers(0, self.widths[-1], self.batch),
            )
            for _ in range(self.batches)
        ]


@dataclass(frozen=True)
class GPT:
    """GPT-2's structure: pre-norm blocks, tanh GELU, learned positions, head tied to the token embedding.

    The loss is the mean cross-entropy over all tokens of the batch. No dropout.
    """

    layers: int = 4
    width: int = 256
    heads: int = 8
    context: int = 128
    batch: int = 8
    vocabulary: int = 256
    batches: int = 16
    epsilon: float = 1e-5
    adam: Adam = field(default_factory=Adam)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every parameter, in the order of use; weights are (out, in)."""
        width, hidden = self.width, 4 * self.width
        shapes: dict[str, tuple[int, ...]] = {
            "token_embedding.weight": (self.vocabulary, width),
            "position_embedding.weight": (self.context, width),
        }
        for layer in range(self.layers):
            block = {
                "norm1.weight": (width,),
                "norm1.bias": (width,),
                "attention.qkv.weight": (3 * width, width),
                "attention.qkv.bias": (3 * width,),
                "attention.projection.weight": (width, width),
                "attention.projection.bias": (width,),
                "norm2.weight": (width,),
                "norm2.bias": (width,),
                "mlp.expand.weight": (hidden, width),
                "mlp.expand.bias": (hidden,),
                "mlp.projection.weight": (width, hidden),
                "mlp.projection.bias": (width,),
            }
            shapes.update({f"blocks.{layer}.{name}": shape for name, shape in block.items()})
        shapes.update({"norm.weight": (width,), "norm.bias": (width,)})
        return shapes

    def parameters(self) -> dict[str, Floats]:
        """GPT-2's initial values, but biases and gains random too, so that no gradient is trivially right."""
        generator = np.random.default_rng(3)
        parameters: dict[str, Floats] = {}
        for name, shape in self.shapes().items():
            deviation = 0.02 / np.sqrt(2 * self.layers) if name.endswith("projection.weight") else 0.02
            drawn = generator.standard_normal(shape) * deviation
            if "norm" in name and name.endswith("weight"):
                drawn += 1.0
            parameters[name] = drawn.astype(np.float32)
        return parameters

    def data(self) -> list[tuple[Integers, Integers]]:
        """Batches of (tokens, targets), both (batch, context), to be used in turn."""
        generator = np.random.default_rng(4)
        batches = []
        for _ in range(self.batches):
            text = generator.integers(0, self.vocabulary, (self.batch, self.context + 1))
            batches.append((np.ascontiguousarray(text[:, :-1]), np.ascontiguousarray(text[:, 1:])))
        return batches


@dataclass(frozen=True)
class Overhead:
    """A chain of operations on so few numbers that only the cost of recording and walking is left.

    `repeats` times `x = tanh(x * 1.0001 + 0.1)`, three operations each, then a sum; forward and backward.
    With 333 repeats that is 1000 operations. The gradient of so long a chain vanishes, so peers are compared
    by the sum.
    """

    repeats: int = 333
    size: int = 8
    factor: float = 1.0001
    shift: float = 0.1

    @property
    def operations(self) -> int:
        """Operations in the forward chain, the sum included."""
        return 3 * self.repeats + 1

    def start(self) -> Floats:
        """The leaf of the chain."""
        return np.linspace(-1.0, 1.0, self.size, dtype=np.float32)


Workload: TypeAlias = MLP | GPT | Overhead

WORKLOADS: dict[str, Workload] = {"mlp": MLP(), "gpt": GPT(), "overhead": Overhead()}
