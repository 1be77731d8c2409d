"""Examples of the operations of minigrad/ops/functions.py and minigrad/ops/special.py."""

from typing import Any

import numpy as np
import scipy.special

import minigrad as mg
from minigrad.ops import functions, special
from tests.minigrad.examples import Example, binary, unary


def rescaled(examples: list[Example], scale: float, shift: float = 0.0) -> list[Example]:
    """The examples with all inputs moved to where the function is defined."""
    return [
        Example(e.call, tuple(np.asarray(x * scale + shift) for x in e.inputs), e.expected) for e in examples
    ]


def inside(call: Any, expected: Any) -> list[Example]:
    """Entries between -0.9 and 0.9."""
    return rescaled(unary(call, expected), 0.45)


def sinc_of_order(order: int) -> list[Example]:
    """Against ∫₀¹ dⁿ/dxⁿ cos(πxt) dt by Gauss's rule, on both sides of the border between the formulas."""
    nodes, weights = np.polynomial.legendre.leggauss(40)
    t, weights = (nodes + 1) / 2 * np.pi, weights / 2

    def expected(x: np.ndarray) -> np.ndarray:
        return (np.cos(x[..., None] * t + order * np.pi / 2) * t**order) @ weights

    points = [spread for e in unary(None, None) for spread in e.inputs]
    points += [np.array([0.0, 1e-9, -1e-4, 0.3, -0.31, 0.32, 0.63, 0.64, -0.95, 0.96])]
    return [Example(lambda x: special._sinc(x, order=order), (x,), expected) for x in points]


EXAMPLES: dict[str, list[Example]] = {
    "remainder": binary(mg.remainder, np.remainder),
    "at_least": binary(functions._at_least, np.maximum),
    "at_most": binary(functions._at_most, np.minimum),
    "copysign": [
        Example(
            lambda x, y=y: mg.copysign(x, mg.tensor(y, dtype=x.dtype).to(x.device)),
            e.inputs[:1],
            lambda x, y=y: np.copysign(x, y),
        )
        for e in binary(None, None)
        for y in [e.inputs[1]]
    ],
    "hypot": binary(mg.hypot, np.hypot),
    "log2": unary(mg.log2, np.log2, positive=True),
    "log10": unary(mg.log10, np.log10, positive=True),
    "logaddexp": [
        *binary(mg.logaddexp, np.logaddexp),
        Example(lambda x: mg.logaddexp(x, x), (np.arange(3.0),), lambda x: x + np.log(2)),
    ],
    "xlogy": binary(mg.xlogy, scipy.special.xlogy, positive=True),
    "tan": rescaled(unary(mg.tan, np.tan), 0.5),
    "asin": inside(mg.asin, np.arcsin),
    "acos": inside(mg.acos, np.arccos),
    "atan": unary(mg.atan, np.arctan),
    "atan2": binary(mg.atan2, np.arctan2),
    "sinh": unary(mg.sinh, np.sinh),
    "cosh": unary(mg.cosh, np.cosh),
    "asinh": unary(mg.asinh, np.arcsinh),
    "acosh": rescaled(unary(mg.acosh, np.arccosh, positive=True), 1.0, 1.0),
    "atanh": inside(mg.atanh, np.arctanh),
    "sinc": [example for order in range(4) for example in sinc_of_order(order)],
    "erfc": unary(mg.erfc, scipy.special.erfc),
    "erfinv": inside(mg.erfinv, scipy.special.erfinv),
    "lgamma": unary(mg.lgamma, scipy.special.gammaln, positive=True),
    "digamma": unary(mg.digamma, scipy.special.digamma, positive=True),
    "polygamma": [
        example
        for n in (1, 2, 3)
        for example in unary(
            lambda x, n=n: mg.polygamma(n, x), lambda x, n=n: scipy.special.polygamma(n, x), positive=True
        )
    ],
}

SPECIAL_VALUES = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1.5, -2.5])


def whole(call: Any, expected: Any) -> list[Example]:
    """Rounding: halves, and numbers that are whole already."""
    return [
        *unary(call, expected),
        Example(
            call, (np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 1e15 + 0.5, np.inf, -0.0, np.nan]),), expected
        ),
        Example(call, (np.array([-7, 0, 3]),), lambda x: x),
    ]


def truths(call: Any, expected: Any) -> list[Example]:
    both = np.array([[True, False], [True, False]])
    return [
        Example(call, (both, both.T), expected),
        Example(call, (both, np.array([True, False])), expected),
        Example(call, (np.zeros((0, 2), bool), both[0]), expected),
    ]


def bits(name: str, count: int, theirs: str = "", dtypes: str = "int64 uint8 bool") -> list[Example]:
    """Bitwise operations; the inputs are cast first, since leaves are floats."""
    call, expected = getattr(mg, name), getattr(np, theirs or name)
    inputs = (np.array([[5, 1, 0], [7, 2, 3]]), np.array([3, 0, 1]))[:count]
    return [
        Example(
            lambda *x, d=d: call(*(a.astype(d) for a in x)),
            inputs,
            lambda *x, d=d: expected(*(a.astype(d) for a in x)),
        )
        for d in dtypes.split()
    ]


CONSTANTS: dict[str, list[Example]] = {
    "bitwise_and": bits("bitwise_and", 2),
    "bitwise_or": bits("bitwise_or", 2),
    "bitwise_xor": bits("bitwise_xor", 2),
    "bitwise_invert": bits("bitwise_invert", 1, "invert"),
    "bitwise_left_shift": bits("bitwise_left_shift", 2, "left_shift", "int64 uint8"),
    "bitwise_right_shift": bits("bitwise_right_shift", 2, "right_shift", "int64 uint8"),
    "floor": whole(mg.floor, np.floor),
    "ceil": whole(mg.ceil, np.ceil),
    "round": whole(mg.round, np.round),
    "trunc": whole(mg.trunc, np.trunc),
    "floor_divide": binary(mg.floor_divide, np.floor_divide),
    "nextafter": binary(mg.nextafter, np.nextafter),
    "isnan": [Example(mg.isnan, (SPECIAL_VALUES,), np.isnan), *unary(mg.isnan, np.isnan)],
    "isinf": [Example(mg.isinf, (SPECIAL_VALUES,), np.isinf), *unary(mg.isinf, np.isinf)],
    "signbit": [Example(mg.signbit, (SPECIAL_VALUES,), np.signbit), *unary(mg.signbit, np.signbit)],
    "logical_and": truths(mg.logical_and, np.logical_and),
    "logical_or": truths(mg.logical_or, np.logical_or),
    "logical_xor": truths(mg.logical_xor, np.logical_xor),
    "logical_not": [Example(mg.logical_not, (np.array([True, False]),), np.logical_not)],
}
