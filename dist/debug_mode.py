"""Debug mode: what costs too much for every day is checked as well.

It is on where the environment says MINIGRAD_DEBUG=1, and in the blocks of `with debug():`. All ranks must
have it on or off alike. Then

* ranks that are processes compare every collective before it starts, in one small message, and every message
  between two with what the receiver expects; a mismatch names both sides (ranks that are threads always do);
* an array under a request that is not done yet may not be touched: if it was, `wait` raises.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from minigrad.dist.staging import Loan, copied, lend
from minigrad.dist.verbs import Array, Call
from minigrad.errors import MinigradError

CARD_BYTES = 256
CONTENT_BYTES = 80
_blocks = int(os.environ.get("MINIGRAD_DEBUG", "") not in ("", "0"))


def debugging() -> bool:
    """Whether debug mode is on."""
    return _blocks > 0


@contextmanager
def debug() -> Iterator[None]:
    """Debug mode for a block, in this process (for all of its ranks, where they are threads)."""
    global _blocks
    _blocks += 1
    try:
        yield
    finally:
        _blocks -= 1


# ----------------------------------------------------------------------------- what ranks call


def card(number: int, call: Call) -> np.ndarray:
    """A call as a message of fixed size: a digest of what ranks must agree on, then as much text as fits."""
    digest = hashlib.blake2b(f"{number} {call.common()}".encode(), digest_size=16).digest()
    text = f"number {number} is {call.common()}".encode()
    return np.frombuffer((digest + text).ljust(CARD_BYTES)[:CARD_BYTES], dtype=np.uint8)


def content_card(buffer: Array) -> np.ndarray:
    """What a message between two ranks is made of, as a message of fixed size itself."""
    text = f"{buffer.size} elements of {buffer.dtype}".encode()
    return np.frombuffer((b" " * 16 + text).ljust(CONTENT_BYTES), dtype=np.uint8)


def odd_one_out(cards: np.ndarray) -> tuple[int, int] | None:
    """The first two ranks whose cards differ, if any do; cards are (ranks, CARD_BYTES)."""
    differ = (cards[:, :16] != cards[0, :16]).any(axis=1)
    return (0, int(differ.argmax())) if differ.any() else None


def text_of(card: np.ndarray) -> str:
    """What a card says."""
    return card[16:].tobytes().rstrip().decode(errors="replace")


# ------------------------------------------------------------------------- what may not be touched


def guarded(loan: Loan, array: Array, *, write: bool, error: Callable[[], MinigradError]) -> Loan:
    """A loan of a copy. When it is given back, `array` must be as it was, or `error()` is raised."""
    before = digest(array)
    copy = copied(loan, loan.buffer.dtype, write=write)

    def give_back() -> None:
        if digest(array) != before:
            raise error()
        copy.give_back()

    return Loan(copy.buffer, give_back)


def digest(array: Array) -> bytes:
    """A hash of the values, wherever they lie."""
    buffer = lend(array, read=True, write=False).buffer
    return hashlib.blake2b(np.asarray(buffer).view(np.uint8).data, digest_size=16).digest()
