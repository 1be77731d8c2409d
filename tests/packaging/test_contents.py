"""What is packaged is what is in the tree, and `dist/` stays source code to git."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.packaging.tree import LINKS, ROOT, build, copy_project, project_files

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

# Where each top-level folder of sources goes.
PLACES = {
    "minigrad": "minigrad",
    "nn": "minigrad/nn",
    "dist": "minigrad/dist",
    "lessons": "minigrad/lessons",
}


def sources() -> list[Path]:
    """Python files of the packages, relative to the root, without those seen through links."""
    return [name for name in project_files(".py") if name.parts[0] in PLACES]


def test_every_package_is_listed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {str(Path(PLACES[name.parts[0]], *name.parts[1:-1])) for name in sources()}
    folders = {folder for folder in folders if not Path(folder).name[0].isdigit()}  # a lesson is no package
    assert set(project["packages"]) == {folder.replace("/", ".") for folder in folders}
    for package in project["packages"]:
        parent, _, last = package.rpartition(".")
        mapping = project["package-dir"]
        folder = mapping.get(package) or f"{mapping[parent]}/{last}"
        assert (ROOT / folder / "__init__.py").is_file(), f"{package} has no __init__.py"


@pytest.mark.parametrize("links", ["kept", "text"])
@pytest.mark.parametrize("kinds", [["--wheel"], []], ids=["wheel", "wheel-from-sdist"])
def test_wheel_holds_the_tree_and_nothing_else(tmp_path, kinds, links):
    source = copy_project(tmp_path / "source", links=links)
    (tmp_path / "wheels").mkdir()
    wheel = build(source, tmp_path / "wheels", *kinds)
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {str(Path(PLACES[name.parts[0]], *name.parts[1:])) for name in sources()}
    assert packed == expected | {"minigrad/py.typed"}
    # The build left nothing among the sources.
    assert {name.name for name in (source / "dist").iterdir()} == {
        name.name for name in project_files() if name.parent == Path("dist")
    }


@pytest.mark.parametrize("link", LINKS)
def test_links_for_editors_and_type_checkers(link):
    path = ROOT / link
    if path.is_file():
        pytest.skip("this checkout turned links into text files")
    assert path.is_symlink()
    assert path.resolve() == ROOT / Path(link).name


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_git_sees_new_modules_in_dist_but_no_built_packages(tmp_path):
    source = copy_project(tmp_path / "source")
    everywhere = tmp_path / "ignore"
    everywhere.write_text("dist/\nbuild/\n")  # what many people have in their global ignore file
    subprocess.run(["git", "init", "--quiet", str(source)], check=True)

    def ignored(name: str) -> bool:
        command = ["git", "-c", f"core.excludesFile={everywhere}", "check-ignore", "--quiet", name]
        return subprocess.run(command, cwd=source, check=False).returncode == 0

    assert not ignored("dist/a_new_module.py")
    assert not ignored("minigrad/dist")
    assert ignored("dist/minigrad-0.1.0-py3-none-any.whl")
    assert ignored("dist/minigrad-0.1.0.tar.gz")
    assert ignored("nn/__pycache__/linear.cpython-312.pyc")
