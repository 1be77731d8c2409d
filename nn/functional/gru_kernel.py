"""A whole sequence through a GRU, fused: the composition of its steps, and the fast path held to it.

As in `lstm_kernel.py`, gates are computed in place for all steps, σ(a) = ½ tanh(a/2) + ½, and the weight's
cotangent is a single product over all steps. Paper: Cho et al. 2014, Learning Phrase Representations, eq. 5-8
(r applied behind the product, as in torch).
"""

from __future__ import annotations

from typing import Any

from minigrad import ops
from minigrad.fused import fused
from minigrad.nn.functional.lstm_kernel import order
from minigrad.nn.functional.recurrent import gru_step
from minigrad.rules import OPERATIONS
from minigrad.tensor import Tensor


def _forward(
    xp: Any, inputs: Any, weight: Any, bias: Any, hidden: Any, *, reverse: bool
) -> tuple[Any, tuple[Any, ...]]:
    steps, batch, width = inputs.shape
    size = width // 3
    out = xp.empty((steps, batch, size), dtype=inputs.dtype)
    gates = xp.empty(inputs.shape, dtype=inputs.dtype)  # r, z, n
    recalled = xp.empty(out.shape, dtype=inputs.dtype)  # W h + b of n, before r
    product = xp.empty((batch, width), dtype=inputs.dtype)
    across = weight.T
    for t in order(steps, reverse):
        xp.matmul(hidden, across, out=product)
        if bias is not None:
            product += bias
        recalled[t] = product[:, 2 * size :]
        both, n = gates[t, :, : 2 * size], gates[t, :, 2 * size :]
        xp.add(inputs[t, :, : 2 * size], product[:, : 2 * size], out=both)
        both *= 0.5
        xp.tanh(both, out=both)
        both *= 0.5
        both += 0.5
        r, z = both[:, :size], both[:, size:]
        xp.multiply(r, recalled[t], out=n)
        n += inputs[t, :, 2 * size :]
        xp.tanh(n, out=n)
        h = xp.subtract(hidden, n, out=out[t])
        h *= z
        h += n
        hidden = h
    return out, (out, gates, recalled)


def _pull(xp: Any, v: Any, needs: Any, arrays: Any, kept: Any, into: Any, *, reverse: bool) -> list[Any]:
    inputs, weight, _, start = arrays
    out, gates, recalled = kept
    steps, batch, width = inputs.shape
    size = width // 3
    moved = xp.empty(inputs.shape, dtype=inputs.dtype)  # of the inputs' gates: r, z, n
    behind = xp.empty(inputs.shape, dtype=inputs.dtype)  # of W h + b: the same, n's times r
    dh = xp.zeros((batch, size), dtype=inputs.dtype)
    forwards = list(order(steps, reverse))
    for place in range(steps - 1, -1, -1):
        t = forwards[place]
        before = out[forwards[place - 1]] if place else start
        r, z, n = (gates[t, :, k * size : (k + 1) * size] for k in range(3))
        dr, dz, dn = (moved[t, :, k * size : (k + 1) * size] for k in range(3))
        dh = dh + v[t]
        xp.subtract(before, n, out=dz)
        dz *= dh
        dz *= z
        dz *= 1.0 - z
        xp.multiply(dh, 1.0 - z, out=dn)
        dn *= 1.0 - n * n
        xp.multiply(dn, recalled[t], out=dr)
        dr *= r
        dr *= 1.0 - r
        behind[t, :, : 2 * size] = moved[t, :, : 2 * size]
        xp.multiply(dn, r, out=behind[t, :, 2 * size :])
        dh *= z
        dh += xp.matmul(behind[t], weight)
    dw = db = None
    if needs[1]:
        later, earlier = (behind[:-1], out[1:]) if reverse else (behind[1:], out[:-1])
        rows = (steps - 1) * batch
        dw = xp.matmul(later.reshape(rows, width).T, earlier.reshape(rows, size))
        dw += xp.matmul(behind[forwards[0]].T, start)
    if needs[2]:
        db = xp.sum(behind, axis=(0, 1))
    return [moved if needs[0] else None, dw, db, dh if needs[3] else None]


@fused(forward=_forward, pull=_pull)
def _gru_sequence(inputs: Any, weight: Any, bias: Any, hidden: Any, /, *, reverse: bool) -> Tensor:
    steps = ops.unstack(inputs)
    found: dict[int, Tensor] = {}
    for t in order(len(steps), reverse):
        hidden = found[t] = gru_step(steps[t], hidden, weight, bias)
    return ops.stack([found[t] for t in range(len(steps))])


del OPERATIONS["gru_sequence"]  # not of the engine's catalogue; tests/nn/test_recurrent.py sweeps it


def gru_sequence(
    inputs: Tensor, weight: Tensor, bias: Tensor | None, hidden: Tensor, *, reverse: bool = False
) -> Tensor:
    """All hidden states (time, N, H), in the order of time, also when read in `reverse`.

    Shapes: inputs (time, N, 3 H), what the input contributes to the gates r z n; weight (3 H, H); bias (3 H,)
    or None; hidden (N, H).
    """
    return _gru_sequence(inputs, weight, bias, hidden, reverse=reverse)
