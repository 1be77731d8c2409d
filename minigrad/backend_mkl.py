"""Intel's MKL in place of NumPy's own BLAS, where it is installed and asked for.

NumPy from PyPI brings OpenBLAS, and torch brings MKL, which multiplies 5 to 20 % faster on Intel's processors
(and much faster where OPENBLAS_CORETYPE says that they are older ones). Two thirds of a transformer's step
are such products. A stack of matrices, as in attention, takes one call. Products with vectors and what is
small stay with NumPy, which is as good. And a·x + b·y, of which optimizers are made, is one pass over memory
in place of three.
"""

import ctypes
import math
import os
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy

from minigrad.backend import Array, host
from minigrad.errors import UsageError

SMALL = 1 << 21  # multiplications: below that, a call from Python costs more than it saves
NARROW = 16  # rows or columns of matrices in a stack: below that, NumPy is as fast
ROW_MAJOR, PLAIN, TRANSPOSED = 101, 111, 112  # from cblas.h
SEQUENTIAL, REPRODUCIBLE = 1, 2  # from mkl_service.h: one thread; the same bits wherever an array lies
THREADS = ("MKL_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")

NAMES = ("matmul", "add_matmul", "axpby")  # of the host's functions that MKL can take over
KINDS = (("s", "float32", ctypes.c_float), ("d", "float64", ctypes.c_double))

Lie = tuple[tuple[int, ...], tuple[int, ...]]  # how an array lies in memory: its shape and strides
Prepared = tuple[tuple[int, ...], Callable[[int, int, int], None]]  # a result's shape, and what computes it


class Products:
    """Products of float32 and float64 matrices by a library that has the C interface of BLAS.

    otherwise   makes all other products
    name        of a routine, with a place for "sgemm" and the like
    integer     the type of its sizes
    """

    def __init__(
        self,
        library: Any,
        *,
        otherwise: Callable[..., Array] = numpy.matmul,
        name: str = "cblas_{}",
        integer: Any = ctypes.c_int,
    ) -> None:
        self.otherwise, self._integer = otherwise, integer
        self._routines: dict[Any, tuple[Callable[..., None], Callable[..., None], Any]] = {}
        self._prepared = lru_cache(maxsize=256)(self._prepare)
        for letter, dtype, real in KINDS:
            one, many = (
                getattr(library, name.format(letter + routine)) for routine in ("gemm", "gemm_batch")
            )
            matrix = (ctypes.c_void_p, integer)
            flags, sizes = (ctypes.c_int,) * 3, (integer,) * 3
            one.argtypes = [*flags, *sizes, real, *matrix, *matrix, real, *matrix]
            many.argtypes = [ctypes.c_int, *(ctypes.c_void_p,) * 13, integer, ctypes.c_void_p]
            one.restype = many.restype = None
            self._routines[numpy.dtype(dtype)] = one, many, real

    def matmul(self, x: Array, y: Array, *, out: Array | None = None) -> Array:
        """What `numpy.matmul` makes of x and y, but for rounding; `out` overlaps neither."""
        prepared = self._find(x, y, out, 0.0)
        if prepared is None:
            return self.otherwise(x, y, out=out)
        shape, multiply = prepared
        made = numpy.empty(shape, x.dtype) if out is None else out
        multiply(x.ctypes.data, y.ctypes.data, made.ctypes.data)
        return made

    def add_matmul(self, x: Array, y: Array, out: Array) -> None:
        """Add the product to `out`, which overlaps neither, in place."""
        prepared = self._find(x, y, out, 1.0)
        if prepared is None:
            out += self.otherwise(x, y)
        else:
            prepared[1](x.ctypes.data, y.ctypes.data, out.ctypes.data)

    def _find(self, x: Array, y: Array, out: Array | None, kept: float) -> Prepared | None:
        """How to multiply, where that is not NumPy's; `kept` times the result's entries are added."""
        dtype = x.dtype
        large = type(y) is type(x) and y.ndim == x.ndim > 1 and x.size * y.shape[-1] >= SMALL
        if not large or dtype not in self._routines or y.dtype != dtype:
            return None
        if out is None:
            return self._prepared(dtype, kept, (x.shape, x.strides), (y.shape, y.strides))
        if out.dtype != dtype or not out.flags.writeable:
            return None
        return self._prepared(dtype, kept, *((a.shape, a.strides) for a in (x, y, out)))

    def _prepare(self, dtype: Any, kept: float, x: Lie, y: Lie, out: Lie | None = None) -> Prepared | None:
        """All that follows from how two arrays lie and, if given, the result: its shape, and what makes it of
        three addresses. None if NumPy should multiply them.
        """
        (*lead, rows, inner), columns = x[0], y[0][-1]
        shape, count = (*lead, rows, columns), math.prod(lead)
        lies = (x, y, out or (shape, numpy.empty(shape, dtype).strides))
        if y[0][:-1] != (*lead, inner) or lies[2][0] != shape:
            return None
        found = layouts(dtype.itemsize, *((sizes[-2:], strides[-2:]) for sizes, strides in lies))
        if found is None or min(rows, inner, columns) < (NARROW if lead else 2):
            return None
        one, many, real = self._routines[dtype]
        flags, downs = [flag for flag, _ in found[:2]], [down for _, down in found]
        down_x, down_y, down = downs

        def multiply(a: int, b: int, c: int) -> None:
            one(ROW_MAJOR, *flags, rows, columns, inner, 1.0, a, down_x, b, down_y, kept, c, down)

        if not lead:
            return shape, multiply
        places = numpy.indices(lead).reshape(len(lead), count)
        offsets = numpy.array([strides[:-2] for _, strides in lies]) @ places  # of each matrix, in bytes
        before = (*by_reference(ctypes.c_int, *flags), *by_reference(self._integer, rows, columns, inner))
        factor, share = by_reference(real, 1.0, kept)
        from_x, from_y, to, of_these = by_reference(self._integer, *downs, count)

        def multiply_all(*addresses: int) -> None:
            starts = offsets + numpy.array(addresses)[:, None]
            a, step = starts.ctypes.data, starts.strides[0]
            b, c = a + step, a + 2 * step
            many(ROW_MAJOR, *before, factor, a, from_x, b, from_y, share, c, to, 1, of_these)

        return shape, multiply_all


