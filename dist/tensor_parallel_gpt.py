"""A GPT on tensor-parallel ranks: its blocks, its embedding, its loss."""

from collections.abc import Mapping
from copy import copy
from functools import partial
from typing import Any, cast

from minigrad import backend
from minigrad.backend import Array
from minigrad.checkpoint import checkpoint
from minigrad.dist.clipping import clip
from minigrad.dist.tensor_parallel_layers import ParallelAttention, ParallelMLP
from minigrad.dist.tensor_parallel_layout import ParameterPart, layouts_of, whole_copy
from minigrad.dist.tensor_parallel_region import Region
from minigrad.dist.vocabulary_parallel import VocabularyParallelEmbedding, vocabulary_cross_entropy
from minigrad.errors import ShapeError
from minigrad.nn import functional
from minigrad.nn.cache import Cache
from minigrad.nn.containers import ModuleList
from minigrad.nn.gpt import GPT
from minigrad.nn.layers import Dropout, LayerNorm
from minigrad.nn.module import Module, Parameter
from minigrad.tensor import Tensor


class Norm(Module):
    """The layer norm of tokens between regions. Parameters: weight and bias (width,), whole on every rank."""

    def __init__(self, whole: LayerNorm) -> None:
        assert whole.weight is not None
        assert whole.bias is not None
        self.weight, self.bias, self.eps = whole_copy(whole.weight), whole_copy(whole.bias), whole.eps

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Normalise by parameters that have been through `Region.shared`."""
        return functional.layer_norm(x, self.weight.shape, weight, bias, self.eps)


class ParallelBlock(Module):
    """This rank's part of a GPT's block: 4 all-reduces a walk there and back, 6 if it is computed again.

    With token shares (`Region.sequence`) each of these is an all-gather and a reduce-scatter in its stead,
    and the gradients of what all ranks share (6 vectors of the width) are summed by one more all-gather per
    walk, not once per step: each walk leaves gradients that may be used at once.
    """

    def __init__(self, whole: Any, region: Region) -> None:
        self.region = region
        self.ln_1, self.attn = Norm(whole.ln_1), ParallelAttention(whole.attn, region)
        self.ln_2, self.mlp = Norm(whole.ln_2), ParallelMLP(whole.mlp, region)

    def forward(self, x: Tensor, cache: Cache | None = None, *, length: int | None = None) -> Tensor:
        weight_1, bias_1, weight_2, bias_2, *biases = self.shared()
        normed = self.ln_1(x, weight_1, bias_1)
        x = x + self.attn(normed, cache, length=length, bias=biases[0])
        return x + self.mlp(self.ln_2(x, weight_2, bias_2), length=length, bias=biases[1])

    def shared(self) -> tuple[Tensor, ...]:
        """Both norms' weights and biases, and the biases of the attention and of the MLP."""
        layers = (self.ln_1, self.ln_2)
        biases: Any = (self.attn.c_proj.bias, self.mlp.c_proj.bias)
        return self.region.shared(*(p for norm in layers for p in (norm.weight, norm.bias)), *biases)


