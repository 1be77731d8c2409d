"""What is timed: the workloads, their sizes, first parameters and data, the same for every peer.

All arrays are float32 (labels and tokens int64) and a function of the workload alone, so every peer starts
from the same numbers and sees the same batches in the same order.
"""

import math
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


def uniform(generator: np.random.Generator, shapes: dict[str, tuple[int, ...]]) -> dict[str, Floats]:
    """Weights and the biases that follow them, uniform within 1 / √(inputs of the weight)."""
    bound, parameters = 1.0, {}
    for name, shape in shapes.items():
        if len(shape) > 1:
            bound = 1.0 / math.sqrt(math.prod(shape[1:]))
        parameters[name] = generator.uniform(-bound, bound, shape).astype(np.float32)
    return parameters


def labelled(
    generator: np.random.Generator, shape: tuple[int, ...], classes: int, batches: int
) -> list[tuple[Floats, Integers]]:
    """Batches of (normal inputs of that shape, labels (batch,)), to be used in turn."""
    return [
        (generator.standard_normal(shape).astype(np.float32), generator.integers(0, classes, shape[0]))
        for _ in range(batches)
    ]


@dataclass(frozen=True)
class MLP:
    """Linear layers with relu between them, softmax cross-entropy (mean over the batch)."""

    widths: tuple[int, ...] = (784, 512, 512, 10)
    batch: int = 128
    batches: int = 16
    adam: Adam = field(default_factory=Adam)

    def parameters(self) -> dict[str, Floats]:
        """Weights (out, in) and biases (out,), named `layers.0.weight` and so on."""
        shapes: dict[str, tuple[int, ...]] = {}
        for layer, (inputs, outputs) in enumerate(zip(self.widths[:-1], self.widths[1:], strict=True)):
            shapes[f"layers.{layer}.weight"] = (outputs, inputs)
            shapes[f"layers.{layer}.bias"] = (outputs,)
        return uniform(np.random.default_rng(1), shapes)

    def data(self) -> list[tuple[Floats, Integers]]:
        """Batches of (inputs (batch, 784), labels (batch,)), to be used in turn."""
        return labelled(np.random.default_rng(2), (self.batch, self.widths[0]), self.widths[-1], self.batches)


