"""Errors that say in which layer of a model they arose."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minigrad.errors import DTypeError, ShapeError, UsageError

if TYPE_CHECKING:
    from minigrad.nn.module import Module

MISFITS = (ShapeError, DTypeError, UsageError)
"""What goes wrong because of what a layer was given."""


def locate(module: Module, error: Exception) -> None:
    """Put the path of the layer that raised `error` before its message, as seen from `module`.

    Called by every module that the error passes on its way out, so the path grows from the innermost name.
    """
    inner, path, kind, message = getattr(error, "_located", (None, "", "", ""))
    if inner is None:
        kind, message = type(module).__name__, str(error)
    else:
        names = (name for name, child in module.named_modules() if child is inner)
        name = next(names, type(inner).__name__)
        path = f"{name}.{path}" if path and name else name or path
        if not message.startswith("rank "):  # that comes first in every message
            error.args = (f"{path} ({kind}): {message}",)
    error._located = (module, path, kind, message)  # type: ignore[attr-defined]
