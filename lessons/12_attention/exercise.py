"""Exercises of lesson 12: attention and the Transformer.

Replace each `raise Todo(...)`; keep the names. `minigrad check 12` checks all, `minigrad check 12.2` one.
Write with minigrad's functions (`import minigrad as mg`), so that gradients flow through what you build.
"""

from collections.abc import Callable

import numpy as np

import minigrad as mg
from minigrad.lessons import Todo

# ----- 12.1 ---------------------------------------------------------------------------------------


def attention(
    query: mg.Tensor, key: mg.Tensor, value: mg.Tensor, hidden: np.ndarray | None = None
) -> mg.Tensor:
    """Return softmax(Q K' / sqrt(d)) V.

    query (..., n, d), key (..., m, d), value (..., m, e); the result is (..., n, e). `hidden` (n, m) is True
    where a query may not look; every query may look somewhere.
    """
    raise Todo("12.1: scores, mask, softmax, weighted mean")


# ----- 12.2 ---------------------------------------------------------------------------------------


def split_heads(x: mg.Tensor, heads: int) -> mg.Tensor:
    """Turn (batch, time, width) into (batch, heads, time, width / heads).

    Head h gets the coordinates from h * width / heads on.
    """
    raise Todo("12.2: a reshape, then a permutation of axes")


def merge_heads(x: mg.Tensor) -> mg.Tensor:
    """Undo `split_heads`: (batch, heads, time, head) to (batch, time, heads * head)."""
    raise Todo("12.2: the way back")


# ----- 12.3 ---------------------------------------------------------------------------------------


def positional_encoding(positions: int, width: int) -> np.ndarray:
    """Return the array (positions, width) of the paper's section 3.5; `width` is even."""
    raise Todo("12.3: sines in the even columns, cosines in the odd ones")


# ----- 12.4 ---------------------------------------------------------------------------------------

Layer = Callable[[mg.Tensor], mg.Tensor]


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
    """Return one causal pre-norm Transformer block of x (batch, time, width).

    `queries_keys_values` turns (batch, time, width) into (batch, time, 3 * width): queries, keys and values
    side by side. `out` is applied to the merged heads. Use what you wrote above.
    """
    raise Todo("12.4: x + attention of its norm, then x + mlp of its norm")


# ----- 12.5 ---------------------------------------------------------------------------------------


def leaks(model: Callable[[np.ndarray], np.ndarray], tokens: np.ndarray, vocabulary: int) -> bool:
    """Return whether some output of the model depends on a later token.

    `model` turns tokens (time,) into outputs (time, anything). Changing the token at place t (to every other
    of 0 ... vocabulary - 1) must leave all outputs before t as they were, to the last bit.
    """
    raise Todo("12.5: change each token and compare what came before")
