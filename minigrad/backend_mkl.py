"""Products of matrices by Intel's MKL in place of NumPy's own BLAS, where it is installed and asked for.

NumPy from PyPI brings OpenBLAS, and torch brings MKL, which multiplies 5 to 20 % faster on Intel's processors
(and much faster where OPENBLAS_CORETYPE says that they are older ones). Two thirds of a transformer's step
are such products. Stacks of small matrices, as in attention, and vectors stay with NumPy, which is as good.
"""

import ctypes
import os
from collections.abc import Callable
from typing import Any

import numpy

from minigrad.backend import Array, host
from minigrad.errors import UsageError

SMALL = 1 << 21  # multiplications: below that, a call from Python costs more than it saves
ROW_MAJOR, PLAIN, TRANSPOSED = 101, 111, 112  # from cblas.h
SEQUENTIAL, REPRODUCIBLE = 1, 2  # from mkl_service.h: one thread; the same bits wherever an array lies
THREADS = ("MKL_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Products:
    """Products of float32 and float64 matrices by a library that has the C interface of BLAS.

    otherwise   makes all other products
    name        of a routine, with a place for s or d
    integer     the type of its sizes
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        *,
        otherwise: Callable[..., Array] = numpy.matmul,
        name: str = "cblas_{}gemm",
        integer: Any = ctypes.c_int,
    ) -> None:
        self.otherwise = otherwise
        self._routines: dict[Any, Callable[..., None]] = {}
        for letter, dtype, real in (("s", "float32", ctypes.c_float), ("d", "float64", ctypes.c_double)):
            routine = getattr(library, name.format(letter))
            matrix = (ctypes.c_void_p, integer)
            flags, sizes = (ctypes.c_int,) * 3, (integer,) * 3
            routine.argtypes = [*flags, *sizes, real, *matrix, *matrix, real, *matrix]
            routine.restype = None
            self._routines[numpy.dtype(dtype)] = routine

    def matmul(self, x: Array, y: Array, *, out: Array | None = None) -> Array:
        """What `numpy.matmul` makes of x and y, but for rounding; `out` overlaps neither."""
        routine = self._routines.get(x.dtype)
        if routine is None or x.ndim != 2 or y.ndim != 2 or x.dtype != y.dtype:
            return self.otherwise(x, y, out=out)
        rows, inner = x.shape
        columns = y.shape[1]
        if rows * inner * columns < SMALL or min(rows, inner, columns) == 1 or y.shape[0] != inner:
            return self.otherwise(x, y, out=out)
        made = numpy.empty((rows, columns), x.dtype) if out is None else out
        left, right, result = layout(x), layout(y), layout(made)
        if (
            left is None
            or right is None
            or result is None
            or result[0] == TRANSPOSED
            or made.shape != (rows, columns)
            or made.dtype != x.dtype
            or not made.flags.writeable
        ):
            return self.otherwise(x, y, out=out)
        a, b, c = x.ctypes.data, y.ctypes.data, made.ctypes.data
        sizes = (rows, columns, inner)
        routine(ROW_MAJOR, left[0], right[0], *sizes, 1.0, a, left[1], b, right[1], 0.0, c, result[1])
        return made


def layout(x: Array) -> tuple[int, int] | None:
    """How a matrix of several rows and columns lies in memory: plain or transposed, and how many entries from
    one row (or column) to the next. None if BLAS cannot take it as it is.
    """
    (rows, columns), (down, across), item = x.shape, x.strides, x.itemsize
    if across == item and down >= columns * item and down % item == 0:
        return PLAIN, down // item
    if down == item and across >= rows * item and across % item == 0:
        return TRANSPOSED, across // item
    return None


def use_mkl(enabled: bool = True) -> None:
    """Multiply matrices on the host by MKL from now on or, with False, by NumPy's own BLAS again.

    A setting of the whole process. MKL takes as many threads as MKL_NUM_THREADS, OMP_NUM_THREADS or
    OPENBLAS_NUM_THREADS says, the first that is set, and otherwise all cores. Results differ from NumPy's by
    rounding, and are the same in every run. Raises UsageError where MKL is not installed.
    """
    if not enabled:
        vars(host).pop("matmul", None)
    elif not in_use():
        vars(host)["matmul"] = Products(load(), otherwise=host.matmul).matmul


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
