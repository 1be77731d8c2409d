"""Losses under torch's names and arguments, in nats where they are logarithms.

`reduction` is "mean", "sum" or "none" everywhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minigrad import ops
from minigrad.errors import DTypeError, ShapeError, UsageError
from minigrad.nn.functional.distances import cosine_similarity, pairwise_distance
from minigrad.tensor import Tensor


def reduced(loss: Tensor, reduction: str, count: Any = None) -> Tensor:
    """The losses themselves, their sum, or their mean: the sum over `count` (how many there are unless
    given).
    """
    if reduction == "none":
        return loss
    if reduction == "sum":
        return ops.sum(loss)
    if reduction != "mean":
        raise UsageError(f'a reduction is "mean", "sum" or "none", not {reduction!r}')
    return ops.mean(loss) if count is None else ops.sum(loss) / count


def _pair(name: str, input: Any, target: Any) -> tuple[Tensor, Tensor]:
    """Both as tensors of one shape: torch broadcasts with a warning, and a mistake is what it nearly always
    is.
    """
    x = input if isinstance(input, Tensor) else Tensor(input)
    t = target if isinstance(target, Tensor) else Tensor(target, device=x.device)
    if x.shape != t.shape:
        raise ShapeError(
            f"{name}: input {x.shape} and target {t.shape} differ in shape; expected the same, "
            "broadcasting would compare every entry with every other"
        )
    return x, t if t.dtype.kind in "fV" else t.astype(x.dtype)


# ----- Classes ------------------------------------------------------------------------------------


def _classes_last(x: Tensor) -> Tensor:
    return ops.permute_dims(x, (0, *range(2, x.ndim), 1)) if x.ndim > 2 else x


def cross_entropy(
    input: Any,
    target: Any,
    weight: Any = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Softmax cross-entropy, with the classes on axis 1 as in torch.

    Shapes: input (N, classes, ...) or (classes,); target (N, ...) of class numbers, or of probabilities in
    the shape of the input; weight (classes,). "mean" divides by the weights of the targets that are not
    `ignore_index` (by their number with probabilities). With `label_smoothing` ε the target becomes
    (1 - ε) target + ε / classes. Paper for that: Szegedy et al. 2016, Rethinking the Inception Architecture,
    §7. Raises ShapeError, DTypeError and UsageError.
    """
    x = input if isinstance(input, Tensor) else Tensor(input)
    if not 0.0 <= label_smoothing <= 1.0:
        raise UsageError(f"cross_entropy: label_smoothing lies between 0 and 1, got {label_smoothing}")
    if not (isinstance(target, Tensor) or type(target) is type(x.data) is np.ndarray):
        target = Tensor(target, device=x.device)
    if x.data.ndim > 2:
        x = _classes_last(x)
    if weight is None and not label_smoothing and target.dtype.kind not in "fV":
        return ops.cross_entropy(x, target, ignore_index=ignore_index, reduction=reduction)
    target = target if isinstance(target, Tensor) else Tensor(target)
    if target.dtype.kind in "fV":
        return _soft_cross_entropy(x, target, weight, reduction, label_smoothing)
    log_p = ops.log_softmax(x)
    loss = nll_loss_last(log_p, target, weight, ignore_index, "none" if label_smoothing else reduction)
    if not label_smoothing:
        return loss
    counted = ops.not_equal(target, ignore_index)
    spread = -ops.mean(log_p if weight is None else log_p * weight, axis=-1)
    loss = (1.0 - label_smoothing) * loss + ops.where(counted, label_smoothing * spread, 0.0)
    return reduced(loss, reduction, ops.sum(_target_weights(x, target, weight, ignore_index)))


def _soft_cross_entropy(x: Tensor, target: Tensor, weight: Any, reduction: str, smoothing: float) -> Tensor:
    target = _classes_last(target)
    if target.shape != x.shape:
        kind = DTypeError if target.shape == x.shape[:-1] else ShapeError
        raise kind(
            f"cross_entropy: targets are class numbers, so integers {x.shape[:-1]}, or probabilities "
            f"{x.shape} (classes last); got {target.dtype} {target.shape}"
        )
    if smoothing:
        target = (1.0 - smoothing) * target + smoothing / x.shape[-1]
    log_p = ops.log_softmax(x)
    loss = -ops.sum(target * (log_p if weight is None else log_p * weight), axis=-1)
    return reduced(loss, reduction, float(max(loss.size, 1)) if reduction == "mean" else None)


def _target_weights(x: Tensor, target: Tensor, weight: Any, ignore_index: int) -> Tensor:
    """The weight of each target's class (1 without weights), 0 where it is ignored."""
    counted = ops.not_equal(target, ignore_index)
    if weight is None:
        return counted.astype(x.dtype)
    safe = ops.where(counted, target, ops.zeros_like(target))
    return ops.where(counted, ops.take(weight, safe), 0.0)


