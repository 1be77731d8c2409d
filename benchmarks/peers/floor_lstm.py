"""The floor's LSTM: gates of all steps in one array, computed in place, one product a step."""

import numpy as np

from benchmarks.peers.kernels import (
    FlatAdam,
    Scratch,
    cross_entropy,
    empty,
    flat_views,
    linear,
    linear_gradients,
)
from benchmarks.peers.step import Step, trained
from benchmarks.workloads import LSTM, Floats, Integers


class Model:
    """The layer and the head. The logistic function is σ(a) = (tanh(a / 2) + 1) / 2, so that all gates of a
    step take one tanh; halves are put into the weights of i, f and o beforehand.
    """

    def __init__(self, workload: LSTM) -> None:
        time, batch, hidden = workload.time, workload.batch, workload.hidden
        self.flat, self.parameters = flat_views(workload.parameters())
        self.flat_gradients, self.gradients = flat_views(self.parameters)
        self.adam = FlatAdam(self.flat, self.flat_gradients, workload.adam, Scratch())
        self.size = hidden
        self.gates = empty(time, batch, 4 * hidden)
        self.states: Floats = np.zeros((time + 1, batch, hidden), np.float32)  # row t is h before step t
        self.cells: Floats = np.zeros((time + 1, batch, hidden), np.float32)
        self.squashed = empty(time, batch, hidden)
        self.moved = empty(time, batch, 4 * hidden)
        self.half: Floats = np.repeat(np.array([0.5, 0.5, 1.0, 0.5], np.float32), hidden)
        self.rest: Floats = 1.0 - self.half
        self.logits = empty(batch, workload.classes)
        self.state, self.cell = empty(batch, hidden), empty(batch, hidden)
        self.work = empty(batch, hidden)
        self.wide = empty(batch, 4 * hidden)

    def forward(self, inputs: Floats) -> None:
        """All steps; what the input contributes is one product over all of them."""
        p, size, gates = self.parameters, self.size, self.gates
        half = self.half[:, None]
        within, across = p["lstm.weight_ih_l0"] * half, (p["lstm.weight_hh_l0"] * half).T
        bias = (p["lstm.bias_ih_l0"] + p["lstm.bias_hh_l0"]) * self.half
        linear(inputs.reshape(-1, inputs.shape[-1]), within, bias, gates.reshape(-1, gates.shape[-1]))
        for t, z in enumerate(gates):
            np.add(z, np.matmul(self.states[t], across, out=self.wide), out=z)
            np.tanh(z, out=z)
            np.multiply(z, self.half, out=z)
            np.add(z, self.rest, out=z)
            i, f, g, o = z[:, :size], z[:, size : 2 * size], z[:, 2 * size : 3 * size], z[:, 3 * size :]
            cell = self.cells[t + 1]
            np.multiply(f, self.cells[t], out=cell)
            np.add(cell, np.multiply(i, g, out=self.work), out=cell)
            np.multiply(o, np.tanh(cell, out=self.squashed[t]), out=self.states[t + 1])

    def backward(self, inputs: Floats) -> None:
        """From the cotangent of the last hidden state, in `state`, to the gradients of the layer."""
        weight, size, dh, dc, work = (
            self.parameters["lstm.weight_hh_l0"],
            self.size,
            self.state,
            self.cell,
            self.work,
        )
        dc[...] = 0
        for t in reversed(range(len(self.gates))):
            z, dz, tc = self.gates[t], self.moved[t], self.squashed[t]
            i, f, g, o = z[:, :size], z[:, size : 2 * size], z[:, 2 * size : 3 * size], z[:, 3 * size :]
            di, df = dz[:, :size], dz[:, size : 2 * size]
            dg, do = dz[:, 2 * size : 3 * size], dz[:, 3 * size :]
            # The slope of σ is σ - σ², that of tanh is 1 - tanh².
            np.multiply(z, z, out=self.wide)
            np.subtract(z, self.wide, out=dz)
            np.subtract(1.0, self.wide[:, 2 * size : 3 * size], out=dg)
            np.multiply(dh, tc, out=work)
            np.multiply(do, work, out=do)
            # d c += dh · o · (1 - tanh² c)
            np.multiply(tc, work, out=work)
            np.subtract(dh, work, out=work)
            np.multiply(work, o, out=work)
            np.add(dc, work, out=dc)
            for slope, factor in ((di, g), (df, self.cells[t]), (dg, i)):
                np.multiply(slope, factor, out=slope)
                np.multiply(slope, dc, out=slope)
            np.multiply(dc, f, out=dc)
            if t:
                np.matmul(dz, weight, out=dh)
        g, rows = self.gradients, self.moved.reshape(-1, 4 * size)
        linear_gradients(
            inputs.reshape(-1, inputs.shape[-1]), rows, g["lstm.weight_ih_l0"], g["lstm.bias_ih_l0"]
        )
        g["lstm.bias_hh_l0"][...] = g["lstm.bias_ih_l0"]
        np.matmul(rows.T, self.states[:-1].reshape(-1, size), out=g["lstm.weight_hh_l0"])

    def loss_and_gradients(self, inputs: Floats, labels: Integers) -> float:
        """Mean cross-entropy; gradients of all parameters are left in the flat buffer."""
        p, g = self.parameters, self.gradients
        self.forward(inputs)
        linear(self.states[-1], p["head.weight"], p["head.bias"], self.logits)
        loss = cross_entropy(self.logits, labels)
        linear_gradients(self.states[-1], self.logits, g["head.weight"], g["head.bias"])
        np.matmul(self.logits, p["head.weight"], out=self.state)
        self.backward(inputs)
        return loss


def lstm(workload: LSTM) -> Step:
    """The recurrent network."""
    return trained(Model(workload), workload)
