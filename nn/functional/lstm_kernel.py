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
) -> tuple[Any, tuple[Any, Any, Any, Any]]:
    steps, batch, width = inputs.shape
    size, dtype = width // 4, inputs.dtype
    out = xp.empty((steps + 1, batch, size), dtype=dtype)
    gates = xp.empty(inputs.shape, dtype=dtype)
    cells, squashed = (xp.empty((steps, batch, size), dtype=dtype) for _ in range(2))  # c and tanh c
    half = xp.concat([xp.full(n * size, a, dtype=dtype) for n, a in ((2, 0.5), (1, 1.0), (1, 0.5))])
    rest = 1.0 - half
    across = weight.T.copy()  # in one piece: all steps multiply by it
    entering = xp.empty((batch, size), dtype=dtype)
    for t in order(steps, reverse):
        z = gates[t]
        xp.matmul(hidden, across, out=z)
        z += inputs[t]
        z *= half
        xp.tanh(z, out=z)
        z *= half
        z += rest
        i, f, g, o = _cut(z, size)
        cell = xp.multiply(f, cell, out=cells[t])
        cell += xp.multiply(i, g, out=entering)
        hidden = xp.multiply(o, xp.tanh(cell, out=squashed[t]), out=out[t])
    out[steps] = cell
    return out, (out, gates, cells, squashed)


def _pull(xp: Any, v: Any, needs: Any, arrays: Any, kept: Any, into: Any, *, reverse: bool) -> list[Any]:
    inputs, weight, start, first = arrays
    out, gates, cells, squashed = kept
    steps, batch, width = inputs.shape
    size = width // 4
    moved = xp.empty(inputs.shape, dtype=inputs.dtype)
    dh = xp.zeros((batch, size), dtype=inputs.dtype)
    dc = v[steps].copy()
    slope = xp.empty((batch, width), dtype=inputs.dtype)
    scratch = xp.empty((batch, size), dtype=inputs.dtype)
    logistic, candidate = (slice(0, 2 * size), slice(3 * size, None)), slice(2 * size, 3 * size)
    forwards = list(order(steps, reverse))
    for place in range(steps - 1, -1, -1):
        t = forwards[place]
        before = cells[forwards[place - 1]] if place else first
        s, tc, d = gates[t], squashed[t], moved[t]
        (i, f, g, o), (di, df, dg, do) = _cut(s, size), _cut(d, size)
        dh += v[t]
        # The cell's cotangent: its own, and what came through h = o tanh(c).
        xp.multiply(dh, tc, out=do)
        xp.multiply(do, tc, out=scratch)
        xp.subtract(dh, scratch, out=scratch)
        scratch *= o
        dc += scratch
        xp.multiply(dc, g, out=di)
        xp.multiply(dc, before, out=df)
        xp.multiply(dc, i, out=dg)
        # Through the gates: s (1 - s) = s - s² for the logistic function, 1 - g² for tanh.
        xp.multiply(s, s, out=slope)
        for part in logistic:
            xp.subtract(s[:, part], slope[:, part], out=slope[:, part])
        xp.subtract(1.0, slope[:, candidate], out=slope[:, candidate])
        d *= slope
        dc *= f
        xp.matmul(d, weight, out=dh)
    dw = None
    if needs[1]:
        # Of step t with the hidden state before it: all but the first lie in `out`, one step away.
        later, earlier = (moved[:-1], out[1:steps]) if reverse else (moved[1:], out[: steps - 1])
        rows = (steps - 1) * batch
        dw = xp.matmul(later.reshape(rows, width).T, earlier.reshape(rows, size))
        dw += xp.matmul(moved[forwards[0]].T, start)
    return [moved if needs[0] else None, dw, dh if needs[2] else None, dc if needs[3] else None]


@fused(forward=_forward, pull=_pull)
def _lstm_sequence(inputs: Any, weight: Any, hidden: Any, cell: Any, /, *, reverse: bool) -> Tensor:
    steps = ops.unstack(inputs)
    found: dict[int, Tensor] = {}
    for t in order(len(steps), reverse):
        hidden, cell = lstm_step(steps[t], hidden, cell, weight, None)
        found[t] = hidden
    return ops.stack([*(found[t] for t in range(len(steps))), cell])


del OPERATIONS["lstm_sequence"]  # not of the engine's catalogue; tests/nn/test_recurrent.py sweeps it


def lstm_sequence(
    inputs: Tensor, weight: Tensor, hidden: Tensor, cell: Tensor, *, reverse: bool = False
) -> Tensor:
    """All hidden states and then the last cell, (time + 1, N, H); in the order of time also in `reverse`.

    Shapes: inputs (time, N, 4 H), what the input contributes to the gates i f g o with all biases; weight (4
    H, H); hidden and cell (N, H).
    """
    return _lstm_sequence(inputs, weight, hidden, cell, reverse=reverse)
