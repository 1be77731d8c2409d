"""Adam for peers that bring none: the floor's, over one flat copy of the parameters."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from benchmarks.peers.kernels import FlatAdam, Scratch, flat_views
from benchmarks.workloads import Adam, Floats


class NumpyAdam:
    """Holds the parameters as views of one flat buffer; `step` takes gradients by name."""

    def __init__(self, values: dict[str, Floats], settings: Adam) -> None:
        flat, self.parameters = flat_views(values)
        flat_gradients, self.gradients = flat_views(values)
        self.adam = FlatAdam(flat, flat_gradients, settings, Scratch())

    def step(self, gradients: Mapping[str, ArrayLike]) -> None:
        """One update of every parameter."""
        for name, view in self.gradients.items():
            np.copyto(view, gradients[name], casting="same_kind")
        self.adam.step()
