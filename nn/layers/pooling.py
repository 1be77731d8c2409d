"""Pooling layers, and resizing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from minigrad import ops
from minigrad.errors import UsageError
from minigrad.nn.functional.arguments import POSITIVE, flags, one_of, real, refuse, sizes, whole
from minigrad.nn.module import Module
from minigrad.tensor import Tensor

Sizes = int | Sequence[int]


def given(layer: Module, axes: int | None, least: int = 1, /, **value: Any) -> Any:
    """An argument of sizes, checked, as it was given: one int for all axes, or a tuple."""
    (asked,), (found,) = value.values(), sizes(layer, axes, least, **value)
    return found if isinstance(asked, Sequence) else found[0]


class _Pool(Module):
    """Apply one of the engine's pools, to x with or without a batch axis."""

    axes = 2
    pool: Callable[..., Tensor]
    names: tuple[str, ...] = ()

    def _windows(self, kernel_size: Any, stride: Any, padding: Any) -> None:
        """Keep what says where windows lie; the stride is the kernel's size unless given."""
        self.kernel_size = given(self, self.axes, kernel_size=kernel_size)
        self.stride = self.kernel_size if stride is None else given(self, self.axes, stride=stride)
        self.padding = given(self, self.axes, 0, padding=padding)
        both = sizes(self, self.axes, 0, padding=padding, kernel_size=kernel_size)
        if any(2 * p > k for p, k in zip(*both, strict=True)):
            refuse(self, "padding", padding, f"at most half of kernel_size {kernel_size}")

    def forward(self, x: Tensor) -> Tensor:
        pool = type(self).pool
        arguments = vars(self)
        options = {name: arguments[name] for name in self.names[1:]}
        alone = x.ndim == self.axes + 1
        out = pool(ops.expand_dims(x) if alone else x, arguments[self.names[0]], **options)
        return ops.squeeze(out, axis=0) if alone else out

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={vars(self)[name]}" for name in self.names)


class _MaxPool(_Pool):
    names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")

    def __init__(
        self,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        dilation: Sizes = 1,
        *,
        ceil_mode: bool = False,
    ) -> None:
        self._windows(kernel_size, stride, padding)
        flags(self, ceil_mode=ceil_mode)
        self.dilation, self.ceil_mode = given(self, self.axes, dilation=dilation), ceil_mode


class MaxPool1d(_MaxPool):
    """The largest entry of every window of x (N, C, L)."""

    axes = 1
    pool = staticmethod(ops.max_pool1d)


class MaxPool2d(_MaxPool):
    """The largest entry of every window of x (N, C, H, W)."""

    pool = staticmethod(ops.max_pool2d)


class AvgPool1d(_Pool):
    """The mean of every window of x (N, C, L)."""

    axes = 1
    pool = staticmethod(ops.avg_pool1d)
    names: tuple[str, ...] = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")

    def __init__(
        self,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        self._windows(kernel_size, stride, padding)
        flags(self, ceil_mode=ceil_mode, count_include_pad=count_include_pad)
        self.ceil_mode, self.count_include_pad = ceil_mode, count_include_pad


class AvgPool2d(AvgPool1d):
    """The mean of every window of x (N, C, H, W)."""

    axes = 2
    pool = staticmethod(ops.avg_pool2d)
    names = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")

    def __init__(
        self,
        kernel_size: Sizes,
        stride: Sizes | None = None,
        padding: Sizes = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode, count_include_pad)
        self.divisor_override = None
        if divisor_override is not None:
            (self.divisor_override,) = whole(self, None, divisor_override=divisor_override)
            if not divisor_override:
                refuse(self, "divisor_override", divisor_override, "a number that can be divided by")


class _Adaptive(_Pool):
    names = ("output_size",)

    def __init__(self, output_size: Any) -> None:
        several = isinstance(output_size, list | tuple)
        asked = list(output_size) if several else [output_size] * self.axes
        (found,) = sizes(self, self.axes, output_size=[1 if n is None else n for n in asked])
        kept = tuple(None if a is None else n for a, n in zip(asked, found, strict=True))
        self.output_size = kept if several else kept[0]


class AdaptiveAvgPool1d(_Adaptive):
    """Means of `output_size` cells that cover x (N, C, L)."""

    axes = 1
    pool = staticmethod(ops.adaptive_avg_pool1d)


class AdaptiveAvgPool2d(_Adaptive):
    """Means of cells that cover x (N, C, H, W); None in `output_size` keeps an axis."""

    pool = staticmethod(ops.adaptive_avg_pool2d)


class AdaptiveMaxPool2d(_Adaptive):
    """Largest entries of cells that cover x (N, C, H, W)."""

    pool = staticmethod(ops.adaptive_max_pool2d)


def _adaptive_max_pool1d(x: Tensor, output_size: Any) -> Tensor:
    size = output_size if isinstance(output_size, int | None) else output_size[0]
    return ops.squeeze(ops.adaptive_max_pool2d(ops.expand_dims(x, axis=2), (1, size)), axis=2)


class AdaptiveMaxPool1d(_Adaptive):
    """Largest entries of `output_size` cells that cover x (N, C, L)."""

    axes = 1
    pool = staticmethod(_adaptive_max_pool1d)


class Upsample(Module):
    """x (N, C, L) or (N, C, H, W) at another `size`, or larger by `scale_factor`.

    `mode` is "nearest", or "linear" for one axis and "bilinear" for two.
    """

    def __init__(
        self,
        size: Sizes | None = None,
        scale_factor: float | Sequence[float] | None = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
    ) -> None:
        if (size is None) == (scale_factor is None):
            raise UsageError(
                f"Upsample: give size or scale_factor, one of them; got {size!r} and {scale_factor!r}"
            )
        one_of(self, ("nearest", "linear", "bilinear"), mode=mode)
        if align_corners is not None:
            flags(self, align_corners=align_corners)
        if align_corners and mode == "nearest":
            refuse(self, "align_corners", align_corners, 'mode="linear" or "bilinear" beside it')
        if size is not None:
            size = given(self, None, size=size)
        else:
            for factor in scale_factor if isinstance(scale_factor, Sequence) else (scale_factor,):
                real(self, POSITIVE, scale_factor=factor)
        self.size, self.scale_factor, self.mode = size, scale_factor, mode
        self.align_corners = align_corners

    def forward(self, x: Tensor) -> Tensor:
        return ops.interpolate(
            x, self.size, self.scale_factor, mode=self.mode, align_corners=bool(self.align_corners)
        )

    def extra_repr(self) -> str:
        first = f"size={self.size}" if self.size is not None else f"scale_factor={self.scale_factor}"
        return f"{first}, mode={self.mode!r}"
