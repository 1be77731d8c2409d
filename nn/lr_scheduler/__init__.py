"""Learning-rate schedules, under torch's names; `step()` them after the optimizer's step, or each epoch."""

from minigrad.nn.lr_scheduler.combined import ChainedScheduler, SequentialLR
from minigrad.nn.lr_scheduler.cosine import (
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    WarmupCosine,
    warmup_cosine,
)
from minigrad.nn.lr_scheduler.cyclic import CyclicLR, OneCycleLR
from minigrad.nn.lr_scheduler.decay import (
    ConstantLR,
    ExponentialLR,
    LinearLR,
    MultiStepLR,
    PolynomialLR,
    StepLR,
)
from minigrad.nn.lr_scheduler.papers import LargeBatch, Noam, large_batch, noam
from minigrad.nn.lr_scheduler.plateau import ReduceLROnPlateau
from minigrad.nn.lr_scheduler.range_test import RangeTest, range_test
from minigrad.nn.lr_scheduler.schedule import FactorLR, LambdaLR, LRScheduler, MultiplicativeLR
from minigrad.nn.lr_scheduler.swa import SWALR

__all__ = [
    "SWALR",
    "ChainedScheduler",
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "CyclicLR",
    "ExponentialLR",
    "FactorLR",
    "LRScheduler",
    "LambdaLR",
    "LargeBatch",
    "LinearLR",
    "MultiStepLR",
    "MultiplicativeLR",
    "Noam",
    "OneCycleLR",
    "PolynomialLR",
    "RangeTest",
    "ReduceLROnPlateau",
    "SequentialLR",
    "StepLR",
    "WarmupCosine",
    "large_batch",
    "noam",
    "range_test",
    "warmup_cosine",
]
