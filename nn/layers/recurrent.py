"""Recurrent layers over whole sequences: RNN, LSTM, GRU; several layers, both directions, unequal lengths."""

from __future__ import annotations

import math
from typing import Any

from minigrad import ops
from minigrad.errors import ShapeError, UsageError
from minigrad.nn import functional, init
from minigrad.nn.functional.arguments import flags, one_of, real, whole
from minigrad.nn.functional.gru_kernel import gru_sequence
from minigrad.nn.functional.lstm_kernel import lstm_sequence
from minigrad.nn.functional.recurrent import State, Step, gru_step, lstm_step, rnn_step, walk
from minigrad.nn.layers.dropout import new_stream
from minigrad.nn.layers.linear import new_parameter
from minigrad.nn.module import Module
from minigrad.nn.sequences import PackedSequence, places
from minigrad.ops.rearranging import _cut
from minigrad.tensor import Tensor


class _Recurrent(Module):
    """What all three have in common.

    Parameters of layer k (and "_reverse"): weight_ih_lk (gates · hidden, inputs), weight_hh_lk (gates ·
    hidden, hidden), bias_ih_lk and bias_hh_lk (gates · hidden,).
    """

    gates = 1
    states = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        name = type(self).__name__
        input_size, hidden_size, num_layers = whole(
            self, input_size=input_size, hidden_size=hidden_size, num_layers=num_layers
        )
        (proj_size,) = whole(self, 0, proj_size=proj_size)
        real(self, 0.0, 1.0, dropout=dropout)
        flags(self, bias=bias, batch_first=batch_first, bidirectional=bidirectional)
        if proj_size and self.states < 2:
            raise UsageError(f"{name}: only an LSTM has a proj_size, got {proj_size}")
        if proj_size >= hidden_size:
            raise UsageError(f"{name}: proj_size is below hidden_size {hidden_size}, or 0; got {proj_size}")
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout = bias, batch_first, dropout
        self.bidirectional, self._stream = bidirectional, new_stream(name)
        self.proj_size, out = proj_size, proj_size or hidden_size
        rows, bound = self.gates * hidden_size, 1 / math.sqrt(hidden_size)
        for layer in range(num_layers):
            width = input_size if layer == 0 else out * (1 + bidirectional)
            for suffix in self._suffixes(layer):
                shapes: dict[str, tuple[int, ...]] = {
                    "weight_ih": (rows, width),
                    "weight_hh": (rows, out),
                }
                if bias:
                    shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
                if proj_size:
                    shapes |= {"weight_hr": (out, hidden_size)}
                for kind, shape in shapes.items():
                    parameter = new_parameter(shape, dtype=dtype, device=device)
                    setattr(self, kind + suffix, init.uniform_(parameter, -bound, bound))

    def _suffixes(self, layer: int) -> list[str]:
        return [f"_l{layer}", f"_l{layer}_reverse"][: 1 + self.bidirectional]

    def _step(self, weight: Tensor, bias: Tensor | None) -> Step:
        raise NotImplementedError

    def _input_bias(self, suffix: str) -> Tensor | None:
        """What is added to the inputs of all steps at once."""
        return getattr(self, "bias_ih" + suffix) if self.bias else None

    def _layer(self, x: Tensor, sizes: tuple[int, ...], start: State, suffix: str) -> tuple[Tensor, State]:
        """One layer in one direction: x (rows of all steps, width) → (rows, hidden)."""
        inputs = ops.linear(x, getattr(self, "weight_ih" + suffix), self._input_bias(suffix))
        return self._walk(inputs, sizes, start, suffix)

    def _walk(
        self, inputs: Tensor, sizes: tuple[int, ...], start: State, suffix: str
    ) -> tuple[Tensor, State]:
        """All steps, of `sizes` rows, over what the input contributes to each."""
        weight = getattr(self, "weight_hh" + suffix)
        step = self._step(weight, getattr(self, "bias_hh" + suffix) if self.bias else None)
        if self.proj_size:
            step = _projected(step, getattr(self, "weight_hr" + suffix))
        steps = _cut(inputs, axis=0, sizes=sizes, dropped=False)
        outputs, last = walk(step, steps, start, suffix.endswith("reverse"))
        return ops.concat(outputs), last

    def _run(self, x: Tensor, sizes: tuple[int, ...], start: State, kept: Any) -> tuple[Tensor, State]:
        """All layers: x (rows of all steps, width); states (layers · directions, batch, hidden)."""
        number, finals = 0, []
        for layer in range(self.num_layers):
            if layer and self.dropout and self.training:
                x = x * kept(layer, x.shape[1])
            outputs = []
            for suffix in self._suffixes(layer):
                output, last = self._layer(x, sizes, tuple(part[number] for part in start), suffix)
                outputs.append(output)
                finals.append(last)
                number += 1
            x = outputs[0] if len(outputs) == 1 else ops.concat(outputs, axis=1)
        return x, tuple(ops.stack(parts) for parts in zip(*finals, strict=True))

    def forward(self, x: Any, hx: Any = None) -> tuple[Any, Any]:
        """All outputs of the last layer, and the last states of every layer and direction.

        Shapes: x (time, batch, input_size), (batch, time, input_size) with `batch_first`, (time, input_size)
        without a batch, or a PackedSequence; hx and the last states (layers · directions, batch, hidden),
        zeros unless given. Outputs are (..., directions · hidden), packed where x is.
        """
        if isinstance(x, PackedSequence):
            return self._packed(x, hx)
        alone = x.ndim == 2
        if x.ndim not in (2, 3) or x.shape[-1] != self.input_size:
            layout = "batch, time" if self.batch_first else "time, batch"
            raise ShapeError(
                f"{type(self).__name__}: expected ({layout}, {self.input_size}) or (time, "
                f"{self.input_size}), got {x.shape}"
            )
        steps = ops.expand_dims(x, axis=1) if alone else x
        if self.batch_first and not alone:
            steps = ops.permute_dims(x, (1, 0, 2))
        time, batch, _ = steps.shape
        if time == 0:
            raise ShapeError(f"{type(self).__name__}: a sequence has at least one step; x is {x.shape}")
        start = self._start(hx, batch, steps, alone)

        def kept(layer: int, width: int) -> Tensor:
            return ops.permute_dims(self._mask((batch, time, width), layer, steps), (1, 0, 2)).reshape(
                time * batch, width
            )

        out, last = self._run(steps.reshape(time * batch, self.input_size), (batch,) * time, start, kept)
        out = out.reshape(time, batch, out.shape[1])
        if alone:
            out, last = ops.squeeze(out, axis=1), tuple(ops.squeeze(part, axis=1) for part in last)
        elif self.batch_first:
            out = ops.permute_dims(out, (1, 0, 2))
        return out, last if self.states > 1 else last[0]

    def _packed(self, x: PackedSequence, state: Any) -> tuple[PackedSequence, Any]:
        data, sizes, order, back = x
        time, batch = len(sizes), len(order)
        there, again = (Tensor(indices, device=data.device) for indices in (order, back))
        start = tuple(part[:, there] for part in self._start(state, batch, data, False))

        def kept(layer: int, width: int) -> Tensor:
            mask = self._mask((batch, time, width), layer, data)
            rows = ops.permute_dims(mask, (1, 0, 2)).reshape(time * batch, width)
            return ops.take(rows, Tensor(places(sizes, order), device=data.device))

        out, last = self._run(data, tuple(map(int, sizes)), start, kept)
        last = tuple(part[:, again] for part in last)
        return x._replace(data=out), last if self.states > 1 else last[0]

    def flatten_parameters(self) -> None:
        """torch's, which lays weights out for a GPU library; nothing is to be done here."""

    def _mask(self, shape: tuple[int, ...], layer: int, like: Tensor) -> Tensor:
        """Dropout's factors; the first axis counts samples."""
        ones = ops.ones(shape, dtype=like.dtype, device=like.device)
        return functional.dropout(ones, self.dropout, stream=f"{self._stream} {layer}")

    def _start(self, state: Any, batch: int, like: Tensor, alone: bool) -> State:
        lead = (self.num_layers * (1 + self.bidirectional), batch)
        widths = (self.proj_size or self.hidden_size, self.hidden_size)  # of h, and of an LSTM's c
        shapes = [(*lead, width) for width in widths[: self.states]]
        if state is None:
            return tuple(ops.zeros(shape, dtype=like.dtype, device=like.device) for shape in shapes)
        parts = tuple(state) if self.states > 1 else (state,)
        given = tuple(ops.expand_dims(part, axis=1) if alone and part.ndim == 2 else part for part in parts)
        if [part.shape for part in given] != shapes:
            raise ShapeError(
                f"{type(self).__name__}: expected {self.states} state(s) of shape {shapes}, got "
                f"{[part.shape for part in parts]}"
            )
        return given

    def extra_repr(self) -> str:
        parts = [f"{self.input_size}, {self.hidden_size}"]
        defaults = {
            "num_layers": 1,
            "bias": True,
            "batch_first": False,
            "dropout": 0.0,
            "bidirectional": False,
            "proj_size": 0,
        }
        parts += [
            f"{name}={vars(self)[name]}" for name, value in defaults.items() if vars(self)[name] != value
        ]
        return ", ".join(parts)


