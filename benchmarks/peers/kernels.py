"""The floor's kernels: what plain NumPy can do at best, by hand, into buffers that exist already.

Three things make them fast. Every result goes into a given buffer, so no page is ever touched for the first
time inside a step. Work is cut into blocks whose temporaries stay in a core's second-level cache. Sums
along the last axis are matrix products with a vector of ones, and row-wise products are `vecdot`: both are
vectorised where `sum` and `max` along a short last axis are not.
"""

import math

import numpy as np

from benchmarks.workloads import Adam, Floats, Integers

BLOCK = 65536  # float32 elements: three temporaries of 256 KiB stay in a cache of 1 to 2 MiB
GELU_SCALE = math.sqrt(2.0 / math.pi)
GELU_CUBIC = GELU_SCALE * 0.044715
# erf(x / √2) = tanh(x P(x²)): coefficients of P from the highest power down.
ERF = tuple(
    coefficient / math.sqrt(2.0) ** (2 * power + 1)
    for power, coefficient in (
        (6, 1.4189424977536556e-07),
        (5, -5.669037793090726e-06),
        (4, 8.763993223767855e-05),
        (3, -0.0006197897570400571),
        (2, -0.00019182668985502725),
        (1, 0.1027690546746927),
        (0, 1.1283792743600447),
    )
)
ERF_END = 50.0  # of x²: |x| / √2 ≤ 5


def empty(*shape: int) -> Floats:
    """An uninitialised float32 buffer."""
    return np.empty(shape, np.float32)


class Scratch:
    """Work space shared by all kernels of one step."""

    def __init__(self, block: int = BLOCK) -> None:
        self.first: Floats = np.empty(block, np.float32)
        self.second: Floats = np.empty(block, np.float32)
        self.block = block


def linear(x: Floats, weight: Floats, bias: Floats, out: Floats) -> None:
    """out = x weightᵀ + bias for rows x (n, in), weight (out, in). (Blocks of rows would be slower.)"""
    np.matmul(x, weight.T, out=out)
    np.add(out, bias, out=out)


def linear_gradients(x: Floats, cotangent: Floats, weight: Floats, bias: Floats) -> None:
    """Gradients of `linear`'s weight and bias, written into `weight` and `bias`."""
    np.matmul(cotangent.T, x, out=weight)
    np.matmul(np.ones(len(cotangent), np.float32), cotangent, out=bias)


