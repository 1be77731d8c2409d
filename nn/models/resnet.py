"""Residual networks, with torchvision's names, and squeeze-and-excitation if wanted.

Papers: He et al. 2016, Deep Residual Learning for Image Recognition, table 1 (the stride in a bottleneck's
3x3, as in torchvision); Hu, Shen, Sun 2018, Squeeze-and-Excitation Networks, fig. 3; Goyal et al. 2017,
Accurate, Large Minibatch SGD, §5.1, for `zero_init_residual`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minigrad import ops
from minigrad.errors import UsageError
from minigrad.nn import init
from minigrad.nn.containers import Sequential
from minigrad.nn.layers import (
    AdaptiveAvgPool2d,
    BatchNorm2d,
    Conv2d,
    Linear,
    MaxPool2d,
    ReLU,
    SqueezeExcitation,
)
from minigrad.nn.module import Module
from minigrad.tensor import Tensor


class _Block(Module):
    """x + branch(x), or downsample(x) + branch(x) where the shape changes; then ReLU."""

    expansion = 1
    last_norm = ""

    def __init__(self, out: int, downsample: Module | None, squeeze: int | None, where: Any) -> None:
        self.relu = ReLU()
        if squeeze is not None:
            self.se = SqueezeExcitation(out, squeeze, bias=False, **where)
        self.downsample = downsample

    def branch(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        out = self.branch(x)
        if hasattr(self, "se"):
            out = self.se(out)
        return ops.relu(out + (x if self.downsample is None else self.downsample(x)))


class BasicBlock(_Block):
    """Two 3x3 convolutions."""

    last_norm = "bn2"

    def __init__(
        self,
        inner: int,
        width: int,
        stride: int,
        downsample: Module | None,
        squeeze: int | None,
        **where: Any,
    ) -> None:
        self.conv1 = Conv2d(inner, width, 3, stride, 1, bias=False, **where)
        self.bn1 = BatchNorm2d(width, **where)
        self.conv2 = Conv2d(width, width, 3, 1, 1, bias=False, **where)
        self.bn2 = BatchNorm2d(width, **where)
        super().__init__(width, downsample, squeeze, where)

    def branch(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn2(self.conv2(ops.relu(self.bn1(self.conv1(x)))))
        return out


class Bottleneck(_Block):
    """A 3x3 convolution between two 1x1 ones, the last four times as wide."""

    expansion = 4
    last_norm = "bn3"

    def __init__(
        self,
        inner: int,
        width: int,
        stride: int,
        downsample: Module | None,
        squeeze: int | None,
        **where: Any,
    ) -> None:
        self.conv1 = Conv2d(inner, width, 1, bias=False, **where)
        self.bn1 = BatchNorm2d(width, **where)
        self.conv2 = Conv2d(width, width, 3, stride, 1, bias=False, **where)
        self.bn2 = BatchNorm2d(width, **where)
        self.conv3 = Conv2d(width, 4 * width, 1, bias=False, **where)
        self.bn3 = BatchNorm2d(4 * width, **where)
        super().__init__(4 * width, downsample, squeeze, where)

    def branch(self, x: Tensor) -> Tensor:
        out = ops.relu(self.bn1(self.conv1(x)))
        out = ops.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return out


class ResNet(Module):
    """Images (N, 3, H, W) → (N, num_classes): a stem, four layers of blocks, a mean over places, one linear.

    `squeeze` is the reduction of squeeze-and-excitation in every block, None for none. With
    `zero_init_residual` every block starts as the identity.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        layers: Sequence[int],
        num_classes: int = 1000,
        zero_init_residual: bool = False,
        *,
        squeeze: int | None = None,
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        if len(layers) != 4 or min(layers) < 1:
            raise UsageError(
                f"ResNet: expected the number of blocks of each of four layers, got {list(layers)}"
            )
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.conv1 = Conv2d(3, 64, 7, 2, 3, bias=False, **where)
        self.bn1 = BatchNorm2d(64, **where)
        self.relu = ReLU()
        self.maxpool = MaxPool2d(3, 2, 1)
        inner = 64
        for number, count in enumerate(layers):
            width, stride = 64 * 2**number, 1 if number == 0 else 2
            blocks = []
            for place in range(count):
                outer, step = width * block.expansion, stride if place == 0 else 1
                shortcut = None
                if step != 1 or inner != outer:
                    shortcut = Sequential(
                        Conv2d(inner, outer, 1, step, bias=False, **where), BatchNorm2d(outer, **where)
                    )
                blocks.append(block(inner, width, step, shortcut, squeeze, **where))
                inner = outer
            setattr(self, f"layer{number + 1}", Sequential(*blocks))
        self.avgpool = AdaptiveAvgPool2d((1, 1))
        self.fc = Linear(inner, num_classes, **where)
        for module in self.modules():
            if isinstance(module, Conv2d):
                init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, _Block) and zero_init_residual:
                init.zeros_(getattr(module, module.last_norm).weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(ops.relu(self.bn1(self.conv1(x))))
        for number in range(1, 5):
            x = getattr(self, f"layer{number}")(x)
        out: Tensor = self.fc(ops.mean(x, axis=(2, 3)))
        return out


def resnet18(**options: Any) -> ResNet:
    """ResNet-18: 11,689,512 parameters."""
    return ResNet(BasicBlock, [2, 2, 2, 2], **options)


def resnet34(**options: Any) -> ResNet:
    """ResNet-34: 21,797,672 parameters."""
    return ResNet(BasicBlock, [3, 4, 6, 3], **options)


def resnet50(**options: Any) -> ResNet:
    """ResNet-50: 25,557,032 parameters; 2,514,944 more with squeeze=16."""
    return ResNet(Bottleneck, [3, 4, 6, 3], **options)


def resnet101(**options: Any) -> ResNet:
    """ResNet-101: 44,549,160 parameters."""
    return ResNet(Bottleneck, [3, 4, 23, 3], **options)
