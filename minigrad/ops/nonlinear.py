"""Layer normalisation, GELU and softmax cross-entropy: fused operations of one array."""

from __future__ import annotations

import math
from typing import Any

from minigrad.backend import asarray, constant, host, int32, int64, namespace, uint32, uint64
from minigrad.backend_special import is_half, widened
from minigrad.errors import DTypeError, ShapeError, UsageError
from minigrad.fused import fused
from minigrad.ops.blocks import blocks
from minigrad.ops.elementwise import erf, polynomial, sigmoid, sqrt, square, where
from minigrad.ops.indexing import getitem
from minigrad.ops.linear import column_sums, row_of_ones
from minigrad.ops.reductions import logsumexp, mean, sum
from minigrad.ops.shape import astype
from minigrad.ops.types import result_type
from minigrad.tensor import Tensor

# ----- Layer normalisation ------------------------------------------------------------------------


def _layer_norm_forward(xp: Any, x: Any, weight: Any, bias: Any, *, epsilon: float) -> tuple[Any, Any]:
    if is_half(x.dtype):
        wide = (widened(a) for a in (x, weight, bias))
        out, kept = _layer_norm_forward(xp, *wide, epsilon=epsilon)
        return out.astype(x.dtype), kept
    width = x.shape[-1]
    for name, a in (("weight", weight), ("bias", bias)):
        if a is not None and a.shape != (width,):
            raise ShapeError(f"layer_norm: x {x.shape} needs a {name} of shape {(width,)}, got {a.shape}")
    rows = x.reshape(math.prod(x.shape[:-1]), width)
    count = rows.shape[0]
    mean, inverse = xp.empty((count, 1), dtype=x.dtype), xp.empty((count, 1), dtype=x.dtype)
    share = 1.0 / max(width, 1)
    average = xp.full((width, 1), share, dtype=x.dtype)
    if xp.kernels is not None:
        mean = xp.matmul(rows, average)
        centred = rows - mean
        inverse = 1.0 / xp.sqrt(xp.vecdot(centred, centred)[:, None] * share + epsilon)
        scales = [default if a is None else a for a, default in ((weight, 1.0), (bias, 0.0))]
        return xp.kernels.scaled(rows, mean, inverse, *scales).reshape(x.shape), (mean, inverse)
    out = xp.empty(rows.shape, dtype=x.dtype)
    for block in blocks(xp, count, width):
        r, y, m, s = rows[block], out[block], mean[block], inverse[block]
        xp.matmul(r, average, out=m)
        xp.subtract(r, m, out=y)
        s[...] = xp.vecdot(y, y)[:, None]
        s *= share
        s += epsilon
        xp.sqrt(s, out=s)
        xp.divide(1.0, s, out=s)
        y *= s
        if weight is not None:
            y *= weight
        if bias is not None:
            y += bias
    return out.reshape(x.shape), (mean, inverse)


def _layer_norm_pull(
    xp: Any, v: Any, needs: Any, arrays: Any, kept: Any, into: Any, *, epsilon: float
) -> list[Any]:
    (x, weight), v = map(widened, arrays[:2]), widened(v)
    mean, inverse = kept
    width = x.shape[-1]
    rows, v = x.reshape(mean.shape[0], width), v.reshape(mean.shape[0], width)
    if xp.kernels is not None:
        return _layer_norm_kernels(xp, v, needs, rows, weight, mean, inverse, x.shape)
    dx = xp.empty(x.shape, dtype=x.dtype) if needs[0] else None
    dx_rows = None if dx is None else dx.reshape(rows.shape)
    dw = xp.zeros(width, dtype=x.dtype) if needs[1] else None
    db = xp.zeros(width, dtype=x.dtype) if needs[2] else None
    gain = weight if weight is not None else xp.ones(width, dtype=x.dtype)
    average = (gain / max(width, 1))[:, None]
    for block in blocks(xp, rows.shape[0], width):
        g, s = v[block], inverse[block]
        centred = rows[block] - mean[block]
        product = g * centred
        if dw is not None:
            dw += xp.matmul(s.T, product)[0]
        if db is not None:
            db += column_sums(xp, g)
        if dx_rows is not None:
            # dx = s · (gain·g - mean(gain·g) - s² · centred · mean(gain·g·centred))
            d = dx_rows[block]
            xp.multiply(g, gain, out=d)
            d -= xp.matmul(g, average)
            centred *= xp.matmul(product, average) * (s * s)
            d -= centred
            d *= s
    return [dx, dw, db]


