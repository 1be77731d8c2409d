"""Keeping an exercise from handing in the library: pieces that it rebuilds refuse to be called from it.

A piece is named by module and attribute, such as `minigrad.derivatives.grad` or
`minigrad.tensor.Tensor.backward`. While its check runs, a call that comes from the exercise's file is
refused; calls from the check itself, which compares with the library, are not. No solution can be opened.
"""

import functools
import importlib
import sys
import types
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Forbidden(Exception):
    """The exercise used what it is there to rebuild."""


class Guard:
    """Watches over one exercise file."""

    def __init__(self, subject: Path) -> None:
        self.subject = str(subject.resolve())
        self.refused: frozenset[str] = frozenset()
        self._wrapped: dict[int, str] = {}
        self._known: set[str] = set()

    def watch(self, pieces: Iterable[str]) -> None:
        """Put a guard before each piece, wherever minigrad holds it; before the exercise is imported."""
        for piece in pieces:
            if piece not in self._known:
                self._known.add(piece)
                self._watch(piece)

    def _watch(self, piece: str) -> None:
        owner, attribute = _owner(piece)
        original = getattr(owner, attribute)
        guarded = self._guarded(piece, original)
        if isinstance(owner, type):
            setattr(owner, attribute, guarded)
        for module in [m for name, m in sys.modules.items() if name.partition(".")[0] == "minigrad"]:
            for name, value in list(vars(module).items()):
                if value is original and not isinstance(owner, type):
                    setattr(module, name, guarded)

    def _guarded(self, piece: str, original: Any) -> Any:
        if isinstance(original, type):
            method = original.__init__  # type: ignore[misc]  # of this very class, which is what is meant

            @functools.wraps(method)
            def start(this: Any, *arguments: Any, **options: Any) -> None:
                self.check(piece)
                method(this, *arguments, **options)

            original.__init__ = start  # type: ignore[misc]
            self._wrapped[id(original)] = piece
            return original

        @functools.wraps(original)
        def call(*arguments: Any, **options: Any) -> Any:
            self.check(piece)
            return original(*arguments, **options)

        self._wrapped[id(call)] = piece
        return call

    def check(self, piece: str) -> None:
        """Raise Forbidden if the piece is refused now and the exercise's file is among the callers."""
        if piece not in self.refused:
            return
        frame: types.FrameType | None = sys._getframe(1)
        while frame is not None:
            if frame.f_code.co_filename == self.subject:
                raise Forbidden(f"exercise.py, line {frame.f_lineno} calls {piece}: build that yourself here")
            frame = frame.f_back

    @contextmanager
    def refusing(self, pieces: Iterable[str]) -> Iterator[None]:
        """Refuse these pieces inside the block, on all threads."""
        before, self.refused = self.refused, frozenset(pieces)
        try:
            yield
        finally:
            self.refused = before

    def check_answer(self, name: str, answer: Any) -> None:
        """Raise Forbidden where what the exercise calls its own is a piece of the library in disguise."""
        seen = answer
        while isinstance(seen, functools.partial):
            seen = seen.func
        family = seen.__mro__ if isinstance(seen, type) else (getattr(seen, "__func__", seen),)
        for one in family:
            piece = self._wrapped.get(id(one))
            if piece is not None and piece in self.refused:
                raise Forbidden(f"{name} in exercise.py is {piece} itself: build that yourself here")


def _owner(piece: str) -> tuple[Any, str]:
    """The module or class that holds a piece, and its attribute there."""
    words = piece.split(".")
    for length in range(len(words) - 1, 0, -1):
        try:
            owner: Any = importlib.import_module(".".join(words[:length]))
        except ModuleNotFoundError:
            continue
        for word in words[length:-1]:
            owner = getattr(owner, word)
        return owner, words[-1]
    raise ModuleNotFoundError(piece)


def close_solutions() -> None:
    """From now on this process cannot open any `solution.py`, by import or otherwise."""

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[0], str):
            name = Path(arguments[0]).name
            if name == "solution.py" or name.startswith("solution.cpython"):
                raise Forbidden("the solution is not for the exercise to read or import")

    sys.addaudithook(audit)
