"""LeNet-5, with max pooling and ReLU in place of what 1998 had."""

from __future__ import annotations

from typing import Any

from minigrad.nn.containers import Sequential
from minigrad.nn.layers import Conv2d, Flatten, Linear, MaxPool2d, ReLU


class LeNet(Sequential):
    """Images (N, 1, 28, 28) → (N, classes). Paper: LeCun et al. 1998, Gradient-Based Learning Applied to
    Document Recognition, fig. 2.
    """

    def __init__(
        self, classes: int = 10, channels: int = 1, *, device: str | None = None, dtype: Any = None
    ) -> None:
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        super().__init__(
            Conv2d(channels, 6, 5, padding=2, **where),
            ReLU(),
            MaxPool2d(2),
            Conv2d(6, 16, 5, **where),
            ReLU(),
            MaxPool2d(2),
            Flatten(),
            Linear(400, 120, **where),
            ReLU(),
            Linear(120, 84, **where),
            ReLU(),
            Linear(84, classes, **where),
        )
