"""Reference answers to lesson 19. Spoilers: try exercise.py first."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np


def gradient_in_segments(layers: Sequence[Any], x: Any, cotangent: Any, segments: int) -> Any:
    """Keep k states, compute the rest again."""
    ends = [len(layers) * (k + 1) // segments for k in range(segments)]
    starts = [0, *ends[:-1]]
    kept = []
    for start, end in zip(starts, ends, strict=True):
        kept.append(x)
        if end < len(layers):  # what comes out of the last part is not needed
            for layer in layers[start:end]:
                x = layer.forward(x)
    del x
    for start, end in reversed(list(zip(starts, ends, strict=True))):
        states = [kept.pop()]
        for layer in layers[start : end - 1]:
            states.append(layer.forward(states[-1]))
        for layer in reversed(layers[start:end]):
            cotangent = layer.backward(states.pop(), cotangent)
    return cotangent


Pull = Callable[[np.ndarray], np.ndarray]
Random = Callable[[np.ndarray, np.random.Generator], tuple[np.ndarray, Pull]]


class Segment:
    """Forgotten, and computed again."""

    def __init__(self, function: Random) -> None:
        self.function = function

    def forward(self, x: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Keep the input and the generator's state."""
        self.x, self.before = x, random.bit_generator.state
        output, _ = self.function(x, random)
        return output

    def backward(self, cotangent: np.ndarray) -> np.ndarray:
        """Replay."""
        replay = np.random.default_rng(0)
        replay.bit_generator.state = self.before
        _, pull = self.function(self.x, replay)
        return pull(cotangent)


@cache
def fewest_extra_steps(layers: int, snapshots: int) -> int:
    """The optimum by recursion."""
    if layers == 1:
        return 0
    if snapshots == 1:
        return layers * (layers - 1) // 2
    return min(cost(layers, snapshots, m) for m in range(1, layers))


def cost(layers: int, snapshots: int, m: int) -> int:
    """Steps when the next state is kept after m layers."""
    return m + fewest_extra_steps(layers - m, snapshots - 1) + fewest_extra_steps(m, snapshots)


def gradient_with_snapshots(layers: Sequence[Any], x: Any, cotangent: Any, snapshots: int) -> Any:
    """What the recursion says."""
    count = len(layers)
    if count == 1:
        return layers[0].backward(x, cotangent)
    if snapshots == 1:
        m = count - 1
    else:
        m = min(range(1, count), key=lambda m: cost(count, snapshots, m))
    state = x
    for layer in layers[:m]:
        state = layer.forward(state)
    cotangent = gradient_with_snapshots(layers[m:], state, cotangent, max(snapshots - 1, 1))
    del state
    return gradient_with_snapshots(layers[:m], x, cotangent, snapshots)
