"""CuPy itself, where it is installed: it has what minigrad calls, and takes it so. No GPU is needed."""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from minigrad.backend_cupy import CupyNamespace
from tests.packaging.tree import ROOT

cupy = pytest.importorskip("cupy", reason="CuPy is not installed; without a GPU, cupy-cuda12x will do")

KEYWORDS_OF_UFUNCS = {"out", "dtype", "casting"}


def calls(path: Path) -> Iterator[ast.Call]:
    """Every call of a function of the array library whose arguments can be counted."""
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and ast.unparse(node.func.value) == "xp"
            and not any(isinstance(argument, ast.Starred) for argument in node.args)
            and all(keyword.arg for keyword in node.keywords)
        ):
            yield node


def complaint(function: Any, call: ast.Call) -> str:
    """Why a function does not take the arguments of a call; empty where it does."""
    keywords = [str(keyword.arg) for keyword in call.keywords]
    if isinstance(function, cupy.ufunc):
        fits = len(call.args) <= function.nargs and KEYWORDS_OF_UFUNCS.issuperset(keywords)
        return "" if fits else f"a ufunc of {function.nin}"
    try:
        signature = inspect.signature(function)
    except ValueError:
        return ""  # it tells nobody
    try:
        signature.bind(*call.args, **dict.fromkeys(keywords))
    except TypeError as error:
        return f"{error} {signature}"
    return ""


def test_it_takes_every_call():
    library = CupyNamespace(cupy, pytest.importorskip("cupyx.scipy.special"))  # reads the kernels, too
    wrong, fitting = [], 0
    for folder in ("minigrad", "minigrad/ops", "nn", "dist"):
        for path in sorted((ROOT / folder).glob("*.py")):
            for call in calls(path):
                name = call.func.attr  # type: ignore[attr-defined]  # `calls` looked
                function = getattr(library, name, None)
                found = complaint(function, call) if callable(function) else "CuPy has none"
                wrong += [f"{path.name}:{call.lineno}: {ast.unparse(call)}: {found}"] if found else []
                fitting += not found
    assert not wrong, "\n".join(wrong)
    assert fitting > 500
