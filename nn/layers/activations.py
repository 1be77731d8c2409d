"""Every activation as a module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minigrad import ops
from minigrad.errors import ShapeError
from minigrad.nn import functional
from minigrad.nn.functional.arguments import flags, one_of, real, refuse, whole
from minigrad.nn.layers.dropout import named_stream
from minigrad.nn.layers.linear import new_parameter
from minigrad.nn.module import Module
from minigrad.tensor import Tensor


class Activation(Module):
    """A function of x with its arguments. `names` are those that the constructor stored."""

    function: Callable[..., Tensor]
    names: tuple[str, ...] = ()

    def forward(self, x: Tensor) -> Tensor:
        if not self.names:
            return type(self).function(x)
        return type(self).function(x, **{name: vars(self)[name] for name in self.names})

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={vars(self)[name]!r}" for name in self.names)


class _Plain(Activation):
    """An activation without arguments. torch's `inplace` is accepted and means nothing here."""

    def __init__(self, inplace: bool = False) -> None:
        flags(self, inplace=inplace)


class ReLU(_Plain):
    """max(x, 0)"""

    function = staticmethod(ops.relu)


class ReLU6(_Plain):
    """min(max(x, 0), 6)"""

    function = staticmethod(functional.relu6)


class SELU(_Plain):
    """scale · elu(x, alpha), with the two numbers that keep mean 0 and variance 1."""

    function = staticmethod(ops.selu)


class SiLU(_Plain):
    """x · sigmoid(x)"""

    function = staticmethod(ops.silu)


class Mish(_Plain):
    """x · tanh(ln(1 + eˣ))"""

    function = staticmethod(ops.mish)


class Hardswish(_Plain):
    """x · hardsigmoid(x)"""

    function = staticmethod(ops.hardswish)


class Hardsigmoid(_Plain):
    """x / 6 + ½, between 0 and 1."""

    function = staticmethod(ops.hardsigmoid)


class Tanh(Activation):
    """tanh x"""

    function = staticmethod(ops.tanh)


class Sigmoid(Activation):
    """1 / (1 + e⁻ˣ)"""

    function = staticmethod(ops.sigmoid)


class LogSigmoid(Activation):
    """ln sigmoid(x)"""

    function = staticmethod(ops.logsigmoid)


class Softsign(Activation):
    """x / (1 + |x|)"""

    function = staticmethod(ops.softsign)


class Tanhshrink(Activation):
    """x - tanh x"""

    function = staticmethod(functional.tanhshrink)


class GELU(Activation):
    """x · Φ(x); approximate="tanh" for the form that GPT-2 uses."""

    function = staticmethod(ops.gelu)
    names = ("approximate",)

    def __init__(self, approximate: str = "none") -> None:
        one_of(self, ("none", "tanh"), approximate=approximate)
        self.approximate = approximate


class LeakyReLU(Activation):
    """x where it is positive, `negative_slope` · x elsewhere."""

    function = staticmethod(functional.leaky_relu)
    names = ("negative_slope",)

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
        real(self, negative_slope=negative_slope)
        flags(self, inplace=inplace)
        self.negative_slope = negative_slope


class ELU(Activation):
    """x where it is positive, alpha · (eˣ - 1) elsewhere."""

    function = staticmethod(functional.elu)
    names = ("alpha",)

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        real(self, alpha=alpha)
        flags(self, inplace=inplace)
        self.alpha = alpha


class CELU(ELU):
    """x where it is positive, alpha · (e^(x/alpha) - 1) elsewhere."""

    function = staticmethod(functional.celu)

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        super().__init__(alpha, inplace)
        if not alpha:
            refuse(self, "alpha", alpha, "a number that x can be divided by")


class Softplus(Activation):
    """ln(1 + e^(beta·x)) / beta, and x itself where beta · x > `threshold`."""

    function = staticmethod(functional.softplus)
    names = ("beta", "threshold")

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        real(self, beta=beta, threshold=threshold)
        if not beta:
            refuse(self, "beta", beta, "a number that can be divided by")
        self.beta, self.threshold = beta, threshold


