"""Recurrent cells: one step of RNN, LSTM and GRU."""

from __future__ import annotations

import math
from typing import Any

from minigrad import ops
from minigrad.errors import ShapeError
from minigrad.nn import init
from minigrad.nn.functional.arguments import flags, one_of, whole
from minigrad.nn.functional.recurrent import gru_step, lstm_step, rnn_step
from minigrad.nn.layers.linear import new_parameter
from minigrad.nn.module import Module, Parameter
from minigrad.tensor import Tensor


class _Cell(Module):
    """Parameters: weight_ih (gates · hidden, inputs), weight_hh (gates · hidden, hidden), biases of both."""

    gates = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        input_size, hidden_size = whole(self, input_size=input_size, hidden_size=hidden_size)
        flags(self, bias=bias)
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bias
        rows, bound = self.gates * hidden_size, 1 / math.sqrt(hidden_size)

        def made(*shape: int) -> Parameter:
            parameter = new_parameter(shape, dtype=dtype, device=device)
            init.uniform_(parameter, -bound, bound)
            return parameter

        self.weight_ih, self.weight_hh = made(rows, input_size), made(rows, hidden_size)
        self.bias_ih = made(rows) if bias else None
        self.bias_hh = made(rows) if bias else None

    def _inputs(self, x: Tensor) -> Tensor:
        if x.ndim != 2 or x.shape[1] != self.input_size:
            raise ShapeError(
                f"{type(self).__name__}: expected (batch, {self.input_size}) or ({self.input_size},), "
                f"got {x.shape}"
            )
        return ops.linear(x, self.weight_ih, self.bias_ih)

    def _hidden(self, state: Tensor | None, x: Tensor) -> Tensor:
        shape = (x.shape[0], self.hidden_size)
        if state is None:
            return ops.zeros(shape, dtype=x.dtype, device=x.device)
        if state.shape != shape:
            raise ShapeError(f"{type(self).__name__}: expected a state of shape {shape}, got {state.shape}")
        return state

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}" + ("" if self.bias else ", bias=False")


class _OneState(_Cell):
    def forward(self, x: Tensor, hx: Tensor | None = None) -> Tensor:
        """The next hidden state (batch, hidden) from x (batch, input_size), both also without batch."""
        if x.ndim == 1:
            before = None if hx is None else ops.expand_dims(hx)
            return ops.squeeze(self.forward(ops.expand_dims(x), before), axis=0)
        return self._step(self._inputs(x), self._hidden(hx, x))

    def _step(self, inputs: Tensor, hidden: Tensor) -> Tensor:
        raise NotImplementedError


class RNNCell(_OneState):
    """One step of `RNN`."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        *,
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        one_of(self, ("tanh", "relu"), nonlinearity=nonlinearity)
        super().__init__(input_size, hidden_size, bias, device=device, dtype=dtype)
        self.nonlinearity = nonlinearity

    def _step(self, inputs: Tensor, hidden: Tensor) -> Tensor:
        return rnn_step(inputs, hidden, self.weight_hh, self.bias_hh, self.nonlinearity)


class GRUCell(_OneState):
    """One step of `GRU`."""

    gates = 3

    def _step(self, inputs: Tensor, hidden: Tensor) -> Tensor:
        return gru_step(inputs, hidden, self.weight_hh, self.bias_hh)


class LSTMCell(_Cell):
    """One step of `LSTM`."""

    gates = 4

    def forward(self, x: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """The next (h, c), each (batch, hidden), from x (batch, input_size), all also without batch."""
        if x.ndim == 1:
            before = None if hx is None else (ops.expand_dims(hx[0]), ops.expand_dims(hx[1]))
            h, c = self.forward(ops.expand_dims(x), before)
            return ops.squeeze(h, axis=0), ops.squeeze(c, axis=0)
        h, c = (self._hidden(part, x) for part in hx or (None, None))
        h, c = lstm_step(self._inputs(x), h, c, self.weight_hh, self.bias_hh)
        return h, c
