"""A small GPT whose every part matters, and the same computation in plain NumPy."""

import math

import numpy as np
from scipy.special import softmax

from minigrad import nn

TINY = nn.GPTConfig(vocabulary=11, context=8, layers=2, heads=2, width=8)


def build(
    config: nn.GPTConfig = TINY, *, seed: int = 0, dtype: str = "float64", scale: float = 8.0
) -> nn.GPT:
    """A model whose matrices are `scale` times as large as at the start, so that tokens and places matter."""
    model = nn.GPT(config, seed=seed, dtype=dtype)
    generator = np.random.default_rng(seed)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.assign(parameter.numpy() * scale)
        else:
            parameter.assign(parameter.numpy() + 0.3 * generator.normal(size=parameter.shape))
    return model


def tokens(batch: int, time: int, seed: int = 0, vocabulary: int = 11) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, vocabulary, (batch, time))


def gradients(model: nn.GPT) -> dict[str, np.ndarray]:
    return {name: p.grad.numpy().copy() for name, p in model.named_parameters() if p.grad is not None}


def reference(model: nn.GPT, numbers: np.ndarray) -> np.ndarray:
    """The whole model in plain NumPy, head by head."""
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    width = model.config.width // model.config.heads

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        normal = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return normal * state[f"{name}.weight"] + state[f"{name}.bias"]

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    time = numbers.shape[1]
    x = state["wte.weight"][numbers] + state["wpe.weight"][:time]
    for layer in (f"h.{i}" for i in range(model.config.layers)):
        q, k, v = np.split(linear(norm(x, f"{layer}.ln_1"), f"{layer}.attn.c_attn"), 3, axis=-1)
        heads = []
        for part in (slice(i, i + width) for i in range(0, model.config.width, width)):
            scores = q[..., part] @ k[..., part].swapaxes(-1, -2) / math.sqrt(width)
            scores[:, np.triu(np.ones((time, time), bool), 1)] = -np.inf
            heads.append(softmax(scores, axis=-1) @ v[..., part])
        x = x + linear(np.concatenate(heads, axis=-1), f"{layer}.attn.c_proj")
        hidden = linear(norm(x, f"{layer}.ln_2"), f"{layer}.mlp.c_fc")
        hidden = 0.5 * hidden * (1 + np.tanh(math.sqrt(2 / math.pi) * (hidden + 0.044715 * hidden**3)))
        x = x + linear(hidden, f"{layer}.mlp.c_proj")
    return norm(x, "ln_f") @ state["wte.weight"].T
