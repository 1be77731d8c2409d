"""jax on the CPU: the step with Adam in one `jit`, its state donated. Compilation is not timed."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from benchmarks.peers.step import Step, by_workload, in_turn
from benchmarks.workloads import GPT, MLP, Adam, Floats, Overhead

DESCRIPTION = f"jax {jax.__version__} jit"

Parameters: TypeAlias = dict[str, jax.Array]
State: TypeAlias = tuple[Parameters, Parameters, Parameters, jax.Array]


def cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean over rows."""
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[:, None], axis=1)
    return -picked.mean()


def trainer(
    loss: Callable[[Parameters, Any, Any], jax.Array], values: dict[str, Floats], data: list[Any], adam: Adam
) -> Step:
    """A jitted step: loss, gradients and Adam."""

    def update(state: State, inputs: jax.Array, targets: jax.Array) -> tuple[State, jax.Array]:
        parameters, first, second, count = state
        value, gradients = jax.value_and_grad(loss)(parameters, inputs, targets)
        count = count + 1
        rate = adam.learning_rate * jnp.sqrt(1 - adam.beta2**count) / (1 - adam.beta1**count)
        epsilon = adam.epsilon * jnp.sqrt(1 - adam.beta2**count)
        first = jax.tree.map(lambda m, g: adam.beta1 * m + (1 - adam.beta1) * g, first, gradients)
        second = jax.tree.map(lambda v, g: adam.beta2 * v + (1 - adam.beta2) * g * g, second, gradients)
        parameters = jax.tree.map(
            lambda p, m, v: p - rate * m / (jnp.sqrt(v) + epsilon), parameters, first, second
        )
        return (parameters, first, second, count), value

    step = jax.jit(update, donate_argnums=0)
    zeros = [{name: jnp.zeros_like(value) for name, value in values.items()} for _ in range(2)]
    state: State = (
        {name: jnp.array(value) for name, value in values.items()},
        zeros[0],
        zeros[1],
        jnp.zeros((), jnp.float32),
    )
    batches = in_turn([(jnp.asarray(inputs), jnp.asarray(targets)) for inputs, targets in data])

    def run() -> float:
        nonlocal state
        state, value = step(state, *next(batches))
        return float(value)

    return Step(run)


def mlp(workload: MLP) -> Step:
    """The perceptron."""
    layers = len(workload.widths) - 1

    def loss(p: Parameters, x: jax.Array, labels: jax.Array) -> jax.Array:
        for layer in range(layers):
            x = x @ p[f"layers.{layer}.weight"].T + p[f"layers.{layer}.bias"]
            if layer < layers - 1:
                x = jax.nn.relu(x)
        return cross_entropy(x, labels)

    return trainer(loss, workload.parameters(), workload.data(), workload.adam)


def gpt(workload: GPT) -> Step:
    """The transformer."""
    heads, width = workload.heads, workload.width

    def norm(x: jax.Array, gain: jax.Array, bias: jax.Array) -> jax.Array:
        centred = x - x.mean(-1, keepdims=True)
        return centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + workload.epsilon) * gain + bias

    def loss(p: Parameters, tokens: jax.Array, targets: jax.Array) -> jax.Array:
        batch, time = tokens.shape
        x = p["token_embedding.weight"][tokens] + p["position_embedding.weight"]
        mask = jnp.tril(jnp.ones((time, time), bool))
        for layer in range(workload.layers):
            q = {key: p[f"blocks.{layer}.{key}"] for key in BLOCK_KEYS}
            h = norm(x, q["norm1.weight"], q["norm1.bias"])
            qkv = h @ q["attention.qkv.weight"].T + q["attention.qkv.bias"]
            query, key, value = jnp.moveaxis(qkv.reshape(batch, time, 3, heads, -1), (2, 3), (0, 2))
            scores = query @ key.swapaxes(-1, -2) * (width // heads) ** -0.5
            weights = jax.nn.softmax(jnp.where(mask, scores, -jnp.inf))
            mixed = (weights @ value).swapaxes(1, 2).reshape(batch, time, width)
            x = x + mixed @ q["attention.projection.weight"].T + q["attention.projection.bias"]
            h = norm(x, q["norm2.weight"], q["norm2.bias"])
            h = jax.nn.gelu(h @ q["mlp.expand.weight"].T + q["mlp.expand.bias"], approximate=True)
            x = x + h @ q["mlp.projection.weight"].T + q["mlp.projection.bias"]
        x = norm(x, p["norm.weight"], p["norm.bias"])
        logits = x @ p["token_embedding.weight"].T
        return cross_entropy(logits.reshape(-1, workload.vocabulary), targets.reshape(-1))

    return trainer(loss, workload.parameters(), workload.data(), workload.adam)


BLOCK_KEYS = tuple(
    f"{part}.{kind}"
    for part in ("norm1", "attention.qkv", "attention.projection", "norm2", "mlp.expand", "mlp.projection")
    for kind in ("weight", "bias")
)


def overhead(workload: Overhead) -> Step:
    """The chain, compiled as a whole."""

    def chain(x: jax.Array) -> jax.Array:
        for _ in range(workload.repeats):
            x = jnp.tanh(x * workload.factor + workload.shift)
        return x.sum()

    step = jax.jit(jax.value_and_grad(chain))
    start = jnp.asarray(workload.start())

    def run() -> float:
        value, gradient = step(start)
        gradient.block_until_ready()
        return float(value)

    return Step(run)


build = by_workload(mlp=mlp, gpt=gpt, overhead=overhead)