def _layer_norm_kernels(
    xp: Any, v: Any, needs: Any, rows: Any, weight: Any, mean: Any, inverse: Any, shape: tuple[int, ...]
) -> list[Any]:
    """The same in two kernels and the sums between them."""
    normal, product = xp.kernels.layer_norm_terms(v, rows, mean, inverse)
    dx = None
    if needs[0]:
        gain = xp.ones(shape[-1], dtype=rows.dtype) if weight is None else weight
        average = (gain / max(shape[-1], 1))[:, None]
        share, along = xp.matmul(v, average), xp.matmul(product, average)
        dx = xp.kernels.layer_norm_pull(v, gain, normal, inverse, share, along).reshape(shape)
    return [dx, column_sums(xp, product) if needs[1] else None, column_sums(xp, v) if needs[2] else None]


@fused(forward=_layer_norm_forward, pull=_layer_norm_pull)
def layer_norm(x: Any, weight: Any, bias: Any, /, *, epsilon: float = 1e-5) -> Tensor:
    """Normalise the last axis to mean 0 and variance 1 (biased), then scale by `weight` and shift by `bias`.

    Shapes: x (..., width); weight and bias (width,) or None. Half precision is computed in float32. Paper:
    Ba, Kiros, Hinton 2016, Layer Normalization, eq. 4.
    """
    if is_half(x.dtype):
        dtype = result_type(*(a for a in (x, weight, bias) if a is not None))
        return astype(layer_norm(astype(x, "float32"), weight, bias, epsilon=epsilon), dtype)
    centred = x - mean(x, axis=-1, keepdims=True)
    variance = mean(square(centred), axis=-1, keepdims=True)
    out = centred * (1.0 / sqrt(variance + epsilon))
    out = out if weight is None else out * weight
    return out if bias is None else out + bias


# ----- GELU ---------------------------------------------------------------------------------------

_SCALE, _CUBIC = math.sqrt(2 / math.pi), 0.044715


def _gelu_tanh_forward(xp: Any, x: Any, *, keep: bool) -> tuple[Any, Any]:
    # With u = c·x·(1 + k·x²) and a = (1 + tanh u)/2: y = a·x, y' = a·(1 + (1 - a)·2x·u').
    if xp.kernels is not None:
        return xp.kernels.gelu_tanh(x), None
    flat = x.reshape(-1)
    out = xp.empty(flat.shape, dtype=x.dtype)
    slope = xp.empty(flat.shape, dtype=x.dtype) if keep else None
    for block in blocks(xp, flat.shape[0]):
        r, y, s = flat[block], out[block], None if slope is None else slope[block]
        xp.multiply(r, r, out=y)
        if s is not None:
            xp.multiply(y, 6 * _SCALE * _CUBIC, out=s)
            s += 2 * _SCALE
            s *= r
        y *= _SCALE * _CUBIC
        y += _SCALE
        y *= r
        xp.tanh(y, out=y)
        y *= 0.5
        y += 0.5
        if s is not None:
            s *= 1.0 - y
            s += 1.0
            s *= y
        y *= r
    return out.reshape(x.shape), None if slope is None else slope.reshape(x.shape)


def _gelu_tanh_pull(xp: Any, v: Any, needs: Any, arrays: Any, slope: Any, into: Any) -> list[Any]:
    return [xp.kernels.gelu_tanh_pull(v, *arrays) if slope is None else v * slope]


@fused(forward=_gelu_tanh_forward, pull=_gelu_tanh_pull)
def _gelu_tanh(x: Any, /) -> Tensor:
    twice = polynomial(x, coefficients=(0.0, 2 * _SCALE, 0.0, 2 * _SCALE * _CUBIC))
    return x * sigmoid(twice)  # (1 + tanh u)/2 = sigmoid 2u


