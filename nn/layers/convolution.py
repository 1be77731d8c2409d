"""Convolution layers over one or two axes, and their transposes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from minigrad import ops
from minigrad.errors import UsageError
from minigrad.nn import init
from minigrad.nn.functional.arguments import flags, one_of, refuse, sizes, whole
from minigrad.nn.layers.linear import new_parameter
from minigrad.nn.module import Module, Parameter
from minigrad.tensor import Tensor

Sizes = int | Sequence[int]
_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}


class _Convolution(Module):
    """What all four have in common: arguments, parameters and how they start."""

    axes = 0
    transposed = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes,
        padding: Sizes | str,
        dilation: Sizes,
        groups: int,
        bias: bool,
        padding_mode: str,
        device: str | None,
        dtype: Any,
    ) -> None:
        name = type(self).__name__
        in_channels, out_channels, groups = whole(
            self, in_channels=in_channels, out_channels=out_channels, groups=groups
        )
        if in_channels % groups or out_channels % groups:
            raise UsageError(
                f"{name}({in_channels}, {out_channels}, groups={groups}): expected channels that are "
                "multiples of the groups"
            )
        one_of(self, ("zeros",) if self.transposed else tuple(_MODES), padding_mode=padding_mode)
        flags(self, bias=bias)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride, self.dilation = sizes(
            self, self.axes, kernel_size=kernel_size, stride=stride, dilation=dilation
        )
        self.padding: Any = padding
        if isinstance(padding, str) and not self.transposed:
            one_of(self, ("same", "valid"), padding=padding)
        else:
            (self.padding,) = sizes(self, self.axes, 0, padding=padding)
        if padding == "same" and max(self.stride) > 1:
            raise UsageError(f'{name}: padding="same" needs stride 1, got {self.stride}')
        self.padding_mode = padding_mode
        channels = (in_channels, out_channels) if self.transposed else (out_channels, in_channels)
        shape = (channels[0], channels[1] // groups, *self.kernel_size)
        self.weight = new_parameter(shape, dtype=dtype, device=device)
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        self.bias: Parameter | None = None
        if bias:
            bound = 1 / math.sqrt(init.fan_in_and_out(self.weight)[0])
            self.bias = new_parameter((out_channels,), dtype=dtype, device=device)
            init.uniform_(self.bias, -bound, bound)

    def _padded(self, x: Tensor) -> tuple[Tensor, Any]:
        """x with a border other than zeros, and the padding that is left for the operation."""
        if self.padding_mode == "zeros" or self.padding == "valid":
            return x, self.padding
        if self.padding == "same":
            spans = [d * (k - 1) for k, d in zip(self.kernel_size, self.dilation, strict=True)]
            sides = [(n // 2, n - n // 2) for n in spans]
        else:
            sides = [(n, n) for n in self.padding]
        widths = [n for pair in reversed(sides) for n in pair]  # the last axis first
        return ops.pad(x, widths, mode=_MODES[self.padding_mode]), 0

    def _unbatched(self, x: Tensor) -> bool:
        return x.ndim == self.axes + 1

    def extra_repr(self) -> str:
        parts = [f"{self.in_channels}, {self.out_channels}", f"kernel_size={self.kernel_size}"]
        parts.append(f"stride={self.stride}")
        if self.padding not in ((0,) * self.axes, "valid"):
            parts.append(f"padding={self.padding}")
        if max(self.dilation) > 1:
            parts.append(f"dilation={self.dilation}")
        if self.groups > 1:
            parts.append(f"groups={self.groups}")
        if self.bias is None:
            parts.append("bias=False")
        if self.padding_mode != "zeros":
            parts.append(f"padding_mode={self.padding_mode}")
        return ", ".join(parts)


class _Plain(_Convolution):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes | str = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )

    def forward(self, x: Tensor) -> Tensor:
        if self._unbatched(x):
            return ops.squeeze(self.forward(ops.expand_dims(x)), axis=0)
        x, padding = self._padded(x)
        convolve = ops.conv1d if self.axes == 1 else ops.conv2d
        return convolve(
            x,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=padding,
            dilation=self.dilation,
            groups=self.groups,
        )


class Conv1d(_Plain):
    """Convolution along one axis: x (N, in_channels, L), or without N.

    Parameters: weight (out_channels, in_channels / groups, kernel), bias (out_channels,).
    """

    axes = 1


class Conv2d(_Plain):
    """Convolution over two axes: x (N, in_channels, H, W), or without N.

    Parameters: weight (out_channels, in_channels / groups, kernel, kernel), bias (out_channels,). Paper:
    LeCun et al. 1998, Gradient-Based Learning Applied to Document Recognition, §II.
    """

    axes = 2


class _Transposed(_Convolution):
    transposed = True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sizes,
        stride: Sizes = 1,
        padding: Sizes = 0,
        output_padding: Sizes = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Sizes = 1,
        padding_mode: str = "zeros",
        *,
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            device,
            dtype,
        )
        (self.output_padding,) = sizes(self, self.axes, 0, output_padding=output_padding)
        limits = [max(s, d) for s, d in zip(self.stride, self.dilation, strict=True)]
        if any(n >= most for n, most in zip(self.output_padding, limits, strict=True)):
            refuse(self, "output_padding", output_padding, f"less than stride or dilation: below {limits}")

    def _extra(self, x: Tensor, output_size: Sequence[int] | None) -> tuple[int, ...]:
        """The output padding that gives `output_size`."""
        if output_size is None:
            return self.output_padding
        asked = tuple(output_size)[-self.axes :]
        least = [
            (n - 1) * s - 2 * p + d * (k - 1) + 1
            for n, s, p, d, k in zip(
                x.shape[2:], self.stride, self.padding, self.dilation, self.kernel_size, strict=True
            )
        ]
        extra = tuple(n - m for n, m in zip(asked, least, strict=True))
        if any(not 0 <= n < s for n, s in zip(extra, self.stride, strict=True)):
            raise UsageError(
                f"{type(self).__name__}: output_size {asked} cannot come of {x.shape}; expected from {least} "
                f"up to a stride {self.stride} more"
            )
        return extra

    def forward(self, x: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        if self._unbatched(x):
            return ops.squeeze(self.forward(ops.expand_dims(x), output_size), axis=0)
        convolve = ops.conv_transpose1d if self.axes == 1 else ops.conv_transpose2d
        return convolve(
            x,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            output_padding=self._extra(x, output_size),
            dilation=self.dilation,
            groups=self.groups,
        )

    def extra_repr(self) -> str:
        more = f", output_padding={self.output_padding}" if any(self.output_padding) else ""
        return super().extra_repr() + more


class ConvTranspose1d(_Transposed):
    """The transpose of Conv1d as a linear map. Parameters: weight (in, out / groups, kernel), bias (out,)."""

    axes = 1


class ConvTranspose2d(_Transposed):
    """The transpose of Conv2d as a linear map. Parameters: weight (in, out / groups, kernel, kernel), bias
    (out,).
    """

    axes = 2
