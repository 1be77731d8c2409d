"""`from minigrad import nn, dist` finds the right files, however installed, wherever, whatever starts it."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.packaging.tree import build, copy_project, install, make_environment, run

PROBE = """\
import json, pathlib, sys
import minigrad
from minigrad import nn, dist
import minigrad.nn, minigrad.dist
assert nn is sys.modules["minigrad.nn"] and dist is sys.modules["minigrad.dist"]
print("FOUND" + json.dumps([str(pathlib.Path(m.__file__).resolve()) for m in (minigrad, nn, dist)]))
"""
FILES = ("minigrad/__init__.py", "nn/__init__.py", "dist/__init__.py")
MPIRUN = shutil.which("mpirun", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))


def found(command: list[str], *, cwd: Path, ranks: int = 1) -> list[str]:
    """Files that the probe found, the same on all ranks (whose lines may run into each other)."""
    output = run(command, cwd=cwd, LD_LIBRARY_PATH=str(Path(sys.prefix) / "lib"))
    answers = [json.loads(text) for text in re.findall(r"FOUND(\[[^]]*\])", output)]
    assert len(answers) == ranks, output
    assert all(answer == answers[0] for answer in answers)
    return list(answers[0])


def check_place(python: Path, place: Path, expected: list[Path]) -> None:
    """In one folder, `python -c`, `python -m pytest`, a bare `pytest` and `mpirun` all find `expected`."""
    files = [str(path.resolve()) for path in expected]
    test = place / "tests" / "test_probe.py"
    test.parent.mkdir(exist_ok=True)
    test.write_text("def test_probe():\n" + "".join(f"    {line}\n" for line in PROBE.splitlines()))
    code = [str(python), "-c", PROBE]
    options = ["-m", "pytest", "-qs", "--noconftest", "-p", "no:cacheprovider", str(test)]
    assert found(code, cwd=place) == files
    assert found([str(python), *options], cwd=place) == files
    assert found([str(python), "-I", *options], cwd=place) == files  # as bare `pytest`: no folder of its own
    if MPIRUN is not None:
        assert found([MPIRUN, "-n", "2", *code], cwd=place, ranks=2) == files


def check_installation(source: Path, python: Path, elsewhere: Path, *, editable: bool) -> None:
    """From the root the sources are found; from elsewhere they are if editable, else the installed copy."""
    in_source = [source / name for name in FILES]
    check_place(python, source, in_source)
    installed = next((python.parents[1] / "lib").glob("python*/site-packages")) / "minigrad"
    names = ("__init__.py", "nn/__init__.py", "dist/__init__.py")
    elsewhere.mkdir()
    check_place(python, elsewhere, in_source if editable else [installed / name for name in names])


@pytest.mark.parametrize("links", ["kept", "lost", "text"])
def test_without_installation(tmp_path, links):
    source = copy_project(tmp_path / "source", links=links)
    check_place(make_environment(tmp_path / "venv"), source, [source / name for name in FILES])


@pytest.mark.parametrize(
    ("links", "options"),
    [
        ("kept", []),
        ("text", []),
        ("kept", ["-e"]),
        ("lost", ["--config-settings", "editable_mode=strict", "-e"]),
    ],
    ids=["plain", "plain-no-links", "lenient", "strict-no-links"],
)
def test_installed_from_the_sources(tmp_path, links, options):
    source = copy_project(tmp_path / "source", links=links)
    python = make_environment(tmp_path / "venv")
    install(python, *options, ".", cwd=source)
    check_installation(source, python, tmp_path / "elsewhere", editable="-e" in options)


@pytest.mark.parametrize("kinds", [["--wheel"], []], ids=["wheel", "wheel-from-sdist"])
def test_installed_from_a_wheel(tmp_path, kinds):
    source = copy_project(tmp_path / "source")
    (tmp_path / "wheels").mkdir()
    wheel = build(source, tmp_path / "wheels", *kinds)
    python = make_environment(tmp_path / "venv")
    install(python, str(wheel), cwd=tmp_path)
    check_installation(source, python, tmp_path / "elsewhere", editable=False)
    assert run([str(python.parent / "minigrad"), "--version"], cwd=tmp_path).startswith("minigrad ")
