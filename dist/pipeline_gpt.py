"""A GPT as a chain of layers that a pipeline can cut, whole or in token slices.

Names stay those of the model, with one more for the output layer: `lm_head.weight`, which is `wte.weight`.
"""

from typing import Any

from minigrad import nn
from minigrad.errors import UsageError
from minigrad.nn import functional
from minigrad.nn.gpt import GPT
from minigrad.nn.module import Module, Parameter
from minigrad.ops import concat, permute_dims, reshape
from minigrad.tensor import Tensor


class Positions(Module):
    """Add to each token the vector of its place. Parameter: weight (context, width)."""

    tensors_kept = 0

    def __init__(self, table: nn.Embedding) -> None:
        self.weight = table.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_slice(x, start=0, past=())[0]

    def forward_slice(self, x: Tensor, *, start: int, past: tuple[Tensor, ...]) -> tuple[Tensor, tuple]:
        return x + self.weight[start : start + x.shape[1]], ()


class SlicedBlock(Module):
    """A block of a GPT, parameters and all, that can also run on one slice of the tokens after another.

    Li et al. 2021, TeraPipe, §3.2: a slice sees keys and values of its own tokens and of all before.
    """

    tensors_kept = 2

    def __init__(self, block: Any) -> None:
        self.ln_1, self.attn, self.ln_2, self.mlp = block.ln_1, block.attn, block.ln_2, block.mlp

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))

    def forward_slice(
        self, x: Tensor, *, start: int, past: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        attn = self.attn
        batch, time, width = x.shape
        packed = reshape(attn.c_attn(self.ln_1(x)), (batch, time, 3, attn.heads, width // attn.heads))
        query, key, value = permute_dims(packed, (2, 0, 3, 1, 4))  # each (batch, heads, time, head)
        if past:
            key, value = concat([past[0], key], axis=2), concat([past[1], value], axis=2)
        heads = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + attn.resid_dropout(
            attn.c_proj(reshape(permute_dims(heads, (0, 2, 1, 3)), (batch, time, width)))
        )
        return x + self.mlp(self.ln_2(x)), (key, value)


class Head(Module):
    """The output layer: logits by the token embedding. Parameter: weight (vocabulary, width)."""

    token_by_token = True

    def __init__(self, weight: Parameter) -> None:
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight)


def gpt_layers(model: GPT, *, sliced: bool = False) -> dict[str, Module]:
    """The layers of a GPT by name, for `Pipeline`: tokens (batch, time) in, logits out.

    `sliced` says that they will run on token slices. Raises UsageError where that cannot be: dropout draws by
    place in the sample, which a slice does not know.
    """
    if sliced and model.config.dropout:
        raise UsageError(
            f"token slices of a GPT with dropout {model.config.dropout} would draw other masks than the "
            "whole; set dropout to 0"
        )
    layers: dict[str, Any] = {"wte": model.wte, "wpe": Positions(model.wpe)}
    if model.config.dropout:
        layers["drop"] = model.drop
    layers.update({f"h.{number}": SlicedBlock(block) for number, block in enumerate(model.h)})
    return {**layers, "ln_f": model.ln_f, "lm_head": Head(model.wte.weight)}


def token_loss(logits: Tensor, targets: Any) -> Tensor:
    """Mean cross-entropy in nats over all tokens."""
    from minigrad.ops import cross_entropy

    return cross_entropy(logits, targets)