class Hardtanh(Activation):
    """x, but at least `min_val` and at most `max_val`."""

    function = staticmethod(functional.hardtanh)
    names = ("min_val", "max_val")

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> None:
        real(self, min_val=min_val)
        real(self, min_val, max_val=max_val)
        flags(self, inplace=inplace)
        self.min_val, self.max_val = min_val, max_val


class Threshold(Activation):
    """x where it is above `threshold`, `value` elsewhere."""

    function = staticmethod(functional.threshold)
    names = ("threshold", "value")

    def __init__(self, threshold: float, value: float, inplace: bool = False) -> None:
        real(self, threshold=threshold, value=value)
        flags(self, inplace=inplace)
        self.threshold, self.value = threshold, value


class Softshrink(Activation):
    """x moved towards 0 by `lambd`, and 0 for what is closer than that."""

    function = staticmethod(functional.softshrink)
    names = ("lambd",)

    def __init__(self, lambd: float = 0.5) -> None:
        real(self, 0.0, lambd=lambd)
        self.lambd = lambd


class Hardshrink(Softshrink):
    """x where |x| > `lambd`, 0 elsewhere."""

    function = staticmethod(functional.hardshrink)


class Softmax(Activation):
    """eˣ / Σ eˣ over axis `dim`."""

    function = staticmethod(functional.softmax)
    names = ("dim",)

    def __init__(self, dim: int = -1) -> None:
        (self.dim,) = whole(self, None, dim=dim)


class LogSoftmax(Softmax):
    """x - ln Σ eˣ over axis `dim`."""

    function = staticmethod(functional.log_softmax)


class Softmin(Softmax):
    """e⁻ˣ / Σ e⁻ˣ over axis `dim`."""

    function = staticmethod(functional.softmin)


class Softmax2d(_Plain):
    """Softmax over the channels at each place of x (N, C, H, W), or (C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim not in (3, 4):
            raise ShapeError(f"Softmax2d: expected (N, C, H, W) or (C, H, W), got {x.shape}")
        return functional.softmax(x, -3)


class RReLU(Module):
    """x where it is not negative; elsewhere x times a slope drawn anew for every entry from `lower` to
    `upper` while training, and their mean otherwise.

    Paper: Xu et al. 2015, Empirical Evaluation of Rectified Activations, §2.4. Draws are those of a dropout
    layer: see its `stream`.
    """

    def __init__(
        self, lower: float = 1 / 8, upper: float = 1 / 3, inplace: bool = False, *, stream: str | None = None
    ) -> None:
        real(self, lower=lower)
        real(self, lower, upper=upper)
        flags(self, inplace=inplace)
        self.lower, self.upper, self.stream = lower, upper, named_stream(self, "rrelu", stream)

    def forward(self, x: Tensor) -> Tensor:
        return functional.rrelu(x, self.lower, self.upper, self.training, stream=self.stream)

    def extra_repr(self) -> str:
        return f"lower={self.lower}, upper={self.upper}"


class GLU(Softmax):
    """The first half of x along `dim`, times the sigmoid of the second."""

    function = staticmethod(functional.glu)


class PReLU(Module):
    """x where it is positive, weight · x elsewhere. Parameter: weight, one number, or each channel's.

    Paper: He et al. 2015, Delving Deep into Rectifiers, eq. 1.
    """

    def __init__(
        self, num_parameters: int = 1, init: float = 0.25, *, device: str | None = None, dtype: Any = None
    ) -> None:
        shape = whole(self, num_parameters=num_parameters)
        real(self, init=init)
        (self.num_parameters,) = shape
        self.weight = new_parameter(shape, dtype=dtype, device=device)
        self.weight.assign(init)

    def forward(self, x: Tensor) -> Tensor:
        return ops.prelu(x, self.weight)

    def extra_repr(self) -> str:
        return f"num_parameters={self.num_parameters}"
