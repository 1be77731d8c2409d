"""Optimizers as their papers write them: one parameter, whole arrays, a new array in every step."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

Gradients = Sequence[np.ndarray | None]
Run = Iterator[np.ndarray]


def sgd(value: np.ndarray, gradients: Gradients, o: dict[str, Any]) -> Run:
    """The velocity as an explicit sum over all gradients so far."""
    past: list[np.ndarray] = []
    for g in gradients:
        if g is not None:
            g = g + o["weight_decay"] * value
            past.append(g)
            weights = [
                o["momentum"] ** (len(past) - 1 - i) * (1 if i == 0 else 1 - o["dampening"])
                for i in range(len(past))
            ]
            velocity = np.sum([w * p for w, p in zip(weights, past, strict=True)], axis=0)
            if not o["momentum"]:
                velocity = g
            move = g + o["momentum"] * velocity if o["nesterov"] else velocity
            value = value - o["lr"] * move
        yield value


def adam(value: np.ndarray, gradients: Gradients, o: dict[str, Any], decoupled: bool = False) -> Run:
    (beta1, beta2), t = o["betas"], 0
    m, v, largest = np.zeros_like(value), np.zeros_like(value), np.zeros_like(value)
    for g in gradients:
        if g is not None:
            t += 1
            if not decoupled:
                g = g + o["weight_decay"] * value
            m = beta1 * m + (1 - beta1) * g
            v = beta2 * v + (1 - beta2) * g**2
            largest = np.maximum(largest, v)
            corrected = (largest if o["amsgrad"] else v) / (1 - beta2**t)
            if decoupled:
                value = value - o["lr"] * o["weight_decay"] * value
            value = value - o["lr"] * (m / (1 - beta1**t)) / (np.sqrt(corrected) + o["eps"])
        yield value


def adamw(value: np.ndarray, gradients: Gradients, o: dict[str, Any]) -> Run:
    yield from adam(value, gradients, o, decoupled=True)


def adamax(value: np.ndarray, gradients: Gradients, o: dict[str, Any]) -> Run:
    """The norm as an explicit maximum over all gradients so far."""
    beta1, beta2 = o["betas"]
    past: list[np.ndarray] = []
    for g in gradients:
        if g is not None:
            past.append(g + o["weight_decay"] * value)
            age = range(len(past) - 1, -1, -1)
            m = np.sum([(1 - beta1) * beta1**a * p for a, p in zip(age, past, strict=True)], axis=0)
            u = np.max([beta2**a * (abs(p) + o["eps"]) for a, p in zip(age, past, strict=True)], axis=0)
            value = value - o["lr"] / (1 - beta1 ** len(past)) * m / u
        yield value


def nadam(value: np.ndarray, gradients: Gradients, o: dict[str, Any]) -> Run:
    (beta1, beta2), t = o["betas"], 0
    m, v = np.zeros_like(value), np.zeros_like(value)

    def mu(step: int) -> float:
        return beta1 * (1 - 0.5 * 0.96 ** (step * o["momentum_decay"]))

    for g in gradients:
        if g is not None:
            t += 1
            if o["decoupled_weight_decay"]:
                value = value * (1 - o["lr"] * o["weight_decay"])
            else:
                g = g + o["weight_decay"] * value
            m = beta1 * m + (1 - beta1) * g
            v = beta2 * v + (1 - beta2) * g**2
            product = np.prod([mu(i) for i in range(1, t + 1)])
            ahead = mu(t + 1) * m / (1 - product * mu(t + 1)) + (1 - mu(t)) * g / (1 - product)
            value = value - o["lr"] * ahead / (np.sqrt(v / (1 - beta2**t)) + o["eps"])
        yield value


def rmsprop(value: np.ndarray, gradients: Gradients, o: dict[str, Any]) -> Run:
    v, mean, buffer = np.zeros_like(value), np.zeros_like(value), np.zeros_like(value)
    for g in gradients:
        if g is not None:
            g = g + o["weight_decay"] * value
            v = o["alpha"] * v + (1 - o["alpha"]) * g**2
            mean = o["alpha"] * mean + (1 - o["alpha"]) * g
            variance = v - mean**2 if o["centered"] else v
            buffer = o["momentum"] * buffer + g / (np.sqrt(variance) + o["eps"])
            value = value - o["lr"] * buffer
        yield value


def adagrad(value: np.ndarray, gradients: Gradients, o: dict[str, Any]) -> Run:
    total, t = np.full_like(value, o["initial_accumulator_value"]), 0
    for g in gradients:
        if g is not None:
            t += 1
            g = g + o["weight_decay"] * value
            total = total + g**2
            value = value - o["lr"] / (1 + (t - 1) * o["lr_decay"]) * g / (np.sqrt(total) + o["eps"])
        yield value


def lion(value: np.ndarray, gradients: Gradients, o: dict[str, Any]) -> Run:
    (beta1, beta2), m = o["betas"], np.zeros_like(value)
    for g in gradients:
        if g is not None:
            value = value - o["lr"] * (np.sign(beta1 * m + (1 - beta1) * g) + o["weight_decay"] * value)
            m = beta2 * m + (1 - beta2) * g
        yield value


def lars(value: np.ndarray, gradients: Gradients, o: dict[str, Any]) -> Run:
    v = np.zeros_like(value)
    for g in gradients:
        if g is not None:
            weight, own = float(np.sqrt(np.sum(value**2))), float(np.sqrt(np.sum(g**2)))
            local = 1.0
            if weight > 0 and own > 0:
                local = o["trust_coefficient"] * weight / (own + o["weight_decay"] * weight + o["eps"])
            v = o["momentum"] * v + o["lr"] * local * (g + o["weight_decay"] * value)
            value = value - v
        yield value


def lamb(value: np.ndarray, gradients: Gradients, o: dict[str, Any]) -> Run:
    (beta1, beta2), t = o["betas"], 0
    m, v = np.zeros_like(value), np.zeros_like(value)
    for g in gradients:
        if g is not None:
            t += 1
            m = beta1 * m + (1 - beta1) * g
            v = beta2 * v + (1 - beta2) * g**2
            u = (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + o["eps"]) + o["weight_decay"] * value
            weight, own = float(np.sqrt(np.sum(value**2))), float(np.sqrt(np.sum(u**2)))
            value = value - o["lr"] * (weight / own if weight > 0 and own > 0 else 1.0) * u
        yield value


EQUATIONS: dict[str, Callable[[np.ndarray, Gradients, dict[str, Any]], Run]] = {
    "SGD": sgd,
    "Adam": adam,
    "AdamW": adamw,
    "Adamax": adamax,
    "NAdam": nadam,
    "RMSprop": rmsprop,
    "Adagrad": adagrad,
    "Lion": lion,
    "LARS": lars,
    "LAMB": lamb,
}

# What each is drawn with, beside a rate and maximize.
OPTIONS: dict[str, dict[str, list[Any]]] = {
    "SGD": {
        "momentum": [0.0, 0.5, 0.9],
        "dampening": [0.0, 0.3],
        "weight_decay": [0.0, 0.1],
        "nesterov": [False, True],
    },
    "Adam": {
        "betas": [(0.9, 0.999), (0.5, 0.9), (0.0, 0.5)],
        "eps": [1e-8, 1e-3],
        "weight_decay": [0.0, 0.1],
        "amsgrad": [False, True],
    },
    "Adamax": {
        "betas": [(0.9, 0.999), (0.5, 0.9), (0.0, 0.5)],
        "eps": [1e-8, 1e-3],
        "weight_decay": [0.0, 0.1],
    },
    "NAdam": {
        "betas": [(0.9, 0.999), (0.5, 0.9), (0.0, 0.5)],
        "eps": [1e-8, 1e-3],
        "weight_decay": [0.0, 0.1],
        "momentum_decay": [4e-3, 0.1, 0.0],
        "decoupled_weight_decay": [False, True],
    },
    "RMSprop": {
        "alpha": [0.99, 0.5],
        "eps": [1e-8, 1e-3],
        "weight_decay": [0.0, 0.1],
        "momentum": [0.0, 0.9],
        "centered": [False, True],
    },
    "Adagrad": {
        "lr_decay": [0.0, 0.1],
        "weight_decay": [0.0, 0.1],
        "initial_accumulator_value": [0.0, 0.5],
        "eps": [1e-10, 1e-3],
    },
    "Lion": {"betas": [(0.9, 0.99), (0.5, 0.9)], "weight_decay": [0.0, 0.1]},
    "LARS": {
        "momentum": [0.0, 0.9],
        "weight_decay": [0.0, 0.1],
        "trust_coefficient": [1e-3, 0.1],
        "eps": [0.0, 1e-3],
    },
    "LAMB": {
        "betas": [(0.9, 0.999), (0.5, 0.9), (0.0, 0.5)],
        "eps": [1e-6, 1e-3],
        "weight_decay": [0.0, 0.1],
    },
}
OPTIONS["AdamW"] = OPTIONS["Adam"]
