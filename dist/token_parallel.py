"""Token parallelism: a GPT whose layers run on one slice of the sequence after another, in a pipeline.

    model = tensor_parallel(GPT(config), mesh.axis("tensor"))        # or SingleWorld(): whole matrices
    pipeline = Pipeline(
        token_layers(model, length=2048), loss=token_loss(model), world=mesh.axis("pipeline"),
        schedule="terapipe", slices=slice_tokens(cost, 2048, stages).slices,
    )

Token i of a causal model looks at tokens up to i only, so a stage can work on the first slice of a sequence
while the stage before it has the second. A slice takes the keys and values of all slices before it, and its
backward returns gradients into them: slices go back in reverse order, and each adds to what those after it
sent. Models that look ahead have no such order and are refused.

Without slices, these are the layers of a tensor-parallel GPT for any other schedule.

Li et al. 2021, TeraPipe: Token-Level Pipeline Parallelism for Training Large-Scale Language Models, §3.2.
"""

from collections.abc import Sequence
from typing import Any

from minigrad import backend
from minigrad.backend import Array
from minigrad.dist.clipping import clip
from minigrad.dist.counted_loss import CountedLoss, count_of, wide
from minigrad.dist.pipeline import Pipeline
from minigrad.dist.tensor_parallel_gpt import ParallelBlock, ParallelGPT, add_places
from minigrad.dist.vocabulary_parallel import vocabulary_cross_entropy
from minigrad.errors import ShapeError
from minigrad.nn import functional
from minigrad.nn.module import Module, Parameter
from minigrad.tensor import Tensor

Values = tuple[Tensor, ...]


class TokenLayer(Module):
    """A layer that is told where in the sequence its tokens are.

    With token shares (`Region.sequence`) a *ruler* comes with each activation: an empty tensor whose length
    is that of the slice, for the ranks' shares may be uneven.
    """

    tensors_kept = 0

    def forward(self, *values: Tensor) -> Any:
        return self.forward_slice(*values, start=0, past=())[0]

    def forward_slice(self, *values: Tensor, start: int, past: Values) -> tuple[Any, Values]:
        raise NotImplementedError


def measured(x: Tensor, ruler: Sequence[Tensor]) -> int:
    """The length of the slice that x has tokens of."""
    return ruler[0].shape[1] if ruler else x.shape[1]


class Words(TokenLayer):
    """Vectors of words. Parameter: weight (own words, width)."""

    def __init__(self, model: ParallelGPT) -> None:
        self.weight, self.region, self._look_up = model.wte.weight, model.region, model.wte.forward

    def forward_slice(self, *values: Tensor, start: int, past: Values) -> tuple[Values, Values]:
        (tokens,) = values
        x = self._look_up(tokens)
        if not self.region.sequence:
            return (x,), ()
        xp = backend.namespace(tokens.data)
        return (x, Tensor.of(xp.empty((0, tokens.shape[1]), dtype="int8"))), ()


class Places(TokenLayer):
    """Add to each token the vector of its place; then dropout. Parameter: weight (context, width)."""

    def __init__(self, model: ParallelGPT) -> None:
        self.weight, self.region, self.drop = model.wpe.weight, model.region, model.drop

    def forward_slice(self, *values: Tensor, start: int, past: Values) -> tuple[Values, Values]:
        x, *ruler = values
        length = measured(x, ruler)
        if start + length > self.weight.shape[0]:
            raise ShapeError(
                f"tokens {start} to {start + length - 1} do not fit a context of {self.weight.shape[0]}"
            )
        return (add_places(x, self.weight, self.region, self.drop, length, start), *ruler), ()


class SlicedBlock(TokenLayer):
    """A block of a tensor-parallel GPT, parameters and all, on one slice: it keeps the keys and values of
    this rank's heads, of all tokens so far.
    """

    tensors_kept = 2

    def __init__(self, block: ParallelBlock, length: int | None) -> None:
        self.ln_1, self.attn, self.ln_2, self.mlp = block.ln_1, block.attn, block.ln_2, block.mlp
        self.region, self.length = block.region, length
        self._shared, self._unsliced = block.shared, block.forward

    def forward(self, *values: Tensor) -> Values:
        x, *ruler = values
        return (self._unsliced(x, length=measured(x, ruler)), *ruler)

    def forward_slice(self, *values: Tensor, start: int, past: Values) -> tuple[Values, Values]:
        x, *ruler = values
        length = measured(x, ruler)
        weight_1, bias_1, weight_2, bias_2, *biases = self._shared()
        packed = self.attn.c_attn(self.ln_1(x, weight_1, bias_1), length)
        found, kept = self.attn.on_slice(packed, start, past, self.length)
        found = self.attn.c_proj(found, biases[0])
        x = x + self.region.dropout(self.attn.resid_dropout, found, length, start)
        x = x + self.mlp(self.ln_2(x, weight_2, bias_2), length=length, bias=biases[1], start=start)
        return (x, *ruler), kept


class LastNorm(TokenLayer):
    """The norm before the output layer, and the entry into it. Parameters: weight and bias (width,)."""

    def __init__(self, model: ParallelGPT) -> None:
        self.weight, self.bias, self.region = model.ln_f.weight, model.ln_f.bias, model.region
        self._norm = model.ln_f.forward

    def forward_slice(self, *values: Tensor, start: int, past: Values) -> tuple[Values, Values]:
        x, *ruler = values
        return (self._norm(x, *self.region.shared(self.weight, self.bias)), *ruler), ()


class Head(TokenLayer):
    """The output layer: the logits of this rank's words. Parameter: weight (own words, width)."""

    def __init__(self, model: ParallelGPT) -> None:
        self.weight, self.region = model.wte.weight, model.region

    def forward_slice(self, *values: Tensor, start: int, past: Values) -> tuple[Tensor, Values]:
        x, *ruler = values
        return functional.linear(self.region.enter(x, measured(x, ruler)), self.weight), ()


def token_layers(model: ParallelGPT, *, length: int | None = None) -> dict[str, Module]:
    """The layers of a GPT by name, for `Pipeline`: tokens (batch, time) in, logits of this rank's words out.

    Names and parameters are the model's, with one name more: lm_head.weight, which is wte.weight. `length` is
    that of the whole sequences, needed where slices meet dropout in attention.
    """
    blocks = {f"h.{number}": SlicedBlock(block, length) for number, block in enumerate(model.blocks)}
    ends = {"ln_f": LastNorm(model), "lm_head": Head(model)}
    return {"wte": Words(model), "wpe": Places(model), **blocks, **ends}


def token_loss(model: ParallelGPT) -> CountedLoss:
    """The loss for `Pipeline` over `token_layers`: mean cross-entropy in nats over all tokens of a batch
    whose target is not -100, whichever slices they are in.
    """
    region, vocabulary = model.region, model.config.vocabulary

    def summed(logits: Tensor, targets: Any) -> Tensor:
        return vocabulary_cross_entropy(wide(logits), targets, region, vocabulary, reduction="sum")

    return CountedLoss(summed, count_of)


def clip_grad_norm_(pipeline: Pipeline, model: ParallelGPT, max_norm: float) -> Array:
    """Scale all gradients of a pipeline over `token_layers(model)` so that their joint 2-norm, over stages
    and parts, is at most `max_norm`; return the norm before (a 0-d array, the same on all ranks).
    """

    def counted(parameter: Parameter) -> bool:
        return pipeline.owned(parameter) and model.owned(parameter)

    return clip(pipeline.parameters(), counted, max_norm, [model.region.world, pipeline.world])
