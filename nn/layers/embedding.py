"""Embedding: a table of vectors."""

from __future__ import annotations

from typing import Any

from minigrad.errors import ShapeError
from minigrad.nn import functional, init
from minigrad.nn.functional.arguments import refuse, whole
from minigrad.nn.layers.linear import new_parameter
from minigrad.nn.module import Module
from minigrad.tensor import Tensor


class Embedding(Module):
    """A table of vectors. Parameter: weight (num_embeddings, embedding_dim); input: integers of any shape.

    The row `padding_idx` starts as zeros and gets no gradient.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        shape = rows, _ = whole(self, num_embeddings=num_embeddings, embedding_dim=embedding_dim)
        self.num_embeddings, self.embedding_dim = shape
        self.padding_idx = None
        if padding_idx is not None:
            (place,) = whole(self, None, padding_idx=padding_idx)
            if not -rows <= place < rows:
                refuse(self, "padding_idx", padding_idx, f"one of {rows} rows, from {-rows} to {rows - 1}")
            self.padding_idx = place % rows
        self.weight = new_parameter(shape, dtype=dtype, device=device)
        init.normal_(self.weight)
        if self.padding_idx is not None:
            self.weight.zero_row(self.padding_idx)

    @classmethod
    def from_pretrained(
        cls, embeddings: Any, freeze: bool = True, padding_idx: int | None = None
    ) -> Embedding:
        """A layer with these vectors (num_embeddings, embedding_dim), which are not learned unless asked."""
        table = embeddings if isinstance(embeddings, Tensor) else Tensor(embeddings)
        if table.ndim != 2:
            raise ShapeError(
                "Embedding.from_pretrained: expected vectors (num_embeddings, embedding_dim), "
                f"got {table.shape}"
            )
        rows, width = table.shape
        layer = cls(rows, width, padding_idx, device=table.device, dtype=table.dtype)
        layer.weight.assign(table)
        layer.weight.requires_grad_(not freeze)
        return layer

    def forward(self, indices: Any) -> Tensor:
        return functional.embedding(indices, self.weight, self.padding_idx)

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"