def norm_forward(
    x: Floats, gain: Floats, bias: Floats, epsilon: float, normal: Floats, scale: Floats, out: Floats
) -> None:
    """out = normal · gain + bias, `normal` being x at mean 0, variance 1 in rows; `scale` keeps 1/σ."""
    width = x.shape[1]
    mean_weights = np.full(width, 1.0 / width, np.float32)
    rows = max(1, BLOCK // width)
    for start in range(0, len(x), rows):
        part = slice(start, start + rows)
        h, r, y = normal[part], scale[part], out[part]
        np.subtract(x[part], np.matmul(x[part], mean_weights)[:, None], out=h)
        np.vecdot(h, h, out=r)
        np.multiply(r, 1.0 / width, out=r)
        np.add(r, epsilon, out=r)
        np.sqrt(r, out=r)
        np.divide(1.0, r, out=r)
        np.multiply(h, r[:, None], out=h)
        np.multiply(h, gain, out=y)
        np.add(y, bias, out=y)


def norm_backward(
    cotangent: Floats,
    normal: Floats,
    scale: Floats,
    gain: Floats,
    gain_gradient: Floats,
    bias_gradient: Floats,
    scratch: Scratch,
    out: Floats,
) -> None:
    """out += gradient of the rows. Both row means are products with gain / width: no temporaries."""
    width = normal.shape[1]
    rows = max(1, scratch.block // width)
    mean_weights = gain / np.float32(width)
    gain_gradient[:] = 0
    bias_gradient[:] = 0
    for start in range(0, len(normal), rows):
        part = slice(start, start + rows)
        g, h, z = cotangent[part], normal[part], out[part]
        ones = np.ones(len(g), np.float32)
        product = scratch.first[: g.size].reshape(g.shape)
        other = scratch.second[: g.size].reshape(g.shape)
        np.multiply(g, h, out=product)
        np.add(gain_gradient, np.matmul(ones, product), out=gain_gradient)
        np.add(bias_gradient, np.matmul(ones, g), out=bias_gradient)
        slope, offset = np.matmul(product, mean_weights), np.matmul(g, mean_weights)
        np.multiply(g, gain, out=other)
        np.subtract(other, offset[:, None], out=other)
        np.multiply(h, slope[:, None], out=product)
        np.subtract(other, product, out=other)
        np.multiply(other, scale[part, None], out=other)
        np.add(z, other, out=z)


def gelu_forward(x: Floats, out: Floats, scratch: Scratch) -> None:
    """out = x·a with a = (1 + tanh u)/2, u = √(2/π)(x + 0.044715 x³); x is overwritten with d out / d x.

    The derivative costs less here, where u and a are in cache, than in the backward pass:
    a + x·2a(1 − a)·u' with 2x·u' = 6u − 4√(2/π)x gives a·(1 + (1 − a)(6u − 4√(2/π)x)).
    """
    flat_x, flat_out = x.reshape(-1), out.reshape(-1)
    for start in range(0, flat_x.size, scratch.block):
        xs, ys = flat_x[start : start + scratch.block], flat_out[start : start + scratch.block]
        u, a = scratch.first[: xs.size], scratch.second[: xs.size]
        np.multiply(xs, xs, out=u)
        np.multiply(u, GELU_CUBIC, out=u)
        np.add(u, GELU_SCALE, out=u)
        np.multiply(u, xs, out=u)
        np.tanh(u, out=a)
        np.multiply(a, 0.5, out=a)
        np.add(a, 0.5, out=a)
        np.multiply(a, xs, out=ys)
        np.multiply(u, 6.0, out=u)
        np.multiply(xs, 4.0 * GELU_SCALE, out=xs)
        np.subtract(u, xs, out=u)
        np.multiply(u, a, out=xs)
        np.subtract(u, xs, out=u)
        np.add(u, 1.0, out=u)
        np.multiply(u, a, out=xs)


def exact_gelu_forward(x: Floats, out: Floats, scratch: Scratch) -> None:
    """out = x·Φ(x), by the error function; x is overwritten with the derivative Φ(x) + x·φ(x).

    NumPy has no error function and SciPy's is not vectorised: erf z is taken as tanh(z·P(z²)), with P fitted
    for float32 (relative error 1e-7 up to |z| = 4, 1 beyond in float32).
    """
    flat_x, flat_out = x.reshape(-1), out.reshape(-1)
    for start in range(0, flat_x.size, scratch.block):
        xs, ys = flat_x[start : start + scratch.block], flat_out[start : start + scratch.block]
        squares, cumulative = scratch.first[: xs.size], scratch.second[: xs.size]
        np.multiply(xs, xs, out=squares)
        np.minimum(squares, ERF_END, out=ys)  # beyond, the polynomial leaves its way, and tanh is 1 anyway
        np.multiply(ys, ERF[0], out=cumulative)
        for coefficient in ERF[1:-1]:
            np.add(cumulative, coefficient, out=cumulative)
            np.multiply(cumulative, ys, out=cumulative)
        np.add(cumulative, ERF[-1], out=cumulative)
        np.multiply(cumulative, xs, out=cumulative)
        np.tanh(cumulative, out=cumulative)
        np.multiply(cumulative, 0.5, out=cumulative)
        np.add(cumulative, 0.5, out=cumulative)
        np.multiply(cumulative, xs, out=ys)
        np.multiply(squares, -0.5, out=squares)
        np.exp(squares, out=squares)
        np.multiply(squares, xs, out=squares)
        np.multiply(squares, 1.0 / math.sqrt(2.0 * math.pi), out=squares)
        np.add(squares, cumulative, out=xs)


def cross_entropy(logits: Floats, targets: Integers) -> float:
    """Mean cross-entropy of rows (n, classes); logits are overwritten with their gradient."""
    count, classes = logits.shape
    rows = np.arange(count)
    np.subtract(logits, np.fmax.reduce(logits, axis=-1)[:, None], out=logits)
    picked = logits[rows, targets]
    np.exp(logits, out=logits)
    total = np.matmul(logits, np.ones(classes, np.float32))
    loss = float(np.log(total).sum(dtype=np.float64) - picked.sum(dtype=np.float64)) / count
    np.multiply(total, count, out=total)
    np.divide(logits, total[:, None], out=logits)
    logits[rows, targets] -= np.float32(1.0 / count)
    return loss


class FlatAdam:
    """Adam over one flat buffer of parameters and one of gradients, block by block."""

    def __init__(self, parameters: Floats, gradients: Floats, settings: Adam, scratch: Scratch) -> None:
        self.parameters, self.gradients, self.settings, self.scratch = (
            parameters,
            gradients,
            settings,
            scratch,
        )
        self.first, self.second = np.zeros_like(parameters), np.zeros_like(parameters)
        self.steps = 0

    def step(self) -> None:
        """One update. The bias corrections are folded into the step size and into epsilon."""
        self.steps += 1
        beta1, beta2 = self.settings.beta1, self.settings.beta2
        correction = math.sqrt(1.0 - beta2**self.steps)
        size = self.settings.learning_rate * correction / (1.0 - beta1**self.steps)
        epsilon = self.settings.epsilon * correction
        for start in range(0, self.parameters.size, self.scratch.block):
            part = slice(start, start + self.scratch.block)
            m, v, g, p = self.first[part], self.second[part], self.gradients[part], self.parameters[part]
            s = self.scratch.first[: g.size]
            np.multiply(m, beta1, out=m)
            np.multiply(g, 1.0 - beta1, out=s)
            np.add(m, s, out=m)
            np.multiply(s, g, out=s)
            np.multiply(s, (1.0 - beta2) / (1.0 - beta1), out=s)
            np.multiply(v, beta2, out=v)
            np.add(v, s, out=v)
            np.sqrt(v, out=s)
            np.add(s, epsilon, out=s)
            np.divide(m, s, out=s)
            np.multiply(s, size, out=s)
            np.subtract(p, s, out=p)


def flat_views(values: dict[str, Floats]) -> tuple[Floats, dict[str, Floats]]:
    """One flat copy of all arrays, and a view of it for each name."""
    flat = np.concatenate([value.reshape(-1) for value in values.values()])
    views, start = {}, 0
    for name, value in values.items():
        views[name] = flat[start : start + value.size].reshape(value.shape)
        start += value.size
    return flat, views
