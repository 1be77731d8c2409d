"""The catalogue of operations. It is also the array namespace in which derivative rules are differentiated
again.
"""

from minigrad.ops.attention import scaled_dot_product_attention, self_attention
from minigrad.ops.creation import arange, asarray, full, ones, ones_like, zeros, zeros_like
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
    maximum,
    minimum,
    multiply,
    negative,
    not_equal,
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
from minigrad.ops.indexing import getitem, scatter_add, take, unindex
from minigrad.ops.linalg import matmul
from minigrad.ops.linear import linear
from minigrad.ops.nonlinear import cross_entropy, gelu, layer_norm
from minigrad.ops.reductions import argmax, log_softmax, logsumexp, max, mean, min, softmax, sum
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

__all__ = [
    name
    for name in dir()
    if not name.startswith("_")
    and name
    not in (
        "attention",
        "creation",
        "elementwise",
        "indexing",
        "linalg",
        "nonlinear",
        "reductions",
        "shape",
    )
]
