"""Reference answers to lesson 12. Spoilers: try exercise.py first."""

import math
from collections.abc import Callable

import numpy as np

import minigrad as mg

Layer = Callable[[mg.Tensor], mg.Tensor]


def attention(
    query: mg.Tensor, key: mg.Tensor, value: mg.Tensor, hidden: np.ndarray | None = None
) -> mg.Tensor:
    """One head."""
    scores = query @ mg.matrix_transpose(key) / math.sqrt(query.shape[-1])
    if hidden is not None:
        scores = mg.where(hidden, -math.inf, scores)
    return mg.softmax(scores, axis=-1) @ value


def split_heads(x: mg.Tensor, heads: int) -> mg.Tensor:
    """(batch, time, width) to (batch, heads, time, head)."""
    batch, time, width = x.shape
    return mg.permute_dims(mg.reshape(x, (batch, time, heads, width // heads)), (0, 2, 1, 3))


def merge_heads(x: mg.Tensor) -> mg.Tensor:
    """The way back."""
    batch, heads, time, head = x.shape
    return mg.reshape(mg.permute_dims(x, (0, 2, 1, 3)), (batch, time, heads * head))


def positional_encoding(positions: int, width: int) -> np.ndarray:
    """The waves."""
    angles = np.arange(positions)[:, None] / 10000.0 ** (2 * np.arange(width // 2) / width)
    encoding = np.empty((positions, width))
    encoding[:, 0::2] = np.sin(angles)
    encoding[:, 1::2] = np.cos(angles)
    return encoding


def block(
    x: mg.Tensor,
    *,
    norm_1: Layer,
    queries_keys_values: Layer,
    out: Layer,
    norm_2: Layer,
    mlp: Layer,
    heads: int,
) -> mg.Tensor:
    """Attention and MLP around the sums."""
    packed = queries_keys_values(norm_1(x))
    width, time = x.shape[-1], x.shape[1]
    query, key, value = (split_heads(packed[..., k * width : (k + 1) * width], heads) for k in range(3))
    hidden = np.triu(np.ones((time, time), dtype=bool), 1)
    x = x + out(merge_heads(attention(query, key, value, hidden)))
    return x + mlp(norm_2(x))


def leaks(model: Callable[[np.ndarray], np.ndarray], tokens: np.ndarray, vocabulary: int) -> bool:
    """Whether the model looks ahead."""
    before = model(tokens)
    for place in range(len(tokens)):
        for token in range(vocabulary):
            changed = tokens.copy()
            changed[place] = token
            if not np.array_equal(model(changed)[:place], before[:place]):
                return True
    return False
