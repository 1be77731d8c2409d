"""How the C library treats the memory that arrays leave behind."""

import ctypes
import mmap
import sys

RESERVED = (1 << 30) - (1 << 20)  # bytes of addresses; below the size from which blocks are mapped apart


def keep_freed_memory() -> bool:
    """Tell the C library to keep freed memory for the next array instead of returning it to the system.

    A training step frees and allocates the same megabytes again and again; by default glibc gives large
    blocks back, and the page faults of getting them anew cost up to a fifth of a step. Peak memory stays the
    same, but the process does not shrink between steps. The first gigabyte is asked to lie in huge pages
    (Linux grants them where /sys/kernel/mm/transparent_hugepage/enabled says madvise or always). The command
    line calls this; a library must leave it to the program. Returns whether the setting took (glibc only).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        library = ctypes.CDLL(None)
        mallopt = library.mallopt
    except (OSError, AttributeError):
        return False
    trim_threshold, mmap_threshold = -1, -3  # from malloc.h
    kept = mallopt(mmap_threshold, 1 << 30) == 1 and mallopt(trim_threshold, (1 << 31) - 1) == 1
    if kept:
        _use_huge_pages(library)
    return kept


def _use_huge_pages(library: ctypes.CDLL) -> None:
    """Let what `malloc` hands out next lie in pages of 2 MiB, where 4 KiB would be looked up time and again.

    Addresses are taken, marked and given back at once: no memory stands behind them before it is written to.
    """
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    start = library.malloc(RESERVED)
    if start is not None:
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        length = ctypes.c_size_t(start + RESERVED - first)
        library.madvise(ctypes.c_void_p(first), length, mmap.MADV_HUGEPAGE)  # (an error: there are none)
        library.free(ctypes.c_void_p(start))