def blocks(layers: int, width: int) -> dict[str, tuple[int, ...]]:
    """Name and shape of the parameters of a transformer's pre-norm blocks and of the norm behind them."""
    hidden = 4 * width
    block: dict[str, tuple[int, ...]] = {
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
    shapes = {f"blocks.{n}.{name}": shape for n in range(layers) for name, shape in block.items()}
    return {**shapes, "norm.weight": (width,), "norm.bias": (width,)}


def normal(
    generator: np.random.Generator, shapes: dict[str, tuple[int, ...]], layers: int
) -> dict[str, Floats]:
    """Normal with deviation 0.02, less for what adds to the residual stream, and around 1 for gains."""
    parameters: dict[str, Floats] = {}
    for name, shape in shapes.items():
        deviation = 0.02 / np.sqrt(2 * layers) if name.endswith("projection.weight") else 0.02
        drawn = generator.standard_normal(shape) * deviation
        if "norm" in name and name.endswith("weight"):
            drawn += 1.0
        parameters[name] = drawn.astype(np.float32)
    return parameters


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
        return {
            "token_embedding.weight": (self.vocabulary, self.width),
            "position_embedding.weight": (self.context, self.width),
            **blocks(self.layers, self.width),
        }

    def parameters(self) -> dict[str, Floats]:
        """GPT-2's initial values, but biases and gains random too, so that no gradient is trivially right."""
        return normal(np.random.default_rng(3), self.shapes(), self.layers)

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


@dataclass(frozen=True)
class Convnet:
    """conv 3x3 1 → 32, relu, conv 3x3 32 → 64 with stride 2, relu, linear; both convolutions with a border
    of one zero. Softmax cross-entropy (mean over the batch), Adam.
    """

    size: int = 28
    channels: tuple[int, int] = (32, 64)
    classes: int = 10
    batch: int = 64
    batches: int = 16
    adam: Adam = field(default_factory=Adam)

    @property
    def reduced(self) -> int:
        """Height and width behind the second convolution."""
        return (self.size + 1) // 2

    def parameters(self) -> dict[str, Floats]:
        """torch's shapes: (out, in, 3, 3) and (classes, 64 · places)."""
        first, second = self.channels
        shapes: dict[str, tuple[int, ...]] = {
            "conv1.weight": (first, 1, 3, 3),
            "conv1.bias": (first,),
            "conv2.weight": (second, first, 3, 3),
            "conv2.bias": (second,),
            "linear.weight": (self.classes, second * self.reduced**2),
            "linear.bias": (self.classes,),
        }
        return uniform(np.random.default_rng(5), shapes)

    def data(self) -> list[tuple[Floats, Integers]]:
        """Batches of (images (batch, 1, size, size), labels (batch,)), to be used in turn."""
        shape = (self.batch, 1, self.size, self.size)
        return labelled(np.random.default_rng(6), shape, self.classes, self.batches)


@dataclass(frozen=True)
class LSTM:
    """One LSTM layer over a sequence, and a linear layer on its last hidden state. Softmax cross-entropy
    (mean over the batch), Adam.
    """

    inputs: int = 64
    hidden: int = 128
    time: int = 32
    classes: int = 10
    batch: int = 32
    batches: int = 16
    adam: Adam = field(default_factory=Adam)

    def parameters(self) -> dict[str, Floats]:
        """torch's shapes, the gates in the order i, f, g, o."""
        gates = 4 * self.hidden
        shapes: dict[str, tuple[int, ...]] = {
            "lstm.weight_ih_l0": (gates, self.inputs),
            "lstm.weight_hh_l0": (gates, self.hidden),
            "lstm.bias_ih_l0": (gates,),
            "lstm.bias_hh_l0": (gates,),
            "head.weight": (self.classes, self.hidden),
            "head.bias": (self.classes,),
        }
        return uniform(np.random.default_rng(7), shapes)

    def data(self) -> list[tuple[Floats, Integers]]:
        """Batches of (inputs (time, batch, inputs), labels (batch,)), to be used in turn."""
        found = labelled(
            np.random.default_rng(8), (self.batch, self.time, self.inputs), self.classes, self.batches
        )
        return [(np.ascontiguousarray(x.transpose(1, 0, 2)), labels) for x, labels in found]


@dataclass(frozen=True)
class ViT:
    """A small vision transformer: patches, a class token, pre-norm blocks with exact GELU, a linear head on
    the class token. Softmax cross-entropy (mean over the batch), Adam. No dropout.
    """

    image: int = 32
    patch: int = 4
    channels: int = 3
    layers: int = 4
    width: int = 128
    heads: int = 4
    classes: int = 10
    batch: int = 16
    batches: int = 16
    epsilon: float = 1e-6
    adam: Adam = field(default_factory=Adam)

    @property
    def context(self) -> int:
        """Patches and the class token."""
        return (self.image // self.patch) ** 2 + 1

    def parameters(self) -> dict[str, Floats]:
        """In the order in which torchvision declares its own; weights are (out, in)."""
        shapes: dict[str, tuple[int, ...]] = {
            "class_token": (1, 1, self.width),
            "patch.weight": (self.width, self.channels, self.patch, self.patch),
            "patch.bias": (self.width,),
            "position": (1, self.context, self.width),
            **blocks(self.layers, self.width),
            "head.weight": (self.classes, self.width),
            "head.bias": (self.classes,),
        }
        return normal(np.random.default_rng(9), shapes, self.layers)

    def data(self) -> list[tuple[Floats, Integers]]:
        """Batches of (images (batch, channels, image, image), labels (batch,)), to be used in turn."""
        shape = (self.batch, self.channels, self.image, self.image)
        return labelled(np.random.default_rng(10), shape, self.classes, self.batches)


Workload: TypeAlias = MLP | GPT | Overhead | Convnet | LSTM | ViT

WORKLOADS: dict[str, Workload] = {
    "mlp": MLP(),
    "gpt": GPT(),
    "overhead": Overhead(),
    "convnet": Convnet(),
    "lstm": LSTM(),
    "vit": ViT(),
}
