"""Scaled dot-product attention, fused.

Paper: Vaswani et al. 2017, Attention Is All You Need, §3.2.1: softmax(Q Kᵀ / √d) V.

The kernel holds the scores transposed, Sᵀ = K (Q/√d)ᵀ, so that maximum and sum over keys run across rows,
which vectorises. With E = e^(S - max) and l = Σ E the output is (E V)/l. What is kept for the backward pass
are the probabilities E/l or, of long sequences, max and l, which give them again. Where blocking pays it
takes a few elements of the batch at a time, and of those a few queries: their scores stay in the cache, and
keys that none of them may look at are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from minigrad.backend import Array, namespace
from minigrad.errors import ShapeError
from minigrad.fused import fused
from minigrad.ops.blocks import blocks
from minigrad.ops.elementwise import where
from minigrad.ops.linalg import matmul
from minigrad.ops.rearranging import unstack
from minigrad.ops.reductions import softmax
from minigrad.ops.shape import matrix_transpose, permute_dims, reshape
from minigrad.tensor import Tensor

KEEP_SCORES_UP_TO = 256
"""Keys up to which the probabilities are kept for the backward pass; beyond, they are computed again (memory
linear in time).
"""

QUERIES = 64
"""Queries in a part. With fewer the products become too small, with more the keys left out too few."""


def _parts(xp: Any, queries: int, keys: int, causal: bool) -> list[tuple[slice, int]]:
    """Parts of the queries, each with the number of keys that it looks at. The last one looks at all."""
    pays = xp.leaves_out and (causal or keys > KEEP_SCORES_UP_TO)
    width = QUERIES if pays else max(queries, 1)
    stops = [min(start + width, queries) for start in range(0, max(queries, 1), width)]
    starts = [0, *stops[:-1]]
    return [
        (slice(start, stop), keys - queries + stop if causal else keys)
        for start, stop in zip(starts, stops, strict=True)
    ]


def _elements(xp: Any, q: Any, parts: list[tuple[slice, int]]) -> Iterator[slice]:
    """Elements of the batch to be taken at a time: as many as have scores of two blocks in a part of the
    queries.
    """
    (first, _), (_, keys) = parts[0], parts[-1]
    return blocks(xp, q.shape[0], q.shape[1] * first.stop * keys // 2)


def hidden(xp: Any, queries: int, keys: int) -> Array:
    """A (keys, queries) array that is true where a causal query may not look: keys after its own place, ends
    aligned.
    """
    return xp.arange(keys)[:, None] > xp.arange(queries)[None, :] + (keys - queries)


def _triangle(xp: Any, parts: list[tuple[slice, int]], causal: bool, dtype: Any) -> Any:
    """What is added to the scores of a part's own keys, the last that it looks at: -∞ where hidden."""
    width = parts[0][0].stop
    return xp.where(hidden(xp, width, width), -math.inf, 0.0).astype(dtype) if causal else None


def _exponentials(
    xp: Any, k: Any, scaled: Any, triangle: Any, top: Any = None, out: Any = None
) -> tuple[Any, Any]:
    """E = e^(S - top) as (..., keys, queries), into `out` if given, and top, the maxima (..., 1, queries)
    unless given, from keys and queries/√d as (..., width, queries).
    """
    scores = xp.matmul(k, scaled, out=out)
    if triangle is not None:
        own = scaled.shape[-1]
        scores[..., scores.shape[-2] - own :, :] += triangle[:own, :own]
    if top is None:
        top = xp.max(scores, axis=-2, keepdims=True)
    scores -= top
    return xp.exp(scores, out=scores), top