class ParallelGPT(GPT):
    """This rank's part of a GPT, under the same names. What it computes is the same on all ranks.

    Activations that leave it are whole: `features`, and the logits of `forward`, which gathers them; `loss`
    does not. Make one with `tensor_parallel`.
    """

    def __init__(self, whole: GPT, region: Region) -> None:
        self.region, self.config = region, whole.config
        self.checkpoint_activations = whole.checkpoint_activations
        self.wte: Any = VocabularyParallelEmbedding(whole.wte, region)
        self.wpe = copy(whole.wpe)
        self.wpe.weight = whole_copy(whole.wpe.weight)
        self.drop = Dropout(whole.drop.p, stream=whole.drop.stream)
        self.h = ModuleList(ParallelBlock(block, region) for block in whole.h)
        self.ln_f: Any = Norm(whole.ln_f)
        self.train(whole.training)

    @property
    def blocks(self) -> list[ParallelBlock]:
        return [cast("ParallelBlock", block) for block in self.h]

    # ----- Computing -----

    def forward(
        self,
        tokens: Any,
        caches: list[Cache] | None = None,
        *,
        targets: Any = None,
        reduction: str = "mean",
    ) -> Tensor:
        """The logits (batch, time, vocabulary), or with targets (batch, time) the loss."""
        x, length = self._features(tokens, caches)
        logits = functional.linear(self.region.enter(x, length), self.wte.weight)
        vocabulary = self.config.vocabulary
        if targets is None:
            return self.region.joined(logits, -1, self.region.shares(vocabulary))
        if logits.dtype.itemsize < 4:
            logits = logits.astype("float32")
        return vocabulary_cross_entropy(logits, targets, self.region, vocabulary, reduction=reduction)

    def loss(self, tokens: Any, targets: Any, *, reduction: str = "mean") -> Tensor:
        result: Tensor = self(tokens, targets=targets, reduction=reduction)
        return result

    def features(self, tokens: Any, caches: list[Cache] | None = None) -> Tensor:
        return self.region.outside(*self._features(tokens, caches))

    def _features(self, tokens: Any, caches: list[Cache] | None) -> tuple[Tensor, int]:
        """The last hidden states as they lie between regions, and the length of the sequence."""
        tokens = tokens if isinstance(tokens, Tensor) else Tensor(tokens, device=self.wte.weight.device)
        start = caches[0].length if caches else 0
        length = tokens.shape[-1] if tokens.ndim == 2 else 0
        if tokens.ndim != 2 or start + length > self.config.context:
            raise ShapeError(
                f"expected (batch, time) of at most {self.config.context} positions, got {tokens.shape}"
                + (f" after {start} cached ones" if start else "")
            )
        x = add_places(self.wte(tokens), self.wpe.weight, self.region, self.drop, length, start)
        for index, block in enumerate(self.blocks):
            if caches or not self.checkpoint_activations:
                x = block(x, caches[index] if caches else None, length=length)
            else:
                x = checkpoint(partial(block, length=length), x)
        return self.ln_f(x, *self.region.shared(self.ln_f.weight, self.ln_f.bias)), length

    # ----- Parameters of all ranks together -----

    def owned(self, parameter: Parameter) -> bool:
        """Whether this rank counts a parameter in sums over ranks: what every rank has, the first counts."""
        return isinstance(parameter, ParameterPart) or self.region.world.rank == 0

    def clip_grad_norm_(self, max_norm: float) -> Array:
        """Scale all gradients so that their joint 2-norm, over the whole model, is at most `max_norm`.

        Returns the norm before, a 0-d array; one that is not finite leaves the gradients as they are.
        """
        return clip(self.parameters(), self.owned, max_norm, [self.region.world])

    def gathered_state_dict(self) -> dict[str, Tensor]:
        """The state of the whole model, on every rank; `nn.GPT` loads it. All ranks call this together."""
        layouts, world = layouts_of(self), self.region.world
        return {
            name: Tensor.of(layouts[name].join(x.data, world)) if name in layouts else x
            for name, x in self.state_dict().items()
        }

    def load_gathered(self, state: Mapping[str, Any]) -> None:
        """Take this rank's parts out of the state of a whole model. Raises as `load_state_dict`."""
        layouts = layouts_of(self)
        arrays = {name: backend.asarray(x.data if isinstance(x, Tensor) else x) for name, x in state.items()}
        for name, layout in layouts.items():
            if name in arrays:
                if tuple(arrays[name].shape) != layout.shape:
                    raise ShapeError(f"{name} is {arrays[name].shape}, expected {layout.shape}, the whole")
                arrays[name] = layout.cut(arrays[name])
        self.load_state_dict(arrays)


def add_places(
    x: Tensor, places: Tensor, region: Region, drop: Dropout, length: int, start: int = 0
) -> Tensor:
    """Add the vectors of their places (context, width) to `length` tokens from place `start` on; dropout."""
    first, stop = region.tokens(length)
    (rows,) = region.shared(places[start : start + length])
    return region.dropout(drop, x + rows[first:stop], length, start)
