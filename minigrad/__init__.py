"""minigrad: automatic differentiation and parallel training, from first principles.

import minigrad as mg
from minigrad import nn, dist
"""

from pathlib import Path
from typing import TYPE_CHECKING

if not (Path(__file__).parent / "nn" / "__init__.py").is_file():
    # A checkout without links: nn/ and dist/ lie beside this folder.
    __path__.append(str(Path(__file__).resolve().parent.parent))

from minigrad import errors, linalg, mutation, ops, random, testing
from minigrad.allocator import keep_freed_memory
from minigrad.backend import boolean as bool
from minigrad.backend import (
    float16,
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    uint8,
    uint16,
    uint32,
    uint64,
    use_deterministic,
)
from minigrad.backend_mkl import use_mkl
from minigrad.checkpoint import checkpoint
from minigrad.checkpoint_sequence import checkpoint_sequence
from minigrad.cost import Cost, cost
from minigrad.derivatives import grad, gradients, hessian, hvp, jacobian, value_and_grad
from minigrad.draw_graph import draw_graph, graph_dot
from minigrad.graph import enable_grad, fused_operations, is_grad_enabled, no_grad
from minigrad.interop import from_dlpack

# The catalogue says what it hands on; type checkers want its parts named too.
from minigrad.ops import *  # noqa: F403
from minigrad.ops import tensor as tensor  # the function, where the module of that name was
from minigrad.ops.activations import *  # noqa: F403
from minigrad.ops.bits import *  # noqa: F403
from minigrad.ops.convolution import *  # noqa: F403
from minigrad.ops.decompositions import *  # noqa: F403
from minigrad.ops.functions import *  # noqa: F403
from minigrad.ops.matrices import *  # noqa: F403
from minigrad.ops.norms import *  # noqa: F403
from minigrad.ops.pooling import *  # noqa: F403
from minigrad.ops.products import *  # noqa: F403
from minigrad.ops.rearranging import *  # noqa: F403
from minigrad.ops.resampling import *  # noqa: F403
from minigrad.ops.selecting import *  # noqa: F403
from minigrad.ops.sets import *  # noqa: F403
from minigrad.ops.types import *  # noqa: F403
from minigrad.ops.windows import *  # noqa: F403
from minigrad.tensor import Tensor
from minigrad.transforms import jvp, vjp

if not TYPE_CHECKING:
    from minigrad.interop import refused as __getattr__

__version__ = "0.1.0"

__all__ = [
    "Cost",
    "Tensor",
    "bool",
    "checkpoint",
    "checkpoint_sequence",
    "cost",
    "draw_graph",
    "enable_grad",
    "errors",
    "float16",
    "float32",
    "float64",
    "from_dlpack",
    "fused_operations",
    "grad",
    "gradients",
    "graph_dot",
    "hessian",
    "hvp",
    "int8",
    "int16",
    "int32",
    "int64",
    "is_grad_enabled",
    "jacobian",
    "jvp",
    "keep_freed_memory",
    "linalg",
    "mutation",
    "no_grad",
    "ops",
    "random",
    "tensor",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "use_deterministic",
    "use_mkl",
    "value_and_grad",
    "vjp",
]
__all__ += ops.__all__