def attend(
    xp: Any, q: Any, k: Any, v: Any, out: Any, causal: bool, scale: float, keep: bool
) -> tuple[Any, Any, Any]:
    """Write attention of q, k, v (batch, heads, time, width; any strides) into `out`; return what `pull_back`
    needs: of long sequences, or without `keep`, no probabilities.
    """
    batch, heads, queries, _ = q.shape
    keys = k.shape[-2]
    parts = _parts(xp, queries, keys, causal)
    triangle = _triangle(xp, parts, causal, q.dtype)
    probabilities = None
    if keep and keys <= KEEP_SCORES_UP_TO:
        probabilities = [
            xp.empty((batch, heads, seen, part.stop - part.start), dtype=q.dtype) for part, seen in parts
        ]
    tops = xp.empty((batch, heads, 1, queries), dtype=q.dtype)
    totals = xp.empty((batch, heads, 1, queries), dtype=q.dtype)
    ones = xp.ones((1, keys), dtype=q.dtype)
    for i in _elements(xp, q, parts):
        scaled = xp.matrix_transpose(q[i] * scale)
        for number, (part, seen) in enumerate(parts):
            place = probabilities[number][i] if probabilities is not None else None
            e, top = _exponentials(xp, k[i][..., :seen, :], scaled[..., part], triangle, out=place)
            tops[i][..., part] = top
            total = xp.matmul(ones[:, :seen], e, out=totals[i][..., part])
            o = out[i][..., part, :]
            if probabilities is not None:
                e *= 1.0 / total
            xp.matmul(xp.matrix_transpose(e), v[i][..., :seen, :], out=o)
            if probabilities is None:
                o /= xp.matrix_transpose(total)
    return probabilities, tops, totals


def pull_back(
    xp: Any,
    g: Any,
    q: Any,
    k: Any,
    v: Any,
    out: Any,
    kept: Any,
    grads: tuple[Any, Any, Any],
    causal: bool,
    scale: float,
) -> None:
    """Write the cotangents of q, k, v into `grads`, from the cotangent `g` of the output."""
    probabilities, tops, totals = kept
    dq, dk, dv = grads
    keys = k.shape[-2]
    parts = _parts(xp, q.shape[-2], keys, causal)
    triangle = _triangle(xp, parts, causal, q.dtype)
    for i in _elements(xp, q, parts):
        steeper = g[i] * scale  # the slope of q kᵀ · scale in q kᵀ, in the smaller array
        shift = xp.empty(totals[i].shape, dtype=q.dtype)
        shift[..., 0, :] = xp.vecdot(steeper, out[i])
        scaled: Any = None if probabilities is not None else xp.matrix_transpose(q[i] * scale)
        for number, (part, seen) in reversed(list(enumerate(parts))):
            earlier, w = k[i][..., :seen, :], g[i][..., part, :]
            if probabilities is not None:
                p = probabilities[number][i]
            else:
                p, _ = _exponentials(xp, earlier, scaled[..., part], triangle, tops[i][..., part])
                p *= 1.0 / totals[i][..., part]
            ds = xp.matmul(v[i][..., :seen, :], xp.matrix_transpose(steeper[..., part, :]))
            ds -= shift[..., part]
            ds *= p
            xp.matmul(xp.matrix_transpose(ds), earlier, out=dq[i][..., part, :])
            for left, right, gradient in ((p, w, dv[i]), (ds, q[i][..., part, :], dk[i])):
                if number == len(parts) - 1:
                    xp.matmul(left, right, out=gradient)
                else:
                    xp.add_matmul(left, right, gradient[..., :seen, :])


# ----- Separate queries, keys and values ----------------------------------------------------------


def _forward(xp: Any, q: Any, k: Any, v: Any, *, causal: bool, scale: float, keep: bool) -> tuple[Any, Any]:
    out = xp.empty((*q.shape[:-1], v.shape[-1]), dtype=q.dtype)
    return out, (out, attend(xp, q, k, v, out, causal, scale, keep))


def _pull(
    xp: Any, g: Any, needs: Any, arrays: Any, kept: Any, into: Any, *, causal: bool, scale: float
) -> Any:
    grads = tuple(xp.empty(a.shape, dtype=a.dtype) for a in arrays)
    q, k, v = arrays
    pull_back(xp, g, q, k, v, kept[0], kept[1], grads, causal, scale)
    return grads


@fused(forward=_forward, pull=_pull)
def _attention(q: Any, k: Any, v: Any, /, *, causal: bool, scale: float) -> Tensor:
    scores = matmul(q * scale, matrix_transpose(k))  # (..., queries, keys)
    if causal:
        xp = namespace(scores.data)
        blind = xp.matrix_transpose(hidden(xp, q.shape[-2], k.shape[-2]))
        scores = scores + where(blind, -math.inf, xp.zeros(blind.shape, dtype=scores.dtype))
    return matmul(softmax(scores, axis=-1), v)


