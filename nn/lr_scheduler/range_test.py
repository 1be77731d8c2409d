"""The learning-rate range test: one short run with a rising rate, which shows where training is possible."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from minigrad import draw
from minigrad.errors import UsageError
from minigrad.nn.module import Module
from minigrad.nn.optim import Optimizer


@dataclass(frozen=True)
class RangeTest:
    """What a range test found: the rates tried, the loss at each, and a smoothed loss."""

    rates: list[float]
    losses: list[float]
    smoothed: list[float]

    @property
    def steepest(self) -> float:
        """The rate at which the smoothed loss fell fastest, per tenfold rate: a good place to begin."""
        x = [math.log10(rate) for rate in self.rates]
        slopes = [
            (self.smoothed[i + 1] - self.smoothed[i - 1]) / (x[i + 1] - x[i - 1])
            for i in range(1, len(x) - 1)
        ]
        return self.rates[1 + slopes.index(min(slopes))]

    def plot(self, title: str = "Learning-rate range test") -> str:
        """The losses over the logarithm of the rate, as SVG text."""
        x = [math.log10(rate) for rate in self.rates]
        return draw.line_chart(
            {"loss": (x, self.losses), "smoothed": (x, self.smoothed)},
            title=title,
            x_label="log₁₀ of the learning rate",
            y_label="loss",
        )


def range_test(
    train_step: Callable[[], float],
    optimizer: Optimizer,
    *,
    start: float = 1e-6,
    stop: float = 1.0,
    steps: int = 100,
    growth: Literal["exponential", "linear"] = "exponential",
    smoothing: float = 0.9,
    worse: float = 4.0,
    module: Module | None = None,
) -> RangeTest:
    """Call `train_step()`, which trains one batch and returns its loss, with rates from `start` to `stop`.

    Ends early when a loss is not finite, or the smoothed loss (a moving average that keeps `smoothing` of
    itself) `worse` times its smallest value. Rates, optimizer state and parameters are then put back, and the
    buffers of `module` if it is given. Paper: Smith 2017, Cyclical Learning Rates for Training Neural
    Networks, §3.3 (whose rate rises linearly).
    """
    if not (0 < start < stop and steps >= 3 and 0 <= smoothing < 1):
        raise UsageError(
            f"a range test goes from a positive rate to a larger one in at least 3 steps, with smoothing in "
            f"[0, 1); got {start}, {stop}, {steps} and {smoothing}"
        )
    undo = _snapshot(optimizer, module)
    rates: list[float] = []
    losses: list[float] = []
    smoothed: list[float] = []
    average = 0.0
    try:
        for number in range(steps):
            share = number / (steps - 1)
            rate = start + (stop - start) * share if growth == "linear" else start * (stop / start) ** share
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = float(train_step())
            if not math.isfinite(loss):
                break
            average = smoothing * average + (1 - smoothing) * loss
            rates.append(rate)
            losses.append(loss)
            smoothed.append(average / (1 - smoothing ** (number + 1)))
            if smoothed[-1] > worse * min(smoothed) > 0:
                break
    finally:
        undo()
    if len(rates) < 3:
        raise UsageError(f"the loss left all bounds after {len(rates)} steps; begin below the rate {start}")
    return RangeTest(rates, losses, smoothed)


def _snapshot(optimizer: Optimizer, module: Module | None) -> Callable[[], None]:
    """A function that puts back what is there now."""
    rates = [group["lr"] for group in optimizer.param_groups]
    values = [(p, p.data.copy()) for p in [*optimizer.parameters, *(module.buffers() if module else ())]]
    steps = optimizer.steps
    state: list[tuple[Any, Any]] = [(array, array.copy()) for array in optimizer.flat_state.values()]

    def undo() -> None:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        for tensor, value in values:
            tensor.assign(value)
        for array, before in state:
            array[...] = before
        optimizer.set_steps(steps)
        optimizer.zero_grad()

    return undo
