"""Nested lists, tuples and dicts of tensors, as the transforms take and return them."""

from __future__ import annotations

from typing import Any

from minigrad.errors import ShapeError


def flatten(tree: Any) -> list[Any]:
    """The leaves of a nest, dicts in order of their keys' insertion."""
    if isinstance(tree, (list, tuple)):
        return [leaf for part in tree for leaf in flatten(part)]
    if isinstance(tree, dict):
        return [leaf for part in tree.values() for leaf in flatten(part)]
    return [tree]


def rebuild(tree: Any, leaves: list[Any]) -> Any:
    """A nest like `tree` with these leaves in its place."""
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
        return {key: _rebuild(part, leaves) for key, part in tree.items()}
    return next(leaves)
