"""Examples of the operations of minigrad/ops/rearranging.py."""

from __future__ import annotations

import numpy as np

import minigrad as mg
from tests.minigrad.examples import Example, spread

EXAMPLES: dict[str, list[Example]] = {
    "cut": [  # the parts in another order, and without one of them
        Example(
            lambda x: mg.concat(mg.unstack(x, axis=-1)[:0:-1], axis=0),
            (spread(2, 4),),
            lambda x: np.concatenate([x[:, 3], x[:, 2], x[:, 1]]),
        ),
        Example(
            lambda x: mg.chunk(x, 3, axis=1)[1] * mg.chunk(x, 3, axis=1)[0],
            (spread(2, 5, 2),),
            lambda x: x[:, 2:4] * x[:, :2],
        ),
        Example(lambda x: mg.chunk(x, 2)[1], (spread(3),), lambda x: x[2:]),
        Example(lambda x: mg.unstack(x)[1], (spread(2),), lambda x: x[1]),
        Example(lambda x: mg.chunk(x, 2)[1], (spread(0, 2),), lambda x: x),
        Example(lambda x: mg.split(x, 2)[1], (spread(3, 2),), lambda x: x[2:]),
        Example(lambda x: mg.split(x, (2, 2, 2), axis=-1)[1], (spread(2, 6),), lambda x: x[:, 2:4]),
    ],
    "roll": [
        Example(lambda x: mg.roll(x, 1, axis=0), (spread(3, 2),), lambda x: np.roll(x, 1, 0)),
        Example(lambda x: mg.roll(x, -4, axis=-1), (spread(2, 3),), lambda x: np.roll(x, -4, -1)),
        Example(
            lambda x: mg.roll(x, (1, 2), axis=(0, 1)), (spread(2, 3),), lambda x: np.roll(x, (1, 2), (0, 1))
        ),
        Example(lambda x: mg.roll(x, 2), (spread(2, 3),), lambda x: np.roll(x, 2)),
        Example(lambda x: mg.roll(x, 2), (spread(),), lambda x: x),
        Example(lambda x: mg.roll(x, 2, axis=0), (spread(0, 3),), lambda x: x),
    ],
    "flip": [
        Example(lambda x: mg.flip(x), (spread(2, 3),), np.flip),
        Example(lambda x: mg.flip(x, axis=-1), (spread(2, 3),), lambda x: np.flip(x, -1)),
        Example(lambda x: mg.flip(x, axis=(0, 2)), (spread(2, 1, 3),), lambda x: np.flip(x, (0, 2))),
        Example(lambda x: mg.flip(x), (spread(),), lambda x: x),
        Example(lambda x: mg.flip(x), (spread(0, 3),), lambda x: x),
    ],
    **{
        name: [
            Example(
                lambda x, k=k, name=name: getattr(mg, name)(x, k=k),
                (spread(*s),),
                lambda x, k=k, name=name: getattr(np, name)(x, k),
            )
            for s, k in [((3, 3), 0), ((2, 4), 1), ((2, 3, 2), -1), ((0, 2), 0), ((2, 2), 5), ((2, 2), -5)]
        ]
        for name in ("tril", "triu")
    },
}
CONSTANTS: dict[str, list[Example]] = {}
