"""Nested lists, tuples and dicts of tensors, as the transforms take and return them."""

from __future__ import annotations

from copy import copy
from typing import Any

from minigrad.errors import ShapeError


def flatten(tree: Any) -> list[Any]:
    """The leaves of a nest, dicts in order of their keys' insertion."""
    if isinstance(tree, (list, tuple)):
        return [leaf for part in tree for leaf in flatten(part)]
    if isinstance(tree, dict):
        return [leaf for part in tree.values() for leaf in flatten(part)]
    return [tree]


def paired(what: str, tree: Any, other: str, like: Any) -> list[Any]:
    """The leaves of `tree` in the order of those of `like`: paired by place in lists and tuples (either fits
    the other), and by key in dicts.

    Raises ShapeError where the two nests differ, with both; `what` and `other` say in it what they are.
    """
    leaves: list[Any] = []
    if not _pair(tree, like, leaves):
        raise ShapeError(
            f"{what} nested as {_outline(tree)} cannot be paired with {other} nested as {_outline(like)}; "
            "give one for each leaf (*), in the same nest with the same keys"
        )
    return leaves


def _pair(tree: Any, like: Any, leaves: list[Any]) -> bool:
    """Append the leaves of `tree`; False if it is nested otherwise than `like`."""
    if isinstance(like, (list, tuple)):
        same = isinstance(tree, (list, tuple)) and len(tree) == len(like)
        return same and all(_pair(part, twin, leaves) for part, twin in zip(tree, like, strict=True))
    if isinstance(like, dict):
        same = isinstance(tree, dict) and tree.keys() == like.keys()
        return same and all(_pair(tree[key], twin, leaves) for key, twin in like.items())
    leaves.append(tree)
    return not isinstance(tree, (list, tuple, dict))


def _outline(tree: Any) -> str:
    """A nest in words, with a star for each leaf."""
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{key!r}: {_outline(part)}" for key, part in tree.items()) + "}"
    if isinstance(tree, (list, tuple)):
        inside = ", ".join(map(_outline, tree))
        return f"[{inside}]" if isinstance(tree, list) else f"({inside}{',' if len(tree) == 1 else ''})"
    return "*"


def rebuild(tree: Any, leaves: list[Any]) -> Any:
    """A nest like `tree`, of the same types, with these leaves in its place."""
    remaining = iter(leaves)
    built = _rebuild(tree, remaining)
    if next(remaining, remaining) is not remaining:
        raise ShapeError(f"{len(leaves)} leaves do not fit a nest with {len(flatten(tree))}")
    return built


def _rebuild(tree: Any, leaves: Any) -> Any:
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(_rebuild(part, leaves) for part in tree))
    if isinstance(tree, (list, tuple)):
        return type(tree)(_rebuild(part, leaves) for part in tree)
    if isinstance(tree, dict):
        built = copy(tree)  # an OrderedDict stays one, and a defaultdict keeps what makes its defaults
        for key, part in tree.items():
            built[key] = _rebuild(part, leaves)
        return built
    return next(leaves)
