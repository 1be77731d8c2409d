"""Examples of the operations of minigrad/ops/activations.py. The rest there are compositions."""

import numpy as np

from minigrad.ops import activations
from tests.minigrad.examples import Example, unary


def hard(x: np.ndarray) -> np.ndarray:
    return np.clip(x / 6 + 0.5, 0, 1)


AROUND = np.array([-4.0, -2.9, -0.3, 0.4, 2.8, 3.5])

EXAMPLES: dict[str, list[Example]] = {
    "leaky_relu": [
        example
        for slope in (0.01, 0.7, 1.0)
        for example in unary(
            lambda x, a=slope: activations._leaky_relu(x, slope=a),
            lambda x, a=slope: np.where(x > 0, x, a * x),
        )
    ],
    "hardsigmoid": [
        *unary(activations.hardsigmoid, hard),
        Example(activations.hardsigmoid, (AROUND,), hard),
    ],
    "hardswish": [
        *unary(activations.hardswish, lambda x: x * hard(x)),
        Example(activations.hardswish, (AROUND,), lambda x: x * hard(x)),
    ],
    "softplus": [
        *unary(activations._softplus, lambda x: np.logaddexp(x, 0)),
        Example(activations._softplus, (np.array([0.0, -30.0, 30.0]),), lambda x: np.logaddexp(x, 0)),
    ],
}
CONSTANTS: dict[str, list[Example]] = {}