def nll_loss(
    input: Any, target: Any, weight: Any = None, *, ignore_index: int = -100, reduction: str = "mean"
) -> Tensor:
    """Minus the log-probabilities of the target classes: input (N, classes, ...) of log-probabilities."""
    x = input if isinstance(input, Tensor) else Tensor(input)
    target = target if isinstance(target, Tensor) else Tensor(target, device=x.device)
    return nll_loss_last(_classes_last(x), target, weight, ignore_index, reduction)


def nll_loss_last(log_p: Tensor, target: Tensor, weight: Any, ignore_index: int, reduction: str) -> Tensor:
    """`nll_loss` with the classes on the last axis."""
    if target.dtype.kind not in "iu":
        raise DTypeError(f"nll_loss: targets are class numbers, so integers; got {target.dtype}")
    if target.shape != log_p.shape[:-1]:
        raise ShapeError(
            f"nll_loss: an input {log_p.shape} (classes last) needs targets {log_p.shape[:-1]}, "
            f"got {target.shape}"
        )
    classes = log_p.shape[-1]
    if weight is not None:
        weight = weight if isinstance(weight, Tensor) else Tensor(weight, dtype=log_p.dtype)
        if weight.shape != (classes,):
            raise ShapeError(f"nll_loss: expected a weight for each of {classes} classes, got {weight.shape}")
    counted = ops.not_equal(target, ignore_index)
    safe = ops.where(counted, target, ops.zeros_like(target))
    check_classes("nll_loss", safe, classes)
    picked = ops.squeeze(ops.take_along_axis(log_p, ops.expand_dims(safe, axis=safe.ndim), axis=-1), axis=-1)
    weights = _target_weights(log_p, target, weight, ignore_index)
    return reduced(-picked * weights, reduction, ops.sum(weights) if reduction == "mean" else None)


def check_classes(name: str, target: Tensor, classes: int) -> None:
    """Raise UsageError for a class outside 0 ... classes - 1, on the host."""
    if target.device == "cpu" and target.size:
        low, high = int(target.data.min()), int(target.data.max())
        if low < 0 or high >= classes:
            wrong = low if low < 0 else high
            raise UsageError(f"{name}: target {wrong} is none of {classes} classes, from 0 on")


def focal_loss(
    input: Any, target: Any, alpha: float = 0.25, gamma: float = 2.0, reduction: str = "mean"
) -> Tensor:
    """-α_t (1 - p_t)^γ ln p_t of logits against 0 and 1; no α where it is negative.

    Paper: Lin et al. 2017, Focal Loss for Dense Object Detection, eq. 5.
    """
    x, t = _pair("focal_loss", input, target)
    p = ops.sigmoid(x)
    wrong = p * (1.0 - t) + (1.0 - p) * t  # 1 - p_t
    loss = binary_cross_entropy_with_logits(x, t, reduction="none") * wrong**gamma
    if alpha >= 0:
        loss = (alpha * t + (1.0 - alpha) * (1.0 - t)) * loss
    return reduced(loss, reduction)


def distillation_loss(
    input: Any,
    teacher: Any,
    target: Any = None,
    *,
    temperature: float = 2.0,
    alpha: float = 0.5,
    reduction: str = "mean",
) -> Tensor:
    """α T² KL(teacher ‖ student), both at temperature T, + (1 - α) cross-entropy with the true classes.

    Shapes: input and teacher (N, classes) logits, target (N,) or None for the first term alone. T² keeps the
    sizes of both gradients apart from T. Nothing flows into the teacher. Paper: Hinton et al. 2015,
    Distilling the Knowledge in a Neural Network, §2.
    """
    if not temperature > 0 or not 0.0 <= alpha <= 1.0:
        raise UsageError(
            f"distillation: expected temperature > 0 and alpha between 0 and 1, got {temperature} and {alpha}"
        )
    x, t = _pair("distillation", input, teacher)
    log_p, log_q = (ops.log_softmax(a / temperature) for a in (x, t.detach()))
    soft = ops.sum(ops.exp(log_q) * (log_q - log_p), axis=-1) * temperature**2
    if target is None:
        return reduced(soft, reduction)
    hard = cross_entropy(x, target, reduction="none")
    return reduced(alpha * soft + (1.0 - alpha) * hard, reduction)


# ----- Probabilities ------------------------------------------------------------------------------


def binary_cross_entropy(input: Any, target: Any, weight: Any = None, *, reduction: str = "mean") -> Tensor:
    """-(t ln p + (1 - t) ln(1 - p)) of probabilities p, each logarithm at least -100, as in torch."""
    x, t = _pair("binary_cross_entropy", input, target)
    if x.device == "cpu" and x.size and not (x.data.min() >= 0 and x.data.max() <= 1):
        raise UsageError(
            f"binary_cross_entropy: probabilities lie between 0 and 1, and these reach from {x.data.min()} "
            f"to {x.data.max()}; for logits there is binary_cross_entropy_with_logits"
        )
    least = 3.720075976020836e-44  # e⁻¹⁰⁰
    loss = -(t * ops.log(ops.clip(x, least)) + (1.0 - t) * ops.log(ops.clip(1.0 - x, least)))
    return reduced(loss if weight is None else loss * weight, reduction)


