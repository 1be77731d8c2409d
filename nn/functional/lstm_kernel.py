"""A whole sequence through an LSTM, fused: the composition of its steps, and the fast path held to it.

The fast path keeps the gates of all steps in one array and computes them in place, all four at once: the
logistic function is σ(a) = ½ tanh(a/2) + ½, so a step is one product, one tanh and a few multiplications.
Backwards the steps leave their gates' cotangents in one array, and the weight's is a single product over all
steps. Papers: Hochreiter, Schmidhuber 1997, Long Short-Term Memory; Gers et al. 2000, Learning to Forget.
"""

from __future__ import annotations

from typing import Any

from minigrad import ops
from minigrad.fused import fused
from minigrad.nn.functional.recurrent import lstm_step
from minigrad.rules import OPERATIONS
from minigrad.tensor import Tensor


def order(steps: int, reverse: bool) -> range:
    """The numbers of the steps in the order in which they are read."""
    return range(steps - 1, -1, -1) if reverse else range(steps)


def _cut(gates: Any, size: int) -> list[Any]:
    """The gates i, f, g, o (N, H) of (N, 4 H), as views."""
    return [gates[:, k * size : (k + 1) * size] for k in range(4)]


def _forward(
    xp: Any, inputs: Any, weight: Any, hidden: Any, cell: Any, *, reverse: bool
) -> tuple[Any, tuple[Any, Any]]:
    steps, batch, width = inputs.shape
    size, dtype = width // 4, inputs.dtype
    out = xp.empty((2, steps, batch, size), dtype=dtype)
    gates = xp.empty(inputs.shape, dtype=dtype)
    squashed = xp.empty((steps, batch, size), dtype=dtype)  # tanh of every cell
    half = xp.concat([xp.full(n * size, a, dtype=dtype) for n, a in ((2, 0.5), (1, 1.0), (1, 0.5))])
    rest = 1.0 - half
    across = weight.T
    for t in order(steps, reverse):
        z = gates[t]
        xp.matmul(hidden, across, out=z)
        z += inputs[t]
        z *= half
        xp.tanh(z, out=z)
        z *= half
        z += rest
        i, f, g, o = _cut(z, size)
        c = xp.multiply(f, cell, out=out[1, t])
        c += i * g
        hidden = xp.multiply(o, xp.tanh(c, out=squashed[t]), out=out[0, t])
        cell = c
    return out, (out, (gates, squashed))


def _pull(xp: Any, v: Any, needs: Any, arrays: Any, kept: Any, into: Any, *, reverse: bool) -> list[Any]:
    inputs, weight, start, first = arrays
    out, (gates, squashed) = kept
    steps, batch, width = inputs.shape
    size = width // 4
    moved = xp.empty(inputs.shape, dtype=inputs.dtype)
    dh = xp.zeros((batch, size), dtype=inputs.dtype)
    dc = xp.zeros((batch, size), dtype=inputs.dtype)
    forwards = list(order(steps, reverse))
    for place in range(steps - 1, -1, -1):
        t = forwards[place]
        before = out[1, forwards[place - 1]] if place else first
        (i, f, g, o), tc = _cut(gates[t], size), squashed[t]
        di, df, dg, do = _cut(moved[t], size)
        dh = dh + v[0, t]
        xp.multiply(dh, tc, out=do)
        # The cell's cotangent: its own, and what came through h = o tanh(c).
        dc = dc + v[1, t]
        dc += dh * o * (1.0 - tc * tc)
        xp.multiply(dc, g, out=di)
        xp.multiply(dc, before, out=df)
        xp.multiply(dc, i, out=dg)
        for gradient, gate in ((di, i), (df, f), (do, o)):
            gradient *= gate
            gradient *= 1.0 - gate
        dg *= 1.0 - g * g
        dc *= f
        dh = xp.matmul(moved[t], weight)
    dw = None
    if needs[1]:
        # Of step t with the hidden state before it: all but the first lie in `out`, one step away.
        later, earlier = (moved[:-1], out[0, 1:]) if reverse else (moved[1:], out[0, :-1])
        rows = (steps - 1) * batch
        dw = xp.matmul(later.reshape(rows, width).T, earlier.reshape(rows, size))
        dw += xp.matmul(moved[forwards[0]].T, start)
    return [moved if needs[0] else None, dw, dh if needs[2] else None, dc if needs[3] else None]


@fused(forward=_forward, pull=_pull)
def _lstm_sequence(inputs: Any, weight: Any, hidden: Any, cell: Any, /, *, reverse: bool) -> Tensor:
    steps = ops.unstack(inputs)
    found: dict[int, tuple[Tensor, ...]] = {}
    for t in order(len(steps), reverse):
        hidden, cell = found[t] = lstm_step(steps[t], hidden, cell, weight, None)
    return ops.stack([ops.stack([found[t][k] for t in range(len(steps))]) for k in range(2)])


del OPERATIONS["lstm_sequence"]  # not of the engine's catalogue; tests/nn/test_recurrent.py sweeps it


def lstm_sequence(
    inputs: Tensor, weight: Tensor, hidden: Tensor, cell: Tensor, *, reverse: bool = False
) -> Tensor:
    """All hidden states and all cells, (2, time, N, H), in the order of time, also when read in `reverse`.

    Shapes: inputs (time, N, 4 H), what the input contributes to the gates i f g o with all biases; weight (4
    H, H); hidden and cell (N, H).
    """
    return _lstm_sequence(inputs, weight, hidden, cell, reverse=reverse)
