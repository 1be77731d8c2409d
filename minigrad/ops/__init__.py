"""The catalogue of operations. It is also the array namespace in which derivative rules are differentiated
again.
"""

from minigrad.ops import (
    activations,
    bits,
    convolution,
    decompositions,
    functions,
    matrices,
    pooling,
    products,
    rearranging,
    resampling,
    selecting,
    sets,
    types,
    windows,
)
from minigrad.ops.activations import *  # noqa: F403
from minigrad.ops.attention import scaled_dot_product_attention, self_attention
from minigrad.ops.bits import *  # noqa: F403
from minigrad.ops.convolution import *  # noqa: F403
from minigrad.ops.creation import (
    arange,
    asarray,
    empty,
    empty_like,
    eye,
    full,
    full_like,
    linspace,
    ones,
    ones_like,
    tensor,
    zeros,
    zeros_like,
)
from minigrad.ops.decompositions import *  # noqa: F403
from minigrad.ops.elementwise import (
    abs,
    add,
    cos,
    divide,
    equal,
    erf,
    exp,
    expm1,
    greater,
    greater_equal,
    isfinite,
    less,
    less_equal,
    log,
    log1p,
    masked,
    maximum,
    minimum,
    multiply,
    negative,
    not_equal,
    polynomial,
    pow,
    relu,
    sigmoid,
    sign,
    sin,
    sqrt,
    square,
    subtract,
    tanh,
    where,
)
from minigrad.ops.functions import *  # noqa: F403
from minigrad.ops.indexing import add_rows, getitem, take, unindex, weighted_rows, weighted_rows_back
from minigrad.ops.linalg import matmul
from minigrad.ops.linear import linear
from minigrad.ops.matrices import *  # noqa: F403
from minigrad.ops.nonlinear import cross_entropy, gelu, layer_norm
from minigrad.ops.norms import *  # noqa: F403
from minigrad.ops.perceptron import perceptron
from minigrad.ops.pooling import *  # noqa: F403
from minigrad.ops.products import *  # noqa: F403
from minigrad.ops.rearranging import *  # noqa: F403
from minigrad.ops.reductions import argmax, log_softmax, logsumexp, max, mean, min, softmax, sum
from minigrad.ops.resampling import *  # noqa: F403
from minigrad.ops.selecting import *  # noqa: F403
from minigrad.ops.sets import *  # noqa: F403
from minigrad.ops.shape import (
    alias,
    astype,
    broadcast_to,
    concat,
    copy,
    expand_dims,
    matrix_transpose,
    permute_dims,
    reshape,
    split,
    squeeze,
    stack,
    to_device,
)
from minigrad.ops.types import *  # noqa: F403
from minigrad.ops.windows import *  # noqa: F403

__all__ = [
    "abs",
    "add",
    "add_rows",
    "alias",
    "arange",
    "argmax",
    "asarray",
    "astype",
    "broadcast_to",
    "concat",
    "copy",
    "cos",
    "cross_entropy",
    "divide",
    "empty",
    "empty_like",
    "equal",
    "erf",
    "exp",
    "expand_dims",
    "expm1",
    "eye",
    "full",
    "full_like",
    "gelu",
    "getitem",
    "greater",
    "greater_equal",
    "isfinite",
    "layer_norm",
    "less",
    "less_equal",
    "linear",
    "linspace",
    "log",
    "log1p",
    "log_softmax",
    "logsumexp",
    "matmul",
    "matrix_transpose",
    "max",
    "maximum",
    "mean",
    "min",
    "minimum",
    "multiply",
    "negative",
    "not_equal",
    "ones",
    "ones_like",
    "perceptron",
    "permute_dims",
    "polynomial",
    "pow",
    "relu",
    "reshape",
    "scaled_dot_product_attention",
    "self_attention",
    "sigmoid",
    "sign",
    "sin",
    "softmax",
    "split",
    "sqrt",
    "square",
    "squeeze",
    "stack",
    "subtract",
    "sum",
    "take",
    "tanh",
    "tensor",
    "to_device",
    "unindex",
    "weighted_rows",
    "weighted_rows_back",
    "where",
    "zeros",
    "zeros_like",
]
__all__ += bits.__all__
__all__ += types.__all__
__all__ += functions.__all__
__all__ += activations.__all__
__all__ += decompositions.__all__
__all__ += matrices.__all__
__all__ += products.__all__
__all__ += rearranging.__all__
__all__ += selecting.__all__
__all__ += sets.__all__
__all__ += windows.__all__
__all__ += convolution.__all__
__all__ += pooling.__all__
__all__ += resampling.__all__
