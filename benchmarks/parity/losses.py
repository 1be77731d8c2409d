"""Random instances of the losses."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

import minigrad as mg
from benchmarks.parity.compare import Parity, chosen, true, whole
from minigrad.nn import layers

Random = np.random.Generator


def _both(
    parity: Parity, name: str, random: Random, inputs: list[Any], *tensors: str, **options: Any
) -> None:
    """The loss of this name; `tensors` are the options that torch wants as tensors."""
    theirs = {
        key: torch.tensor(value) if key in tensors and value is not None else value
        for key, value in options.items()
    }
    parity.compare(name, getattr(layers, name)(**options), getattr(torch.nn, name)(**theirs), inputs, random)


def classes(parity: Parity, random: Random) -> None:
    """Cross-entropy in all its options, and NLL."""
    batch, count = whole(random, 1, 4), whole(random, 2, 5)
    places = tuple(random.integers(1, 4, whole(random, 0, 2)))
    x = random.normal(size=(batch, count, *places))
    target = random.integers(0, count, (batch, *places))
    ignored = -100
    if true(random) and (target != target.flat[0]).any():
        ignored = int(target.flat[0])
    weight = chosen(random, None, random.uniform(0.5, 2.0, count))
    options = {"weight": weight, "reduction": chosen(random, "mean", "sum", "none")}
    smoothing = chosen(random, 0.0, 0.1, 0.4)
    for name, more in (("CrossEntropyLoss", {"label_smoothing": smoothing}), ("NLLLoss", {})):
        _both(parity, name, random, [x, target], "weight", ignore_index=ignored, **options, **more)
    shares = random.dirichlet(np.ones(count), (batch, *places))
    shares = np.moveaxis(shares, -1, 1)
    _both(parity, "CrossEntropyLoss", random, [x, shares], "weight", label_smoothing=smoothing, **options)


def numbers(parity: Parity, random: Random) -> None:
    """Losses between numbers, and between probabilities."""
    shape = (whole(random, 1, 4), *random.integers(1, 4, whole(random, 1, 2)))
    x, y = random.normal(size=(2, *shape)) * 2.0
    reduction = chosen(random, "mean", "sum", "none")
    for name, options in {
        "MSELoss": {},
        "L1Loss": {},
        "SmoothL1Loss": {"beta": chosen(random, 0.0, 0.5, 1.0)},
        "HuberLoss": {"delta": chosen(random, 0.5, 1.0)},
    }.items():
        parity.check(name, reduction=reduction, **options, inputs=[x, y], random=random)
    p, t = random.uniform(0.01, 0.99, (2, *shape))
    weight = chosen(random, None, random.uniform(0.5, 2.0, shape))
    _both(parity, "BCELoss", random, [p, t], "weight", weight=weight, reduction=reduction)
    positive = chosen(random, None, random.uniform(0.5, 2.0, shape[-1]))
    _both(
        parity,
        "BCEWithLogitsLoss",
        random,
        [x * 20.0, t],
        "weight",
        "pos_weight",
        weight=weight,
        pos_weight=positive,
        reduction=reduction,
    )
    log_target = true(random)
    parity.check(
        "KLDivLoss",
        reduction=chosen(random, reduction, "batchmean"),
        log_target=log_target,
        inputs=[np.log(p), np.log(t) if log_target else t],
        random=random,
    )


def pairs(parity: Parity, random: Random) -> None:
    """Losses of two and three vectors."""
    x, y, z = random.normal(size=(3, whole(random, 1, 4), whole(random, 2, 5)))
    signs = random.choice([-1, 0, 1], len(x))
    reduction, margin = chosen(random, "mean", "sum", "none"), chosen(random, 0.0, 0.2)
    options = {"margin": margin, "reduction": reduction}
    parity.check("CosineEmbeddingLoss", **options, inputs=[x, y, signs], random=random)
    parity.check("MarginRankingLoss", **options, inputs=[x[:, 0], y[:, 0], signs], random=random)
    parity.check(
        "TripletMarginLoss",
        margin=chosen(random, 0.3, 1.0),
        p=chosen(random, 1.0, 2.0, 3.0),
        swap=true(random),
        reduction=reduction,
        inputs=[x, y, z],
        random=random,
    )


def alignments(parity: Parity, random: Random) -> None:
    """CTC through a log-softmax: torch's own gradient takes it for granted."""
    time, batch, count = whole(random, 3, 8), whole(random, 1, 4), whole(random, 2, 4)
    blank = whole(random, 0, count - 1)
    labels = [label for label in range(count) if label != blank]
    targets = random.choice(labels, (batch, 3))
    lengths, spans = random.integers(1, 4, batch), random.integers(1, time + 1, batch)
    ours, theirs = parity.pair(
        "CTCLoss",
        blank=blank,
        reduction=chosen(random, "mean", "sum", "none"),
        zero_infinity=true(random),
    )
    joined = np.concatenate([row[:n] for row, n in zip(targets, lengths, strict=True)])
    for given in (targets, joined):
        parity.compare(
            "CTCLoss",
            ours,
            theirs,
            [random.normal(size=(time, batch, count)), given, spans, lengths],
            random,
            call=lambda x, *rest: ours(mg.log_softmax(x, axis=2), *rest),
            their_call=lambda x, *rest: theirs(torch.log_softmax(x, 2), *rest),
        )
