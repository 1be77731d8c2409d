"""Examples of the operations of minigrad/ops/activations.py. The rest there are compositions."""

import numpy as np

from minigrad.ops import activations
from tests.minigrad.examples import Example, unary

EXAMPLES: dict[str, list[Example]] = {
    "softplus": [
        *unary(activations._softplus, lambda x: np.logaddexp(x, 0)),
        Example(activations._softplus, (np.array([0.0, -30.0, 30.0]),), lambda x: np.logaddexp(x, 0)),
    ],
}
CONSTANTS: dict[str, list[Example]] = {}