def scaled_dot_product_attention(
    query: Any, key: Any, value: Any, *, is_causal: bool = False, scale: float | None = None
) -> Tensor:
    """softmax(Q Kᵀ · scale) V, with scale 1/√width unless given.

    Shapes: query (..., queries, width), key (..., keys, width), value (..., keys, width of values). With
    `is_causal`, query i sees the keys up to its own place, the ends of both aligned, so that one new query
    sees a whole cache (torch aligns the beginnings). Raises ShapeError where they do not fit.
    """
    if (
        query.shape[-1] != key.shape[-1]
        or key.shape[:-1] != value.shape[:-1]
        or query.shape[:-2] != key.shape[:-2]
    ):
        raise ShapeError(
            f"attention: query {query.shape}, key {key.shape}, value {value.shape} do not fit; expected "
            "(..., queries, d), (..., keys, d), (..., keys, e)"
        )
    if is_causal and query.shape[-2] > key.shape[-2]:
        raise ShapeError(
            f"attention: {query.shape[-2]} causal queries cannot be the last of {key.shape[-2]} keys"
        )
    scale = 1.0 / math.sqrt(query.shape[-1] or 1) if scale is None else scale
    lead = query.shape[:-2]
    if len(lead) == 2:
        return _attention(query, key, value, causal=is_causal, scale=scale)
    flat = [reshape(a, (1, math.prod(lead), *a.shape[-2:])) for a in (query, key, value)]
    out = _attention(*flat, causal=is_causal, scale=scale)
    return reshape(out, (*lead, *out.shape[-2:]))


# ----- Queries, keys and values side by side in one array -----------------------------------------


def _views(xp: Any, packed: Any, heads: int) -> Any:
    """(batch, time, 3·width) as three views (batch, heads, time, width of a head)."""
    batch, time, width = packed.shape
    five = packed.reshape(batch, time, 3, heads, width // (3 * heads))
    return tuple(xp.permute_dims(five[:, :, i], (0, 2, 1, 3)) for i in range(3))


def _heads(xp: Any, joined: Any, heads: int) -> Any:
    batch, time, width = joined.shape
    return xp.permute_dims(joined.reshape(batch, time, heads, width // heads), (0, 2, 1, 3))


def _packed_forward(xp: Any, packed: Any, *, heads: int, causal: bool, keep: bool) -> tuple[Any, Any]:
    batch, time, width = packed.shape
    out = xp.empty((batch, time, width // 3), dtype=packed.dtype)
    scale = 1.0 / math.sqrt(width // (3 * heads))
    q, k, v = _views(xp, packed, heads)
    return out, (out, attend(xp, q, k, v, _heads(xp, out, heads), causal, scale, keep))


def _packed_pull(
    xp: Any, g: Any, needs: Any, arrays: Any, kept: Any, into: Any, *, heads: int, causal: bool
) -> list[Any]:
    (packed,), (out, rest) = arrays, kept
    gradient = xp.empty(packed.shape, dtype=packed.dtype)
    views, grads = _views(xp, packed, heads), _views(xp, gradient, heads)
    scale = 1.0 / math.sqrt(packed.shape[-1] // (3 * heads))
    q, k, v = views
    pull_back(xp, _heads(xp, g, heads), q, k, v, _heads(xp, out, heads), rest, grads, causal, scale)
    return [gradient]


@fused(forward=_packed_forward, pull=_packed_pull)
def _self_attention(packed: Any, /, *, heads: int, causal: bool) -> Tensor:
    batch, time, width = packed.shape
    five = reshape(packed, (batch, time, 3, heads, width // (3 * heads)))
    parts = [permute_dims(part, (0, 2, 1, 3)) for part in unstack(five, axis=2)]
    out = scaled_dot_product_attention(*parts, is_causal=causal)  # (batch, heads, time, head)
    return reshape(permute_dims(out, (0, 2, 1, 3)), (batch, time, width // 3))


def self_attention(packed: Any, /, *, heads: int, is_causal: bool = False) -> Tensor:
    """Multi-head attention of a sequence to itself, from queries, keys and values packed side by side.

    Shapes: packed (batch, time, 3·width) → (batch, time, width). Nothing is copied to take the heads apart.
    """
    if packed.ndim != 3 or packed.shape[-1] % (3 * heads):
        raise ShapeError(
            f"self_attention: expected (batch, time, 3 · heads · k) with {heads} heads, got {packed.shape}; "
            "make the width a multiple of the heads"
        )
    return _self_attention(packed, heads=heads, causal=is_causal)
