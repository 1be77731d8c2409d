"""Operations that tests declare, and that are forgotten again."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from minigrad.operation import general
from minigrad.rules import OPERATIONS


@contextmanager
def declaring() -> Iterator[None]:
    """Forget operations that are declared inside the `with` block."""
    before = dict(OPERATIONS)
    try:
        yield
    finally:
        OPERATIONS.clear()
        OPERATIONS.update(before)


def polar() -> Callable[..., Any]:
    """An operation with two outputs that have derivatives, and one of integers: (x, y) ↦ (xy, x/y, 7)."""

    def pull(xp: Any, v: Any, needs: Any, x: Any, y: Any) -> Any:
        product, ratio, _ = v
        dx = dy = 0.0 * (x + y)
        if product is not None:
            dx, dy = dx + product * y, dy + product * x
        if ratio is not None:
            dx, dy = dx + ratio / y, dy - ratio * x / (y * y)
        return (dx if needs[0] else None, dy if needs[1] else None)

    def push(xp: Any, tangents: Any, x: Any, y: Any) -> Any:
        dx, dy = (xp.zeros_like(x) if t is None else t for t in tangents)
        return dx * y + x * dy, dx / y - x * dy / (y * y), None

    @general(pull=pull, push=push, several_outputs=True)
    def polar(xp: Any, x: Any, y: Any, /) -> Any:
        """(xy, x/y, 7)"""
        return x * y, x / y, xp.asarray(7)

    return polar
