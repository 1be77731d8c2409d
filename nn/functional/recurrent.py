"""One step of each recurrent cell, and the walk over a sequence of steps.

`inputs` is what the input contributes, W_ih x + b_ih, for all gates side by side: the caller computes it for
all steps in one product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from minigrad import ops
from minigrad.tensor import Tensor

State = tuple[Tensor, ...]
Step = Callable[[Tensor, State], State]


def rnn_step(inputs: Tensor, hidden: Tensor, weight: Any, bias: Any, nonlinearity: str = "tanh") -> Tensor:
    """h' = tanh(inputs + W h + b), or relu. Paper: Elman 1990, Finding Structure in Time."""
    total = inputs + ops.linear(hidden, weight, bias)
    return ops.tanh(total) if nonlinearity == "tanh" else ops.relu(total)


def lstm_step(inputs: Tensor, hidden: Tensor, cell: Tensor, weight: Any, bias: Any) -> State:
    """c' = f c + i g and h' = o tanh(c'), with gates i, f, o = σ(...) and g = tanh(...) in the order i f g o.

    Shapes: inputs (N, 4 H), hidden and cell (N, H), weight (4 H, H). Papers: Hochreiter, Schmidhuber 1997,
    Long Short-Term Memory; Gers et al. 2000, Learning to Forget, for f.
    """
    i, f, g, o = ops.chunk(inputs + ops.linear(hidden, weight, bias), 4, axis=1)
    cell = ops.sigmoid(f) * cell + ops.sigmoid(i) * ops.tanh(g)
    return ops.sigmoid(o) * ops.tanh(cell), cell


def gru_step(inputs: Tensor, hidden: Tensor, weight: Any, bias: Any) -> Tensor:
    """h' = (1 - z) n + z h, with r, z = σ(...) and n = tanh(its input + r (W h + b)), in the order r z n.

    Shapes: inputs (N, 3 H), hidden (N, H), weight (3 H, H). Paper: Cho et al. 2014, Learning Phrase
    Representations, eq. 5-8 (r applied behind the product, as in torch).
    """
    ri, zi, ni = ops.chunk(inputs, 3, axis=1)
    rh, zh, nh = ops.chunk(ops.linear(hidden, weight, bias), 3, axis=1)
    z = ops.sigmoid(zi + zh)
    n = ops.tanh(ni + ops.sigmoid(ri + rh) * nh)
    return n + z * (hidden - n)


def walk(step: Step, inputs: Sequence[Tensor], start: State, reverse: bool) -> tuple[list[Tensor], State]:
    """Take all steps, in order or from the last to the first. Returns each step's hidden state, and the last
    state of every sequence.

    Steps may get shorter, in rows, as sequences end: a row that is gone keeps the state it had. In reverse a
    row joins, with its start, where its sequence ends.
    """
    outputs, ended = [], []
    state = tuple(part[: inputs[-1].shape[0]] for part in start) if reverse else start
    for rows in reversed(inputs) if reverse else inputs:
        count, new = state[0].shape[0], rows.shape[0]
        if new < count:
            ended.append(tuple(part[new:] for part in state))
            state = tuple(part[:new] for part in state)
        elif new > count:
            state = tuple(
                ops.concat([part, first[count:new]]) for part, first in zip(state, start, strict=True)
            )
        state = step(rows, state)
        outputs.append(state[0])
    if ended:
        parts = zip(state, *reversed(ended), strict=True)
        state = tuple(ops.concat(part) for part in parts)
    return outputs[::-1] if reverse else outputs, state