def binary_cross_entropy_with_logits(
    input: Any, target: Any, weight: Any = None, pos_weight: Any = None, *, reduction: str = "mean"
) -> Tensor:
    """The same of logits, with no rounding on the way; `pos_weight` multiplies the term of targets 1."""
    x, t = _pair("binary_cross_entropy_with_logits", input, target)
    more = 1.0 if pos_weight is None else 1.0 + (pos_weight - 1.0) * t
    loss = (1.0 - t) * x - more * ops.logsigmoid(x)
    return reduced(loss if weight is None else loss * weight, reduction)


def kl_div(input: Any, target: Any, *, reduction: str = "mean", log_target: bool = False) -> Tensor:
    """target · (ln target - input), input being log-probabilities; "batchmean" is the sum over the batch's
    size, which is the mathematical mean.
    """
    x, t = _pair("kl_div", input, target)
    loss = ops.exp(t) * (t - x) if log_target else ops.xlogy(t, t) - t * x
    if reduction == "batchmean":
        return ops.sum(loss) / float(x.shape[0] if x.ndim else 1)
    return reduced(loss, reduction)


# ----- Numbers ------------------------------------------------------------------------------------


def mse_loss(input: Any, target: Any, *, reduction: str = "mean") -> Tensor:
    """(x - t)²"""
    x, t = _pair("mse_loss", input, target)
    return reduced(ops.square(x - t), reduction)


def l1_loss(input: Any, target: Any, *, reduction: str = "mean") -> Tensor:
    """|x - t|"""
    x, t = _pair("l1_loss", input, target)
    return reduced(ops.abs(x - t), reduction)


def smooth_l1_loss(input: Any, target: Any, *, reduction: str = "mean", beta: float = 1.0) -> Tensor:
    """(x - t)² / 2β where |x - t| < β, and |x - t| - β/2 beyond. Paper: Girshick 2015, Fast R-CNN, eq. 3."""
    if beta == 0:
        return l1_loss(input, target, reduction=reduction)
    if beta < 0:
        raise UsageError(f"smooth_l1_loss: beta is not negative, and this one is {beta}")
    return reduced(huber_loss(input, target, reduction="none", delta=beta) / beta, reduction)


def huber_loss(input: Any, target: Any, *, reduction: str = "mean", delta: float = 1.0) -> Tensor:
    """m (|x - t| - m/2) with m = min(|x - t|, δ): (x - t)² / 2 where |x - t| ≤ δ, and straight beyond."""
    if not delta > 0:
        raise UsageError(f"huber_loss: delta is positive, and this one is {delta}")
    x, t = _pair("huber_loss", input, target)
    distance = ops.abs(x - t)
    inner = ops.clip(distance, max=delta)
    return reduced(inner * (distance - 0.5 * inner), reduction)


# ----- Pairs and triples --------------------------------------------------------------------------


def cosine_embedding_loss(
    input1: Tensor, input2: Tensor, target: Any, margin: float = 0.0, *, reduction: str = "mean"
) -> Tensor:
    """1 - cos where the target is 1, max(0, cos - margin) where it is -1, and 0 where it is neither.

    Shapes: inputs (N, d), target (N,).
    """
    sign = target if isinstance(target, Tensor) else Tensor(target, device=input1.device)
    if sign.shape != input1.shape[:-1]:
        raise ShapeError(
            f"cosine_embedding_loss: inputs {input1.shape} need targets {input1.shape[:-1]}, got {sign.shape}"
        )
    cosine = cosine_similarity(input1, input2, dim=-1)
    apart = ops.where(ops.equal(sign, -1), ops.relu(cosine - margin), 0.0)
    return reduced(ops.where(ops.equal(sign, 1), 1.0 - cosine, apart), reduction)


def margin_ranking_loss(
    input1: Tensor, input2: Tensor, target: Any, margin: float = 0.0, *, reduction: str = "mean"
) -> Tensor:
    """max(0, margin - target · (x1 - x2)); target 1 asks for x1 > x2, -1 for the other order."""
    target = target if isinstance(target, Tensor) else Tensor(target, device=input1.device)
    signs = target.astype(input1.dtype)
    return reduced(ops.relu(margin - signs * (input1 - input2)), reduction)


def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    *,
    reduction: str = "mean",
) -> Tensor:
    """max(0, d(anchor, positive) - d(anchor, negative) + margin) of vectors (..., d).

    With `swap` the negative's distance is the smaller of those from anchor and from positive. Paper: Balntas
    et al. 2016, Learning Shallow Convolutional Feature Descriptors with Triplet Losses, §3.
    """
    near, far = (pairwise_distance(anchor, other, p, eps) for other in (positive, negative))
    if swap:
        far = ops.minimum(far, pairwise_distance(positive, negative, p, eps))
    return reduced(ops.relu(near - far + margin), reduction)
