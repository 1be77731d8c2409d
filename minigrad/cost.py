"""What a computation would cost, found by running it on shape-only arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from minigrad import backend
from minigrad.backend_shape_rules import extent
from minigrad.meter import metered
from minigrad.tensor import Tensor
from minigrad.tree import flatten, rebuild


@dataclass(frozen=True)
class Cost:
    """FLOPs; bytes read and written, each array of each function once; most bytes of arrays alive at a time.

    `peak_bytes` counts arrays made while the function ran, temporaries of fast paths included, and not the
    inputs. `flops_by_function` says where the FLOPs went.
    """

    flops: int
    bytes_moved: int
    peak_bytes: int
    flops_by_function: dict[str, int]

    def __str__(self) -> str:
        return (
            f"{self.flops:,} FLOPs, {self.bytes_moved:,} bytes moved, at most {self.peak_bytes:,} bytes alive"
        )


def cost(f: Callable[..., Any], *inputs: Any) -> Cost:
    """Run f on shape-only twins of the inputs (any nest of tensors and arrays) and report what it would have
    cost.

    Nothing is computed and nothing large is allocated. Tensors that f closes over, such as a model's
    parameters, must be shape-only themselves: build the model with device="shapes".

    >>> import minigrad as mg
    >>> mg.cost(lambda x: x @ x, mg.ones((100, 100), device="shapes")).flops
    2000000
    """
    xp = backend.of_device("shapes")
    twins = [_twin(x, xp) for x in flatten(inputs)]
    with metered() as meter:
        result = f(*rebuild(inputs, twins))
        del result
    return Cost(meter.flops, meter.bytes_moved, meter.peak_bytes, dict(meter.by_function))


def _twin(x: Any, xp: Any) -> Any:
    if not isinstance(x, Tensor) and not hasattr(x, "dtype"):
        return x
    twin = Tensor.of(xp.empty(x.shape, dtype=x.dtype))
    twin.data.bounds = extent(x.data if isinstance(x, Tensor) else x)  # an index out of range is refused
    return twin.requires_grad_() if isinstance(x, Tensor) and x.requires_grad else twin
