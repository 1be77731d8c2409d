"""One or more examples of every operation, and what NumPy says their results are."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.special

import minigrad as mg
from minigrad.ops import attention, elementwise, indexing, linalg, nonlinear, shape
from minigrad.ops import reductions as reductions_
from minigrad.ops.linear import _linear
from minigrad.rules import OPERATIONS

PRIVATE = {
    "power": elementwise._power,
    "inverse_root": elementwise._inverse_root,
    "inverse_square": elementwise._inverse_square,
    "reshape": shape._reshape,
    "permute_dims": shape._permute_dims,
    "broadcast_to": shape._broadcast_to,
    "concat": shape._concat,
    "astype": shape._astype,
    "to_device": shape._to_device,
    "matmul": linalg._matmul,
    "getitem": indexing._getitem,
    "unindex": indexing._unindex,
    "take_rows": indexing._take_rows,
    "attention": attention._attention,
    "self_attention": attention._self_attention,
    "linear": _linear,
    "gelu": nonlinear._gelu,
    "gelu_tanh": nonlinear._gelu_tanh,
    "log_softmax": reductions_._log_softmax,
    "softmax": reductions_._softmax,
    "cross_entropy": nonlinear._cross_entropy,
}

INTEGER_INDEX = "the standard has no indexing by integer arrays of several dimensions"


@dataclass(frozen=True)
class Example:
    """Inputs that have a derivative, the call, and the same in NumPy. `not_strict` says why the standard's
    own arrays cannot run it.
    """

    call: Callable[..., Any]
    inputs: tuple[np.ndarray, ...]
    expected: Callable[..., Any]
    not_strict: str = ""

    def leaves(self, dtype: str = "float64") -> list[mg.Tensor]:
        return [mg.tensor(x, dtype=dtype, requires_grad=True) for x in self.inputs]


def spread(*sizes: int, positive: bool = False) -> np.ndarray:
    """Entries between 0.2 and 2 in size, all different, of both signs: far from kinks and ties."""
    count = math.prod(sizes)
    order = np.random.default_rng(count + 7 * len(sizes)).permutation(count)
    values = 0.2 + 1.8 * (order + 0.5) / max(count, 1)
    signs = 1.0 if positive else np.where(np.arange(count) % 3 == 1, -1.0, 1.0)
    return (values * signs).reshape(sizes)


def unary(call: Any, expected: Any, *, positive: bool = False) -> list[Example]:
    shapes = [(2, 3), (), (1,), (0, 3), (2, 1, 2)]
    return [Example(call, (spread(*s, positive=positive),), expected) for s in shapes]


def binary(call: Any, expected: Any, *, positive: bool = False) -> list[Example]:
    shapes: list[Any] = [
        ((2, 3), (2, 3)),
        ((2, 3), (3,)),
        ((2, 1), (1, 3)),
        ((), (2,)),
        ((3,), ()),
        ((), ()),
        ((0, 3), (3,)),
        ((1,), (2, 2, 1)),
    ]
    return [
        Example(
            call, (spread(*s, positive=positive), np.asarray(spread(*t, positive=positive) * 1.1)), expected
        )
        for s, t in shapes
    ]


def one(name: str, expected: Any, *inputs: np.ndarray, not_strict: str = "", **parameters: Any) -> Example:
    call: Any = PRIVATE.get(name) or OPERATIONS[name].public
    return Example(lambda *x: call(*x, **parameters), inputs, expected, not_strict)


def beside(x: mg.Tensor, constant: Any) -> Any:
    """An array moved to where x is; numbers need not be."""
    return mg.tensor(constant).to(x.device) if isinstance(constant, np.ndarray) else constant


def added(values: np.ndarray, index: Any, into: tuple[int, ...]) -> np.ndarray:
    out = np.zeros(into)
    np.add.at(out, index, values)
    return out


def reductions(name: str, expected: Any) -> list[Example]:
    cases: list[tuple[Any, dict[str, Any]]] = [
        ((2, 3), {}),
        ((2, 3), {"axis": 0}),
        ((2, 3, 2), {"axis": (-1, 0)}),
        ((2, 3), {"axis": 1, "keepdims": True}),
        ((), {}),
        ((0, 3), {"axis": 1}),
    ]
    return [one(name, lambda x, p=p: expected(x, **p), spread(*s), **p) for s, p in cases]


def comparison(name: str) -> list[Example]:
    call, expected = getattr(mg, name), getattr(np, name)
    return [
        *binary(call, expected),
        Example(lambda x: call(x, 0.5), (spread(3),), lambda x: expected(x, 0.5)),
        Example(call, (spread(3), spread(3)), expected),
    ]


CONDITION = np.array([[True, False, True], [False, False, True]])
ROWS = np.array([2, 0, 2, -1])


def indexing_examples() -> list[Example]:
    x = spread(3, 4, 2)
    plain: list[Any] = [1, (slice(None, None, -2), 3), (..., 0), (slice(0, 0),), (2, slice(1, 3), -1)]
    fancy: list[Any] = [
        ROWS,
        (ROWS, np.array([0, 0, 1, 1])),
        (slice(None), ROWS[:, None] * 0 + np.array([0, 1])),
    ]
    fancy += [x[..., 0] > 0, [0, 0, 2], np.array([[0, 1], [1, 0]])]
    examples = [one("getitem", lambda x, i=i: x[i], x, index=i) for i in plain]
    new_axis = (..., None, 0)
    examples.append(one("getitem", lambda x: x[new_axis], x, index=new_axis, not_strict="refuses newaxis"))
    return examples + [
        one("getitem", lambda x, i=i: x[i], x, index=i, not_strict=INTEGER_INDEX) for i in fancy
    ]


EXAMPLES: dict[str, list[Example]] = {
    "add": binary(mg.add, np.add),
    "subtract": binary(mg.subtract, np.subtract),
    "multiply": binary(mg.multiply, np.multiply),
    "divide": binary(mg.divide, np.divide),
    "negative": unary(mg.negative, np.negative),
    "abs": unary(mg.abs, np.abs),
    "square": unary(mg.square, np.square),
    "sqrt": unary(mg.sqrt, np.sqrt, positive=True),
    "power": binary(elementwise._power, np.power, positive=True),
    "inverse_root": unary(elementwise._inverse_root, lambda x: x**-0.5, positive=True),
    "inverse_square": unary(elementwise._inverse_square, lambda x: x**-2.0),
    "polynomial": [
        example
        for c in ((0.5, -1.0, 0.0, 2.0), (0.0, 3.0), (2.0,), ())
        for example in unary(
            lambda x, c=c: mg.polynomial(x, coefficients=c),
            lambda x, c=c: np.polynomial.polynomial.polyval(x, c or (0.0,)),
        )
    ],
    "exp": unary(mg.exp, np.exp),
    "expm1": unary(mg.expm1, np.expm1),
    "log": unary(mg.log, np.log, positive=True),
    "log1p": unary(mg.log1p, np.log1p, positive=True),
    "sin": unary(mg.sin, np.sin),
    "cos": unary(mg.cos, np.cos),
    "tanh": unary(mg.tanh, np.tanh),
    "sigmoid": unary(mg.sigmoid, scipy.special.expit),
    "erf": unary(mg.erf, scipy.special.erf),
    "maximum": binary(mg.maximum, np.maximum),
    "minimum": binary(mg.minimum, np.minimum),
    "relu": unary(mg.relu, lambda x: np.maximum(x, 0)),
    "where": [
        Example(lambda x, y, c=c: mg.where(beside(x, c), x, y), e.inputs, lambda x, y, c=c: np.where(c, x, y))
        for e in binary(None, None)
        for c in (True, CONDITION if e.inputs[0].shape == (2, 3) else np.asarray(False))
    ]
    + [Example(lambda x: mg.where(x > 0, x, 0.5), (spread(2, 3),), lambda x: np.where(x > 0, x, 0.5))],
    "alias": unary(shape.alias, lambda x: x),
    "copy": unary(mg.copy, np.copy),
    "reshape": [
        one("reshape", lambda x: x.reshape(3, 2), spread(2, 3), shape=(3, 2)),
        one("reshape", lambda x: x.reshape(6), spread(2, 3), shape=(-1,)),
        one("reshape", lambda x: x.reshape(1, 1), spread(), shape=(1, 1)),
        one("reshape", lambda x: x.reshape(2, 0), spread(0, 3), shape=(2, 0)),
    ],
    "permute_dims": [
        one("permute_dims", lambda x: x.transpose(1, 2, 0), spread(2, 3, 4), axes=(1, 2, 0)),
        one("permute_dims", lambda x: x.transpose(2, 0, 1), spread(2, 3, 4), axes=(-1, 0, -2)),
        one("permute_dims", lambda x: x, spread(), axes=()),
    ],
    "matrix_transpose": [
        one("matrix_transpose", lambda x: x.swapaxes(-1, -2), spread(*s)) for s in [(2, 3), (2, 3, 4), (0, 2)]
    ],
    "broadcast_to": [
        one("broadcast_to", lambda x: np.broadcast_to(x, (2, 2, 3)), spread(*s), shape=(2, 2, 3))
        for s in [(3,), (2, 1), (), (2, 2, 3)]
    ],
    "stack": [
        Example(
            lambda x, y: mg.stack([x, y]), (spread(2, 3), 3 * spread(2, 3)), lambda x, y: np.stack([x, y])
        ),
        Example(
            lambda x, y: mg.stack([x, y, x], axis=-1),
            (spread(2, 3), 3 * spread(2, 3)),
            lambda x, y: np.stack([x, y, x], -1),
        ),
        Example(lambda x: mg.stack([x, x], axis=-2), (spread(2),), lambda x: np.stack([x, x], -2)),
        Example(lambda x: mg.stack([x]), (spread(),), lambda x: x[None]),
        Example(lambda x: mg.stack([x, x], axis=1), (spread(0, 2),), lambda x: np.stack([x, x], 1)),
    ],
    "concat": [
        one("concat", lambda *x: np.concatenate(x), spread(2, 3), spread(1, 3), spread(0, 3)),
        one("concat", lambda *x: np.concatenate(x, axis=-1), spread(2, 3), spread(2, 1) * 3, axis=-1),
        one("concat", lambda x: x, spread(2, 2), axis=1),
    ],
    "astype": [one("astype", lambda x: x, spread(2, 3), dtype=np.dtype("float64"))],
    "to_device": [
        one("to_device", lambda x: x, spread(2, 3), device="cpu", source="cpu", not_strict="moves")
    ],
    "matmul": [
        one("matmul", np.matmul, spread(*s), spread(*t))
        for s, t in [
            ((2, 3), (3, 4)),
            ((2, 2, 3), (3, 2)),
            ((2, 3), (4, 3, 1)),
            ((2, 1, 2, 3), (3, 3, 2)),
            ((0, 3), (3, 2)),
            ((2, 0), (0, 2)),
        ]
    ],
    "sum": [
        *reductions("sum", np.sum),
        one("sum", lambda x: x, spread(2, 3), axis=()),
        one("sum", lambda x: x.sum(axis=0), spread(0, 3), axis=0),
    ],
    "max": reductions("max", np.max),
    "min": reductions("min", np.min),
    "getitem": indexing_examples(),
    "unindex": [
        one(
            "unindex",
            lambda v: added(v, (slice(1, 3),), (4, 2)),
            spread(2, 2),
            index=slice(1, 3),
            shape=(4, 2),
        ),
        one("unindex", lambda v: added(v, (..., 1), (4, 2)), spread(4), index=(..., 1), shape=(4, 2)),
        one(
            "unindex",
            lambda v: added(v, ROWS, (3, 2)),
            spread(4, 2),
            index=ROWS,
            shape=(3, 2),
            not_strict=INTEGER_INDEX,
        ),
    ],
    "take_rows": [
        Example(lambda x, i=i: indexing._take_rows(x, beside(x, i)), (spread(*s),), lambda x, i=i: x[i])
        for i in (ROWS, ROWS.reshape(2, 2), np.array(1), np.zeros((0,), int))
        for s in [(3, 2), (3,), (3, 2, 2), (3, 0)]
    ]
    + [
        Example(
            lambda x, i=i: indexing._take_rows(x, beside(x, i), axis=1),
            (spread(*s),),
            lambda x, i=i: x[:, i],
        )
        for i in (ROWS, ROWS.reshape(2, 2), np.zeros((0,), int))
        for s in [(2, 3), (2, 3, 2), (0, 3)]
    ],
    "weighted_rows": [
        Example(
            lambda x, w, i=i: mg.weighted_rows(x, beside(w, i), w),
            (spread(3, n), 3 * spread(*i.shape)),
            lambda x, w, i=i: np.einsum("nk,nkw->nw", w, x[i]),
        )
        for i in (np.array([[0, 2], [1, 1], [-1, 0], [2, 1]]), np.zeros((0, 2), int))
        for n in (2, 0)
    ],
    "weighted_rows_back": [
        Example(
            lambda v, w, i=i: mg.weighted_rows_back(v, beside(v, i), w, rows=4),
            (spread(len(i), n), 3 * spread(*i.shape)),
            lambda v, w, i=i: added(w[..., None] * v[:, None, :], i, (4, v.shape[1])),
        )
        for i in (np.array([[0, 2], [1, 1], [-1, 0]]), np.zeros((0, 2), int))
        for n in (2, 1)
    ],
    "scatter_add": [
        Example(
            lambda v, i=i: mg.add_rows(v, beside(v, i), rows=3),
            (spread(*s),),
            lambda v, i=i: added(v, i, (3, v.shape[1])),
        )
        for i, s in [(ROWS, (4, 2)), (ROWS, (4, 0)), (np.zeros(0, int), (0, 2))]
    ],
}

# Operations without a derivative: forward only.
CONSTANTS: dict[str, list[Example]] = {
    "sign": unary(mg.sign, np.sign),
    "isfinite": [
        Example(mg.isfinite, (np.array([0.0, np.inf, -np.inf, np.nan]),), np.isfinite),
        *unary(mg.isfinite, np.isfinite),
    ],
    "argmax": [
        one("argmax", lambda x: np.argmax(x), spread(2, 3)),
        one("argmax", lambda x: np.argmax(x, axis=1), np.array([[1.0, 3.0, 3.0], [2.0, 2.0, 1.0]]), axis=1),
        one("argmax", lambda x: np.argmax(x, axis=0, keepdims=True), spread(2, 3), axis=0, keepdims=True),
    ],
    **{
        name: comparison(name)
        for name in ("less", "less_equal", "greater", "greater_equal", "equal", "not_equal")
    },
}

from tests.minigrad import (  # noqa: E402  (they are made of the helpers above)
    examples_activations,
    examples_decompositions,
    examples_functions,
    examples_fused,
    examples_rearranging,
    examples_selecting,
    examples_windows,
)

for _topic in (
    examples_functions,
    examples_activations,
    examples_decompositions,
    examples_fused,
    examples_rearranging,
    examples_selecting,
    examples_windows,
):
    EXAMPLES.update(_topic.EXAMPLES)
    CONSTANTS.update(_topic.CONSTANTS)

DECLARED = dict(OPERATIONS)
"""Every operation of the library, before any test declares its own."""

ALL = [(name, example) for name, examples in EXAMPLES.items() for example in examples]
ALL_CONSTANTS = [(name, example) for name, examples in CONSTANTS.items() for example in examples]


def ids(pairs: list[tuple[str, Example]]) -> list[str]:
    return [f"{name}-{','.join('x'.join(map(str, x.shape)) or '0d' for x in e.inputs)}" for name, e in pairs]