class RNN(_Recurrent):
    """h_t = tanh(W_ih x_t + b_ih + W_hh h_(t-1) + b_hh), or relu. Paper: Elman 1990, Finding Structure in
    Time.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        one_of(self, ("tanh", "relu"), nonlinearity=nonlinearity)
        self.nonlinearity = nonlinearity
        super().__init__(
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            device=device,
            dtype=dtype,
        )

    def _step(self, weight: Tensor, bias: Tensor | None) -> Step:
        return lambda inputs, state: (rnn_step(inputs, state[0], weight, bias, self.nonlinearity),)


def _projected(step: Step, weight: Tensor) -> Step:
    """A step whose hidden state goes through a matrix."""

    def projected(inputs: Tensor, state: State) -> State:
        hidden, *others = step(inputs, state)
        return (ops.linear(hidden, weight, None), *others)

    return projected


class LSTM(_Recurrent):
    """Long short-term memory; the state is a pair (h, c). Papers: see `functional.recurrent.lstm_step`.

    With `proj_size` the hidden state is W_hr o tanh(c), of that width, by the further parameter weight_hr_lk
    (proj_size, hidden); its steps are not fused. Paper: Sak, Senior, Beaufays 2014, Long Short-Term Memory
    Based Recurrent Neural Network Architectures, eq. 12-13.
    """

    gates, states = 4, 2

    def _input_bias(self, suffix: str) -> Tensor | None:
        return getattr(self, "bias_ih" + suffix) + getattr(self, "bias_hh" + suffix) if self.bias else None

    def _walk(
        self, inputs: Tensor, sizes: tuple[int, ...], start: State, suffix: str
    ) -> tuple[Tensor, State]:
        if sizes[0] != sizes[-1] or self.proj_size:
            return super()._walk(inputs, sizes, start, suffix)
        reverse, weight = suffix.endswith("reverse"), getattr(self, "weight_hh" + suffix)
        steps = inputs.reshape(len(sizes), sizes[0], inputs.shape[1])
        found = lstm_sequence(steps, weight, *start, reverse=reverse)
        hidden, cell = _cut(found, axis=0, sizes=(len(sizes), 1), dropped=False)
        last = hidden[0 if reverse else -1]
        return hidden.reshape(inputs.shape[0], self.hidden_size), (last, ops.squeeze(cell, axis=0))

    def _step(self, weight: Tensor, bias: Tensor | None) -> Step:
        return lambda inputs, state: lstm_step(inputs, state[0], state[1], weight, None)


class GRU(_Recurrent):
    """Gated recurrent unit. Paper: see `functional.recurrent.gru_step`."""

    gates = 3

    def _walk(
        self, inputs: Tensor, sizes: tuple[int, ...], start: State, suffix: str
    ) -> tuple[Tensor, State]:
        if sizes[0] != sizes[-1]:
            return super()._walk(inputs, sizes, start, suffix)
        weight = getattr(self, "weight_hh" + suffix)
        bias = getattr(self, "bias_hh" + suffix) if self.bias else None
        reverse = suffix.endswith("reverse")
        steps = inputs.reshape(len(sizes), sizes[0], inputs.shape[1])
        hidden = gru_sequence(steps, weight, bias, start[0], reverse=reverse)
        return hidden.reshape(inputs.shape[0], self.hidden_size), (hidden[0 if reverse else -1],)

    def _step(self, weight: Tensor, bias: Tensor | None) -> Step:
        return lambda inputs, state: (gru_step(inputs, state[0], weight, bias),)