def _gelu_forward(xp: Any, x: Any, *, keep: bool) -> tuple[Any, Any]:
    # y' = Φ(x) + x φ(x), with the distribution and the density of the normal law.
    if xp.kernels is not None:
        return xp.kernels.gelu(x), None
    flat = x.reshape(-1)
    out = xp.empty(flat.shape, dtype=x.dtype)
    slope = xp.empty(flat.shape, dtype=x.dtype) if keep else None
    for block in blocks(xp, flat.shape[0]):
        r, y = flat[block], out[block]
        share = xp.erf(r * math.sqrt(0.5))
        share += 1.0
        share *= 0.5
        xp.multiply(share, r, out=y)
        if slope is not None:
            s = slope[block]
            xp.multiply(r, r, out=s)
            s *= -0.5
            xp.exp(s, out=s)
            s *= 1 / math.sqrt(2 * math.pi)
            s *= r
            s += share
    return out.reshape(x.shape), None if slope is None else slope.reshape(x.shape)


def _gelu_pull(xp: Any, v: Any, needs: Any, arrays: Any, slope: Any, into: Any) -> list[Any]:
    return [xp.kernels.gelu_pull(v, *arrays) if slope is None else v * slope]


@fused(forward=_gelu_forward, pull=_gelu_pull)
def _gelu(x: Any, /) -> Tensor:
    """x · Φ(x)"""
    return 0.5 * x * (1.0 + erf(x * math.sqrt(0.5)))


def gelu(x: Any, /, *, approximate: str = "none") -> Tensor:
    """Gaussian error linear unit, x · Φ(x): exact, or with approximate="tanh" the form that GPT-2 uses.

    Paper: Hendrycks, Gimpel 2016, Gaussian Error Linear Units, §2.
    """
    x = x if isinstance(x, Tensor) else Tensor(x)
    if approximate == "tanh":
        return _gelu_tanh(x)
    if approximate != "none":
        raise UsageError(f'gelu: approximate is "none" or "tanh", not {approximate!r}')
    return _gelu(x)


# ----- Softmax cross-entropy ----------------------------------------------------------------------


def _cross_entropy_forward(
    xp: Any, logits: Any, targets: Any, counted: Any = None, *, reduction: str
) -> tuple[Any, Any]:
    if is_half(logits.dtype):
        losses, kept = _cross_entropy_forward(xp, widened(logits), targets, counted, reduction=reduction)
        return losses.astype(logits.dtype), kept
    rows = xp.arange(targets.shape[0])
    top = xp.max(logits, axis=-1, keepdims=True)
    shifted = logits - top
    picked = shifted[rows, targets]
    xp.exp(shifted, out=shifted)
    total = xp.matmul(shifted, row_of_ones(xp, logits.shape[1], logits.dtype).T)
    xp.log(total, out=total)
    losses = total[:, 0] - picked
    if counted is not None:
        losses = xp.where(counted, losses, xp.zeros_like(losses))
    total += top
    if reduction == "none":
        return losses, (total, rows)
    loss = xp.sum(losses)
    if reduction == "mean":
        loss = loss / _count(xp, losses, counted)
    return xp.asarray(loss), (total, rows)


def _count(xp: Any, losses: Any, counted: Any) -> Any:
    """How many losses count, in their dtype."""
    if counted is None:
        return constant(float(losses.shape[0]), losses)
    return xp.asarray(xp.sum(counted), dtype=losses.dtype)


def _cross_entropy_pull(
    xp: Any, v: Any, needs: Any, arrays: Any, kept: Any, into: Any, *, reduction: str
) -> list[Any]:
    (logits, targets, *masks), (log_total, rows) = arrays, kept
    counted = masks[0] if masks else None
    logits, v = widened(logits), widened(v)
    if reduction == "mean":
        v = v / _count(xp, log_total, counted)
    if counted is not None:
        v = xp.masked(v, counted)
    column = v[:, None] if v.shape else v  # of all rows, or of each
    if xp.kernels is not None:
        gradient = xp.kernels.softmax_pull(column, logits, log_total)
    else:
        gradient = logits - log_total
        xp.exp(gradient, out=gradient)
        gradient *= column
    gradient[rows, targets] -= v
    return [gradient, None, None]


