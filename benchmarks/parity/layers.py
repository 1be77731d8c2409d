"""Random instances of the layers that look at one sample at a time, and of those that normalise."""

from __future__ import annotations

import numpy as np

from benchmarks.parity.compare import Parity, chosen, true, whole

Random = np.random.Generator


def linear(parity: Parity, random: Random) -> None:
    """Affine layers, lookups, and layers that only rearrange."""
    lead = tuple(random.integers(0, 4, whole(random, 0, 2)))
    one, two, out = (whole(random, 1, 5) for _ in range(3))
    x, y = random.normal(size=(*lead, one)), random.normal(size=(*lead, two))
    parity.check("Linear", one, out, bias=true(random), inputs=[x], random=random)
    parity.check("Bilinear", one, two, out, bias=true(random), inputs=[x, y], random=random)
    image = random.normal(size=(2, 6, 4))
    parity.check("Identity", inputs=[image], random=random)
    parity.check("Flatten", chosen(random, 0, 1), inputs=[image], random=random)
    parity.check("Unflatten", 1, (2, -1), inputs=[image], random=random)
    rows = whole(random, 2, 5)
    padding = chosen(random, None, 0, -1)
    tokens = random.integers(0, rows, (3, 4))
    parity.check("Embedding", rows, two, padding_idx=padding, inputs=[tokens], random=random)


def convolution(parity: Parity, random: Random) -> None:
    """Convolutions of one and two axes, in all their options, with and without a batch."""
    for axes in (1, 2):
        groups, kernel, dilation = whole(random, 1, 3), whole(random, 1, 3), whole(random, 1, 2)
        inner, outer = groups * whole(random, 1, 3), groups * whole(random, 1, 3)
        padding = chosen(random, 0, 1, 2, "same", "valid")
        stride = 1 if padding == "same" else whole(random, 1, 2)
        lead = (whole(random, 1, 2),) if true(random) else ()
        options = {"dilation": dilation, "groups": groups, "bias": true(random)}
        mode = chosen(random, "zeros", "reflect", "replicate", "circular")
        x = random.normal(size=(*lead, inner, *random.integers(6, 10, axes)))
        parity.check(
            f"Conv{axes}d",
            inner,
            outer,
            kernel,
            stride,
            padding,
            padding_mode=mode,
            **options,
            inputs=[x],
            random=random,
        )
        more = whole(random, 0, max(stride, dilation) - 1)
        x = random.normal(size=(*lead, inner, *random.integers(3, 6, axes)))
        parity.check(
            f"ConvTranspose{axes}d",
            inner,
            outer,
            kernel,
            stride,
            min(2, dilation * (kernel - 1)),
            more,
            **options,
            inputs=[x],
            random=random,
        )


