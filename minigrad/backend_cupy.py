"""CuPy: everything in which it differs from NumPy. Imported on first use of a GPU, and never needed without
one.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import numpy

from minigrad import backend
from minigrad.backend import Array, Namespace, no_arrays
from minigrad.backend_selecting import LibrarySelecting, from_the_front
from minigrad.backend_special import is_half, widened
from minigrad.backend_windows import Geometry, strided
from minigrad.errors import DeviceError

ONE_HOT_UP_TO = 4096
"""Table rows up to which a scatter-add is a product with a 0/1 matrix, whose sums come in the same order
every time.
"""

ONE_HOT_ENTRIES = 1 << 24
"""Entries of that matrix which are there at one time."""

INVERSES = ["asin", "acos", "atan", "atan2", "asinh", "acosh", "atanh"]
"""Functions that older releases know as arcsin, ... only."""

BITS = ["invert", "left_shift", "right_shift"]
"""What the standard calls bitwise_invert, ..."""


C, K = math.sqrt(2 / math.pi), 0.044715  # of GELU's approximation, tanh(C (x + K x³))

KERNELS = {
    "gelu": (
        "T x",
        "T y",
        f"y = T(0.5) * x * (T(1) + erf(x * T({math.sqrt(0.5)})));",
    ),
    "gelu_pull": (
        "T v, T x",
        "T dx",
        f"T share = T(0.5) * (T(1) + erf(x * T({math.sqrt(0.5)})));"
        f"T density = exp(T(-0.5) * x * x) * T({1 / math.sqrt(2 * math.pi)});"
        "dx = v * (share + x * density);",
    ),
    "gelu_tanh": (
        "T x",
        "T y",
        f"y = T(0.5) * x * (T(1) + tanh(x * (T({C}) + T({C * K}) * x * x)));",
    ),
    "gelu_tanh_pull": (
        "T v, T x",
        "T dx",
        f"T a = tanh(x * (T({C}) + T({C * K}) * x * x));"
        f"T slope = T({C}) + T({3 * C * K}) * x * x;"
        "dx = T(0.5) * v * (T(1) + a + x * (T(1) - a * a) * slope);",
    ),
    "scaled": (
        "T x, T mean, T inverse, T weight, T bias",
        "T y",
        "y = (x - mean) * inverse * weight + bias;",
    ),
    "layer_norm_terms": (
        "T v, T x, T mean, T inverse",
        "T normal, T product",
        "normal = (x - mean) * inverse; product = v * normal;",
    ),
    "layer_norm_pull": (
        "T v, T weight, T normal, T inverse, T share, T along",
        "T dx",
        "dx = inverse * (v * weight - share - normal * along);",
    ),
    "softmax_pull": (
        "T v, T logits, T total",
        "T dx",
        "dx = v * exp(logits - total);",
    ),
    "segment_sum": (
        "raw T values, raw int64 order, raw int64 starts, int64 width",
        "T out",
        "long long row = i / width; long long column = i % width; T total = T(0);"
        "for (long long k = starts[row]; k < starts[row + 1]; ++k) "
        "total += values[order[k] * width + column];"
        "out = total;",
    ),
}
"""Elementwise paths as one kernel each, where the library's functions would be a launch for every step: what
goes in, what comes out, and the code for one entry.
"""


class Kernels:
    """The kernels, compiled by CuPy when first called and kept by it on disk. Half precision computes in
    float32.
    """

    def __init__(self, cupy: Any) -> None:
        self._made = {
            name: cupy.ElementwiseKernel(*parts, f"minigrad_{name}") for name, parts in KERNELS.items()
        }

    def __getattr__(self, name: str) -> Any:
        kernel = self._made[name]

        def run(*arrays: Any) -> Any:
            dtype = next(array.dtype for array in arrays if hasattr(array, "dtype"))
            if not is_half(dtype):
                return kernel(*arrays)
            wide = [widened(a) if hasattr(a, "dtype") else a for a in arrays]
            out = kernel(*wide)
            return tuple(o.astype(dtype) for o in out) if isinstance(out, tuple) else out.astype(dtype)

        setattr(self, name, run)
        return run

    def sums(self, values: Any, order: Any, starts: Any, out: Any) -> Any:
        """Sum the rows order[starts[i]:starts[i + 1]] of `values` into row i of `out`, in that order."""
        self._made["segment_sum"](values, order, starts, values.shape[1], out)
        return out


class CupyNamespace(LibrarySelecting, Namespace):
    """CuPy, with what it lacks of the array API standard, whichever of its releases this is.

    Values stay on the GPU: nothing here reads one. Arrays are made on the device that is current for this
    thread.
    """

    name = "cupy"

    def __init__(self, cupy: Any, special: Any) -> None:
        super().__init__(cupy)
        self.array_type = cupy.ndarray
        self.take_special(special)
        self.kernels = Kernels(cupy)
        for name, other in (
            ("permute_dims", "transpose"),
            ("concat", "concatenate"),
            ("pow", "power"),
            *((name, name.replace("a", "arc", 1)) for name in INVERSES),
            *((f"bitwise_{name}", name) for name in BITS),
        ):
            setattr(self, name, getattr(cupy, name, None) or getattr(cupy, other))

    def matrix_transpose(self, x: Array) -> Array:
        return x.swapaxes(-1, -2)

    def sign(self, x: Array, *, out: Array | None = None) -> Array:
        signs = self.module.sign(x)
        if x.dtype.kind == "f":
            signs = self.where(x != x, x, signs)  # CuPy's of NaN is 0
        if out is None:
            return signs
        out[...] = signs
        return out

    def vecdot(self, x: Array, y: Array) -> Array:
        return self.sum(widened(x) * widened(y), axis=-1).astype(self.result_type(x, y), copy=False)

    def asarray(self, x: Any, *, dtype: Any = None, copy: bool | None = None) -> Array:
        return self.module.array(x, dtype=dtype, copy=True) if copy else self.module.asarray(x, dtype=dtype)

    def matmul(self, x: Array, y: Array, *, out: Array | None = None) -> Array:
        product = self.module.matmul(x, y)
        if out is None:
            return product
        out[...] = product
        return out

    def cut_windows(self, x: Array, geometry: Geometry) -> Array:
        """All windows: (..., sizes) → (..., kernel, counts), a view without a copy."""
        # CuPy's as_strided says of no base that it shows; a view of it has one, so that nobody writes there.
        return self.module.asarray(strided(self.module.lib.stride_tricks.as_strided, x, geometry)).view()

    def unindex(self, values: Array, *, index: Any, shape: tuple[int, ...]) -> Array:
        if no_arrays(index):
            return super().unindex(values, index=index, shape=shape)
        if not backend.deterministic:
            return self.atomic(values, index, shape)
        size = math.prod(shape)
        places = self.arange(size).reshape(shape)[index]
        return self.segments(values.reshape(-1, 1), places.reshape(-1), size).reshape(shape)

    def atomic(self, values: Array, index: Any, shape: tuple[int, ...]) -> Array:
        """`values` added into `zeros(shape)[index]`, where an index repeats itself in any order."""

        def add(wide: Array) -> Array:
            out = self.zeros(shape, dtype=wide.dtype)
            self.add.at(out, index, wide)
            return out

        return addable(values, add)

    def scatter_add(self, values: Array, indices: Array, rows: int) -> Array:
        """Add each row of `values` (n, width) into row `indices[i]` of a new (rows, width) array.

        Up to ONE_HOT_UP_TO rows the order of the sums is fixed; beyond, CuPy's atomic additions come in any
        order, so that two runs can differ in the last bits, unless `mg.use_deterministic()` asks for sorted
        segments, added up one after the other.
        """
        indices = from_the_front(self, indices, rows)
        if rows <= ONE_HOT_UP_TO:
            return self.by_products(values, indices, rows)
        if backend.deterministic:
            return self.segments(values, indices, rows)
        return self.atomic(values, indices, (rows, values.shape[1]))

    def by_products(self, values: Array, indices: Array, rows: int) -> Array:
        """A scatter-add as products with a 0/1 matrix, a part of its columns at a time."""
        wide = backend.float32 if is_half(values.dtype) else values.dtype  # products of these sum up in it
        numbers, out = self.arange(rows)[:, None], self.zeros((rows, values.shape[1]), dtype=wide)
        sound = self.isfinite(values)
        step = max(ONE_HOT_ENTRIES // max(rows, 1), 1)
        for start in range(0, len(values), step):
            part = slice(start, start + step)
            hot = (numbers == indices[None, part]).astype(values.dtype)
            out += self.matmul(hot, self.where(sound[part], values[part], 0).astype(values.dtype))
        # 0 · ∞ would be NaN in every row. The order does not matter here, for ∞ and NaN absorb all else.
        out += self.atomic(self.where(sound, 0, values), indices, out.shape)
        return out.astype(values.dtype, copy=False)

    def segments(self, values: Array, indices: Array, rows: int) -> Array:
        """A scatter-add whose sums come in the order of i every time."""
        count = indices.size
        indices = indices.astype("int64")
        order = self.argsort(indices * max(count, 1) + self.arange(count))  # no two alike: any sort is stable
        starts = self.searchsorted(indices[order], self.arange(rows + 1))

        def add(wide: Array) -> Array:
            out = self.empty((rows, wide.shape[1]), dtype=wide.dtype)
            return self.kernels.sums(self.ascontiguousarray(wide), order, starts, out)

        return addable(values, add)

    def add_at(self, values: Array, places: Array, rows: int) -> Array:
        if rows * places.size <= ONE_HOT_UP_TO**2 // 4:
            return self.scatter_add(values, places, rows)
        if backend.deterministic:
            return self.segments(values, places, rows)
        return self.atomic(values, places, (rows, 1))

    def device(self, array: Array) -> str:
        return f"gpu:{array.device.id}"

    def to_host(self, array: Array) -> numpy.ndarray:
        return self.module.asnumpy(array)

    def from_host(self, array: numpy.ndarray, *, device: str = "") -> Array:
        number = device.partition(":")[2]
        if not number:
            return self.module.asarray(array)
        with self.on(device):
            return self.module.asarray(array)

    def count(self) -> int:
        """How many GPUs this process sees."""
        return int(self.module.cuda.runtime.getDeviceCount())

    def on(self, device: str) -> Any:
        number, available = device.partition(":")[2], self.count()
        if number and not (number.isdigit() and int(number) < available):
            raise DeviceError(
                f"{device} was asked for, and this machine has {available} GPU(s), numbered from 0"
            )
        return self.module.cuda.Device(int(number) if number else None)

    def use(self, device: str) -> None:
        self.on(device).use()


def addable(values: Array, add: Callable[[Array], Array]) -> Array:
    """`add(values)` in a dtype that GPUs add up, one after the other: half precision in float32.

    There are no atomic additions of some integers. The bits of a sum of 64-bit ones are the same with and
    without a sign, and narrower ones fit into 32.
    """
    dtype = values.dtype
    if dtype == backend.float16:
        return add(values.astype(backend.float32)).astype(dtype)
    if dtype.kind not in "iu" or dtype in (backend.int32, backend.uint32, backend.uint64):
        return add(values)
    if dtype == backend.int64:
        return add(values.view(backend.uint64)).view(dtype)
    return add(values.astype(backend.int32)).astype(dtype)


def load() -> CupyNamespace:
    """Import CuPy and look for a GPU. Raises DeviceError, saying which is missing and what to do."""
    try:
        cupy = importlib.import_module("cupy")
    except ImportError as error:
        raise DeviceError(
            'a GPU was asked for, and CuPy is not installed: pip install "minigrad[cuda13]" (or cuda12, '
            "by the driver), or leave the device at cpu"
        ) from error
    try:
        found = int(cupy.cuda.runtime.getDeviceCount())
    except Exception as error:  # CuPy raises errors of its own kinds for a missing driver
        raise DeviceError(
            f"a GPU was asked for, and CuPy finds none ({error}); leave the device at cpu"
        ) from error
    if not found:
        raise DeviceError("a GPU was asked for, and this machine shows none to CuPy; leave the device at cpu")
    return CupyNamespace(cupy, importlib.import_module("cupyx.scipy.special"))
