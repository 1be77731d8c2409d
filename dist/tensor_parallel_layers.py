"""Layers of which each tensor-parallel rank has a part: matrices by columns or rows, attention by heads.

Y = f(X A) B, with A cut into columns and B into rows, takes one sum at the end: Σᵣ f(X Aᵣ) Bᵣ, because f acts
entry by entry. A head of attention is such an f as well. Shoeybi et al. 2019, Megatron-LM, §3.
(A Linear keeps the transpose of these matrices: columns of A are rows of its weight.)
"""

import math
from collections.abc import Sequence

from minigrad import backend, nn
from minigrad.dist.tensor_parallel_layout import Layout, ParameterPart, whole_copy
from minigrad.dist.tensor_parallel_region import Region, dropout_of_part
from minigrad.errors import ShapeError, UsageError
from minigrad.nn import functional
from minigrad.nn.cache import Cache
from minigrad.nn.gpt import MLP, CausalSelfAttention
from minigrad.nn.layers import Dropout
from minigrad.nn.module import Module, Parameter
from minigrad.ops import concat, matmul, matrix_transpose, permute_dims, reshape, softmax, where
from minigrad.ops.attention import hidden
from minigrad.tensor import Tensor


class ColumnParallelLinear(Module):
    """This rank's outputs of a Linear: whole tokens in, a part of each out. A region begins here.

    Parameters: weight (own outputs, inputs), bias (own outputs,). `counts` says how many outputs each rank
    has, in each of `groups` that lie side by side; as even as can be by default.
    """

    def __init__(
        self, whole: nn.Linear, region: Region, *, counts: Sequence[int] | None = None, groups: int = 1
    ) -> None:
        self.region = region
        counts = tuple(counts or region.shares(whole.out_features // groups))
        if sum(counts) * groups != whole.out_features or len(counts) != region.world.size:
            raise ShapeError(
                f"{region.world.name}: {groups} groups of {counts} outputs are not the {whole.out_features} "
                f"of the layer, on {region.world.size} ranks"
            )
        rank = region.world.rank
        self.weight = ParameterPart(whole.weight, Layout(whole.weight.shape, 0, counts, rank, groups))
        self.bias: Parameter | None = None
        if whole.bias is not None:
            self.bias = ParameterPart(whole.bias, Layout(whole.bias.shape, 0, counts, rank, groups))

    def forward(self, x: Tensor, length: int | None = None) -> Tensor:
        return functional.linear(self.region.enter(x, length), self.weight, self.bias)


class RowParallelLinear(Module):
    """A Linear over this rank's inputs, summed over ranks: a part of each token in, whole ones out. A region
    ends here.

    Parameters: weight (outputs, own inputs); bias (outputs,), which every rank has, and which is added once,
    after the sum. Pass `bias` if it has been through `Region.shared` already.
    """

    def __init__(self, whole: nn.Linear, region: Region, *, counts: Sequence[int] | None = None) -> None:
        self.region = region
        counts = tuple(counts or region.shares(whole.in_features))
        if sum(counts) != whole.in_features or len(counts) != region.world.size:
            raise ShapeError(
                f"{region.world.name}: {counts} inputs are not the {whole.in_features} of the layer, on "
                f"{region.world.size} ranks"
            )
        layout = Layout(whole.weight.shape, 1, counts, region.world.rank)
        self.weight = ParameterPart(whole.weight, layout)
        self.bias: Parameter | None = None if whole.bias is None else whole_copy(whole.bias)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        out = self.region.leave(functional.linear(x, self.weight))
        if bias is None and self.bias is not None:
            (bias,) = self.region.shared(self.bias)
        return out if bias is None else out + bias


class ParallelAttention(Module):
    """This rank's heads of a GPT's attention. Queries, keys and values are each cut by heads.

    Dropout inside draws this rank's part of the mask for all heads. A rank may have no head at all.
    """

    def __init__(self, whole: CausalSelfAttention, region: Region) -> None:
        width = whole.c_proj.in_features
        self.region, self.head_width = region, width // whole.heads
        self.first_head, stop = region.span(whole.heads)
        self.heads = stop - self.first_head
        counts = [heads * self.head_width for heads in region.shares(whole.heads)]
        self.c_attn = ColumnParallelLinear(whole.c_attn, region, counts=counts, groups=3)
        self.c_proj = RowParallelLinear(whole.c_proj, region, counts=counts)
        self.attn_dropout = Dropout(whole.attn_dropout.p, stream=whole.attn_dropout.stream)
        self.resid_dropout = Dropout(whole.resid_dropout.p, stream=whole.resid_dropout.stream)

    def forward(
        self,
        x: Tensor,
        cache: Cache | None = None,
        *,
        length: int | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        packed = self.c_attn(x, length)  # (batch, time, 3 · own width)
        out = self.c_proj(self.attend(packed, cache), bias)
        return self.region.dropout(self.resid_dropout, out, packed.shape[1])

    def on_slice(
        self, packed: Tensor, start: int, past: tuple[Tensor, ...], length: int | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """What `attend` does for the tokens from `start` on, with the keys and values of all before them in
        `past`; also the keys and values so far (batch, own heads, time so far, width of a head).

        `length`, that of the whole sequence, is needed for dropout. Raises UsageError if it is not there.
        """
        query, key, value = self.split(packed)
        if past:
            key, value = concat([past[0], key], axis=2), concat([past[1], value], axis=2)
        if not self.heads:
            return packed, (key, value)
        if self.training and self.attn_dropout.p > 0:
            if start and length is None:
                raise UsageError(
                    "attention with dropout draws one mask for the whole sequence, and got a slice of one of "
                    "unknown length; give token_layers(..., length=...)"
                )
            heads = self._attend_with_dropout(query, key, value, start=start, length=length)
        else:
            heads = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.merge(heads), (key, value)

    def attend(self, packed: Tensor, cache: Cache | None = None) -> Tensor:
        """From queries, keys and values of this rank's heads, side by side, to what the heads found."""
        dropping = self.training and self.attn_dropout.p > 0
        if cache is None and not dropping and self.heads:
            return functional.self_attention(packed, heads=self.heads, is_causal=True)
        query, key, value = self.split(packed)
        if cache is not None:
            key, value = cache.extend(key, value)
        if not self.heads:
            return packed  # nothing, of width 0
        if cache is None and dropping:
            heads = self._attend_with_dropout(query, key, value)
        else:
            heads = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.merge(heads)

    def split(self, packed: Tensor) -> Tensor:
        """(3, batch, own heads, time, width of a head)."""
        batch, time, _ = packed.shape
        return permute_dims(reshape(packed, (batch, time, 3, self.heads, self.head_width)), (2, 0, 3, 1, 4))

    def merge(self, heads: Tensor) -> Tensor:
        """(batch, own heads, time, width of a head) to (batch, time, own width)."""
        batch, _, time, _ = heads.shape
        return reshape(permute_dims(heads, (0, 2, 1, 3)), (batch, time, self.heads * self.head_width))

    def _attend_with_dropout(
        self, query: Tensor, key: Tensor, value: Tensor, *, start: int = 0, length: int | None = None
    ) -> Tensor:
        """Queries from token `start` on, of a sequence of `length`, look at all keys so far."""
        xp, queries, keys = backend.namespace(query.data), query.shape[-2], key.shape[-2]
        scores = matmul(query * (1.0 / math.sqrt(self.head_width)), matrix_transpose(key))
        scores = where(xp.matrix_transpose(hidden(xp, queries, keys)), -math.inf, scores)
        whole = keys if length is None else length
        weights = dropout_of_part(
            self.attn_dropout, softmax(scores), (self.first_head, start, 0), (whole, whole)
        )
        return matmul(weights, value)


class ParallelMLP(Module):
    """width → this rank's part of 4·width → GELU → width."""

    def __init__(self, whole: MLP, region: Region) -> None:
        self.region = region
        self.c_fc = ColumnParallelLinear(whole.c_fc, region)
        self.c_proj = RowParallelLinear(whole.c_proj, region)
        self.dropout = Dropout(whole.dropout.p, stream=whole.dropout.stream)

    def forward(
        self, x: Tensor, *, length: int | None = None, bias: Tensor | None = None, start: int = 0
    ) -> Tensor:
        """`start` is the place of the first token, for dropout."""
        own = functional.gelu(self.c_fc(x, length), approximate="tanh")
        return self.region.dropout(self.dropout, self.c_proj(own, bias), own.shape[1], start)
