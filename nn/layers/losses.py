"""Every loss as a module: its arguments, and the function of `functional` that it calls."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from minigrad.nn import functional
from minigrad.nn.functional.arguments import POSITIVE, flags, one_of, real, whole
from minigrad.nn.module import Buffer, Module
from minigrad.tensor import Tensor


class Loss(Module):
    """A function of `functional` with its arguments; tensors among these are buffers, as in torch."""

    function: Callable[..., Tensor]
    reductions: tuple[str, ...] = ("mean", "sum", "none")

    def __init__(self, *, reduction: str = "mean", **options: Any) -> None:
        one_of(self, self.reductions, reduction=reduction)
        self.reduction = reduction
        self._options = ("reduction", *options)
        for name, value in options.items():
            numbers = isinstance(value, Tensor) or hasattr(value, "__array__")
            setattr(self, name, Buffer(value) if numbers else value)

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        options = {name: getattr(self, name) for name in self._options}
        return type(self).function(*inputs, **named, **options)

    def extra_repr(self) -> str:
        options = ((name, getattr(self, name)) for name in self._options)
        return ", ".join(f"{name}={value!r}" for name, value in options if not isinstance(value, Tensor))


class CrossEntropyLoss(Loss):
    """Softmax cross-entropy of input (N, classes, ...) with class numbers or probabilities."""

    function = staticmethod(functional.cross_entropy)

    def __init__(
        self,
        weight: Any = None,
        *,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        (ignore_index,) = whole(self, None, ignore_index=ignore_index)
        real(self, 0.0, 1.0, label_smoothing=label_smoothing)
        super().__init__(
            reduction=reduction, weight=weight, ignore_index=ignore_index, label_smoothing=label_smoothing
        )


class NLLLoss(Loss):
    """Minus the log-probabilities (N, classes, ...) of the target classes."""

    function = staticmethod(functional.nll_loss)

    def __init__(self, weight: Any = None, *, ignore_index: int = -100, reduction: str = "mean") -> None:
        (ignore_index,) = whole(self, None, ignore_index=ignore_index)
        super().__init__(reduction=reduction, weight=weight, ignore_index=ignore_index)


class BCELoss(Loss):
    """Cross-entropy of probabilities with targets between 0 and 1."""

    function = staticmethod(functional.binary_cross_entropy)

    def __init__(self, weight: Any = None, *, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction, weight=weight)


class BCEWithLogitsLoss(Loss):
    """Cross-entropy of logits with targets between 0 and 1."""

    function = staticmethod(functional.binary_cross_entropy_with_logits)

    def __init__(self, weight: Any = None, *, reduction: str = "mean", pos_weight: Any = None) -> None:
        super().__init__(reduction=reduction, weight=weight, pos_weight=pos_weight)


class MSELoss(Loss):
    """(x - t)²"""

    function = staticmethod(functional.mse_loss)

    def __init__(self, *, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)


class L1Loss(MSELoss):
    """|x - t|"""

    function = staticmethod(functional.l1_loss)


class SmoothL1Loss(Loss):
    """(x - t)² / 2β where |x - t| < β, and |x - t| - β/2 beyond."""

    function = staticmethod(functional.smooth_l1_loss)

    def __init__(self, *, reduction: str = "mean", beta: float = 1.0) -> None:
        real(self, 0.0, beta=beta)
        super().__init__(reduction=reduction, beta=beta)


class HuberLoss(Loss):
    """(x - t)² / 2 where |x - t| ≤ δ, and δ (|x - t| - δ/2) beyond."""

    function = staticmethod(functional.huber_loss)

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        real(self, POSITIVE, delta=delta)
        super().__init__(reduction=reduction, delta=delta)


class KLDivLoss(Loss):
    """target · (ln target - input), input being log-probabilities."""

    function = staticmethod(functional.kl_div)
    reductions = ("mean", "sum", "none", "batchmean")

    def __init__(self, *, reduction: str = "mean", log_target: bool = False) -> None:
        flags(self, log_target=log_target)
        super().__init__(reduction=reduction, log_target=log_target)


class CTCLoss(Loss):
    """-ln p(targets), summed over all alignments with log-probabilities (T, N, classes)."""

    function = staticmethod(functional.ctc_loss)

    def __init__(self, blank: int = 0, reduction: str = "mean", zero_infinity: bool = False) -> None:
        (blank,) = whole(self, 0, blank=blank)
        flags(self, zero_infinity=zero_infinity)
        super().__init__(reduction=reduction, blank=blank, zero_infinity=zero_infinity)


class CosineEmbeddingLoss(Loss):
    """1 - cos where the target is 1, max(0, cos - margin) where it is -1."""

    function = staticmethod(functional.cosine_embedding_loss)

    def __init__(self, margin: float = 0.0, *, reduction: str = "mean") -> None:
        real(self, margin=margin)
        super().__init__(reduction=reduction, margin=margin)


class MarginRankingLoss(CosineEmbeddingLoss):
    """max(0, margin - target · (x1 - x2))"""

    function = staticmethod(functional.margin_ranking_loss)


class TripletMarginLoss(Loss):
    """max(0, d(anchor, positive) - d(anchor, negative) + margin)"""

    function = staticmethod(functional.triplet_margin_loss)

    def __init__(
        self,
        margin: float = 1.0,
        p: float = 2.0,
        eps: float = 1e-6,
        swap: bool = False,
        *,
        reduction: str = "mean",
    ) -> None:
        real(self, margin=margin)
        real(self, POSITIVE, p=p)
        real(self, 0.0, eps=eps)
        flags(self, swap=swap)
        super().__init__(reduction=reduction, margin=margin, p=p, eps=eps, swap=swap)


class FocalLoss(Loss):
    """-α_t (1 - p_t)^γ ln p_t of logits against 0 and 1."""

    function = staticmethod(functional.focal_loss)

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0, *, reduction: str = "mean") -> None:
        real(self, -math.inf, 1.0, alpha=alpha)
        real(self, 0.0, gamma=gamma)
        super().__init__(reduction=reduction, alpha=alpha, gamma=gamma)


class DistillationLoss(Loss):
    """α T² KL(teacher ‖ student) at temperature T + (1 - α) cross-entropy with the true classes."""

    function = staticmethod(functional.distillation_loss)

    def __init__(self, temperature: float = 2.0, alpha: float = 0.5, *, reduction: str = "mean") -> None:
        real(self, POSITIVE, temperature=temperature)
        real(self, 0.0, 1.0, alpha=alpha)
        super().__init__(reduction=reduction, temperature=temperature, alpha=alpha)
