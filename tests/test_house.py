"""The rules of the house that a machine can check: layers, sizes, tools that look everywhere, commands."""

import ast
import io
import re
import shlex
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.packaging.tree import LINKS, ROOT, project_files, run

# What each layer may not know. `lessons` may know all but the roof.
FORBIDDEN = {
    "minigrad": ("minigrad.nn", "minigrad.dist", "minigrad.cli", "lessons", "tests"),
    "nn": ("minigrad.dist", "minigrad.cli", "lessons", "tests"),
    "dist": ("minigrad.cli", "lessons", "tests"),
    "lessons": ("minigrad.cli", "tests"),
    "benchmarks": ("minigrad.cli", "tests"),
}
ARRAY_LIBRARIES = ("numpy", "scipy", "cupy", "cupyx")
# In the engine, array libraries are named here and nowhere else.
MAY_NAME_ARRAY_LIBRARIES = ("minigrad/backend", "minigrad/random", "minigrad/testing")
# Array libraries of their own, pictures, and what stands on the mechanism, are not the mechanism.
NOT_MECHANISM = {
    "__init__.py",
    "__main__.py",
    "allocator.py",
    "backend_cupy.py",
    "backend_linalg.py",
    "backend_mkl.py",
    "backend_selecting.py",
    "backend_shape_rules.py",
    "backend_shapes.py",
    "backend_special.py",
    "backend_windows.py",
    "checkpoint.py",
    "checkpoint_sequence.py",
    "checkpoint_schedule.py",
    "cost.py",
    "derivatives.py",
    "errors.py",
    "interop.py",
    "linalg.py",
    "meter.py",
    "operators.py",
    "random.py",
    "testing.py",
    "tree.py",
}


# What everything parallel stands on: the communicator, sharding, schedules, the executor.
HEART_OF_DIST = (
    *("world", "communicator", "verbs", "request", "transfer", "rounds"),
    *(
        "partition",
        "units",
        "unit_order",
        "zero",
        "zero_gradients",
        "zero_pooled",
        "zero_parameters",
        "zero_shards",
        "zero_units",
    ),
    *("schedule", "schedules", "schedule_passes", "schedule_check", "executor"),
)


def python_files() -> list[Path]:
    return project_files(".py")


def on_the_roof(path: Path) -> bool:
    return path.parts[:2] == ("minigrad", "cli") or path == Path("minigrad/__main__.py")


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module that is imported anywhere in the tree, in functions and for type checkers too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def without_type_checking(tree: ast.Module) -> ast.Module:
    """The tree without its `if TYPE_CHECKING:` blocks."""

    class Remover(ast.NodeTransformer):
        def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
            name = node.test.attr if isinstance(node.test, ast.Attribute) else getattr(node.test, "id", "")
            return node.orelse if name == "TYPE_CHECKING" else self.generic_visit(node)

    return Remover().visit(tree)


def wrong_imports(path: Path, source: str) -> list[str]:
    """Imports of `source`, standing at `path`, that the house forbids."""
    tree = ast.parse(source)
    wrong = [name for name in imports(tree) if name.startswith(".")]
    if on_the_roof(path):
        return wrong
    layers = tuple(f"{layer}." for layer in FORBIDDEN.get(path.parts[0], ()))
    wrong += [name for name in imports(tree) if f"{name}.".startswith(layers)]
    if path.parts[0] == "minigrad" and not str(path).startswith(MAY_NAME_ARRAY_LIBRARIES):
        named = imports(without_type_checking(tree))
        wrong += [name for name in named if name.split(".")[0] in ARRAY_LIBRARIES]
    return wrong


def code_lines(source: str) -> int:
    """Lines that hold code: no blank lines, comments or docstrings."""
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if ast.get_docstring(node) is not None:
            first = node.body[0]
            docstrings |= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in (tokenize.COMMENT, tokenize.NL) and token.string.strip():
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings)


# ------------------------------------------------------------------------------------------------ layers


def test_imports_run_one_way():
    wrong = {str(path): wrong_imports(path, (ROOT / path).read_text()) for path in python_files()}
    assert {path: names for path, names in wrong.items() if names} == {}


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("minigrad/tensor.py", "from minigrad import nn"),
        ("minigrad/ops/linear.py", "def f():\n    from minigrad.dist.world import World"),
        ("minigrad/walk.py", "import numpy as np"),
        ("minigrad/walk.py", "def f():\n    from scipy import special"),
        ("minigrad/walk.py", "from .graph import Node"),
        ("nn/linear.py", "import minigrad.dist"),
        ("dist/world.py", "from minigrad.cli.main import main"),
        ("lessons/01/lesson.py", "from minigrad.cli import main"),
    ],
)
def test_a_wrong_import_is_seen(path, source):
    assert wrong_imports(Path(path), source)


def test_right_imports_are_left_alone():
    annotations = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from numpy import ndarray"
    assert wrong_imports(Path("minigrad/tensor.py"), annotations) == []
    assert wrong_imports(Path("minigrad/backend.py"), "import numpy") == []
    assert wrong_imports(Path("dist/zero.py"), "import numpy\nfrom minigrad.nn.module import Module") == []
    assert wrong_imports(Path("minigrad/cli/train.py"), "from minigrad import dist, nn") == []


# ------------------------------------------------------------------------------------------------ sizes