def adding(library: Any, *, otherwise: Callable[..., None]) -> Callable[..., None]:
    """The host's `axpby` by BLAS. An entry gets the same bits in an array of any length: shards need that."""
    routines = {}
    for letter, dtype, real in KINDS:
        routine = routines[numpy.dtype(dtype)] = getattr(library, f"cblas_{letter}axpby")
        vector = (ctypes.c_void_p, ctypes.c_int)
        routine.argtypes, routine.restype = [ctypes.c_int, real, *vector, real, *vector], None

    def axpby(a: Any, x: Array, b: Any, y: Array, space: Array) -> None:
        routine = routines.get(y.dtype)
        as_they_are = x.dtype == y.dtype and x.flags.c_contiguous and y.flags.carray
        if routine is None or not as_they_are or x.shape != y.shape or y.size >= 1 << 31:
            return otherwise(a, x, b, y, space)
        routine(y.size, float(a), x.ctypes.data, 1, float(b), y.ctypes.data, 1)

    return axpby


def by_reference(kind: Any, *values: Any) -> list[Any]:
    """Numbers as C takes them where there could be several: by their addresses."""
    return [ctypes.byref(kind(value)) for value in values]


def layouts(item: int, *lies: Lie) -> list[tuple[int, int]] | None:
    """How the matrices of a product, the result last, lie in memory, of entries of `item` bytes: plain or
    transposed, and how many entries from one row (or column) to the next. None if BLAS cannot take them as
    they are.
    """
    found = []
    for (rows, columns), (down, across) in lies:
        if across == item and down >= columns * item and down % item == 0:
            found.append((PLAIN, down // item))
        elif down == item and across >= rows * item and across % item == 0:
            found.append((TRANSPOSED, across // item))
    return found if len(found) == len(lies) and found[-1][0] == PLAIN else None


def use_mkl(enabled: bool = True) -> None:
    """Multiply matrices on the host by MKL from now on or, with False, by NumPy's own BLAS again; and take
    the optimizers' moving averages by MKL.

    A setting of the whole process. MKL takes as many threads as MKL_NUM_THREADS, OMP_NUM_THREADS or
    OPENBLAS_NUM_THREADS says, the first that is set, and otherwise all cores. Results differ from NumPy's by
    rounding, and are the same in every run. Raises UsageError where MKL is not installed.
    """
    if not enabled:
        for name in NAMES:
            vars(host).pop(name, None)
    elif not in_use():
        library = load()
        products = Products(library, otherwise=host.matmul)
        found = (products.matmul, products.add_matmul, adding(library, otherwise=host.axpby))
        vars(host).update(zip(NAMES, found, strict=True))


def in_use() -> bool:
    """Whether MKL multiplies now."""
    return "matmul" in vars(host)


def where() -> str | None:
    """The path of MKL, None if it is not installed."""
    from importlib import metadata  # it takes as long to import as all of minigrad's catalogue

    try:
        files = metadata.files("mkl") or []
    except metadata.PackageNotFoundError:
        return None
    return next((str(file.locate()) for file in files if "mkl_rt" in file.name), None)


def load() -> ctypes.CDLL:
    """MKL, set up. Raises UsageError where it is not installed."""
    path = where()
    if path is None:
        raise UsageError(
            "MKL is not installed here, which multiplies faster on Intel's processors: "
            "pip install 'minigrad[mkl]'"
        )
    library = ctypes.CDLL(path)
    count = next((os.environ[name] for name in THREADS if os.environ.get(name, "").isdigit()), "")
    if count == "1":
        library.MKL_Set_Threading_Layer(SEQUENTIAL)
    elif count:
        library.MKL_Set_Num_Threads(int(count))
    library.MKL_CBWR_Set(REPRODUCIBLE)
    return library
