"""Examples of the fused operations, and of softmax."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.special

import minigrad as mg
from minigrad.ops import nonlinear
from minigrad.ops.linear import _linear
from minigrad.ops.perceptron import perceptron
from tests.minigrad.examples import INTEGER_INDEX, Example, beside, one, spread, unary


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, causal: bool, scale: float) -> np.ndarray:
    scores = scale * q @ np.swapaxes(k, -1, -2)
    if causal:
        queries, keys = scores.shape[-2:]
        scores = np.where(np.tri(queries, keys, keys - queries, dtype=bool), scores, -np.inf)
    return softmax(scores) @ v


def attend_packed(packed: np.ndarray, heads: int, causal: bool) -> np.ndarray:
    batch, time, width = packed.shape
    each = width // (3 * heads)
    q, k, v = np.moveaxis(packed.reshape(batch, time, 3, heads, each), 2, 0).swapaxes(2, 3)
    out = attend(q, k, v, causal, 1 / math.sqrt(each))
    return out.swapaxes(1, 2).reshape(batch, time, heads * each)


def normalise(x: np.ndarray, weight: Any = None, bias: Any = None) -> np.ndarray:
    centred = x - x.mean(axis=-1, keepdims=True)
    out = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
    out = out if weight is None else out * weight
    return out if bias is None else out + bias


def likelihood(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    picked = np.log(softmax(logits))[np.arange(len(targets)), np.maximum(targets, 0)]
    return np.where(targets == -100, 0.0, -picked)


def softmaxes(name: str, then: Any) -> list[Example]:
    cases: list[Any] = [((2, 3), -1), ((2, 3), 0), ((2, 3, 2), 1), ((4,), 0), ((0, 3), 1), ((2, 1), 1)]
    return [
        one(name, lambda x, a=a: then(np.moveaxis(softmax(np.moveaxis(x, a, -1)), -1, a)), spread(*s), axis=a)
        for s, a in cases
    ]


def attention_examples(causal: bool) -> list[Example]:
    sizes: list[Any] = [
        ((2, 2, 3, 2), (2, 2, 3, 2), (2, 2, 3, 2)),
        ((1, 2, 2, 3), (1, 2, 4, 3), (1, 2, 4, 1)),
        ((0, 2, 2, 3), (0, 2, 4, 3), (0, 2, 4, 3)),
    ]
    return [
        one(
            "attention",
            lambda q, k, v: attend(q, k, v, causal, 0.7),
            *(spread(*s) for s in three),
            causal=causal,
            scale=0.7,
        )
        for three in sizes
    ]


def layer_by_layer(x: np.ndarray, layers: Any, rectified: Any) -> np.ndarray:
    for weight, bias, positive in zip(layers[::2], layers[1::2], rectified, strict=True):
        x = x @ weight.T + bias
        x = np.maximum(x, 0) if positive else x
    return x


TARGETS = np.array([1, 0, -100, 2])

EXAMPLES: dict[str, list[Example]] = {
    "attention": [*attention_examples(False), *attention_examples(True)],
    "self_attention": [
        one("self_attention", lambda x, c=c: attend_packed(x, 2, c), spread(2, 3, 12), heads=2, causal=c)
        for c in (False, True)
    ],
    "linear": [
        Example(_linear, (spread(*s), spread(4, 3), spread(4)), lambda x, w, b: x @ w.T + b)
        for s in [(2, 3), (3,), (2, 2, 3), (0, 3)]
    ]
    + [Example(lambda x, w: _linear(x, w, None), (spread(2, 3), spread(4, 3)), lambda x, w: x @ w.T)],
    "perceptron": [
        Example(
            lambda *inputs, r=rectified: perceptron(*inputs, rectified=r),
            (spread(*s), spread(4, 3), spread(4), spread(2, 4), spread(2)),
            lambda x, *layers, r=rectified: layer_by_layer(x, layers, r),
        )
        for s in [(2, 3), (3,), (2, 2, 3), (0, 3)]
        for rectified in [(True, False), (False, True)]
    ]
    + [
        Example(
            lambda x, w, u: perceptron(x, w, None, u, None, rectified=(True, True)),
            (spread(5, 3), spread(4, 3), spread(2, 4)),
            lambda x, w, u: layer_by_layer(x, (w, 0.0, u, 0.0), (True, True)),
        )
    ],
    "layer_norm": [
        Example(mg.layer_norm, (spread(*s, 3), spread(3) + 1, spread(3)), normalise)
        for s in [(2,), (), (2, 2), (0,)]
    ]
    + [
        Example(lambda x: mg.layer_norm(x, None, None), (spread(2, 3),), normalise),
        Example(lambda x, w: mg.layer_norm(x, w, None), (spread(2, 3), spread(3)), normalise),
        Example(
            lambda x, b: mg.layer_norm(x, None, b), (spread(2, 3), spread(3)), lambda x, b: normalise(x) + b
        ),
    ],
    "softmax": softmaxes("softmax", lambda x: x),
    "log_softmax": softmaxes("log_softmax", np.log),
    "gelu": unary(nonlinear._gelu, lambda x: x * scipy.special.ndtr(x)),
    "gelu_tanh": unary(
        nonlinear._gelu_tanh,
        lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    ),
    "cross_entropy": [
        Example(
            lambda x, t=t: nonlinear._cross_entropy(
                x, beside(x, np.where(t < 0, 0, t)), beside(x, t != -100), reduction="none"
            ),
            (spread(len(t), 3),),
            lambda x, t=t: likelihood(x, t),
            INTEGER_INDEX,
        )
        for t in (TARGETS, TARGETS[:0])
    ]
    + [
        Example(
            lambda x, c=counted, r=reduction: nonlinear._cross_entropy(
                x, beside(x, np.abs(TARGETS) % 3), beside(x, c), reduction=r
            ),
            (spread(4, 3),),
            lambda x, c=counted, f=function: f(
                likelihood(x, np.abs(TARGETS) % 3)[c if c is not None else ...]
            ),
            INTEGER_INDEX,
        )
        for counted in (None, TARGETS != -100)
        for reduction, function in (("sum", np.sum), ("mean", np.mean))
    ],
}
CONSTANTS: dict[str, list[Example]] = {}