def test_code_lines_counts_code_only():
    comments = '"""Doc.\n\nMore.\n"""\n\n# why\n'
    assert code_lines(comments) == 0
    assert code_lines(comments + 'x = """a\nb"""  # why\n\n\ndef f():\n    "Doc."\n    return x\n') == 4


def test_the_mechanism_can_be_read_in_an_afternoon():
    mechanism = [
        path
        for path in python_files()
        if path.parent == Path("minigrad")
        and path.name not in NOT_MECHANISM
        and not path.name.startswith("draw")
    ]
    counts = {path.name: code_lines((ROOT / path).read_text()) for path in mechanism}
    assert {"tensor.py", "graph.py", "walk.py", "operation.py", "backend.py"} <= counts.keys()
    assert sum(counts.values()) <= 1500, counts


def test_the_heart_of_dist_can_be_read_in_a_day():
    counts = {name: code_lines((ROOT / "dist" / f"{name}.py").read_text()) for name in HEART_OF_DIST}
    assert sum(counts.values()) <= 2700, counts


def test_one_file_is_one_sitting():
    lengths = {str(path): (ROOT / path).read_text().count("\n") for path in python_files()}
    assert {path: lines for path, lines in lengths.items() if lines > 400} == {}


# ------------------------------------------------------------------------------------------------ tools

PLANTED = '''\
"""A module with one mistake for each tool.

>>> 1 + 1
3
"""

import os

count: int = "three"
'''


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """A small project with this one's configuration and mistakes planted in nn/ and dist/."""
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    for folder in ("minigrad", "nn", "dist", "tests", "benchmarks"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").write_text('"""A package."""\n')
    for name in LINKS:
        (tmp_path / name).symlink_to(f"../{Path(name).name}")
    (tmp_path / "nn" / "planted.py").write_text(PLANTED)
    (tmp_path / "dist" / "planted.py").write_text(PLANTED)
    return tmp_path


def complaints(folder: Path, *command: str) -> str:
    """What a tool prints about the project in `folder`; it has to find fault."""
    tool = [sys.executable, "-m", *command]
    result = subprocess.run(tool, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 1, result.stdout + result.stderr
    return result.stdout


def test_ruff_looks_into_every_package_once(planted):
    output = complaints(planted, "ruff", "check", "--no-cache", "--output-format=concise", "--select=F401")
    assert sorted(re.findall(r"^(\S+?):\d+", output, re.MULTILINE)) == ["dist/planted.py", "nn/planted.py"]


def test_ruff_format_looks_into_every_package(planted):
    for folder in ("nn", "dist"):
        (planted / folder / "planted.py").write_text("x = [ 1,2 ]\n")
    output = complaints(planted, "ruff", "format", "--no-cache", "--check")
    assert sorted(re.findall(r"\w+/planted\.py", output)) == ["dist/planted.py", "nn/planted.py"]


def test_mypy_looks_into_every_package_once(planted):
    output = complaints(planted, "mypy", "--cache-dir", str(planted / "cache"))
    found = sorted(re.findall(r"^(\S+?):\d+: error: Incompatible types", output, re.MULTILINE))
    assert found == ["minigrad/dist/planted.py", "minigrad/nn/planted.py"]


def test_pytest_runs_the_doctests_of_every_package_once(planted):
    output = complaints(planted, "pytest", "-q", "-p", "no:cacheprovider")
    found = sorted(re.findall(r"^FAILED (\S+)", output, re.MULTILINE))
    assert found == [
        "minigrad/dist/planted.py::minigrad.dist.planted",
        "minigrad/nn/planted.py::minigrad.nn.planted",
    ]


# ------------------------------------------------------------------------------------------------ words


def readme_command(name: str) -> str:
    """The fenced block that follows `<!-- command: name -->` in the README, as .ci/run reads it too."""
    pattern = rf"^<!-- command: {name} -->\n+```\w*\n(.*?)^```$"
    blocks = re.findall(pattern, (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1, f"README.md has {len(blocks)} blocks `<!-- command: {name} -->`"
    return str(blocks[0]).strip()


@pytest.mark.parametrize("name", ["train", "test"])
def test_readme_commands_are_complete_and_parse(name):
    command = readme_command(name)
    run(["bash", "-n", "-c", command], cwd=ROOT)
    for needed in ("-m venv .venv", ". .venv/bin/activate", "pip install"):
        assert needed in command
    assert ("minigrad train" if name == "train" else "pytest") in command


def test_readme_training_command_is_one_that_the_parser_takes():
    from minigrad.cli.main import build_parser

    words = shlex.split(readme_command("train").partition("minigrad train")[2])
    args = build_parser(["train"]).parse_args(["train", *words])
    assert args.ranks == 4


# Spelt in two halves, so that this file does not hold them.
UNWANTED = {
    "a path of somebody's machine": re.compile(
        r"(?<![\w.~<])/(t" + "mp|wo" + "rk|ho" + "me|ro" + "ot|Us" + "ers)/"
    ),
    "a package index": re.compile("py" + r"pi\.org|python" + r"hosted\.org|index" + r"-url"),
}


def test_no_text_names_a_machine_or_a_package_index():
    found = []
    for path in project_files():
        try:
            text = (ROOT / path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture, an archive
        for number, line in enumerate(text.splitlines(), 1):
            found += [
                f"{path}:{number}: {what}" for what, pattern in UNWANTED.items() if pattern.search(line)
            ]
    assert found == []