def pooling(parity: Parity, random: Random) -> None:
    """Pools of one and two axes, and resizing."""
    for axes in (1, 2):
        kernel, ceil = whole(random, 1, 3), true(random)
        stride, padding = chosen(random, None, 1, 2, 3), whole(random, 0, kernel // 2)
        lead = (whole(random, 1, 2),) if true(random) else ()
        sizes = tuple(random.integers(6, 10, axes))
        x = random.normal(size=(*lead, 3, *sizes))
        arguments = (kernel, stride, padding)
        dilation = whole(random, 1, 2)
        parity.check(f"MaxPool{axes}d", *arguments, dilation, ceil_mode=ceil, inputs=[x], random=random)
        options = {"ceil_mode": ceil, "count_include_pad": true(random)}
        if axes == 2:
            options["divisor_override"] = chosen(random, None, 3)
        parity.check(f"AvgPool{axes}d", *arguments, **options, inputs=[x], random=random)
        for kind in ("Avg", "Max"):
            parity.check(f"Adaptive{kind}Pool{axes}d", whole(random, 1, 5), inputs=[x], random=random)
        mode = chosen(random, "nearest", {1: "linear", 2: "bilinear"}[axes])
        align = None if mode == "nearest" else true(random)
        wanted = tuple(map(int, random.integers(2, 14, axes)))
        scale = chosen(random, None, 2, 2.5, 0.7, 1.3)
        target = {"size": wanted} if scale is None else {"scale_factor": scale}
        x = random.normal(size=(2, 3, *sizes))
        parity.check("Upsample", mode=mode, align_corners=align, **target, inputs=[x], random=random)


def normalisation(parity: Parity, random: Random) -> None:
    """Norms: three steps, training twice and evaluating once, where there are running statistics."""
    for axes in (1, 2):
        channels = whole(random, 1, 4)
        options = {
            "eps": chosen(random, 1e-5, 1e-3),
            "momentum": chosen(random, 0.1, 0.5, None),
            "affine": true(random),
            "track_running_stats": true(random),
            "bias": true(random),
        }
        ours, theirs = parity.pair(f"BatchNorm{axes}d", channels, **options)
        sizes = tuple(random.integers(2, 5, axes)) if axes == 2 or true(random) else ()
        for training in (True, True, False):
            ours.train(training)
            theirs.train(training)
            x = random.normal(size=(whole(random, 2, 4), channels, *sizes)) * 3.0 + 1.0
            parity.compare(f"BatchNorm{axes}d", ours, theirs, [x], random)
        options["momentum"] = 0.3
        ours, theirs = parity.pair(f"InstanceNorm{axes}d", channels, **options)
        sizes = tuple(random.integers(2, 5, axes))
        for training in (True, False):
            ours.train(training)
            theirs.train(training)
            lead = (whole(random, 1, 4),) if true(random) else ()
            parity.compare(
                f"InstanceNorm{axes}d", ours, theirs, [random.normal(size=(*lead, channels, *sizes))], random
            )
    groups, each = whole(random, 1, 3), whole(random, 2, 4)
    x = random.normal(size=(whole(random, 1, 2), groups * each, *random.integers(2, 5, whole(random, 0, 2))))
    affine = true(random)
    bias = true(random)
    options = {"eps": 1e-4, "affine": affine, "bias": bias}
    parity.check("GroupNorm", groups, groups * each, **options, inputs=[x], random=random)
    shape = tuple(map(int, random.integers(1, 5, whole(random, 1, 2))))
    x = random.normal(size=(*random.integers(1, 4, whole(random, 0, 2)), *shape))
    parity.check("LayerNorm", shape, elementwise_affine=affine, bias=true(random), inputs=[x], random=random)
    parity.check(
        "RMSNorm",
        shape,
        eps=chosen(random, None, 1e-5),
        elementwise_affine=affine,
        inputs=[x],
        random=random,
    )


def activation(parity: Parity, random: Random) -> None:
    """Every activation, and what dropout does behind training: nothing."""

    def between(low: float, high: float) -> float:
        return float(random.uniform(low, high))

    arguments = {
        "CELU": (between(0.5, 2.0),),
        "ELU": (between(0.5, 2.0),),
        "GELU": (chosen(random, "none", "tanh"),),
        "GLU": (chosen(random, -1, 1, 2),),
        "Hardshrink": (between(0.0, 1.0),),
        "Hardtanh": (between(-2.0, 0.0), between(0.5, 2.0)),
        "LeakyReLU": (between(0.0, 0.5),),
        "LogSoftmax": (chosen(random, 0, 1, -1),),
        "PReLU": (chosen(random, 1, 4),),
        "RReLU": (between(0.0, 0.2), between(0.2, 0.5)),
        "Softmax": (chosen(random, 0, 1, -1),),
        "Softmin": (chosen(random, 0, 2, -2),),
        "Softplus": (between(0.5, 3.0), between(1.0, 4.0)),
        "Softshrink": (between(0.0, 1.0),),
        "Threshold": (between(-1.0, 1.0), 7.0),
    }
    plain = ["SELU", "Hardsigmoid", "Hardswish", "LogSigmoid", "Mish", "ReLU", "ReLU6", "Sigmoid", "SiLU"]
    plain += ["Softmax2d", "Softsign", "Tanh", "Tanhshrink"]
    x = random.normal(size=(3, 4, 6)) * 3.0
    for name in (*arguments, *plain):
        ours, theirs = parity.pair(name, *arguments.get(name, ()))
        parity.compare(name, ours.eval(), theirs.eval(), [x], random)  # RReLU draws while training
    for name in ("Dropout", "Dropout1d", "Dropout2d", "AlphaDropout"):
        rate = float(random.uniform(0, 1))
        image = x[None] if name == "Dropout2d" else x
        ours, theirs = parity.pair(name, rate)
        parity.compare(name, ours.eval(), theirs.eval(), [image], random, label=f"{name}, evaluating")