@fused(forward=_cross_entropy_forward, pull=_cross_entropy_pull)
def _cross_entropy(logits: Any, targets: Any, counted: Any = None, /, *, reduction: str) -> Tensor:
    if is_half(logits.dtype):
        wide = astype(logits, "float32")
        return astype(_cross_entropy(wide, targets, counted, reduction=reduction), logits.dtype)
    labels, counts = (a.data if isinstance(a, Tensor) else a for a in (targets, counted))
    xp = namespace(logits.data)
    losses = logsumexp(logits, axis=-1) - getitem(logits, (xp.arange(labels.shape[0]), labels))
    if counts is not None:
        losses = where(counts, losses, 0.0)
    if reduction == "none":
        return losses
    total = sum(losses)
    return total if reduction == "sum" else total / _count(xp, losses.data, counts)


def _which_count(labels: Any, classes: int, ignore_index: int) -> tuple[Any, Any]:
    """Class numbers with ignored ones at class 0, and which rows count: None where the host saw that all do.

    A GPU would have to be waited for. Raises UsageError for what is no class.
    """
    xp = namespace(labels)
    if not 0 <= ignore_index < classes and _all_classes(xp, labels, classes):
        return labels, None
    counted = labels != ignore_index
    if xp is host:
        wrong = ((labels < 0) | (labels >= classes)) & counted
        if wrong.any():
            raise UsageError(
                f"cross_entropy: target {labels[wrong][0]} is none of {classes} classes, from 0 on"
            )
    return xp.where(counted, labels, xp.zeros_like(labels)), counted


def _all_classes(xp: Any, labels: Any, classes: int) -> bool:
    if xp is not host:
        return xp.name == "shapes"  # what has no values is counted as the usual case
    unsigned = _UNSIGNED.get(labels.dtype)
    if unsigned is not None:  # negative ones are large
        return not labels.size or bool(xp.max(labels.view(unsigned)) < classes)
    return not labels.size or bool(xp.min(labels) >= 0 and xp.max(labels) < classes)


_UNSIGNED = {int64: uint64, int32: uint32}


def cross_entropy(
    logits: Any, targets: Any, /, *, ignore_index: int = -100, reduction: str = "mean"
) -> Tensor:
    """Negative log-likelihood, in nats, of `targets` under softmax(logits).

    Shapes: logits (..., classes), targets (...) of integers. `reduction` is "mean" (over targets that are not
    `ignore_index`), "sum" or "none" (the targets' shape). Raises ShapeError, DTypeError or UsageError for
    what does not fit.
    """
    logits = logits if isinstance(logits, Tensor) else Tensor(logits)
    labels = targets.data if isinstance(targets, Tensor) else asarray(targets)
    shape, expected = labels.shape, logits.data.shape
    if labels.dtype.kind not in "iu":
        raise DTypeError(f"cross_entropy: targets are class numbers, so integers; got {labels.dtype}")
    if not expected:
        raise ShapeError("cross_entropy: expected logits (..., classes), got a number, of shape ()")
    if shape != expected[:-1]:
        raise ShapeError(f"cross_entropy: logits {expected} need targets {expected[:-1]}, got {shape}")
    if reduction not in ("mean", "sum", "none"):
        raise UsageError(f'cross_entropy: reduction is "mean", "sum" or "none", not {reduction!r}')
    if len(shape) != 1:
        logits, labels = logits.reshape(labels.size, expected[-1]), labels.reshape(labels.size)
    labels, counted = _which_count(labels, expected[-1], ignore_index)
    counts = () if counted is None else (Tensor.of(counted),)
    losses = _cross_entropy(logits, Tensor.of(labels), *counts, reduction=reduction)
    return losses if reduction != "none" or len(shape) == 1 else losses.reshape(shape)
