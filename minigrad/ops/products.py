"""Products of every shape: einsum and its relatives. All of them run as matrix products where they can."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations
from typing import Any

from minigrad.errors import ShapeError
from minigrad.operation import linear
from minigrad.ops.elementwise import multiply
from minigrad.ops.indexing import getitem
from minigrad.ops.linalg import matmul
from minigrad.ops.reductions import sum
from minigrad.ops.shape import concat, matrix_transpose, permute_dims, reshape
from minigrad.tensor import Tensor

__all__ = ["einsum", "tensordot", "vecdot", "outer", "kron", "trace", "cross"]

Label = str
Labels = tuple[Label, ...]
Sizes = tuple[tuple[Label, int], ...]

# ----- Einstein's sums ----------------------------------------------------------------------------


def einsum(subscripts: str, /, *operands: Any) -> Tensor:
    """Products of entries, summed over labels: `einsum("bij,bjk->bik", x, y)` is a stack of matrix products.

    A label repeated within one operand takes its diagonal; labels that the output leaves out are summed; an
    ellipsis stands for any number of axes, which broadcast, as do axes of length 1. Without `->` the output
    has the ellipsis and then, in alphabetical order, the labels that appear once. Several operands are
    multiplied two at a time, in the order with the fewest multiplications (found by trying all orders of up
    to five operands, greedily beyond), and each such product is a matmul. Raises ShapeError.
    """
    tensors = [x if isinstance(x, Tensor) else Tensor(x) for x in operands]
    terms, output = _parsed(subscripts, tuple(x.ndim for x in tensors))
    sizes = _sizes(subscripts, terms, [x.shape for x in tensors])
    unknown = sorted(set(output) - sizes.keys())
    if unknown or len(set(output)) != len(output):
        raise ShapeError(
            f"einsum {subscripts!r}: each label of the output must appear once there, and in an operand; "
            f"got {' '.join(unknown) or 'one of them twice'}"
        )
    work = [_unrepeated(x, labels, sizes) for x, labels in zip(tensors, terms, strict=True)]
    for i, (x, labels) in enumerate(work):
        others = frozenset(output).union(*(labels for k, (_, labels) in enumerate(work) if k != i))
        work[i] = _summed(x, labels, others)
    for i, j in _order(tuple(labels for _, labels in work), output, tuple(sorted(sizes.items()))):
        (y, b), (x, a) = work.pop(j), work.pop(i)
        keep = frozenset(output).union(*(labels for _, labels in work))
        work.append(_contracted(x, a, y, b, keep, sizes))
    x, labels = work[0]
    return _permuted(x, [labels.index(label) for label in output])


@lru_cache(maxsize=1024)
def _parsed(subscripts: str, dimensions: tuple[int, ...]) -> tuple[tuple[Labels, ...], Labels]:
    """The labels of each operand and of the output. The axes under an ellipsis are `.1`, `.2` from behind."""
    left, arrow, right = subscripts.replace(" ", "").partition("->")
    parts = left.split(",")
    for part in (*parts, right):
        letters = part.replace("...", "", 1)
        if letters and not letters.isalpha():
            raise ShapeError(f"einsum {subscripts!r}: expected letters, ',', '->' and '...', got {part!r}")
    if len(parts) != len(dimensions):
        raise ShapeError(f"einsum {subscripts!r} names {len(parts)} operands, and got {len(dimensions)}")
    covered = [n - len(part.replace("...", "")) for part, n in zip(parts, dimensions, strict=True)]
    terms = []
    for part, n, rest in zip(parts, dimensions, covered, strict=True):
        if rest < 0 or (rest and "..." not in part):
            raise ShapeError(
                f"einsum {subscripts!r}: {part!r} does not fit an operand of {n} dimensions; "
                "name each axis once, or cover the others with ..."
            )
        terms.append(_labels(part, rest))
    most = max((n for part, n in zip(parts, covered, strict=True) if "..." in part), default=0)
    if arrow:
        return tuple(terms), _labels(right, most)
    counts = Counter(label for term in terms for label in term if len(label) == 1)
    return tuple(terms), (*_labels("...", most), *sorted(k for k, n in counts.items() if n == 1))


def _labels(part: str, covered: int) -> Labels:
    before, dots, after = part.partition("...")
    return (*before, *(f".{i}" for i in range(covered, 0, -1) if dots), *after)


def _sizes(subscripts: str, terms: Sequence[Labels], shapes: Sequence[tuple[int, ...]]) -> dict[Label, int]:
    sizes: dict[Label, int] = {}
    for labels, shape in zip(terms, shapes, strict=True):
        for label, n in zip(labels, shape, strict=True):
            known = sizes.setdefault(label, n)
            if known == 1:
                sizes[label] = n
            elif n not in (1, known):
                what = "an axis under the ellipsis" if label.startswith(".") else f"label {label!r}"
                raise ShapeError(
                    f"einsum {subscripts!r}: {what} has lengths {known} and {n} in shapes "
                    f"{', '.join(map(str, shapes))}"
                )
    return sizes


def _unrepeated(x: Tensor, labels: Labels, sizes: dict[Label, int]) -> tuple[Tensor, Labels]:
    """One operand with each label once, by diagonals, and without axes that would only broadcast."""
    if any(n != sizes[label] for n, label in zip(x.shape, labels, strict=True)):
        full = [i for i, label in enumerate(labels) if x.shape[i] == sizes[label]]
        x, labels = reshape(x, [x.shape[i] for i in full]), tuple(labels[i] for i in full)
    while len(set(labels)) < len(labels):
        label = next(label for label in labels if labels.count(label) > 1)
        i = labels.index(label)
        j = labels.index(label, i + 1)
        others = [k for k in range(len(labels)) if k not in (i, j)]
        x = _diagonal(_permuted(x, [*others, i, j]))
        labels = (*(labels[k] for k in others), label)
    return x, labels


def _summed(x: Tensor, labels: Labels, keep: frozenset[Label]) -> tuple[Tensor, Labels]:
    """One operand with the labels summed that nobody else has."""
    private = tuple(i for i, label in enumerate(labels) if label not in keep)
    kept = tuple(label for label in labels if label in keep)
    return (sum(x, axis=private) if private else x), kept


@lru_cache(maxsize=1024)
def _order(terms: tuple[Labels, ...], output: Labels, sizes: Sizes) -> tuple[tuple[int, int], ...]:
    """Which two to multiply next, and so on, for the fewest multiplications; products go to the end."""
    length = dict(sizes)

    def steps(left: list[frozenset[Label]]) -> tuple[int, tuple[tuple[int, int], ...]]:
        if len(left) < 2:
            return 0, ()
        choices = []
        for i, j in combinations(range(len(left)), 2):
            rest = [labels for k, labels in enumerate(left) if k not in (i, j)]
            union = left[i] | left[j]
            product = union & frozenset(output).union(*rest)
            cost = math.prod(length[label] for label in union)
            before = math.prod(length[k] for k in left[i]) + math.prod(length[k] for k in left[j])
            saved = before - math.prod(length[label] for label in product)
            choices.append((-saved, cost, (i, j), [*rest, product]))
        if len(left) > 5:
            choices = [min(choices, key=lambda choice: choice[:3])]
        found = []
        for _, cost, pair, remaining in choices:
            further, order = steps(remaining)
            found.append((cost + further, (pair, *order)))
        return min(found)

    return steps([frozenset(labels) for labels in terms])[1]


def _contracted(
    x: Tensor, a: Labels, y: Tensor, b: Labels, keep: frozenset[Label], sizes: dict[Label, int]
) -> tuple[Tensor, Labels]:
    """The product of two operands, summed over the labels they share and nobody else wants."""
    shared = [label for label in a if label in b]
    batch, inner = [k for k in shared if k in keep], [k for k in shared if k not in keep]
    left, right = [k for k in a if k not in b], [k for k in b if k not in a]
    labels = (*batch, *left, *right)
    if not inner:  # no sum: entries times entries
        lengths = [sizes[label] for label in batch]
        x = _permuted(x, [a.index(label) for label in (*batch, *left)])
        y = _permuted(y, [b.index(label) for label in (*batch, *right)])
        x = _reshaped(x, [*x.shape, *(1 for _ in right)])
        return multiply(x, _reshaped(y, [*lengths, *(1 for _ in left), *y.shape[len(lengths) :]])), labels
    if batch and not left and not right:
        x, y = (_grouped(z, c, batch, inner, []) for z, c in ((x, a), (y, b)))
        return vecdot(x, y), labels
    product = matmul(_matrices(x, a, batch, left, inner), _matrices(y, b, batch, inner, right))
    return _reshaped(product, [sizes[label] for label in labels]), labels


def _matrices(
    x: Tensor, labels: Labels, batch: Sequence[Label], rows: Sequence[Label], columns: Any
) -> Tensor:
    """x as matrices, one for each place in `batch`. They stay transposed in memory if they lie so."""
    if rows and columns and labels.index(columns[0]) < labels.index(rows[0]):
        return matrix_transpose(_grouped(x, labels, batch, columns, rows, pairs=True))
    return _grouped(x, labels, batch, rows, columns, pairs=True)


def _grouped(
    x: Tensor, labels: Labels, batch: Sequence[Label], first: Any, second: Any, *, pairs: bool = False
) -> Tensor:
    x = _permuted(x, [labels.index(label) for label in (*batch, *first, *second)])
    lead, one = x.shape[: len(batch)], math.prod(x.shape[len(batch) : len(batch) + len(first)])
    two = math.prod(x.shape[len(batch) + len(first) :])
    return _reshaped(x, [*lead, one, two] if pairs else [*lead, one])


def _permuted(x: Tensor, axes: Sequence[int]) -> Tensor:
    return x if list(axes) == list(range(x.ndim)) else permute_dims(x, axes)


def _reshaped(x: Tensor, shape: Sequence[int]) -> Tensor:
    return x if x.shape == tuple(shape) else reshape(x, shape)


def _diagonal(x: Tensor, offset: int = 0) -> Tensor:
    """The diagonal of the last two axes, as a slice of the two as one."""
    *lead, m, n = x.shape
    length = max(min(m + min(offset, 0), n - max(offset, 0)), 0)
    start = offset if offset >= 0 else -offset * n
    stop = start + (length - 1) * (n + 1) + 1 if length else start
    return getitem(reshape(x, (*lead, m * n)), (..., slice(start, stop, n + 1)))


# ----- The relatives ------------------------------------------------------------------------------


def tensordot(
    x: Any, y: Any, /, *, axes: int | tuple[int | Sequence[int], int | Sequence[int]] = 2
) -> Tensor:
    """Sum over `axes` of x and of y: (axes of x, axes of y), each an axis or several, or the last and the
    first n of them.

    Shapes: (..., summed) and (summed, ...) → the axes of x that are left, then those of y.
    """
    x, y = (a if isinstance(a, Tensor) else Tensor(a) for a in (x, y))
    given = (
        ([*range(-axes, 0)], [*range(axes)])
        if isinstance(axes, int)
        else [[i] if isinstance(i, int) else i for i in axes]
    )
    if any(not -a.ndim <= i < a.ndim for a, several in zip((x, y), given, strict=True) for i in several):
        raise ShapeError(f"tensordot: axes {axes} are not there in shapes {x.shape} and {y.shape}")
    of_x, of_y = ([i % a.ndim for i in several] for a, several in zip((x, y), given, strict=True))
    if len(of_x) != len(of_y) or [x.shape[i] for i in of_x] != [y.shape[i] for i in of_y]:
        raise ShapeError(
            f"tensordot: axes {axes} of shapes {x.shape} and {y.shape} do not pair up; expected equal lengths"
        )
    names = [f".{i}" for i in range(x.ndim + y.ndim)]
    b = {j: names[i] for i, j in zip(of_x, of_y, strict=True)}
    first, second = tuple(names[: x.ndim]), tuple(b.get(j, names[x.ndim + j]) for j in range(y.ndim))
    keep = frozenset(set(first) ^ set(second))
    sizes = dict(zip((*first, *second), (*x.shape, *y.shape), strict=True))
    return _contracted(x, first, y, second, keep, sizes)[0]


def _outspread(xp: Any, v: Any, other: Any) -> Any:
    return xp.reshape(v, (*v.shape, 1)) * other


@linear(x=lambda xp, v, y: _outspread(xp, v, y), y=lambda xp, v, x: _outspread(xp, v, x))
def _vecdot(xp: Any, x: Any, y: Any, /) -> Any:
    """Σ x y over the last axis."""
    return xp.vecdot(x, y)


def vecdot(x: Any, y: Any, /, *, axis: int = -1) -> Tensor:
    """Σ x y over `axis`, counted from behind, with broadcasting of the others."""
    x, y = (a if isinstance(a, Tensor) else Tensor(a) for a in (x, y))
    if not -min(x.ndim, y.ndim) <= axis < 0 or x.shape[axis] != y.shape[axis]:
        raise ShapeError(
            f"vecdot: shapes {x.shape} and {y.shape} do not match on axis {axis}; "
            "expected a negative axis of equal length"
        )
    return _vecdot(_to_the_end(x, axis), _to_the_end(y, axis))


def _to_the_end(x: Tensor, axis: int) -> Tensor:
    return x if axis == -1 else permute_dims(x, [i for i in range(x.ndim) if i != axis + x.ndim] + [axis])


def outer(x: Any, y: Any, /) -> Tensor:
    """The products of all pairs: (n,) and (m,) → (n, m)."""
    x, y = (a if isinstance(a, Tensor) else Tensor(a) for a in (x, y))
    if x.ndim != 1 or y.ndim != 1:
        raise ShapeError(f"outer takes two vectors, got shapes {x.shape} and {y.shape}; flatten them first")
    return multiply(reshape(x, (-1, 1) if x.size else (0, 1)), y)


def kron(x: Any, y: Any, /) -> Tensor:
    """The Kronecker product: every entry of x times the whole of y, block by block."""
    x, y = (a if isinstance(a, Tensor) else Tensor(a) for a in (x, y))
    dimensions = max(x.ndim, y.ndim)
    p, q = ((1,) * (dimensions - a.ndim) + a.shape for a in (x, y))
    blocks = multiply(reshape(x, [n for m in p for n in (m, 1)]), reshape(y, [n for m in q for n in (1, m)]))
    return reshape(blocks, [m * n for m, n in zip(p, q, strict=True)])


def trace(x: Any, /, *, offset: int = 0, dtype: Any = None) -> Tensor:
    """The sum of the diagonal `offset` places above the main one: (..., n, m) → (...)."""
    x = x if isinstance(x, Tensor) else Tensor(x)
    if x.ndim < 2:
        raise ShapeError(f"trace needs matrices in the last two axes, got shape {x.shape}")
    return sum(_diagonal(x, offset), axis=-1, dtype=dtype)


def cross(x: Any, y: Any, /, *, axis: int = -1) -> Tensor:
    """The cross product of vectors of three entries along `axis`, with broadcasting of the other axes."""
    x, y = (a if isinstance(a, Tensor) else Tensor(a) for a in (x, y))
    if x.ndim == y.ndim and 0 <= axis < x.ndim:
        axis -= x.ndim
    if not -min(x.ndim, y.ndim) <= axis < 0 or x.shape[axis] != 3 or y.shape[axis] != 3:
        raise ShapeError(f"cross needs three entries on axis {axis}, got shapes {x.shape} and {y.shape}")
    after = (slice(None),) * (-axis - 1)
    a, b = ([getitem(z, (..., slice(i, i + 1), *after)) for i in range(3)] for z in (x, y))
    parts = [a[i - 2] * b[i - 1] - a[i - 1] * b[i - 2] for i in range(3)]
    return concat(parts, axis=axis)
