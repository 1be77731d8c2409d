"""A GPT as a chain of layers that a pipeline can cut: the model's own, on whole sequences.

Names stay those of the model, with one more for the output layer: `lm_head.weight`, which is `wte.weight`.
Token slices need layers that know about them: `token_layers`, which also run on tensor-parallel ranks.
"""

from typing import Any

from minigrad import nn
from minigrad.dist.counted_loss import CountedLoss, counted
from minigrad.nn import functional
from minigrad.nn.gpt import GPT
from minigrad.nn.module import Module, Parameter
from minigrad.ops import cross_entropy
from minigrad.tensor import Tensor


class Positions(Module):
    """Add to each token the vector of its place. Parameter: weight (context, width)."""

    def __init__(self, table: nn.Embedding) -> None:
        self.weight = table.weight

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight[: x.shape[1]]


class Head(Module):
    """The output layer: logits by the token embedding. Parameter: weight (vocabulary, width)."""

    def __init__(self, weight: Parameter) -> None:
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight)


def gpt_layers(model: GPT) -> dict[str, Module]:
    """The layers of a GPT by name, for `Pipeline`: tokens (batch, time) in, logits out."""
    layers: dict[str, Any] = {"wte": model.wte, "wpe": Positions(model.wpe)}
    if model.config.dropout:
        layers["drop"] = model.drop
    layers.update({f"h.{number}": block for number, block in enumerate(model.h)})
    return {**layers, "ln_f": model.ln_f, "lm_head": Head(model.wte.weight)}


token_loss: CountedLoss = counted(cross_entropy)
"""token_loss(logits, targets): mean cross-entropy in nats over all tokens whose target is not -100."""
