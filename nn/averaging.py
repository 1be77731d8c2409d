"""Averages of a model's weights along its way: stochastic weight averaging, and an exponential mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from typing import Any

import numpy as np

from minigrad import mutation
from minigrad.backend import Array
from minigrad.errors import UsageError
from minigrad.graph import no_grad
from minigrad.nn.module import Buffer, Module
from minigrad.tensor import Tensor

Average = Callable[[Array, Array, int], Array]
MultiAverage = Callable[[Sequence[Array], Sequence[Array], int], None]


def get_swa_avg_fn() -> Average:
    """The mean of all: w̄ + (w - w̄) / (n + 1), for the weights w after the first n.

    Paper: Izmailov et al. 2018, Averaging Weights Leads to Wider Optima and Better Generalization, alg. 1.
    """
    return lambda average, value, count: average + (value - average) / (count + 1)


def get_ema_avg_fn(decay: float = 0.999) -> Average:
    """A mean in which what is k updates old weighs decayᵏ: decay·w̄ + (1 - decay)·w."""
    if not 0 <= decay <= 1:
        raise UsageError(f"a decay lies between 0 and 1, got {decay}")
    return lambda average, value, count: decay * average + (1 - decay) * value


def get_swa_multi_avg_fn() -> MultiAverage:
    """The mean of `get_swa_avg_fn` over lists of arrays, the averages changed in place."""
    return _in_place(get_swa_avg_fn())


def get_ema_multi_avg_fn(decay: float = 0.999) -> MultiAverage:
    """The mean of `get_ema_avg_fn` over lists of arrays, the averages changed in place."""
    return _in_place(get_ema_avg_fn(decay))


def _in_place(average: Average) -> MultiAverage:
    def update(averages: Sequence[Array], values: Sequence[Array], count: int) -> None:
        for own, value in zip(averages, values, strict=True):
            own[...] = average(own, value, count)

    return update


class AveragedModel(Module):
    """A copy of `model` whose parameters are an average over the calls of `update_parameters(model)`.

    The first call copies; later ones set every parameter to avg_fn(average, value, calls before), which is
    the mean of all unless given, and with `use_buffers` floating-point buffers too; without, those are
    copied. `multi_avg_fn(averages, values, calls before)` does so for lists of arrays, in place. The state is
    torch's: "n_averaged", and the model's below "module.". Raises UsageError for both functions at once.
    """

    def __init__(
        self,
        model: Module,
        device: str | None = None,
        avg_fn: Average | None = None,
        multi_avg_fn: MultiAverage | None = None,
        use_buffers: bool = False,
    ) -> None:
        if avg_fn is not None and multi_avg_fn is not None:
            raise UsageError("AveragedModel: avg_fn and multi_avg_fn say the same thing twice; give one")
        self.module = deepcopy(model)
        if device is not None:
            self.module.to(device)
        self.n_averaged = Buffer(np.zeros((), dtype="int64"))
        self.avg_fn, self.multi_avg_fn = avg_fn or get_swa_avg_fn(), multi_avg_fn
        self.use_buffers = use_buffers

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        return self.module(*inputs, **keywords)

    def update_parameters(self, model: Module) -> None:
        """Take in the present parameters of `model`. Raises UsageError where it is another model."""
        pairs = list(_pairs(self.module.named_parameters(), model.named_parameters()))
        buffers = list(_pairs(self.module.named_buffers(), model.named_buffers()))
        count = int(self.n_averaged.item())
        averaged: list[tuple[Tensor, Array]] = []
        for own, value in [*pairs, *buffers]:
            moved = value.detach().to(own.device).data
            if count and own.dtype.kind in "fV" and (self.use_buffers or not isinstance(own, Buffer)):
                averaged.append((own, moved))
            else:
                own.assign(moved)
        if self.multi_avg_fn is not None and averaged:
            self.multi_avg_fn([own.data for own, _ in averaged], [value for _, value in averaged], count)
            for own, _ in averaged:
                mutation.mutated(own.data)
        else:
            for own, moved in averaged:
                own.assign(self.avg_fn(own.data, moved, count))
        self.n_averaged.assign(count + 1)


def _pairs(
    mine: Iterator[tuple[str, Any]], theirs: Iterator[tuple[str, Any]]
) -> Iterator[tuple[Tensor, Tensor]]:
    own, other = dict(mine), dict(theirs)
    shapes = [{name: tensor.shape for name, tensor in found.items()} for found in (own, other)]
    if shapes[0] != shapes[1]:
        different = [name for name in {**own, **other} if shapes[0].get(name) != shapes[1].get(name)]
        raise UsageError(f"the model differs from the one that is averaged in {', '.join(different)}")
    return ((own[name], other[name]) for name in own)


def update_bn(loader: Iterable[Any], model: Module, device: str | None = None) -> None:
    """Compute the running statistics of all batch norms anew, as plain means over the batches of `loader`.

    A batch is an input, or a list or tuple that begins with it. To be called once, after averaging: the
    statistics of an average are no average of statistics (Izmailov et al. 2018, §3.2). Nothing is done for a
    model without batch norm.
    """
    norms: list[Any] = [module for module in model.modules() if hasattr(module, "reset_running_stats")]
    if not norms:
        return
    training, momenta = model.training, [norm.momentum for norm in norms]
    model.train()
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
        with no_grad():
            for batch in loader:
                inputs = batch[0] if isinstance(batch, (list, tuple)) else batch
                model(inputs if device is None else inputs.to(device))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.train(training)
