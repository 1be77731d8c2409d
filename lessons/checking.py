"""What a lesson's `check.py` is written with: the mark of an exercise, mistakes in the lesson's words.

    @exercise("1.2", "merge paths", points=2, rebuilds=["minigrad.derivatives.grad"])
    @given(x=vectors())
    def check_merging(answer, x):
        require(close(answer.gradient(x), expected), "the gradient of x*x is 2x, and yours is ...")

`answer` is the learner's module. A check is a property: Hypothesis draws its cases and finds the smallest one
that goes wrong, which the learner is shown beside the sentence.
"""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays


class Wrong(AssertionError):
    """The answer does not do what the exercise asks for; the message is for the learner."""


def exercise(
    key: str, title: str, *, points: int = 1, rebuilds: Sequence[str] = ()
) -> Callable[[Callable[..., Any]], Any]:
    """Mark a check as deciding about exercise `key`, worth `points`.

    `rebuilds` names the pieces of the library that an answer may not call, such as
    "minigrad.derivatives.grad". The checks of one exercise add their points.
    """
    return pytest.mark.exercise(key=key, title=title, points=points, rebuilds=tuple(rebuilds))


def wrong(message: str) -> NoReturn:
    """Say what is wrong with the answer."""
    raise Wrong(message)


def require(condition: object, message: str) -> None:
    """Say what is wrong with the answer unless `condition` holds."""
    if not condition:
        raise Wrong(message)


def require_close(found: Any, expected: Any, what: str, *, tolerance: float = 1e-9) -> None:
    """Compare numbers or arrays, relative to the largest expected entry; `what` begins the sentence."""
    if found is None:
        raise Wrong(f"{what}: your function returns None; return the result")
    given = getattr(found, "data", found) if hasattr(found, "node") else found
    try:
        ours = np.asarray(given)
        # By itself NumPy would read texts, and drop imaginary parts.
        ours = ours.astype(np.float64, casting="unsafe" if ours.dtype == object else "same_kind")
    except (TypeError, ValueError):
        raise Wrong(f"{what}: expected real numbers, and got a {type(found).__name__}") from None
    target = np.asarray(getattr(expected, "data", expected) if hasattr(expected, "node") else expected)
    if ours.shape != target.shape:
        raise Wrong(f"{what}: expected shape {target.shape}, and yours has {ours.shape}")
    scale = max(1.0, float(np.max(np.abs(target), initial=0.0)))
    apart = np.where(ours == target, 0.0, np.abs(ours - target))
    bad = ~(apart <= tolerance * scale)
    if np.any(bad):
        place = tuple(int(i) for i in np.argwhere(bad)[0])
        at = f", entry {list(place)}" if place else ""
        wanted, got = (f"{values[place]:.10g}" for values in (target, ours))
        if wanted == got:  # they differ in later digits
            wanted, got = (f"{values[place]:.17g}" for values in (target, ours))
        raise Wrong(f"{what}{at}: expected {wanted}, and yours is {got}")


def require_tensor(found: Any, what: str) -> None:
    """Ask for a Tensor; `what` begins the sentence."""
    if found is None:
        raise Wrong(f"{what}: your function returns None; return the result")
    if not hasattr(found, "node"):
        raise Wrong(
            f"{what}: expected a Tensor, through which gradients flow, and got a {type(found).__name__}"
        )


def count(number: int, word: str) -> str:
    """A number and what it counts: 1 rank, 2 ranks, 1 entry, 2 entries, 2 batches."""
    plural = word[:-1] + "ies" if word.endswith("ry") else word + ("es" if word.endswith("ch") else "s")
    return f"{number} {word if number == 1 else plural}"


def few(share: float = 0.25, at_least: int = 3) -> settings:
    """Settings for checks that take long: a share of the usual number of examples."""
    usual = settings().max_examples
    return settings(max_examples=max(at_least, int(usual * share)))


def numbers(low: float = -2.0, high: float = 2.0) -> st.SearchStrategy[float]:
    """Floats of ordinary size that shrink to short ones."""
    whole = st.integers(int(low * 8), int(high * 8))
    return whole.map(lambda eighths: eighths / 8)


def vectors(size: int | st.SearchStrategy[int] = 3) -> st.SearchStrategy[np.ndarray]:
    """float64 vectors of ordinary numbers."""
    return arrays.arrays(np.float64, size, elements=numbers())


def matrices(rows: st.SearchStrategy[int], columns: st.SearchStrategy[int]) -> st.SearchStrategy[np.ndarray]:
    """float64 matrices of ordinary numbers."""
    shape = st.tuples(rows, columns)
    return shape.flatmap(lambda s: arrays.arrays(np.float64, s, elements=numbers()))
